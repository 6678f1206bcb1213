//! A file in memory, for tests: holes cost nothing, so images of many TiB are possible.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::storage::{FileRange, Medium};
use crate::units::{Bytes, FileOffset};

/// The unit of allocation; a page that was never written reads as zeros.
const PAGE: u64 = 4096;

/// A sparse file in memory. A copy made with [`Clone`] is independent of the original.
#[derive(Debug, Default)]
pub struct MemoryMedium {
    inner: Mutex<Inner>,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    /// Shared between copies until one of them writes.
    pages: BTreeMap<u64, Arc<[u8; PAGE as usize]>>,
    len: u64,
}

impl Clone for MemoryMedium {
    fn clone(&self) -> Self {
        Self { inner: Mutex::new(self.lock().clone()) }
    }
}

impl MemoryMedium {
    /// A file with the given contents.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        let storage = Self::default();
        // Pages of zeros stay holes, as they would in a sparse file.
        for (at, piece) in (0u64..).step_by(PAGE as usize).zip(bytes.chunks(PAGE as usize)) {
            if piece.iter().any(|byte| *byte != 0) {
                storage.write_at(FileOffset(at), piece)?;
            }
        }
        storage.set_len(Bytes(bytes.len() as u64))?;
        Ok(storage)
    }

    /// How many bytes are backed by memory.
    pub fn allocated(&self) -> Bytes {
        Bytes(self.lock().pages.len() as u64 * PAGE)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panicking test thread leaves whole pages behind, which is all this file promises.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Splits a range into its pages: page number, offset inside the page, length.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset.saturating_add(len);
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let inside = at % PAGE;
            let part = (PAGE - inside).min(end - at);
            let page = at / PAGE;
            at += part;
            (page, inside as usize, part as usize)
        })
    })
}

/// Equal length and equal bytes; a hole is zeros.
impl PartialEq for MemoryMedium {
    fn eq(&self, other: &Self) -> bool {
        const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
        // One after the other, so that a file can be compared with itself.
        let ours = self.lock().clone();
        let theirs = other.lock();
        let covers = |some: &Inner, all: &Inner| {
            some.pages.iter().all(|(page, bytes)| match all.pages.get(page) {
                Some(others) => Arc::ptr_eq(bytes, others) || bytes == others,
                None => **bytes == ZEROS,
            })
        };
        ours.len == theirs.len && covers(&ours, &theirs) && covers(&theirs, &ours)
    }
}

fn check_end(offset: FileOffset, len: u64) -> io::Result<u64> {
    let end = offset.0.checked_add(len).filter(|end| i64::try_from(*end).is_ok());
    end.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

impl Medium for MemoryMedium {
    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        check_end(offset, buf.len() as u64)?;
        let inner = self.lock();
        let mut rest = buf;
        for (page, inside, part) in pieces(offset.0, rest.len() as u64) {
            let (piece, tail) = rest.split_at_mut(part);
            match inner.pages.get(&page) {
                Some(bytes) => piece.copy_from_slice(&bytes[inside..inside + part]),
                None => piece.fill(0),
            }
            rest = tail;
        }
        Ok(())
    }

    fn write_at(&self, offset: FileOffset, buf: &[u8]) -> io::Result<()> {
        let end = check_end(offset, buf.len() as u64)?;
        let mut inner = self.lock();
        let mut rest = buf;
        for (page, inside, part) in pieces(offset.0, buf.len() as u64) {
            let (piece, tail) = rest.split_at(part);
            let bytes = Arc::make_mut(inner.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE as usize])));
            bytes[inside..inside + part].copy_from_slice(piece);
            rest = tail;
        }
        inner.len = inner.len.max(end);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_ranges(&self, _: &[FileRange]) -> io::Result<()> {
        Ok(())
    }

    fn punch(&self, offset: FileOffset, len: Bytes) -> io::Result<()> {
        let end = check_end(offset, len.0)?;
        let mut inner = self.lock();
        // Whole pages are dropped in one step, so that punching terabytes of holes costs nothing.
        let first_whole = offset.0.div_ceil(PAGE);
        let end_whole = end / PAGE;
        if first_whole < end_whole {
            let mut tail = inner.pages.split_off(&first_whole);
            let mut kept = tail.split_off(&end_whole);
            inner.pages.append(&mut kept);
        }
        for edge in [offset.0 / PAGE, end / PAGE] {
            let from = offset.0.max(edge * PAGE);
            let to = end.min((edge + 1) * PAGE);
            if from < to
                && let Some(bytes) = inner.pages.get_mut(&edge)
            {
                Arc::make_mut(bytes)[(from % PAGE) as usize..][..(to - from) as usize].fill(0);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: Bytes) -> io::Result<()> {
        check_end(FileOffset(0), len.0)?;
        let mut inner = self.lock();
        if len.0 < inner.len {
            inner.pages.split_off(&len.0.div_ceil(PAGE));
            if let Some(bytes) = inner.pages.get_mut(&(len.0 / PAGE)) {
                Arc::make_mut(bytes)[(len.0 % PAGE) as usize..].fill(0);
            }
        }
        inner.len = len.0;
        Ok(())
    }

    fn len(&self) -> io::Result<Bytes> {
        Ok(Bytes(self.lock().len))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

    use super::*;

    #[test]
    fn agrees_with_a_vector() {
        let storage = MemoryMedium::default();
        let mut model: Vec<u8> = Vec::new();
        let mut seed = 7u64;
        let mut next = |bound: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % bound
        };
        for round in 0..2000 {
            let (at, len) = (next(40_000), next(10_000));
            match next(4) {
                0 | 1 => {
                    storage.write_at(FileOffset(at), &vec![round as u8 | 1; len as usize]).unwrap();
                    // Writing nothing still moves no end here, but a vector cannot skip the growth to `at`.
                    if len > 0 || model.len() as u64 >= at {
                        model.resize(model.len().max((at + len) as usize), 0);
                        model[at as usize..][..len as usize].fill(round as u8 | 1);
                    } else {
                        model.resize(at as usize, 0);
                    }
                }
                2 => {
                    storage.punch(FileOffset(at), Bytes(len)).unwrap();
                    let end = model.len().min((at + len) as usize);
                    if (at as usize) < end {
                        model[at as usize..end].fill(0);
                    }
                }
                _ => {
                    storage.set_len(Bytes(at)).unwrap();
                    model.resize(at as usize, 0);
                }
            }
            assert_eq!(storage.len().unwrap().0, model.len() as u64);
            let mut read = vec![9; 60_000];
            storage.read_at(FileOffset(0), &mut read).unwrap();
            assert_eq!(read[..model.len()], model[..]);
            assert!(read[model.len()..].iter().all(|byte| *byte == 0));
        }
    }
}
