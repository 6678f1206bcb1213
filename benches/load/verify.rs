//! What was written where, to be compared with what is read back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail};

use crate::slot::{Op, Request, SECTOR, mismatch};
use crate::source::Source;

/// Nothing is known of the block.
const UNKNOWN: u64 = 0;
/// Its zone was reset, so it reads as zeros.
const ZEROS: u64 = 1;
/// The first tag of a write.
pub(crate) const FIRST_TAG: u64 = 2;

/// For each block of the disk the tag of what was last written there.
#[derive(Debug)]
pub(crate) struct Written {
    block: u64,
    zone: u64,
    tags: Vec<AtomicU64>,
}

impl Written {
    /// For a disk of `sectors`, written in blocks of `len` bytes, with zones of `zone` sectors.
    pub(crate) fn new(sectors: u64, len: u32, zone: u64) -> Self {
        let block = u64::from(len) / SECTOR;
        let tags = (0..sectors / block).map(|_| AtomicU64::new(UNKNOWN)).collect();
        Self { block, zone, tags }
    }

    /// Notes a request that succeeded: `sector` is where it went.
    pub(crate) fn note(&self, op: Op, sector: u64, tag: u64) -> Result<()> {
        let (blocks, tag) = match op {
            Op::Write | Op::Append => (1, tag),
            Op::Reset => (self.zone / self.block, ZEROS),
            Op::Read | Op::Report | Op::Flush => return Ok(()),
        };
        let first = (sector / self.block) as usize;
        let Some(tags) = self.tags.get(first..first + blocks as usize) else {
            bail!("{op:?} at sector {sector} is outside the disk");
        };
        if !sector.is_multiple_of(self.block) {
            bail!("{op:?} at sector {sector} is not at the beginning of a block");
        }
        tags.iter().for_each(|place| place.store(tag, Ordering::Relaxed));
        Ok(())
    }

    /// Compares what was read.
    pub(crate) fn compare(&self, request: &Request, data: &[u8]) -> Result<()> {
        let tag = self.tags[(request.sector / self.block) as usize].load(Ordering::Relaxed);
        let wrong = if tag == ZEROS { data.iter().position(|byte| *byte != 0) } else { mismatch(data, tag) };
        match wrong {
            Some(at) => bail!("{}: byte {at} is not what was written (tag {tag:#x})", request.describe()),
            None => Ok(()),
        }
    }
}

/// Reads every block of which something is known, once.
#[derive(Debug)]
pub(crate) struct ReadBack {
    written: Arc<Written>,
    len: u32,
    at: usize,
}

impl ReadBack {
    pub(crate) fn new(written: Arc<Written>, len: u32) -> Self {
        Self { written, len, at: 0 }
    }
}

impl Source for ReadBack {
    fn next(&mut self) -> Option<Request> {
        let known = |tag: &AtomicU64| tag.load(Ordering::Relaxed) != UNKNOWN;
        let block = self.at + self.written.tags[self.at..].iter().position(known)?;
        self.at = block + 1;
        Some(Request { op: Op::Read, sector: block as u64 * self.written.block, len: self.len, stream: 0 })
    }

    fn done(&mut self, _: &Request, _: u64) -> Result<()> {
        Ok(())
    }
}
