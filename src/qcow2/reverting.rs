//! An image whose content is replaced by that of another one, an earlier state of it.
//!
//! While that goes on the file begins with a sector that is no image's: whoever opens it is told what to do. The first cluster, or
//! what there is instead, is written last, and of that the first sector.
//!
//! ```text
//! 0   "zbdrvrt\x01"
//! 8   the length of a text, 4 bytes, big-endian
//! 12  what the image is replaced by, UTF-8
//! ```

use std::io;

use super::error::OpenError;
use crate::storage::Medium;
use crate::units::{Bytes, FileOffset};

const MAGIC: [u8; 8] = *b"zbdrvrt\x01";
const SECTOR: usize = 512;
const TEXT: usize = 12;

/// What is written last: it begins at 0, and its end is at a multiple of the blocks of any file system.
pub const HEAD: Bytes = Bytes(64 << 10);

/// Replaces the content of an image. `content` replaces all of the file from [`HEAD`] on, and sets its length; `decided` is called
/// when the image has durably become unusable without what follows. Before that an error has changed nothing.
pub fn replace<S: Medium>(
    storage: &S,
    head: &[u8],
    name: &str,
    decided: impl FnOnce(),
    content: impl FnOnce() -> io::Result<()>,
) -> Result<(), ReplaceError> {
    mark(storage, name).map_err(ReplaceError::Unchanged)?;
    decided();
    let replaced = content().and_then(|()| storage.flush()).and_then(|()| {
        let (first, rest) = head.split_at_checked(SECTOR).unwrap_or((head, &[]));
        storage.write_at(FileOffset(SECTOR as u64), rest)?;
        storage.flush()?;
        storage.write_at(FileOffset(0), first)?;
        storage.flush()
    });
    replaced.map_err(ReplaceError::Half)
}

/// Why content was not replaced.
#[derive(Debug)]
pub enum ReplaceError {
    /// Nothing has changed.
    Unchanged(io::Error),
    /// The image is unusable.
    Half(io::Error),
}

fn mark<S: Medium>(storage: &S, name: &str) -> io::Result<()> {
    let mut before = [0; SECTOR];
    storage.read_at(FileOffset(0), &mut before)?;
    let written = storage.write_at(FileOffset(0), &sector(name)).and_then(|()| storage.flush());
    written.inspect_err(|_| {
        // As it was, as far as the disk takes that.
        let _ = storage.write_at(FileOffset(0), &before);
    })
}

fn sector(name: &str) -> [u8; SECTOR] {
    // What does not fit is left out as a whole.
    let name = Some(name.as_bytes()).filter(|name| name.len() <= SECTOR - TEXT).unwrap_or_default();
    let mut sector = [0; SECTOR];
    let text = [&MAGIC[..], &(name.len() as u32).to_be_bytes(), name].concat();
    sector[..text.len()].copy_from_slice(&text);
    sector
}

/// Refuses a file that begins so.
pub(super) fn check<S: Medium>(storage: &S) -> Result<(), OpenError> {
    let mut sector = [0; SECTOR];
    storage.read_at(FileOffset(0), &mut sector).map_err(OpenError::io("read the header"))?;
    let Some(rest) = sector.strip_prefix(&MAGIC) else { return Ok(()) };
    let len = rest.first_chunk().map_or(0, |len| u32::from_be_bytes(*len)) as usize;
    let name = rest.get(4..).and_then(|text| text.get(..len)).unwrap_or_default();
    Err(OpenError::Reverting { to: String::from_utf8_lossy(name).into_owned() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryMedium;

    #[test]
    fn a_file_that_is_being_replaced_says_by_what_and_at_the_end_begins_as_that() {
        let storage = MemoryMedium::from_bytes(&[7; 4096]).unwrap();
        assert!(check(&storage).is_ok());
        let long = "x".repeat(SECTOR);
        for (name, told) in [("/a/\u{fc}.qcow2", "\"/a/\u{fc}.qcow2\""), (&long, "\"\"")] {
            let refused = || check(&storage).unwrap_err().to_string();
            let content = || {
                assert!(refused().contains(told), "{}", refused());
                Ok(())
            };
            replace(&storage, &[8; 1024], name, || assert!(refused().contains("reverted")), content).unwrap();
            let mut bytes = [0; 2048];
            storage.read_at(FileOffset(0), &mut bytes).unwrap();
            assert_eq!((&bytes[..1024], &bytes[1024..]), (&[8; 1024][..], &[7; 1024][..]));
        }
        let failed = replace(&storage, &[8; 1024], "b", || (), || Err(io::ErrorKind::StorageFull.into()));
        assert!(matches!(failed, Err(ReplaceError::Half(_))) && check(&storage).is_err());
    }
}
