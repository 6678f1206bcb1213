//! Copying the content of one file over that of another: sharing its blocks where the file system can (reflink), else what it
//! holds of data, so that holes stay holes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, copy_file_range, fallocate};
use nix::unistd::{Whence, lseek};

use super::FileRange;

/// How much is copied between two looks whether to go on.
const PIECE: u64 = 16 << 20;
/// How much is read at a time where the kernel does not copy.
const BUFFER: usize = 1 << 20;

/// The number of the ioctl that shares blocks, for who filters system calls.
pub const CLONE_RANGE: u32 = 0x4020_940d;

/// The kernel's struct file_clone_range.
#[repr(C)]
pub struct CloneRange {
    from: i64,
    from_offset: u64,
    /// Up to the end where it is 0.
    len: u64,
    to_offset: u64,
}

nix::ioctl_write_ptr!(
    /// Has a file share the blocks of another one.
    clone_range,
    0x94,
    13,
    CloneRange
);

/// How content came from one file to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The blocks are shared until one of the files writes them.
    Reflink,
    /// The data was copied.
    Data,
}

impl Method {
    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reflink => "reflink",
            Self::Data => "data",
        }
    }
}

/// A copy that is to be made. Both are regular files, and not the same.
#[derive(Debug)]
pub struct Copying<'a> {
    /// What is copied.
    pub from: &'a File,
    /// What it is copied over; the length becomes the same.
    pub to: &'a File,
    /// Where it begins, a multiple of any file system's blocks; what is before it stays.
    pub start: u64,
    /// A range of the target whose blocks stay where they are, whatever is in them.
    pub keep: Option<FileRange>,
}

impl Copying<'_> {
    /// Copies. `go_on` is asked now and then, and ends it with an error of the kind [`io::ErrorKind::Interrupted`]. Nothing
    /// is durable yet. Blocking.
    pub fn copy(&self, go_on: &dyn Fn() -> bool) -> io::Result<Method> {
        let len = self.from.metadata()?.len();
        // A file that is longer would keep its end, and could not share a last block that is whole in the other alone.
        if self.to.metadata()?.len() > len {
            self.to.set_len(len)?;
        }
        match self.clone_blocks(len) {
            Ok(()) => return Ok(Method::Reflink),
            // What file systems without shared blocks say, and what is said of two file systems.
            Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::ENOSYS | Errno::EXDEV | Errno::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
        self.copy_data(len, go_on)?;
        self.to.set_len(len)?;
        Ok(Method::Data)
    }

    fn clone_blocks(&self, len: u64) -> nix::Result<()> {
        if self.start >= len { Ok(()) } else { share_blocks(self.from, self.to, self.start) }
    }

    fn copy_data(&self, len: u64, go_on: &dyn Fn() -> bool) -> io::Result<()> {
        let mut at = self.start;
        while at < len {
            let data = next_data(self.from, at, len)?;
            self.clear(at..data.start)?;
            let mut part = data.start;
            while part < data.end {
                if !go_on() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let end = data.end.min(part.saturating_add(PIECE));
                copy_piece(self.from, self.to, part..end)?;
                part = end;
            }
            at = data.end;
        }
        Ok(())
    }

    /// Has a range of the target read as zeros.
    fn clear(&self, range: Range<u64>) -> io::Result<()> {
        let end = range.end.min(self.to.metadata()?.len());
        let (low, high) = self.keep.map_or((end, end), |(offset, len)| (offset.0, offset.0.saturating_add(len.0)));
        let (low, high) = (low.clamp(range.start, end.max(range.start)), high.clamp(range.start, end.max(range.start)));
        punch(self.to, range.start..low.min(end))?;
        write_zeros(self.to, low..high)?;
        punch(self.to, high.max(low)..end)
    }
}

/// Has a file share the blocks of another one from an offset on, as its file system can copy them on write; others say EOPNOTSUPP or the
/// like.
pub fn share_blocks(from: &File, to: &File, start: u64) -> nix::Result<()> {
    let range = CloneRange { from: i64::from(from.as_raw_fd()), from_offset: start, len: 0, to_offset: start };
    // SAFETY: the structure is the one that this ioctl takes, it lives as long as the call, and both descriptors are open.
    unsafe { clone_range(to.as_raw_fd(), &range) }.map(drop)
}

/// The first run of data from an offset on, as the file system knows them; at the end of the file where there is none.
fn next_data(file: &File, at: u64, len: u64) -> io::Result<Range<u64>> {
    let seek = |at: u64, whence| -> io::Result<Option<u64>> {
        let from = i64::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
        match lseek(file, from, whence) {
            Ok(found) => Ok(u64::try_from(found).ok()),
            Err(Errno::ENXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    match seek(at, Whence::SeekData) {
        Ok(None) => Ok(len..len),
        Ok(Some(start)) => {
            let end = seek(start, Whence::SeekHole)?.unwrap_or(len);
            Ok(start.min(len)..end.clamp(start.min(len), len))
        }
        // A file system that knows no holes.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(at..len),
        Err(error) => Err(error),
    }
}

fn copy_piece(from: &File, to: &File, piece: Range<u64>) -> io::Result<()> {
    let off = |at: u64| i64::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let mut at = piece.start;
    while at < piece.end {
        let (mut source, mut target) = (off(at)?, off(at)?);
        let most = usize::try_from(piece.end - at).unwrap_or(BUFFER);
        match copy_file_range(from, Some(&mut source), to, Some(&mut target), most) {
            Ok(copied) if copied > 0 => at = at.saturating_add(copied as u64),
            Err(Errno::EINTR) => {}
            // For want of space reading and writing would fail as well.
            Err(error @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG | Errno::EIO)) => return Err(error.into()),
            Ok(_) | Err(_) => return read_and_write(from, to, at..piece.end),
        }
    }
    Ok(())
}

fn read_and_write(from: &File, to: &File, piece: Range<u64>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut at = piece.start;
    while at < piece.end {
        let most = usize::try_from(piece.end - at).map_or(BUFFER, |left| left.min(BUFFER));
        let part = buffer.get_mut(..most).unwrap_or_default();
        match from.read_at(part, at) {
            // The file has been cut meanwhile; its length is looked at no more.
            Ok(0) => return Ok(()),
            Ok(got) => {
                to.write_all_at(part.get(..got).unwrap_or_default(), at)?;
                at = at.saturating_add(got as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn punch(file: &File, range: Range<u64>) -> io::Result<()> {
    if range.start >= range.end {
        return Ok(());
    }
    let off = |at: u64| i64::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, flags, off(range.start)?, off(range.end - range.start)?) {
        Ok(()) => Ok(()),
        Err(Errno::EOPNOTSUPP) => write_zeros(file, range),
        Err(error) => Err(error.into()),
    }
}

fn write_zeros(file: &File, range: Range<u64>) -> io::Result<()> {
    let zeros = vec![0; BUFFER];
    let mut at = range.start;
    while at < range.end {
        let most = usize::try_from(range.end - at).map_or(BUFFER, |left| left.min(BUFFER));
        file.write_all_at(zeros.get(..most).unwrap_or_default(), at)?;
        at = at.saturating_add(most as u64);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::units::{Bytes, FileOffset};

    const BLOCK: u64 = 64 << 10;

    /// A file of blocks, each of one byte or a hole.
    fn blocks(content: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(content.len() as u64 * BLOCK).unwrap();
        for (at, byte) in (0u64..).zip(content).filter(|(_, byte)| **byte != 0) {
            file.write_all_at(&[*byte; BLOCK as usize], at * BLOCK).unwrap();
        }
        file
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn the_target_becomes_equal_from_the_start_on_whatever_it_held_and_holes_stay_holes() {
        let from = blocks(&[1, 0, 2, 0, 0, 3, 0, 0]);
        let keep = Some((FileOffset(3 * BLOCK + 100), Bytes(BLOCK)));
        for (to, start, keep) in [
            (vec![], 0, None),
            (vec![9; 8], 0, None),
            (vec![9; 12], BLOCK, None),
            (vec![9; 3], BLOCK, keep),
            (vec![9; 12], BLOCK, keep),
            (vec![0, 9, 0, 9], 0, keep),
        ] {
            let before = to.first().copied().filter(|_| start > 0);
            let to = blocks(&to);
            Copying { from: &from, to: &to, start, keep }.copy(&|| true).unwrap();
            let mut expected = content(&from);
            if let Some(before) = before {
                expected[..BLOCK as usize].fill(before);
            }
            assert!(content(&to) == expected, "{to:?}");
            let kept = if keep.is_some() { 2 } else { 0 };
            assert!(to.metadata().unwrap().blocks() * 512 <= (3 + kept) * BLOCK, "{to:?}");
        }
    }

    #[test]
    fn data_that_the_kernel_does_not_copy_is_read_and_written() {
        let (from, to) = (blocks(&[1, 2, 3]), blocks(&[]));
        read_and_write(&from, &to, BLOCK / 2..3 * BLOCK).unwrap();
        assert_eq!(content(&to)[BLOCK as usize / 2..], content(&from)[BLOCK as usize / 2..]);
    }

    #[test]
    fn a_copy_that_is_given_up_says_so() {
        let (from, to) = (blocks(&[1; 2]), blocks(&[]));
        match (Copying { from: &from, to: &to, start: 0, keep: None }).copy(&|| false) {
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Interrupted),
            Ok(method) => assert_eq!(method, Method::Reflink, "nothing is waited for"),
        }
    }
}
