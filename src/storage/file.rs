//! The real file below: positioned reads and writes, fdatasync and hole punching on one descriptor.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};

use super::Storage;
use crate::units::{Bytes, FileOffset};

/// How much is written at a time where a file system cannot punch holes.
const ZERO_CHUNK: usize = 64 * 1024;

/// An image file opened through the page cache.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
}

impl FileStorage {
    /// Takes an open file. It must not be in O_DIRECT mode, since metadata is written eight bytes at a time, nor share
    /// its open file description with anything else: metadata is read here and there, so readahead is turned off.
    pub fn new(file: File) -> Self {
        // Advice only: where it is not taken, reading costs more and is no less right.
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM);
        Self { file }
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

fn to_off(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

impl Storage for FileStorage {
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
        self.file.write_all_at(buf, offset.0)
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

    fn len(&self) -> io::Result<Bytes> {
        Ok(Bytes(self.file.metadata()?.len()))
    }
}
