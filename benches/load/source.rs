//! Where requests come from: the jobs on a plain range of bytes.

use anyhow::Result;

use crate::slot::{Op, Request, SECTOR};
use crate::zones::ZoneWriter;

/// What one queue's thread asks for its next request.
pub(crate) trait Source: Send {
    /// The next request, or `None` while there is none before another one is done. With nothing in flight, `None` is
    /// the end.
    fn next(&mut self) -> Option<Request>;

    /// Takes note that a request succeeded; `answer` is where an append went.
    fn done(&mut self, request: &Request, answer: u64) -> Result<()>;
}

/// Small random numbers, the same in every run (xorshift64*).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number less than `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((u128::from(number) * u128::from(bound)) >> 64) as u64
    }
}

/// Bytes that lie one after the other: a plain disk, or the writable parts of zones.
#[derive(Clone, Debug)]
pub(crate) enum Space {
    Plain,
    Zones { starts: Vec<u64>, capacity: u64 },
}

impl Space {
    /// The sector where byte `at` lies.
    pub(crate) fn sector(&self, at: u64) -> u64 {
        match self {
            Self::Plain => at / SECTOR,
            Self::Zones { starts, capacity } => starts[(at / capacity) as usize] + at % capacity / SECTOR,
        }
    }
}

/// The blocks that one queue reads or writes.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    pub(crate) space: Space,
    pub(crate) op: Op,
    pub(crate) len: u32,
    /// The first block and the one after the last.
    pub(crate) range: std::ops::Range<u64>,
}

impl Blocks {
    fn request(&self, block: u64) -> Request {
        let sector = self.space.sector(block * u64::from(self.len));
        Request { op: self.op, sector, len: self.len, stream: 0 }
    }
}

/// Blocks at random.
#[derive(Debug)]
pub(crate) struct Scattered {
    pub(crate) blocks: Blocks,
    pub(crate) random: Random,
}

impl Source for Scattered {
    fn next(&mut self) -> Option<Request> {
        let range = &self.blocks.range;
        let block = range.start + self.random.below(range.end - range.start);
        Some(self.blocks.request(block))
    }

    fn done(&mut self, _: &Request, _: u64) -> Result<()> {
        Ok(())
    }
}

/// Blocks one after the other, once or over and over.
#[derive(Debug)]
pub(crate) struct InOrder {
    blocks: Blocks,
    at: u64,
    again: bool,
}

impl InOrder {
    pub(crate) fn new(blocks: Blocks, again: bool) -> Self {
        Self { at: blocks.range.start, blocks, again }
    }
}

impl Source for InOrder {
    fn next(&mut self) -> Option<Request> {
        if self.at == self.blocks.range.end {
            if !self.again {
                return None;
            }
            self.at = self.blocks.range.start;
        }
        let request = self.blocks.request(self.at);
        self.at += 1;
        Some(request)
    }

    fn done(&mut self, _: &Request, _: u64) -> Result<()> {
        Ok(())
    }
}

/// Zone reports over the whole disk, again and again.
#[derive(Debug)]
pub(crate) struct Reports {
    pub(crate) len: u32,
    /// Sectors that one report covers.
    pub(crate) step: u64,
    pub(crate) sectors: u64,
    pub(crate) at: u64,
}

impl Source for Reports {
    fn next(&mut self) -> Option<Request> {
        let sector = self.at;
        self.at = if sector + self.step < self.sectors { sector + self.step } else { 0 };
        Some(Request { op: Op::Report, sector, len: self.len, stream: 0 })
    }

    fn done(&mut self, _: &Request, _: u64) -> Result<()> {
        Ok(())
    }
}

/// The writes of a [`Mixed`] source.
#[derive(Debug)]
pub(crate) enum Writes {
    Plain(InOrder),
    Zones(ZoneWriter),
}

/// Seven reads at random for three writes.
#[derive(Debug)]
pub(crate) struct Mixed {
    pub(crate) reads: Scattered,
    pub(crate) writes: Writes,
    pub(crate) random: Random,
}

impl Source for Mixed {
    fn next(&mut self) -> Option<Request> {
        if self.random.below(10) < 7 {
            return self.reads.next();
        }
        let write = match &mut self.writes {
            Writes::Plain(writes) => writes.next(),
            Writes::Zones(writes) => writes.next(),
        };
        // All zones busy: the queue is not left short for that.
        write.or_else(|| self.reads.next())
    }

    fn done(&mut self, request: &Request, answer: u64) -> Result<()> {
        match &mut self.writes {
            Writes::Zones(writes) if request.op != Op::Read => writes.done(request, answer),
            _ => Ok(()),
        }
    }
}
