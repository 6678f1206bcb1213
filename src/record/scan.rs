//! A log looked through: where its flushes, answers and marks are, and what was done between two flushes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::sync::Arc;

use super::entry::{Accepted, Ended, Entry};
use super::reader::{ReadError, Reader};
use crate::observe::Kind;
use crate::units::ZoneIndex;
use crate::virtio::status::Status;

/// A moment of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// After so many flushes were answered with OK.
    Flush(u64),
    /// After so many requests were answered.
    Request(u64),
    /// When this mark was set for the first time.
    Mark(String),
    /// After the record of this number.
    Record(u64),
}

impl Point {
    /// Reads `flush:N`, `request:N`, `mark:NAME` or `record:N`. An error is one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("'{text}' is no moment of a recording: expected flush:N, request:N, mark:NAME or record:N");
        let (kind, what) = text.split_once(':').ok_or_else(wrong)?;
        let count = || what.parse().map_err(|_| wrong());
        match kind {
            "flush" => count().map(Self::Flush),
            "request" => count().map(Self::Request),
            "record" => count().map(Self::Record),
            "mark" if !what.is_empty() => Ok(Self::Mark(what.to_owned())),
            _ => Err(wrong()),
        }
    }
}

/// What was done from one flush to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Requests that were answered with OK, the flush at its end among them.
    pub answered: u64,
    /// Requests that the disk failed.
    pub failed: u64,
    /// Requests answered since the recording began.
    pub answered_in_all: u64,
    /// Bytes of writes and appends among those answered with OK.
    pub bytes: u64,
    /// Zones that were changed by them, in order.
    pub zones: BTreeSet<ZoneIndex>,
    /// What else has happened, in order, each with how many requests had been answered in all.
    pub happened: Vec<(Happened, u64)>,
    /// Whether a flush is its end; the last may have none.
    pub ends_in_flush: bool,
}

/// What happens beside requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// A mark was set.
    Mark(String),
    /// The power was cut.
    PowerCut,
    /// The driver has reset the device.
    DeviceReset,
    /// A rule for faults did something.
    Fault(String),
    /// Another daemon went on.
    Session,
    /// The recording ended.
    End(Ended),
}

/// A log looked through.
#[derive(Debug, Default)]
pub struct Scan {
    /// What was done, from flush to flush.
    pub epochs: Vec<Epoch>,
    /// Records.
    pub records: u64,
    /// Bytes of the file that are whole records.
    pub bytes: u64,
    /// Bytes of a record behind them that was cut short.
    pub left_over: u64,
    /// Flushes answered with OK.
    pub flushes: u64,
    /// Requests answered.
    pub answered: u64,
    /// When the first record was written, and the last: nanoseconds since 1970.
    pub times: Option<(u64, u64)>,
    /// What accepted requests that were failed, and resets and finishes that were not answered.
    undone: Arc<HashSet<u64>>,
    /// The record at which a moment is reached.
    reached: Option<u64>,
    open: HashMap<u64, Accepted>,
}

impl Scan {
    /// Looks through a log, and for a moment in it. `progress` is told how many bytes have been read.
    pub fn of(
        reader: &mut Reader<impl Read>,
        point: Option<&Point>,
        mut progress: impl FnMut(u64),
    ) -> Result<Self, ReadError> {
        let mut scan = Self { epochs: vec![Epoch::default()], ..Self::default() };
        if matches!(point, Some(Point::Flush(0) | Point::Request(0))) {
            // What the base is.
            scan.reached = Some(0);
        }
        while let Some(record) = reader.read()? {
            let first = scan.times.map_or(record.time_ns, |(first, _)| first);
            scan.times = Some((first, record.time_ns));
            scan.take(record.number, &record.entry, point);
            progress(reader.at());
        }
        if scan.epochs.last().is_some_and(|last| *last == Epoch { answered_in_all: scan.answered, ..Epoch::default() })
        {
            scan.epochs.pop();
        }
        (scan.records, scan.bytes, scan.left_over) = (reader.number(), reader.at(), reader.left_over());
        scan.forget_open();
        Ok(scan)
    }

    /// What accepted requests that the disk then failed, and resets and finishes that it has not answered.
    pub fn undone(&self) -> Arc<HashSet<u64>> {
        Arc::clone(&self.undone)
    }

    /// The record at which the moment is reached. An error is one line.
    pub fn reached(&self, point: &Point) -> Result<u64, String> {
        self.reached.ok_or_else(|| match point {
            Point::Flush(flush) => format!("flush:{flush}: the recording has {} flushes", self.flushes),
            Point::Request(count) => format!("request:{count}: the recording has {} answered requests", self.answered),
            Point::Mark(name) => format!("mark:{name}: the recording has no such mark"),
            Point::Record(number) => format!("record:{number}: the recording has {} records", self.records),
        })
    }

    fn take(&mut self, number: u64, entry: &Entry, point: Option<&Point>) {
        let mut here = false;
        let happened = match entry {
            Entry::Accept(accepted) => {
                self.open.insert(number, *accepted);
                None
            }
            Entry::Answer { of, status, .. } => {
                here = self.answer(*of, *status, point);
                None
            }
            Entry::Mark(text) => {
                here = matches!(point, Some(Point::Mark(name)) if name == text);
                Some(Happened::Mark(text.clone()))
            }
            Entry::Session { generation: 0, .. } => None,
            Entry::Session { .. } => Some(Happened::Session),
            Entry::Cut { .. } => {
                self.forget_open();
                Some(Happened::PowerCut)
            }
            Entry::DeviceReset => Some(Happened::DeviceReset),
            Entry::Fault { text, .. } => Some(Happened::Fault(text.clone())),
            Entry::End(ended) => Some(Happened::End(*ended)),
            Entry::Data(_) | Entry::Failed { .. } | Entry::Flush { .. } => None,
            Entry::Block { .. } | Entry::Poked { .. } => None,
        };
        here |= matches!(point, Some(Point::Record(wanted)) if *wanted == number);
        if let Some(happened) = happened {
            let answered = self.answered;
            self.epoch(|epoch| epoch.happened.push((happened, answered)));
        }
        if here && self.reached.is_none() {
            self.reached = Some(number);
        }
    }

    /// Returns whether the moment is this.
    fn answer(&mut self, of: u64, status: Status, point: Option<&Point>) -> bool {
        let Some(accepted) = self.open.remove(&of) else { return false };
        let ok = status == Status::Ok;
        self.answered += 1;
        let answered = self.answered;
        if !ok {
            Arc::make_mut(&mut self.undone).insert(of);
        }
        self.epoch(|epoch| {
            epoch.answered_in_all = answered;
            if !ok {
                epoch.failed += 1;
                return;
            }
            epoch.answered += 1;
            epoch.bytes += u64::from(accepted.len);
            if !matches!(accepted.kind, Kind::Open | Kind::Close) {
                epoch.zones.extend(accepted.zone);
            }
        });
        let flushed = ok && accepted.kind == Kind::Flush;
        if flushed {
            self.flushes += 1;
            self.epoch(|epoch| epoch.ends_in_flush = true);
            self.epochs.push(Epoch { answered_in_all: answered, ..Epoch::default() });
        }
        match point {
            Some(Point::Flush(flush)) => flushed && self.flushes == *flush,
            Some(Point::Request(count)) => answered == *count,
            _ => false,
        }
    }

    /// What is in flight gets no answer.
    fn forget_open(&mut self) {
        let manages = |kind| matches!(kind, Kind::Reset | Kind::ResetAll | Kind::Finish);
        let undone = self.open.drain().filter(|(_, open)| manages(open.kind)).map(|(number, _)| number);
        Arc::make_mut(&mut self.undone).extend(undone);
    }

    fn epoch(&mut self, with: impl FnOnce(&mut Epoch)) {
        if let Some(epoch) = self.epochs.last_mut() {
            with(epoch);
        }
    }
}
