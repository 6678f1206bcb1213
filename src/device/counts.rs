//! What the threads of a device note of the requests they answer, and who may look at it: [`observe`](crate::observe)
//! says what is counted.
//!
//! A queue's thread counts the answers of a round under a lock of its queue's own, which somebody else has only while
//! he asks for the counts; so counting costs one free lock and two looks at the clock a round. A refused request is
//! looked into further, as it is worth a line somewhere. Without a trace, tracing costs a branch a round.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use zerocopy::IntoBytes;

use crate::observe::stats::{QueueStats, RefusedLately, Stats};
use crate::observe::trace::{Entry, Record, Traced, TracedCut, name_records};
use crate::observe::{Refused, Rule, Subject};
use crate::power::CutOutcome;
use crate::store::Usage;
use crate::units::Sector;
use crate::virtio::request::Request;
use crate::virtio::status::Status;
use crate::zone::{Geometry, State};

/// Refused requests that are remembered.
const REMEMBERED: usize = 16;

/// What is known of a request beside what the driver is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observed {
    /// When it was taken from the ring.
    pub began: Option<Instant>,
    /// Of an append: where its data is. Of a refused request: where it should have begun.
    pub position: Option<Sector>,
    /// The rule that it broke, and its zone right after.
    pub refused: Option<(Rule, Option<(State, Sector)>)>,
    /// The number of the rule for faults that refused it, where the trace says what that is called.
    pub fault: Option<u16>,
}

/// A request that is about to be answered.
pub struct Answered {
    /// What it asked for; none where that could not be read.
    pub request: Option<Request>,
    /// How it ended.
    pub status: Status,
    /// What is known of it beside that.
    pub observed: Observed,
}

struct Remembered {
    at: Instant,
    queue: u16,
    refused: Refused,
}

/// What was seen of a device since it is served.
pub struct Counts {
    queues: Vec<Mutex<QueueStats>>,
    /// How many requests each queue has taken and not answered, as of its last round.
    in_flight: Vec<AtomicUsize>,
    refusals: Mutex<VecDeque<Remembered>>,
    trace: Option<Trace>,
    began: Instant,
    began_at: SystemTime,
    frontend: AtomicBool,
}

/// An open trace; its header is written.
struct Trace {
    file: File,
    /// What follows a record that was cut off could not be read.
    broken: AtomicBool,
    /// What rules for faults are called that this process has written down, by their numbers. Those of an earlier process may have
    /// become the numbers of other rules.
    fault_names: Mutex<HashMap<u16, String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counts {
    /// Nothing seen yet of so many queues.
    pub fn new(queues: usize, trace: Option<File>) -> Self {
        Self {
            queues: (0..queues).map(|_| Mutex::default()).collect(),
            in_flight: (0..queues).map(|_| AtomicUsize::default()).collect(),
            refusals: Mutex::default(),
            trace: trace.map(|file| Trace { file, broken: AtomicBool::new(false), fault_names: Mutex::default() }),
            began: Instant::now(),
            began_at: SystemTime::now(),
            frontend: AtomicBool::new(false),
        }
    }

    /// Notes that a frontend has come or gone.
    pub fn frontend_is(&self, connected: bool) {
        self.frontend.store(connected, Ordering::Relaxed);
    }

    /// Whether there is a frontend.
    pub fn has_frontend(&self) -> bool {
        self.frontend.load(Ordering::Relaxed)
    }

    /// Notes how many requests of a queue are in flight.
    pub fn in_flight_are(&self, queue: u16, requests: usize) {
        if let Some(in_flight) = self.in_flight.get(usize::from(queue)) {
            in_flight.store(requests, Ordering::Relaxed);
        }
    }

    fn in_flight(&self) -> u64 {
        self.in_flight.iter().map(|queue| queue.load(Ordering::Relaxed) as u64).sum()
    }

    /// Remembers a refused request for whoever asks.
    pub fn remember(&self, queue: u16, refused: Refused) {
        let mut refusals = lock(&self.refusals);
        if refusals.len() >= REMEMBERED {
            refusals.pop_front();
        }
        refusals.push_back(Remembered { at: Instant::now(), queue, refused });
    }

    /// Hands out the newest of the remembered requests, and forgets it.
    pub fn take_refusal(&self) -> Option<Refused> {
        lock(&self.refusals).pop_back().map(|remembered| remembered.refused)
    }

    /// The requests refused last, the newest last.
    fn refusals(&self) -> Vec<RefusedLately> {
        let told = |Remembered { at, queue, refused }: &Remembered| RefusedLately {
            ago_ms: millis(at.elapsed()),
            queue: *queue,
            text: refused.to_string(),
        };
        lock(&self.refusals).iter().map(told).collect()
    }

    /// Counts, and traces, answers that are about to be given back. `records` is empty memory.
    pub fn note_answers(
        &self,
        geometry: &Geometry,
        queue: u16,
        answers: impl Iterator<Item = Answered>,
        records: &mut Vec<Record>,
    ) {
        let Some(stats) = self.queues.get(usize::from(queue)) else { return };
        let now = Instant::now();
        let mut stats = lock(stats);
        for Answered { request, status, observed } in answers {
            let subject = Subject::from(request);
            let zone = subject.sector.and_then(Sector::to_bytes).and_then(|at| geometry.zone_at(at));
            let began = observed.began.unwrap_or(now);
            let duration = now.saturating_duration_since(began);
            stats.answered(&subject, zone, status, duration);
            if self.trace.is_some() {
                records.push(Record::from(&Entry::Request(Traced {
                    time_ns: self.epoch_ns(began),
                    duration_ns: u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
                    queue,
                    kind: subject.kind,
                    sector: subject.sector,
                    len: subject.len,
                    zone,
                    status,
                    position: observed.position,
                    refused: observed.refused,
                    fault: observed.fault,
                })));
            }
        }
        drop(stats);
        if let Some(trace) = &self.trace {
            trace.write(records.as_bytes());
            records.clear();
        }
    }

    /// Traces a power cut. No queue has begun to answer without power.
    pub fn trace_cut(&self, outcome: &CutOutcome) {
        self.trace_entry(|time_ns| {
            Entry::PowerCut(TracedCut {
                time_ns,
                // Always such a number; 0 would only be less to tell.
                digest: u64::from_str_radix(&outcome.digest, 16).unwrap_or_default(),
                touched_zones: u32::try_from(outcome.zones.len() + outcome.conventional.len()).unwrap_or(u32::MAX),
            })
        });
    }

    /// Traces that the power is back.
    pub fn trace_power_back(&self) {
        self.trace_entry(|time_ns| Entry::PowerBack { time_ns });
    }

    /// Traces what a rule for faults is called, where the trace does not say so yet; none where the rule is gone. Returns the number
    /// for the requests that it refuses, if a reader of these can know the name.
    pub fn trace_fault(&self, number: u16, name: Option<&str>) -> Option<u16> {
        let trace = self.trace.as_ref()?;
        // Held while that is written, as another queue that finds the name here refers to it at once.
        let mut names = lock(&trace.fault_names);
        let Some(name) = name else { return names.contains_key(&number).then_some(number) };
        if names.get(&number).is_none_or(|known| known != name) {
            trace.write(name_records(self.epoch_ns(Instant::now()), number, name).as_bytes());
            names.insert(number, name.to_owned());
        }
        Some(number)
    }

    fn trace_entry(&self, entry: impl FnOnce(u64) -> Entry) {
        if let Some(trace) = &self.trace {
            trace.write(Record::from(&entry(self.epoch_ns(Instant::now()))).as_bytes());
        }
    }

    /// What was seen so far, and how many zones are in use now.
    pub fn stats(&self, usage: &Usage) -> Stats {
        let mut sum = QueueStats::default();
        self.queues.iter().for_each(|queue| sum.add(&lock(queue)));
        Stats {
            uptime_ms: millis(self.began.elapsed()),
            frontend: self.has_frontend(),
            in_flight: self.in_flight(),
            open_zones: usage.open,
            max_open_zones: usage.max_open,
            active_zones: usage.active,
            max_active_zones: usage.max_active,
            operations: sum.operations(),
            statuses: sum.statuses(),
            hot_zones: sum.hot_zones(),
            refusals: self.refusals(),
            ..Stats::default()
        }
    }

    /// When a moment was, in nanoseconds since 1970.
    fn epoch_ns(&self, moment: Instant) -> u64 {
        let at = self.began_at + moment.saturating_duration_since(self.began);
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Trace {
    fn write(&self, records: &[u8]) {
        if self.broken.load(Ordering::Relaxed) {
            return;
        }
        let written = loop {
            match (&self.file).write(records) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => break written,
            }
        };
        let error = match written {
            Ok(written) if written == records.len() => return,
            Ok(written) => format!("only {written} of {} bytes could be written", records.len()),
            Err(error) => error.to_string(),
        };
        if !self.broken.swap(true, Ordering::Relaxed) {
            log::error!("the trace ends here: {error}");
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use zerocopy::FromBytes;

    use super::*;
    use crate::observe::fault_names::FaultNames;

    #[test]
    fn a_rule_for_faults_is_named_before_what_it_refuses_and_when_its_number_is_anothers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace");
        let counts = Counts::new(1, Some(File::create(&path).unwrap()));
        // What the rule of a number is called now, none where it is gone; the number that the request gets; names written so far.
        for (number, name, told, names) in [
            (3, None, None, 0),
            (3, Some("one"), Some(3), 1),
            (3, Some("one"), Some(3), 1),
            (3, None, Some(3), 1),
            (4, Some("one"), Some(4), 2),
            (4, None, Some(4), 2),
            (3, Some("two"), Some(3), 3),
            (3, Some("one"), Some(3), 4),
            (5, None, None, 4),
        ] {
            assert_eq!(counts.trace_fault(number, name), told, "{number} {name:?}");
            let bytes = std::fs::read(&path).unwrap();
            let records = <[Record]>::ref_from_bytes(&bytes).unwrap();
            assert_eq!(records.len(), names, "{number} {name:?}");
            let mut known = FaultNames::default();
            for record in records {
                let Some(Entry::FaultRule(part)) = record.decode() else { panic!("{record:?}") };
                known.take(&part);
            }
            assert!(name.is_none() || known.get(number) == name, "{number} {name:?}");
        }
        assert_eq!(Counts::new(1, None).trace_fault(3, Some("one")), None);
    }
}
