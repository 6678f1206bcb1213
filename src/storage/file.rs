//! The real file below: positioned reads and writes, fdatasync and hole punching on one descriptor.
//!
//! Words that are written often are stored through a shared mapping: the page cache has them as soon as a write(2) would
//! have put them there, without a system call. Where the file system could find no place for a page that is written
//! anew (because it copies on write, or compresses), the mapping would end this process instead of failing, so there it
//! is not used.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, PosixFadviseAdvice, fallocate, fcntl, posix_fadvise};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, FsType, TMPFS_MAGIC, fstatfs};
use vm_memory::{Bytes as _, MmapRegion, VolatileMemory};

use super::{FileRange, Medium};
use crate::units::{Bytes, FileOffset};

/// How much is written at a time where a file system cannot punch holes.
const ZERO_CHUNK: usize = 64 * 1024;

/// What a mapping begins at a multiple of. Where pages are larger the mapping may fail, and is done without.
const PAGE: u64 = 4096;

/// XFS, which nix names for some C libraries only; and each of them has a type of its own for the number.
const XFS_SUPER_MAGIC: FsType = FsType(0x5846_5342);

/// What is known of the file system, for what Linux promises of it and POSIX does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileSystem {
    /// Pages that are written anew stay where they are, so that storing to a mapping of allocated blocks cannot fail
    /// for want of space; and see [`commits_whole_inodes`](Self::commits_whole_inodes).
    OverwritesInPlace,
    /// XFS: may copy on write.
    Xfs,
    /// Nothing.
    Other,
}

impl FileSystem {
    fn of(file: &File) -> Self {
        match fstatfs(file).map(|stat| stat.filesystem_type()) {
            Ok(EXT4_SUPER_MAGIC | TMPFS_MAGIC) => Self::OverwritesInPlace,
            Ok(XFS_SUPER_MAGIC) => Self::Xfs,
            _ => Self::Other,
        }
    }

    /// Whether a sync of any range of a file commits all that was done to the file's length and blocks before, as it
    /// waits for the journal up to the file's last entry; and data that is written out is found after that.
    fn commits_whole_inodes(self) -> bool {
        self != Self::Other
    }
}

/// Opens a regular file. A device or a pipe is refused at once, whoever has its other end; the error says what was
/// `expected`.
pub fn open_regular(path: &Path, options: &mut OpenOptions, expected: &str) -> io::Result<File> {
    let regular = |about: Metadata| match about.is_file() {
        true => Ok(()),
        false => Err(io::Error::other(format!("not a regular file: expected {expected}"))),
    };
    // A file that is yet to be made, and what else is wrong, is for opening it to tell.
    path.metadata().map_or(Ok(()), regular)?;
    // Something else may have come in its place.
    let file = options.custom_flags(libc::O_NONBLOCK).open(path)?;
    regular(file.metadata()?)?;
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(file)
}

/// An image file opened through the page cache.
#[derive(Debug)]
pub struct FileMedium {
    /// Shared with its mappings, for which no further descriptor is needed.
    file: Arc<File>,
    system: FileSystem,
    words: OnceLock<Words>,
}

/// A part of the file in memory.
#[derive(Debug)]
struct Words {
    /// Where it begins in the file.
    start: u64,
    map: MmapRegion,
}

impl Words {
    /// Maps a range of a file whose file system overwrites in place, once every block of it is there.
    fn map(file: &Arc<File>, offset: u64, len: u64) -> io::Result<Self> {
        let start = offset / PAGE * PAGE;
        let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, to_off(start)?, to_off(end - start)?)?;
        let size = usize::try_from(end - start).map_err(|_| io::ErrorKind::InvalidInput)?;
        let place = vm_memory::FileOffset::from_arc(Arc::clone(file), start);
        let map = MmapRegion::from_file(place, size).map_err(io::Error::other)?;
        Ok(Self { start, map })
    }

    /// Whether it has all words of a range.
    fn holds(&self, offset: u64, len: u64) -> bool {
        let end = self.start + self.map.size() as u64;
        self.start <= offset && offset.checked_add(len).is_some_and(|range_end| range_end <= end)
    }

    /// Stores a word that lies inside; false for another one.
    fn store(&self, offset: u64, word: [u8; 8]) -> bool {
        let inside = offset.checked_sub(self.start).and_then(|inside| usize::try_from(inside).ok());
        inside.is_some_and(|at| {
            self.map.as_volatile_slice().store(u64::from_ne_bytes(word), at, Ordering::Release).is_ok()
        })
    }
}

impl FileMedium {
    /// Takes an open file. It must not be in O_DIRECT mode, since metadata is written eight bytes at a time, nor share
    /// its open file description with anything else: metadata is read here and there, so readahead is turned off.
    pub fn new(file: File) -> Self {
        // Advice only: where it is not taken, reading costs more and is no less right.
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM);
        let system = FileSystem::of(&file);
        Self { file: Arc::new(file), system, words: OnceLock::new() }
    }

    /// Takes an open file that is only read, for a while: nothing is asked of it or of its file system.
    pub fn for_reading(file: Arc<File>) -> Self {
        Self { file, system: FileSystem::Other, words: OnceLock::new() }
    }

    /// Takes into account that words of this range will be written often. The range is inside the file and stays there.
    pub fn expect_words(&self, (offset, len): FileRange) {
        if self.system != FileSystem::OverwritesInPlace {
            return log::debug!("write pointers are stored one system call at a time on this file system");
        }
        match Words::map(&self.file, offset.0, len.0) {
            // A second range is written as anything else.
            Ok(words) => drop(self.words.set(words)),
            Err(error) => log::debug!("write pointers are stored one system call at a time: {error}"),
        }
    }

    /// Has the file system find blocks for a range inside the file that will be written soon: an advice. What the range
    /// reads as stays as it is.
    pub fn allocate(&self, (offset, len): FileRange) {
        let allocated = to_off(offset.0)
            .and_then(|offset| Ok(fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, to_off(len.0)?)?));
        if let Err(error) = allocated {
            log::debug!("{len} bytes at {offset} are allocated as they are written: {error}");
        }
    }

    /// Syncs a range of the file: writes out its pages alone, and commits what it takes to find them. Linux does that for
    /// a shared mapping of the range, through which nothing needs to be read or written.
    fn sync_range(&self, (offset, len): FileRange) -> io::Result<()> {
        if let Some(words) = self.words.get()
            && words.holds(offset.0, len.0)
        {
            return sync_mapping(&words.map);
        }
        let start = offset.0 / PAGE * PAGE;
        let end = offset.0.checked_add(len.0).ok_or(io::ErrorKind::InvalidInput)?;
        let end = end.min(self.file.metadata()?.len()).max(start + 1);
        let size = usize::try_from(end - start).map_err(|_| io::ErrorKind::InvalidInput)?;
        let place = vm_memory::FileOffset::from_arc(Arc::clone(&self.file), start);
        let map = MmapRegion::build(Some(place), size, libc::PROT_READ, libc::MAP_SHARED | libc::MAP_NORESERVE);
        // Where there is no room for a mapping, the whole file will do.
        map.map_or_else(|_| self.flush(), |map| sync_mapping(&map))
    }

    /// Writes out the pages of a range and waits for them; what it takes to find them is not committed.
    fn write_out(&self, (offset, len): FileRange) -> io::Result<()> {
        let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        let (offset, len) = (to_off(offset.0)?, to_off(len.0)?);
        // SAFETY: takes no pointers, and the descriptor is open as long as self.
        let result = unsafe { libc::sync_file_range(self.file.as_raw_fd(), offset, len, flags) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let zeros = [0u8; ZERO_CHUNK];
        let end = offset.saturating_add(len).min(self.file.metadata()?.len());
        let mut at = offset;
        while at < end {
            let part = usize::try_from(end - at).map_or(ZERO_CHUNK, |left| left.min(ZERO_CHUNK));
            self.file.write_all_at(&zeros[..part], at)?;
            at += part as u64;
        }
        Ok(())
    }
}

/// Makes durable what the file has in the range of a mapping.
fn sync_mapping(map: &MmapRegion) -> io::Result<()> {
    // SAFETY: the range is a mapping of this process, which lives as long as the borrow; msync changes nothing in it.
    let result = unsafe { libc::msync(map.as_ptr().cast(), map.size(), libc::MS_SYNC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn to_off(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

impl Medium for FileMedium {
    fn read_at(&self, offset: FileOffset, mut buf: &mut [u8]) -> io::Result<()> {
        let mut at = offset.0;
        while !buf.is_empty() {
            match self.file.read_at(buf, at) {
                Ok(0) => {
                    buf.fill(0);
                    return Ok(());
                }
                Ok(got) => {
                    at += got as u64;
                    buf = &mut buf[got..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: FileOffset, buf: &[u8]) -> io::Result<()> {
        match (self.words.get(), <[u8; 8]>::try_from(buf)) {
            (Some(words), Ok(word)) if words.store(offset.0, word) => Ok(()),
            _ => self.file.write_all_at(buf, offset.0),
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn punch(&self, offset: FileOffset, len: Bytes) -> io::Result<()> {
        if len.0 == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, flags, to_off(offset.0)?, to_off(len.0)?) {
            Ok(()) => Ok(()),
            Err(nix::Error::EOPNOTSUPP) => self.write_zeros(offset.0, len.0),
            Err(error) => Err(error.into()),
        }
    }

    fn set_len(&self, len: Bytes) -> io::Result<()> {
        self.file.set_len(len.0)
    }

    fn sync_ranges(&self, ranges: &[FileRange]) -> io::Result<()> {
        match ranges {
            _ if !self.system.commits_whole_inodes() => self.flush(),
            [] => Ok(()),
            [others @ .., last] => {
                others.iter().try_for_each(|range| self.write_out(*range))?;
                self.sync_range(*last)
            }
        }
    }

    fn len(&self) -> io::Result<Bytes> {
        Ok(Bytes(self.file.metadata()?.len()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    #[test]
    fn ranges_can_be_made_durable_wherever_they_lie_and_whatever_the_file_system_promises() {
        let range = |offset, len| (FileOffset(offset), Bytes(len));
        let lists = [
            vec![],
            vec![range(0, 8)],
            vec![range(100, 2 * PAGE), range(PAGE, PAGE)],
            // At the end, across it and past it.
            vec![range(3 * PAGE - 1, 1), range(3 * PAGE - 1, PAGE), range(9 * PAGE, PAGE)],
        ];
        let memory = File::from(memfd_create("file-test", MFdFlags::MFD_CLOEXEC).unwrap());
        for file in [memory, tempfile::tempfile().unwrap()] {
            let mut storage = FileMedium::new(file);
            storage.set_len(Bytes(3 * PAGE)).unwrap();
            for system in [FileSystem::Other, FileSystem::Xfs, FileSystem::OverwritesInPlace] {
                storage.system = system;
                storage.write_at(FileOffset(PAGE), &[7; 64]).unwrap();
                storage.punch(FileOffset(0), Bytes(PAGE)).unwrap();
                for list in &lists {
                    storage.sync_ranges(list).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_word_is_seen_by_every_reader_whether_it_went_through_the_mapping_or_not() {
        let memory = File::from(memfd_create("file-test", MFdFlags::MFD_CLOEXEC).unwrap());
        for (file, mapped) in [(memory, true), (tempfile::tempfile().unwrap(), false)] {
            let storage = FileMedium::new(file);
            storage.set_len(Bytes(3 * PAGE)).unwrap();
            if mapped {
                storage.expect_words((FileOffset(PAGE + 512), Bytes(1024)));
                assert!(storage.words.get().is_some());
            }
            for offset in [0, PAGE, PAGE + 512, PAGE + 1528, 2 * PAGE] {
                let word = (offset + 1).to_be_bytes();
                storage.write_at(FileOffset(offset), &word).unwrap();
                let mut read = [0; 8];
                storage.read_at(FileOffset(offset), &mut read).unwrap();
                assert_eq!(read, word, "at {offset}, mapped: {mapped}");
            }
            assert_eq!(storage.len().unwrap(), Bytes(3 * PAGE));
        }
    }
}
