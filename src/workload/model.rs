//! What is there after each operation of a workload: names, and the files that they are names of.

use std::collections::BTreeMap;

use super::{BLOCK, FileSystem, Operation, Workload, WorkloadError};

/// A file of its own, whatever it is called: a number that it keeps.
pub type Inode = usize;

/// What wrote a block: the operation's number; 0 is what was there at the beginning.
pub type Writer = usize;

/// A file's size where it takes all of its zone.
pub const WHOLE: u64 = u64::MAX;

/// What is in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// In bytes.
    pub size: u64,
    /// Who wrote each block; blocks that nobody wrote read as zeros.
    pub blocks: BTreeMap<u64, Writer>,
}

impl Content {
    fn write(&mut self, at: u64, len: u64, writer: Writer) {
        let end = at.saturating_add(len);
        self.blocks.extend((at / BLOCK..end / BLOCK).map(|block| (block, writer)));
        self.size = self.size.max(end);
    }

    fn truncate(&mut self, size: u64) {
        self.size = size;
        self.blocks.retain(|block, _| *block < size / BLOCK);
    }
}

/// A file system at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Files by their names.
    pub names: BTreeMap<String, Inode>,
    /// What is in each file that there ever was.
    pub files: Vec<Content>,
}

impl Model {
    /// The file system at the beginning.
    pub fn new(fs: FileSystem) -> Self {
        let names: &[&str] = if fs == FileSystem::Zonefs { &["seq/0", "seq/1", "cnv/0"] } else { &["A"] };
        let mut files = vec![Content::default(); names.len()];
        files.iter_mut().take(1).for_each(|file| file.write(0, 2 * BLOCK, 0));
        // A conventional file has its zone's size, always.
        files.iter_mut().skip(2).for_each(|file| file.size = WHOLE);
        Self { names: names.iter().enumerate().map(|(inode, name)| ((*name).to_owned(), inode)).collect(), files }
    }

    /// The file system at the beginning and after each operation. An operation that cannot be done is an error.
    pub fn all(workload: &Workload) -> Result<Vec<Self>, WorkloadError> {
        let mut all = vec![Self::new(workload.fs)];
        for (at, operation) in workload.operations.iter().enumerate() {
            let mut next = all.last().cloned().unwrap_or_else(|| Self::new(workload.fs));
            let impossible = |why| WorkloadError::Impossible { operation: operation.to_string(), why };
            next.apply(workload.fs, operation, at + 1).map_err(impossible)?;
            all.push(next);
        }
        Ok(all)
    }

    /// Does an operation, which has that number. Returns why where it cannot be done.
    pub fn apply(&mut self, fs: FileSystem, operation: &Operation, number: Writer) -> Result<(), String> {
        let has_names = fs != FileSystem::Zonefs;
        let is_sequential = |name: &str| name.starts_with("seq/");
        let needs = |holds: bool, why: &str| if holds { Ok(()) } else { Err(why.to_owned()) };
        match operation {
            Operation::Create(name) => {
                needs(has_names && !self.names.contains_key(name), "a file of this name cannot be made")?;
                self.names.insert(name.clone(), self.files.len());
                self.files.push(Content::default());
            }
            Operation::Write(name, at, len) => {
                needs(!is_sequential(name), "sequential files are appended to")?;
                self.file(name)?.write(*at, *len, number);
            }
            Operation::Append(name, len) => {
                needs(!name.starts_with("cnv/"), "conventional files have their size")?;
                let file = self.file(name)?;
                needs(file.size != WHOLE, "it takes all of its zone")?;
                let end = file.size;
                file.write(end, *len, number);
            }
            Operation::Truncate(name, size) => {
                let fits = has_names || is_sequential(name) && *size == 0;
                needs(fits, "on zonefs sequential files are truncated to nothing")?;
                self.file(name)?.truncate(*size);
            }
            Operation::Finish(name) => {
                needs(is_sequential(name), "it is of sequential files of zonefs")?;
                self.file(name)?.size = WHOLE;
            }
            Operation::Rename(from, to) => {
                needs(has_names && from != to, "a file cannot have another name there")?;
                let inode = self.inode(from)?;
                // Of two names of one file none goes.
                if self.names.get(to) != Some(&inode) {
                    self.names.remove(from);
                    self.names.insert(to.clone(), inode);
                }
            }
            Operation::Link(from, to) => {
                needs(has_names && !self.names.contains_key(to), "a file cannot have this name as well")?;
                let inode = self.inode(from)?;
                self.names.insert(to.clone(), inode);
            }
            Operation::Unlink(name) => {
                needs(has_names, "names of zonefs are for ever")?;
                self.inode(name)?;
                self.names.remove(name);
            }
            Operation::Fsync(name) if name == "." => {}
            Operation::Fsync(name) | Operation::Fdatasync(name) => _ = self.inode(name)?,
            Operation::Sync => {}
        }
        Ok(())
    }

    fn inode(&self, name: &str) -> Result<Inode, String> {
        self.names.get(name).copied().ok_or_else(|| format!("there is no {name}"))
    }

    fn file(&mut self, name: &str) -> Result<&mut Content, String> {
        let inode = self.inode(name)?;
        self.files.get_mut(inode).ok_or_else(|| format!("there is no {name}"))
    }
}
