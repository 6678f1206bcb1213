//! A remote base's metadata: read where it is present in the cache, waited for where it is not.

use std::io;
use std::sync::Arc;

use super::chunks::CHUNK;
use super::link::Link;
use crate::storage::{FileRange, Medium};
use crate::units::{Bytes, FileOffset};

/// How much is read at a time: what the smallest cache has room for beside others.
const PIECE: usize = 1 << 20;

/// How often a piece is read that is given up while it is read.
const TRIES: usize = 16;

/// How much of an object's beginning is fetched before it is asked for: an image's header and tables.
const BEGINNING: u64 = 4;

/// An object as a medium. Nothing can be written to it.
#[derive(Debug)]
pub struct RemoteMedium {
    link: Arc<Link>,
}

impl RemoteMedium {
    /// The object of a link.
    pub fn new(link: Arc<Link>) -> Self {
        link.ahead(0..BEGINNING.min(link.presence().chunks()));
        Self { link }
    }

    fn read_piece(&self, offset: u64, piece: &mut [u8]) -> io::Result<()> {
        let range = offset..offset.saturating_add(piece.len() as u64);
        let chunks = self.link.chunks(&range);
        for _ in 0..TRIES {
            let Some(seen) = self.link.presence().look(&chunks) else {
                self.link.fetch(chunks.clone())?;
                continue;
            };
            read_or_zeros(self.link.data(), offset, piece)?;
            if self.link.presence().still(&chunks, seen) {
                self.link.presence().mark_read(&chunks);
                return Ok(());
            }
        }
        Err(io::Error::other(format!(
            "{}: the cache gives up what is read before it is read",
            self.link.identity().url
        )))
    }
}

fn read_or_zeros(file: &std::fs::File, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => {
                buffer.fill(0);
                return Ok(());
            }
            Ok(got) => {
                offset = offset.saturating_add(got as u64);
                buffer = buffer.get_mut(got..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_only<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "a base by network is never written"))
}

impl Medium for RemoteMedium {
    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        let whole = self.link.chunks(&(offset.0..offset.0.saturating_add(buf.len() as u64)));
        if whole.end.saturating_sub(whole.start) > PIECE as u64 / CHUNK {
            self.link.ahead(whole);
        }
        let mut at = offset.0;
        for piece in buf.chunks_mut(PIECE) {
            self.read_piece(at, piece)?;
            at = at.saturating_add(piece.len() as u64);
        }
        Ok(())
    }

    fn write_at(&self, _: FileOffset, _: &[u8]) -> io::Result<()> {
        read_only()
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_ranges(&self, _: &[FileRange]) -> io::Result<()> {
        Ok(())
    }

    fn punch(&self, _: FileOffset, _: Bytes) -> io::Result<()> {
        read_only()
    }

    fn set_len(&self, _: Bytes) -> io::Result<()> {
        read_only()
    }

    fn len(&self) -> io::Result<Bytes> {
        Ok(Bytes(self.link.identity().len))
    }
}
