//! Small workloads on a file system, all there are of them; what does one in a guest; and the judgement of what a crash has left of
//! it. Pure.
//!
//! | module | subject |
//! | --- | --- |
//! | [`model`] | what is there after each operation |
//! | [`enumerate`] | every workload of so many operations |
//! | [`script`] | a workload, and what lists the files that a crash has left, for a shell in a guest |
//! | [`found`] | such a list, read |
//! | [`oracle`] | whether what is found is what may be, by what was promised |
//!
//! A file system is fresh but for one file, A, of two blocks, which a sync has made stable; zonefs has its files from the beginning.
//! An operation is a few words, a workload is some of them with semicolons between. Sizes are multiples of a block of 4096 bytes.

pub mod enumerate;
pub mod found;
pub mod model;
pub mod oracle;
pub mod script;

use std::fmt;
use std::str::FromStr;

/// What sizes and places are multiples of, in bytes.
pub const BLOCK: u64 = 4096;
/// Most operations of a workload; their numbers have two digits in what they write.
const MOST_OPERATIONS: usize = 99;
/// Most bytes of a file.
const LARGEST: u64 = BLOCK * 1000;

/// A file system that workloads are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FileSystem {
    /// btrfs with zones.
    Btrfs,
    /// XFS with a zoned real-time part.
    Xfs,
    /// f2fs with zones.
    F2fs,
    /// zonefs, whose files are zones.
    Zonefs,
}

/// An operation on a file system; names are those of files in its root, or of zonefs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A file that is not there is made, empty.
    Create(String),
    /// So many bytes are written at a place.
    Write(String, u64, u64),
    /// So many bytes are written behind the last.
    Append(String, u64),
    /// The file has that size, in bytes.
    Truncate(String, u64),
    /// A file of zonefs takes all of its zone.
    Finish(String),
    /// The first name's file has the second instead, whatever had that.
    Rename(String, String),
    /// The first name's file has the second as well.
    Link(String, String),
    /// The name is gone.
    Unlink(String),
    /// A file is made stable, or with "." the names of the root.
    Fsync(String),
    /// A file's content is made stable.
    Fdatasync(String),
    /// All is made stable.
    Sync,
}

impl Operation {
    /// Whether something is promised when the operation is done.
    pub fn persists(&self) -> bool {
        matches!(self, Self::Fsync(_) | Self::Fdatasync(_) | Self::Sync)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(name) => write!(f, "create {name}"),
            Self::Write(name, at, len) => write!(f, "write {name} {at} {len}"),
            Self::Append(name, len) => write!(f, "append {name} {len}"),
            Self::Truncate(name, size) => write!(f, "truncate {name} {size}"),
            Self::Finish(name) => write!(f, "finish {name}"),
            Self::Rename(from, to) => write!(f, "rename {from} {to}"),
            Self::Link(from, to) => write!(f, "link {from} {to}"),
            Self::Unlink(name) => write!(f, "unlink {name}"),
            Self::Fsync(name) => write!(f, "fsync {name}"),
            Self::Fdatasync(name) => write!(f, "fdatasync {name}"),
            Self::Sync => f.write_str("sync"),
        }
    }
}

/// Why a text is no workload: which of its words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// There is no such operation.
    #[error(
        "'{0}' is no operation: expected one like 'create B', 'write A 0 4096', 'append A 4096', 'truncate A 4096', 'rename A B', 'link A B', 'unlink A', 'fsync A', 'fsync .', 'fdatasync A' or 'sync'; on zonefs 'append seq/0 4096', 'truncate seq/0 0', 'finish seq/0'"
    )]
    Unknown(String),
    /// The operation cannot be done where it stands.
    #[error("'{operation}' cannot be done there: {why}")]
    Impossible {
        /// The operation.
        operation: String,
        /// What is in its way.
        why: String,
    },
    /// There are more than can be numbered.
    #[error("{0} operations: expected 1 to 99")]
    Count(usize),
}

fn name(text: &str) -> Option<String> {
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let parts: Vec<&str> = text.split('/').collect();
    let fits = match parts.as_slice() {
        [name] => is_plain(name) && !name.is_empty(),
        ["seq" | "cnv", number] => number.parse::<u32>().is_ok() && is_plain(number),
        _ => false,
    };
    fits.then(|| text.to_owned())
}

fn blocks(text: &str) -> Option<u64> {
    text.parse().ok().filter(|bytes: &u64| bytes.is_multiple_of(BLOCK) && *bytes <= LARGEST)
}

impl FromStr for Operation {
    type Err = WorkloadError;

    fn from_str(text: &str) -> Result<Self, WorkloadError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let some = |bytes: &str| blocks(bytes).filter(|bytes| *bytes > 0);
        let parsed = match words.as_slice() {
            ["create", file] => name(file).map(Self::Create),
            ["write", file, at, len] => (|| Some(Self::Write(name(file)?, blocks(at)?, some(len)?)))(),
            ["append", file, len] => (|| Some(Self::Append(name(file)?, some(len)?)))(),
            ["truncate", file, size] => (|| Some(Self::Truncate(name(file)?, blocks(size)?)))(),
            ["finish", file] => name(file).map(Self::Finish),
            ["rename", from, to] => (|| Some(Self::Rename(name(from)?, name(to)?)))(),
            ["link", from, to] => (|| Some(Self::Link(name(from)?, name(to)?)))(),
            ["unlink", file] => name(file).map(Self::Unlink),
            ["fsync", "."] => Some(Self::Fsync(".".to_owned())),
            ["fsync", file] => name(file).map(Self::Fsync),
            ["fdatasync", file] => name(file).map(Self::Fdatasync),
            ["sync"] => Some(Self::Sync),
            _ => None,
        };
        parsed.ok_or_else(|| WorkloadError::Unknown(text.trim().to_owned()))
    }
}

/// Some operations, one after another, each of which can be done where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What it is done on.
    pub fs: FileSystem,
    /// Numbered from 1, in what they write and in marks.
    pub operations: Vec<Operation>,
}

impl Workload {
    /// Reads a workload.
    pub fn parse(fs: FileSystem, text: &str) -> Result<Self, WorkloadError> {
        let operations = text.split(';').map(str::parse).collect::<Result<Vec<Operation>, _>>()?;
        if operations.len() > MOST_OPERATIONS {
            return Err(WorkloadError::Count(operations.len()));
        }
        let workload = Self { fs, operations };
        model::Model::all(&workload)?;
        Ok(workload)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.operations.iter().map(Operation::to_string).collect();
        f.write_str(&texts.join("; "))
    }
}
