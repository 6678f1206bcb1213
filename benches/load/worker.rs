//! One thread a queue: submits all it can, kicks once, sleeps until the device notifies, takes all that is done. So
//! does a guest whose processor halts between interrupts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use virtio_bindings::virtio_blk::VIRTIO_BLK_S_OK;

use crate::connection::Lane;
use crate::histogram::Histogram;
use crate::slot::{Op, Request, fill, status_name};
use crate::source::Source;
use crate::verify::{FIRST_TAG, Written};

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    WarmUp = 0,
    Measure = 1,
    Stop = 2,
}

/// The phase that all threads see.
#[derive(Debug)]
pub(crate) struct PhaseCell(AtomicU8);

impl PhaseCell {
    pub(crate) fn new(phase: Phase) -> Self {
        Self(AtomicU8::new(phase as u8))
    }

    pub(crate) fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    fn get(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            0 => Phase::WarmUp,
            1 => Phase::Measure,
            _ => Phase::Stop,
        }
    }
}

/// What to do with the data of requests.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    /// Write what the slots happen to hold, look at nothing that was read.
    Ignore,
    /// Write something new each time, and note where it went.
    Note(Arc<Written>),
    /// Compare what is read with what was noted.
    Compare(Arc<Written>),
}

/// How a worker drives its queue.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    pub(crate) depth: usize,
    /// A flush follows each so many requests; 0 is never.
    pub(crate) flush_every: u64,
    /// Whether it looks at the ring all the time and never sleeps.
    pub(crate) spin: bool,
    pub(crate) data: Data,
}

/// What a worker has seen while it was measured.
#[derive(Clone, Debug)]
pub(crate) struct Stats {
    pub(crate) requests: Histogram,
    pub(crate) flushes: Histogram,
    pub(crate) resets: Histogram,
    pub(crate) bytes: u64,
    pub(crate) kicks: u64,
    pub(crate) waits: u64,
}

impl Stats {
    pub(crate) fn new() -> Self {
        let none = Histogram::new;
        Self { requests: none(), flushes: none(), resets: none(), bytes: 0, kicks: 0, waits: 0 }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.requests.add(&other.requests);
        self.flushes.add(&other.flushes);
        self.resets.add(&other.resets);
        self.bytes += other.bytes;
        self.kicks += other.kicks;
        self.waits += other.waits;
    }

    fn clear(&mut self) {
        [&mut self.requests, &mut self.flushes, &mut self.resets].into_iter().for_each(Histogram::clear);
        (self.bytes, self.kicks, self.waits) = (0, 0, 0);
    }

    fn record(&mut self, request: &Request, nanoseconds: u64) {
        match request.op {
            Op::Flush => self.flushes.record(nanoseconds),
            Op::Reset => self.resets.record(nanoseconds),
            _ => {
                self.bytes += u64::from(request.len);
                self.requests.record(nanoseconds);
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    request: Request,
    tag: u64,
    since: Instant,
}

/// A queue with a job.
pub(crate) struct Worker {
    lane: Lane,
    source: Box<dyn Source>,
    manner: Manner,
    phase: Arc<PhaseCell>,
    free: Vec<u16>,
    in_flight: Vec<Option<InFlight>>,
    stats: Stats,
    since_flush: u64,
    next_tag: u64,
}

impl Worker {
    pub(crate) fn new(lane: Lane, source: Box<dyn Source>, manner: Manner, phase: Arc<PhaseCell>) -> Self {
        let depth = manner.depth.min(lane.slots.len());
        Self {
            free: (0..depth as u16).collect(),
            in_flight: vec![None; depth],
            stats: Stats::new(),
            since_flush: 0,
            // Tags of different queues differ, and all fit the 40 bits that a pattern keeps of them.
            next_tag: (u64::from(lane.number) << 32) + FIRST_TAG,
            lane,
            source,
            manner,
            phase,
        }
    }

    /// Runs until the phase or the source ends, and all that was submitted is done. A failure stops all threads.
    pub(crate) fn run(mut self) -> (Lane, Result<Stats>) {
        let result = self.drive();
        if result.is_err() {
            self.phase.set(Phase::Stop);
        }
        (self.lane, result.map(|()| self.stats))
    }

    fn drive(&mut self) -> Result<()> {
        let mut seen = self.phase.get();
        let mut now = Instant::now();
        let mut before = (self.lane.ring.kicks, self.lane.ring.waits);
        loop {
            let phase = self.phase.get();
            if phase != seen {
                match phase {
                    Phase::Measure => {
                        self.stats.clear();
                        before = (self.lane.ring.kicks, self.lane.ring.waits);
                    }
                    _ => self.count_calls(before),
                }
                seen = phase;
            }
            if phase != Phase::Stop {
                self.submit(now)?;
            }
            if self.free.len() == self.in_flight.len() {
                break;
            }
            if !self.manner.spin {
                self.lane.ring.wait()?;
            }
            let done = self.lane.ring.used_waiting();
            if done > 0 {
                now = Instant::now();
                self.collect(done, now, phase != Phase::Stop)?;
            }
        }
        if seen != Phase::Stop {
            self.count_calls(before);
        }
        Ok(())
    }

    fn count_calls(&mut self, before: (u64, u64)) {
        self.stats.kicks = self.lane.ring.kicks - before.0;
        self.stats.waits = self.lane.ring.waits - before.1;
    }

    fn submit(&mut self, now: Instant) -> Result<()> {
        let flush = Request { op: Op::Flush, sector: 0, len: 0, stream: 0 };
        while let Some(at) = self.free.last().copied() {
            let flush_due = self.manner.flush_every != 0 && self.since_flush >= self.manner.flush_every;
            let Some(request) = (if flush_due { Some(flush) } else { self.source.next() }) else { break };
            match request.op {
                Op::Flush => self.since_flush = 0,
                Op::Reset => {}
                _ => self.since_flush += 1,
            }
            self.free.pop();
            let slot = &mut self.lane.slots[usize::from(at)];
            let mut tag = 0;
            if matches!(self.manner.data, Data::Note(_)) && matches!(request.op, Op::Write | Op::Append) {
                tag = self.next_tag;
                self.next_tag += 1;
                fill(slot.data(request.len), tag);
            }
            slot.prepare(&mut self.lane.ring, &request)?;
            self.in_flight[usize::from(at)] = Some(InFlight { request, tag, since: now });
            self.lane.ring.offer(slot.head);
        }
        self.lane.ring.publish()
    }

    fn collect(&mut self, count: u16, now: Instant, record: bool) -> Result<()> {
        for _ in 0..count {
            let head = self.lane.ring.take_used();
            let at = self.lane.slot_of_head.get(head as usize).copied().map_or(usize::MAX, usize::from);
            let Some(done) = self.in_flight.get_mut(at).and_then(Option::take) else {
                bail!("queue {}: the device used descriptor {head}, which is not in flight", self.lane.number);
            };
            let request = &done.request;
            let slot = &mut self.lane.slots[at];
            let status = slot.status();
            if u32::from(status) != VIRTIO_BLK_S_OK {
                let (queue, what) = (self.lane.number, request.describe());
                bail!("queue {queue}: {what}: status {status} ({})", status_name(status));
            }
            let answer = if request.op == Op::Append { slot.answer() } else { request.sector };
            match &self.manner.data {
                Data::Ignore => {}
                Data::Note(written) => written.note(request.op, answer, done.tag)?,
                Data::Compare(written) => written.compare(request, slot.data(request.len))?,
            }
            self.source.done(request, answer)?;
            if record {
                self.stats.record(request, (now - done.since).as_nanos() as u64);
            }
            self.free.push(at as u16);
        }
        Ok(())
    }
}

/// Does one request on an idle queue; its data is in the first slot.
pub(crate) fn call(lane: &mut Lane, request: &Request) -> Result<()> {
    let Lane { ring, slots, .. } = lane;
    let slot = &mut slots[0];
    slot.prepare(ring, request)?;
    ring.offer(slot.head);
    ring.publish()?;
    ring.wait()?;
    ring.take_used();
    let status = slot.status();
    ensure!(u32::from(status) == VIRTIO_BLK_S_OK, "{}: status {}", request.describe(), status_name(status));
    Ok(())
}
