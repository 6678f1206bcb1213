//! The cache folder: the entries of all objects, in bounded space.
//!
//! Whoever opens, makes or removes an entry, or takes space, has the folder's lock meanwhile; nobody holds it over a network. What
//! is fetched is allocated before, so that what the files take is what counts, whoever dies.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::chunks;
use super::entry::{self, Entry};
use super::message::Identity;

/// Given up at a time is this part of the whole, so that it is not done for every chunk.
const PART: u64 = 16;

/// The cache of a host, or of a user.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    size: u64,
}

/// The lock of the folder.
#[derive(Debug)]
struct Locked(#[expect(dead_code, reason = "the lock ends with the file")] File);

impl Cache {
    /// The cache in a folder, which is made where there is none. Its entries take at most `size` bytes.
    pub fn open(folder: &Path, size: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), size })
    }

    fn lock(&self) -> io::Result<Locked> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(self.folder.join("lock"))?;
        entry::lock_alone(&file, true)?;
        Ok(Locked(file))
    }

    /// The entry of an object.
    pub(super) fn entry(&self, identity: &Identity) -> io::Result<Entry> {
        let _lock = self.lock()?;
        Entry::open(&self.folder, identity)
    }

    /// Takes space for chunks of an entry, whose claims the caller has: others are given up for it where the cache is full, those
    /// of objects that nobody uses first.
    pub(super) fn take_space(&self, entry: &Entry, chunks: &Range<u64>) -> io::Result<()> {
        let _lock = self.lock()?;
        let bytes = chunks::bytes(chunks, entry.identity().len);
        let wanted = bytes.end - bytes.start;
        let used: u64 = self.folders()?.iter().map(|(folder, _)| Entry::space(folder)).sum();
        let over = used.saturating_add(wanted).saturating_sub(self.size);
        if over > 0 {
            self.free(over.max(self.size / PART))?;
        }
        match entry.allocate(chunks) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                self.free(wanted.max(self.size / PART))?;
                entry.allocate(chunks)
            }
            other => other,
        }
    }

    /// Makes what is present of an entry last beyond the host's next start.
    pub(super) fn make_durable(&self, entry: &Entry) -> io::Result<()> {
        let synced = entry.sync()?;
        let _lock = self.lock()?;
        entry.note_durable(&synced)
    }

    /// Frees space.
    fn free(&self, mut wanted: u64) -> io::Result<()> {
        let mut used = Vec::new();
        for (folder, _) in self.folders()? {
            let space = Entry::space(&folder);
            if wanted > 0 && entry::remove(&folder)? {
                log::info!("{}: the cache gives up an object", folder.display());
                wanted = wanted.saturating_sub(space);
            } else {
                used.push((space, folder));
            }
        }
        // Whoever has most gives up first: so nobody is left with nothing, and only there the marks of readers are taken back.
        used.sort_by_key(|(space, _)| std::cmp::Reverse(*space));
        for (_, folder) in &used {
            if wanted > 0 {
                wanted = wanted.saturating_sub(Entry::look(folder)?.give_up(wanted)?);
            }
        }
        Ok(())
    }

    /// The entries' folders, the one that was opened longest ago first.
    fn folders(&self) -> io::Result<Vec<(PathBuf, SystemTime)>> {
        let mut folders = Vec::new();
        for folder in fs::read_dir(&self.folder)? {
            let path = folder?.path();
            if path.is_dir() {
                let opened = fs::metadata(path.join("object")).and_then(|about| about.modified());
                folders.push((path, opened.unwrap_or(SystemTime::UNIX_EPOCH)));
            }
        }
        folders.sort_by_key(|(_, opened)| *opened);
        Ok(folders)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#[path = "cache_tests.rs"]
mod tests;
