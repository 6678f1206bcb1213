//! Changes of several places of an image at once: a process that dies leaves all of them or none.
//!
//! The changes are written behind the end of the file, then one word of the header says so, then they are made, then the word
//! is taken back and the file cut. Whoever opens an image for writing that has the word makes them again; who only looks at one
//! is told to have that done. The word is this project's own autoclear bit: a program that does not know it clears it with its
//! first change, and then none of ours may follow.
//!
//! ```text
//! changes:   place (8 bytes), length (8 bytes), content; again for each
//! ...        zeros up to the end of a cluster
//! the end:   where the changes begin, how many bytes they are, "zbdredo\x01"; 8 bytes each, integers big-endian
//! ```

use std::io;

use super::error::{MapError, OpenError};
use super::header::{AUTOCLEAR_FIELD, CHANGING};
use super::{Access, Image};
use crate::storage::{FileRange, Medium};
use crate::units::{Bytes, FileOffset};

const MAGIC: [u8; 8] = *b"zbdredo\x01";
const TRAILER: u64 = 24;
/// Changes of one image take no more memory than this.
const MOST: u64 = 4 << 30;

/// Content for a place in the file.
pub type Change = (FileOffset, Vec<u8>);

impl<S: Medium> Image<S> {
    /// Makes all of these changes or none, whenever the process dies; durable once it returns. `before` is called when all is
    /// prepared and nothing changed yet. After an error nothing is changed.
    pub fn change_at_once(&mut self, changes: &[Change], before: impl FnOnce()) -> Result<(), MapError> {
        if self.access == Access::ReadOnly {
            return Err(MapError::io("change a read-only image")(io::ErrorKind::ReadOnlyFilesystem.into()));
        }
        let end = self.file_len;
        let log = encode(end, self.header.cluster_size().0, changes);
        let written = self.storage.write_at(FileOffset(end), &log);
        let written = written.and_then(|()| self.storage.sync_ranges(&[(FileOffset(end), Bytes(log.len() as u64))]));
        written.map_err(MapError::io("write down what is to be changed"))?;
        before();
        let mark = |word: u64| {
            let field = FileOffset(AUTOCLEAR_FIELD);
            self.storage.write_at(field, &word.to_be_bytes())?;
            self.storage.sync_ranges(&[(field, Bytes(8))])
        };
        mark(CHANGING).map_err(MapError::io("mark the image as being changed"))?;
        // From here on whoever opens the image makes the changes where this does not.
        let made = make(&*self.storage, changes).and_then(|()| mark(0));
        match made.and_then(|()| self.storage.set_len(Bytes(end))) {
            Ok(()) => {}
            Err(error) => {
                log::error!("changes of the image were written down and not made: {error}; the next open does")
            }
        }
        Ok(())
    }
}

fn encode(start: u64, cluster_size: u64, changes: &[Change]) -> Vec<u8> {
    let mut log = Vec::new();
    for (place, content) in changes {
        log.extend_from_slice(&place.0.to_be_bytes());
        log.extend_from_slice(&(content.len() as u64).to_be_bytes());
        log.extend_from_slice(content);
    }
    let len = log.len() as u64;
    log.resize((len + TRAILER).next_multiple_of(cluster_size) as usize - TRAILER as usize, 0);
    log.extend_from_slice(&start.to_be_bytes());
    log.extend_from_slice(&len.to_be_bytes());
    log.extend_from_slice(&MAGIC);
    log
}

fn make<S: Medium>(storage: &S, changes: &[Change]) -> io::Result<()> {
    changes.iter().try_for_each(|(place, content)| storage.write_at(*place, content))?;
    let ranges: Vec<FileRange> = changes.iter().map(|(place, content)| (*place, Bytes(content.len() as u64))).collect();
    storage.sync_ranges(&ranges)
}

/// The changes that are written down at the end of a file of this length, and where the file ends without them. None where
/// nothing there makes sense: the mark is then another program's.
pub(super) fn find<S: Medium>(storage: &S, file_len: u64) -> Result<Option<(Vec<Change>, u64)>, OpenError> {
    let read = |at: u64, bytes: &mut [u8]| {
        storage.read_at(FileOffset(at), bytes).map_err(OpenError::io("read what is to be changed"))
    };
    let mut trailer = [0; TRAILER as usize];
    let Some(end) = file_len.checked_sub(TRAILER) else { return Ok(None) };
    read(end, &mut trailer)?;
    let (start, rest) = (word(&trailer), &trailer[8..]);
    let len = word(rest);
    let fits = start != 0 && len <= MOST && start.checked_add(len).is_some_and(|behind| behind <= end);
    if trailer[16..] != MAGIC || !fits {
        return Ok(None);
    }
    let mut log = Vec::new();
    let room = log.try_reserve_exact(len as usize);
    room.map_err(|_| OpenError::io("hold what is to be changed")(io::ErrorKind::OutOfMemory.into()))?;
    log.resize(len as usize, 0u8);
    read(start, &mut log)?;
    Ok(decode(&log, start).map(|changes| (changes, start)))
}

fn decode(mut log: &[u8], end: u64) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    while !log.is_empty() {
        let (head, rest) = log.split_at_checked(16)?;
        let (place, len) = (word(head), word(&head[8..]));
        let (content, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
        // The first cluster is no place for any, nor is what is behind the image.
        (place >= 512 && place.checked_add(len)? <= end).then_some(())?;
        changes.push((FileOffset(place), content.to_vec()));
        log = rest;
    }
    Some(changes)
}

/// Makes changes that an earlier process has written down. The file ends at `end` without them.
pub(super) fn make_again<S: Medium>(storage: &S, changes: &[Change], end: u64) -> Result<(), OpenError> {
    let field = FileOffset(AUTOCLEAR_FIELD);
    let made = make(storage, changes)
        .and_then(|()| storage.write_at(field, &[0; 8]))
        .and_then(|()| storage.sync_ranges(&[(field, Bytes(8))]))
        .and_then(|()| storage.set_len(Bytes(end)));
    made.map_err(OpenError::io("make the changes that an earlier process has written down"))?;
    log::info!("{} changes were made that an earlier process had written down", changes.len());
    Ok(())
}

fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |word| u64::from_be_bytes(*word))
}
