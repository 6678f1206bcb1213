//! Changes of several places of an image at once: a process that dies leaves all of them or none.
//!
//! The changes are written behind the end of the file, then one word of the header says so, then they are made, then the word
//! is taken back and the file cut. Whoever opens an image for writing that has the word makes them again; who only looks at one
//! is told to have that done. An open judges the header as it is once the changes are made, before it makes them. The word is this
//! project's own autoclear bit: a program that does not know it clears it with its first change, and then none of ours may follow.
//!
//! ```text
//! changes:   place (8 bytes), length (8 bytes), content; again for each. Of the header only the size of the disk and the place of
//!            its L1 table may be changed
//! ...        zeros up to the end of a cluster
//! the end:   a word of whoever changes, where the changes begin, how many bytes they are, "zbdredo\x01"; 8 bytes each,
//!            integers big-endian
//! ```

use std::io;
use std::ops::Range;

use super::error::{MapError, OpenError};
use super::header::{AUTOCLEAR_FIELD, BACKING_FIELDS, CHANGING, DISK_FIELDS, LEAST_LENGTH};
use super::{Access, Image};
use crate::storage::{FileRange, Layer, Medium};
use crate::units::{Bytes, FileOffset};

const MAGIC: [u8; 8] = *b"zbdredo\x01";
const TRAILER: u64 = 32;
/// Changes of one image take no more memory than this.
const MOST: u64 = 4 << 30;

/// The word of changes that whoever opens the image need not be told of.
pub(super) const NO_WORD: u64 = 0;

/// Content for a place in the file.
pub type Change = (FileOffset, Vec<u8>);

impl<S: Medium> Image<S> {
    /// Makes all of these changes or none, whenever the process dies; durable once it returns, unless the file has failed to be
    /// made durable before. Whoever opens the image behind a process that died in the midst is told `word`; `decided` is called
    /// at the moment from which on that is so. After an error nothing is changed.
    pub fn change_at_once(&mut self, changes: &[Change], word: u64, decided: impl FnOnce()) -> Result<(), MapError> {
        if self.access == Access::ReadOnly {
            return Err(MapError::io("change a read-only image")(io::ErrorKind::ReadOnlyFilesystem.into()));
        }
        let end = self.file_len;
        let log = encode(end, self.header.cluster_size().0, changes, word);
        // A file that has failed a flush makes nothing durable any more; a process that dies needs none of that.
        let durable = self.storage.flush().is_ok();
        let sync = |range: FileRange| if durable { self.storage.sync_ranges(&[range]) } else { Ok(()) };
        let written = self.storage.write_at(FileOffset(end), &log);
        let written = written.and_then(|()| sync((FileOffset(end), Bytes(log.len() as u64))));
        if let Err(error) = written {
            let _ = self.storage.set_len(Bytes(end));
            return Err(MapError::io("write down what is to be changed")(error));
        }
        let mark = |word: u64| {
            let field = FileOffset(AUTOCLEAR_FIELD);
            self.storage.write_at(field, &word.to_be_bytes())?;
            sync((field, Bytes(8)))
        };
        if let Err(error) = mark(CHANGING) {
            // The mark may be there: without what is behind the end it means nothing.
            let _ = self.storage.set_len(Bytes(end)).and_then(|()| mark(0));
            return Err(MapError::io("mark the image as being changed")(error));
        }
        // From here on whoever opens the image makes the changes where this does not.
        decided();
        let made = make(&*self.storage, changes, durable).and_then(|()| mark(0));
        match made.and_then(|()| self.storage.set_len(Bytes(end))) {
            Ok(()) => {}
            Err(error) => {
                log::error!("changes of the image were written down and not made: {error}; the next open does")
            }
        }
        Ok(())
    }
}

fn encode(start: u64, cluster_size: u64, changes: &[Change], word: u64) -> Vec<u8> {
    let mut log = Vec::new();
    for (place, content) in changes {
        log.extend_from_slice(&place.0.to_be_bytes());
        log.extend_from_slice(&(content.len() as u64).to_be_bytes());
        log.extend_from_slice(content);
    }
    let len = log.len() as u64;
    log.resize((len + TRAILER).next_multiple_of(cluster_size) as usize - TRAILER as usize, 0);
    log.extend_from_slice(&word.to_be_bytes());
    log.extend_from_slice(&start.to_be_bytes());
    log.extend_from_slice(&len.to_be_bytes());
    log.extend_from_slice(&MAGIC);
    log
}

fn make<S: Medium>(storage: &S, changes: &[Change], durable: bool) -> io::Result<()> {
    changes.iter().try_for_each(|(place, content)| storage.write_at(*place, content))?;
    let ranges: Vec<FileRange> = changes.iter().map(|(place, content)| (*place, Bytes(content.len() as u64))).collect();
    if durable { storage.sync_ranges(&ranges) } else { Ok(()) }
}

/// A file as it is once changes are made.
pub(super) struct Changed<'a, S> {
    pub(super) storage: &'a S,
    pub(super) changes: &'a [Change],
}

impl<S: Medium> Layer for Changed<'_, S> {
    type Below = S;

    fn below(&self) -> &S {
        self.storage
    }

    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        self.storage.read_at(offset, buf)?;
        for (place, content) in self.changes {
            let (from, to) = (place.0.max(offset.0), (place.0 + content.len() as u64).min(offset.0 + buf.len() as u64));
            if from < to {
                let (into, of) = ((from - offset.0) as usize, (from - place.0) as usize);
                let len = (to - from) as usize;
                buf[into..into + len].copy_from_slice(&content[of..of + len]);
            }
        }
        Ok(())
    }
}

/// What an earlier process has written down.
pub(super) struct Redo {
    pub(super) changes: Vec<Change>,
    /// The length of the file without them.
    pub(super) end: u64,
    /// What that process says with them.
    word: u64,
}

/// What is written down at the end of a file of this length. None where nothing there makes sense: the mark is then another
/// program's.
pub(super) fn find<S: Medium>(storage: &S, file_len: u64) -> Result<Option<Redo>, OpenError> {
    let read = |at: u64, bytes: &mut [u8]| {
        storage.read_at(FileOffset(at), bytes).map_err(OpenError::io("read what is to be changed"))
    };
    let mut trailer = [0; TRAILER as usize];
    let Some(end) = file_len.checked_sub(TRAILER) else { return Ok(None) };
    read(end, &mut trailer)?;
    let (start, len) = (word(&trailer[8..]), word(&trailer[16..]));
    let fits = start != 0 && len <= MOST && start.checked_add(len).is_some_and(|behind| behind <= end);
    if trailer[24..] != MAGIC || !fits {
        return Ok(None);
    }
    let mut log = Vec::new();
    let room = log.try_reserve_exact(len as usize);
    room.map_err(|_| OpenError::io("hold what is to be changed")(io::ErrorKind::OutOfMemory.into()))?;
    log.resize(len as usize, 0u8);
    read(start, &mut log)?;
    Ok(decode(&log, start).map(|changes| Redo { changes, end: start, word: word(&trailer) }))
}

fn decode(mut log: &[u8], end: u64) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    while !log.is_empty() {
        let (head, rest) = log.split_at_checked(16)?;
        let (place, len) = (word(head), word(&head[8..]));
        let (content, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
        // What marks the change is no place for any, nor is what is behind the image.
        let behind = place.checked_add(len)?;
        let in_fields = |fields: &Range<u64>| place >= fields.start && behind <= fields.end;
        let of_header = [DISK_FIELDS, BACKING_FIELDS].iter().any(in_fields);
        ((of_header || place >= LEAST_LENGTH.into()) && behind <= end).then_some(())?;
        changes.push((FileOffset(place), content.to_vec()));
        log = rest;
    }
    Some(changes)
}

/// Makes changes that an earlier process has written down. Returns where the file ends, and the word.
pub(super) fn make_again<S: Medium>(storage: &S, redo: &Redo) -> Result<(u64, u64), OpenError> {
    let Redo { changes, end, word } = redo;
    let field = FileOffset(AUTOCLEAR_FIELD);
    let made = make(storage, changes, true)
        .and_then(|()| storage.write_at(field, &[0; 8]))
        .and_then(|()| storage.sync_ranges(&[(field, Bytes(8))]))
        .and_then(|()| storage.set_len(Bytes(*end)));
    made.map_err(OpenError::io("make the changes that an earlier process has written down"))?;
    log::info!("{} changes were made that an earlier process had written down", changes.len());
    Ok((*end, *word))
}

fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |word| u64::from_be_bytes(*word))
}
