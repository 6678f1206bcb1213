//! Which chunks of an object are in the cache: a file of words, one a chunk, that every process maps.
//!
//! A word is odd while its chunk is present. Only a fetcher that holds the chunk's claim changes it, by one each time, so that
//! a reader that finds the same odd word before and after it has read the data has read what was fetched. Before the words is a
//! page that says what they belong to; see `entry`.
//!
//! Beside them is a byte a chunk that readers set: what was read of late is given up last. It says nothing of presence.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes as _, FileOffset, MmapRegion, VolatileMemory};

/// Bytes before the words.
pub const HEADER: u64 = 4096;

/// Bytes of a word.
const WORD: u64 = 4;

/// The words of an object, and the marks of what was read.
#[derive(Debug)]
pub struct Presence {
    words: MmapRegion,
    read: MmapRegion,
    chunks: u64,
}

/// What a look at chunks that are all present has found; another one that finds the same has seen no change between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen(u64);

/// The length of the file of words of so many chunks.
pub fn words_len(chunks: u64) -> u64 {
    HEADER.saturating_add(chunks.saturating_mul(WORD))
}

fn map(file: File, len: u64, protection: i32) -> io::Result<MmapRegion> {
    // A mapping past the end of a file would end the process where it is touched.
    if file.metadata()?.len() < len {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a file of the cache is too short"));
    }
    let size = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    let place = FileOffset::from_arc(Arc::new(file), 0);
    MmapRegion::build(Some(place), size, protection, libc::MAP_SHARED | libc::MAP_NORESERVE).map_err(io::Error::other)
}

impl Presence {
    /// Maps the words of `chunks` chunks to look at them, and the marks to set them.
    pub fn of_reader(words: File, read: File, chunks: u64) -> io::Result<Self> {
        Self::map(words, read, chunks, libc::PROT_READ)
    }

    /// Maps the words to change them too.
    pub fn of_fetcher(words: File, read: File, chunks: u64) -> io::Result<Self> {
        Self::map(words, read, chunks, libc::PROT_READ | libc::PROT_WRITE)
    }

    fn map(words: File, read: File, chunks: u64, protection: i32) -> io::Result<Self> {
        let words = map(words, words_len(chunks), protection)?;
        let read = map(read, chunks.max(1), libc::PROT_READ | libc::PROT_WRITE)?;
        Ok(Self { words, read, chunks })
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// The word of a chunk; even for one that does not exist.
    pub fn word(&self, chunk: u64) -> u32 {
        let at = usize::try_from(words_len(chunk)).ok().filter(|_| chunk < self.chunks);
        let load = |at| self.words.as_volatile_slice().load(at, Ordering::Acquire).ok();
        at.and_then(load).unwrap_or(0)
    }

    /// Whether a chunk is present.
    pub fn is_present(&self, chunk: u64) -> bool {
        self.word(chunk) & 1 == 1
    }

    /// Looks at chunks before their data is read; none unless all are present.
    pub fn look(&self, chunks: &Range<u64>) -> Option<Seen> {
        let mut sum = 0u64;
        for chunk in chunks.clone() {
            let word = self.word(chunk);
            if word & 1 == 0 {
                return None;
            }
            // Words only grow, so the same sum is the same words.
            sum = sum.wrapping_add(word.into());
        }
        Some(Seen(sum))
    }

    /// Whether what was read of chunks since a look is what was fetched.
    pub fn still(&self, chunks: &Range<u64>, seen: Seen) -> bool {
        fence(Ordering::SeqCst);
        self.look(chunks) == Some(seen)
    }

    /// Marks chunks as read of late.
    pub fn mark_read(&self, chunks: &Range<u64>) {
        let slice = self.read.as_volatile_slice();
        for chunk in chunks.clone() {
            if let Ok(at) = usize::try_from(chunk) {
                // A mark that is not there says nothing of presence.
                let _ = slice.store(1u8, at, Ordering::Relaxed);
            }
        }
    }

    /// Takes the mark of a chunk back; whether it was there.
    pub fn take_read(&self, chunk: u64) -> bool {
        let slice = self.read.as_volatile_slice();
        let Ok(at) = usize::try_from(chunk) else { return false };
        let was = slice.load::<u8>(at, Ordering::Relaxed).is_ok_and(|mark| mark != 0);
        if was {
            let _ = slice.store(0u8, at, Ordering::Relaxed);
        }
        was
    }

    /// Says that a chunk is there, or is no more. Whoever calls holds its claim; the data was written before, or is taken away
    /// after.
    pub fn set(&self, chunk: u64, present: bool) {
        let word = self.word(chunk);
        if (word & 1 == 1) != present && chunk < self.chunks {
            self.store(chunk, word.wrapping_add(1));
        }
    }

    /// Sets a word whatever it was: nobody else has the words mapped.
    pub fn store(&self, chunk: u64, word: u32) {
        if let Ok(at) = usize::try_from(words_len(chunk)) {
            // Inside, as the caller has seen.
            let _ = self.words.as_volatile_slice().store(word, at, Ordering::Release);
        }
        fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn presence(chunks: u64) -> (Presence, Presence) {
        let (words, read) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        words.set_len(words_len(chunks)).unwrap();
        read.set_len(chunks).unwrap();
        let again = |file: &File| file.try_clone().unwrap();
        let reader = Presence::of_reader(again(&words), again(&read), chunks).unwrap();
        (Presence::of_fetcher(words, read, chunks).unwrap(), reader)
    }

    #[test]
    fn a_chunk_that_went_and_came_back_between_two_looks_is_noticed() {
        let (fetcher, reader) = presence(4);
        assert_eq!(reader.look(&(0..2)), None);
        (0..2).for_each(|chunk| fetcher.set(chunk, true));
        let seen = reader.look(&(0..2)).unwrap();
        assert!(reader.still(&(0..2), seen));
        fetcher.set(1, false);
        assert!(!reader.still(&(0..2), seen));
        fetcher.set(1, true);
        assert!(!reader.still(&(0..2), seen), "it is another one");
        assert!(!reader.is_present(7) && reader.look(&(3..5)).is_none(), "what is past the end is never there");
    }

    #[test]
    fn marks_of_readers_are_seen_once() {
        let (fetcher, reader) = presence(4);
        reader.mark_read(&(2..9));
        assert_eq!([1, 2, 3, 2].map(|chunk| fetcher.take_read(chunk)), [false, true, true, false]);
    }

    #[test]
    fn a_file_that_is_too_short_is_refused_instead_of_mapped() {
        let (words, read) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        words.set_len(words_len(3)).unwrap();
        assert!(Presence::of_reader(words, read, 4).is_err());
    }
}
