//! Zones: what a report says of them, and the jobs that write them.

use std::collections::VecDeque;

use anyhow::{Result, bail, ensure};

use crate::slot::{Op, Request, SECTOR};
use crate::source::{Source, Space};

/// Bytes of a report in front of its zones, and of each zone.
const HEADER: usize = 64;
const ENTRY: usize = 64;
const SEQUENTIAL: u8 = 2;

/// How many zones a report of `len` bytes has room for.
pub(crate) fn zones_in(len: u32) -> u64 {
    ((len as usize).saturating_sub(HEADER) / ENTRY) as u64
}

/// One sequential zone of a report, in sectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zone {
    pub(crate) start: u64,
    pub(crate) capacity: u64,
    pub(crate) written: u64,
}

/// The zones of a report: how many there are of any type, and those that are sequential.
pub(crate) fn parse(report: &[u8]) -> (u64, Vec<Zone>) {
    let word = |bytes: &[u8], at: usize| bytes[at..at + 8].iter().rev().fold(0, |sum, b| sum << 8 | u64::from(*b));
    let count = word(report, 0);
    let entries = report[HEADER..].chunks_exact(ENTRY).take(count as usize);
    let sequential = entries.filter(|entry| entry[24] == SEQUENTIAL).map(|entry| {
        let (capacity, start, pointer) = (word(entry, 0), word(entry, 8), word(entry, 16));
        // The pointer of a full zone says nothing.
        let written = if entry[25] == 14 { capacity } else { pointer.saturating_sub(start) };
        Zone { start, capacity, written }
    });
    (count, sequential.collect())
}

/// The sequential zones as one space. Zones shorter than the first, as the last one can be, are left out.
pub(crate) fn space(zones: &[Zone]) -> Result<Space> {
    let Some(first) = zones.first() else { bail!("the disk has no sequential zone") };
    let starts = zones.iter().filter(|zone| zone.capacity == first.capacity).map(|zone| zone.start).collect();
    Ok(Space::Zones { starts, capacity: first.capacity * SECTOR })
}

/// What a [`ZoneWriter`] does with its zones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) op: Op,
    pub(crate) len: u32,
    /// Zones written at a time.
    pub(crate) streams: usize,
    /// Requests in flight in each of them.
    pub(crate) depth: u32,
    /// Sectors of a zone that are written before the next zone is taken.
    pub(crate) limit: u64,
    /// Whether zones are reset and written again once all are used.
    pub(crate) again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Used,
    Resetting,
    Ready,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    zone: Zone,
    phase: Phase,
    /// Sectors asked for so far.
    assigned: u64,
    in_flight: u32,
}

/// Writes or appends to some zones in turn. A zone that is full makes room for the next of the pool, which is reset
/// first where it was used.
#[derive(Debug)]
pub(crate) struct ZoneWriter {
    plan: Plan,
    streams: Vec<Stream>,
    pool: VecDeque<Zone>,
    at: usize,
}

impl ZoneWriter {
    pub(crate) fn new(plan: Plan, zones: &[Zone]) -> Result<Self> {
        let sectors = u64::from(plan.len) / SECTOR;
        ensure!(zones.len() >= plan.streams, "a queue has {} zones to write {}", zones.len(), plan.streams);
        let whole = zones.iter().all(|zone| zone.capacity % sectors == 0);
        ensure!(whole, "the zones' capacity is not a multiple of {} bytes", plan.len);
        let mut pool: VecDeque<Zone> = zones.iter().copied().collect();
        let streams = pool.drain(..plan.streams).map(Stream::new).collect();
        Ok(Self { plan, streams, pool, at: 0 })
    }

    fn offer(&mut self, at: usize) -> Option<Request> {
        let (plan, sectors) = (self.plan, u64::from(self.plan.len) / SECTOR);
        if self.streams[at].assigned + sectors > plan.limit {
            self.replace(at)?;
        }
        let stream = &mut self.streams[at];
        match stream.phase {
            Phase::Used => {
                stream.phase = Phase::Resetting;
                Some(Request { op: Op::Reset, sector: stream.zone.start, len: 0, stream: at as u32 })
            }
            Phase::Resetting => None,
            Phase::Ready if stream.in_flight == plan.depth => None,
            Phase::Ready => {
                let offset = if plan.op == Op::Append { 0 } else { stream.assigned };
                stream.assigned += sectors;
                stream.in_flight += 1;
                let sector = stream.zone.start + offset;
                Some(Request { op: plan.op, sector, len: plan.len, stream: at as u32 })
            }
        }
    }

    fn replace(&mut self, at: usize) -> Option<()> {
        let stream = &mut self.streams[at];
        if stream.in_flight > 0 {
            return None;
        }
        if self.plan.again {
            self.pool.push_back(Zone { written: stream.assigned, ..stream.zone });
        }
        *stream = Stream::new(self.pool.pop_front()?);
        Some(())
    }
}

impl Stream {
    fn new(zone: Zone) -> Self {
        let phase = if zone.written > 0 { Phase::Used } else { Phase::Ready };
        Self { zone, phase, assigned: 0, in_flight: 0 }
    }
}

impl Source for ZoneWriter {
    fn next(&mut self) -> Option<Request> {
        for _ in 0..self.streams.len() {
            let at = self.at;
            self.at = if at + 1 == self.streams.len() { 0 } else { at + 1 };
            if let Some(request) = self.offer(at) {
                return Some(request);
            }
        }
        None
    }

    fn done(&mut self, request: &Request, answer: u64) -> Result<()> {
        let stream = &mut self.streams[request.stream as usize];
        if request.op == Op::Reset {
            stream.phase = Phase::Ready;
            return Ok(());
        }
        stream.in_flight -= 1;
        if request.op == Op::Append {
            let zone = stream.zone.start..stream.zone.start + stream.zone.capacity;
            ensure!(zone.contains(&answer), "{}: the answer is sector {answer}", request.describe());
        }
        Ok(())
    }
}
