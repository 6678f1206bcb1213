//! A simulated disk: a file that knows what of it is durable.
//!
//! Every change is visible at once and durable only after a flush. All changes are kept in a log, so that the disk can
//! be had as a power loss at any earlier instant would have left it: what was durable then and, of what was not, what
//! a chooser says, each operation whole, in part (by sectors of 512 bytes) or not at all.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use vhost_user_zbd::storage::{FileRange, Medium};
use vhost_user_zbd::units::{Bytes, FileOffset};

const SECTOR: u64 = 512;

pub type Sector = [u8; SECTOR as usize];

/// Contents and length of a file; sectors that are not there are zeros.
#[derive(Clone, Default)]
struct Contents {
    sectors: BTreeMap<u64, Sector>,
    len: u64,
}

#[derive(Clone)]
enum Event {
    Change(Change),
    Flush,
    /// Of what was changed in these sectors alone, and of the length.
    SyncSectors(Vec<(u64, u64)>),
}

/// One sector of one change, or a change of the length: what a power loss keeps or loses.
#[derive(Clone)]
enum Change {
    Sector(u64, Box<Sector>),
    Hole(u64, u64),
    Len(u64),
}

impl Change {
    /// The parts of a change that a sync of these ranges of sectors makes durable, and those that stay as they were.
    fn split(self, ranges: &[(u64, u64)]) -> (Vec<Change>, Vec<Change>) {
        match self {
            Change::Len(_) if !ranges.is_empty() => (vec![self], Vec::new()),
            Change::Sector(at, _) if ranges.iter().any(|(first, end)| (*first..*end).contains(&at)) => {
                (vec![self], Vec::new())
            }
            Change::Sector(..) | Change::Len(_) => (Vec::new(), vec![self]),
            Change::Hole(first, end) => {
                let mut synced = Vec::new();
                let mut left = vec![(first, end)];
                for (from, to) in ranges {
                    let mut outside = Vec::new();
                    for (first, end) in left {
                        let (low, high) = (first.max(*from), end.min(*to));
                        if low >= high {
                            outside.push((first, end));
                            continue;
                        }
                        synced.push(Change::Hole(low, high));
                        outside.extend([(first, low), (high, end)].into_iter().filter(|(first, end)| first < end));
                    }
                    left = outside;
                }
                (synced, left.into_iter().map(|(first, end)| Change::Hole(first, end)).collect())
            }
        }
    }
}

#[derive(Default)]
struct State {
    /// What the log starts from.
    base: Contents,
    current: Contents,
    /// What happened since, in order; each operation is a run of changes with its number.
    log: Vec<(u64, Event)>,
    operations: u64,
    /// The operation (counted from 0 over all changing calls) that fails, and what it fails with.
    fault: Option<(u64, i32, bool)>,
}

/// The disk.
#[derive(Default)]
pub struct SimDisk {
    state: Mutex<State>,
    /// The disks with the images that the image here builds on, each above the one that it builds on itself. They do not change.
    bases: Vec<Arc<SimDisk>>,
}

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A new disk for an image that builds on the one in another disk.
    pub fn above(base: &Arc<SimDisk>) -> SimDisk {
        let bases = std::iter::once(base).chain(&base.bases).cloned().collect();
        SimDisk { bases, ..SimDisk::default() }
    }

    /// The disks with the images that the image here builds on, each above the one that it builds on itself.
    pub fn bases(&self) -> &[Arc<SimDisk>] {
        &self.bases
    }

    /// How many changing operations were called so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How often all of the file was made durable.
    pub fn flushes(&self) -> usize {
        self.state().log.iter().filter(|(_, event)| matches!(event, Event::Flush)).count()
    }

    /// Lets the changing operation with this number fail with `errno`, and all later ones when `forever`.
    pub fn fail_at(&self, operation: u64, errno: i32, forever: bool) {
        self.state().fault = Some((operation, errno, forever));
    }

    /// No failures any more.
    pub fn heal(&self) {
        self.state().fault = None;
    }

    /// Forgets the log: all that is there is durable.
    pub fn settle(&self) {
        let mut state = self.state();
        state.base = state.current.clone();
        state.log.clear();
    }

    /// What a power loss before the operation with number `before` could keep or lose.
    pub fn crash_before(&self, before: u64) -> Crash {
        let state = self.state();
        let mut durable = state.base.clone();
        let mut pending = Vec::new();
        for (number, event) in state.log.iter().take_while(|(number, _)| *number < before) {
            match event {
                Event::Change(change) => pending.push((*number, change.clone())),
                Event::Flush => pending.drain(..).for_each(|(_, change)| durable.apply(&change)),
                Event::SyncSectors(ranges) => {
                    let mut rest = Vec::new();
                    for (number, change) in pending {
                        let (synced, left) = change.split(ranges);
                        synced.iter().for_each(|change| durable.apply(change));
                        rest.extend(left.into_iter().map(|change| (number, change)));
                    }
                    pending = rest;
                }
            }
        }
        Crash { durable, pending, bases: self.bases.clone() }
    }

    /// The disk after the death of the process: all is there, and nothing more is durable than was.
    pub fn after_kill(&self) -> SimDisk {
        let state = self.state();
        let copy = State {
            base: state.base.clone(),
            current: state.current.clone(),
            log: state.log.clone(),
            operations: state.operations,
            fault: None,
        };
        SimDisk { state: Mutex::new(copy), bases: self.bases.clone() }
    }

    /// All that the file holds: its length, and its sectors.
    pub fn content(&self) -> (u64, BTreeMap<u64, Sector>) {
        let state = self.state();
        (state.current.len, state.current.sectors.clone())
    }

    /// Bytes of sectors that are not holes.
    pub fn allocated(&self) -> u64 {
        self.state().current.sectors.len() as u64 * SECTOR
    }
}

/// A power loss that has not been decided yet.
pub struct Crash {
    durable: Contents,
    pending: Vec<(u64, Change)>,
    bases: Vec<Arc<SimDisk>>,
}

impl Crash {
    /// The numbers of the operations that are not durable.
    pub fn operations(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.pending.iter().map(|(number, _)| *number).collect();
        numbers.dedup();
        numbers
    }

    /// The disk when of each operation (first argument) the sectors (second, counted from 0) are kept that `keep`
    /// names.
    pub fn keeping(&self, mut keep: impl FnMut(u64, usize) -> bool) -> SimDisk {
        let mut contents = self.durable.clone();
        let mut last = (u64::MAX, 0);
        for (number, change) in &self.pending {
            last = if last.0 == *number { (*number, last.1 + 1) } else { (*number, 0) };
            if keep(*number, last.1) {
                contents.apply(change);
            }
        }
        let state = State { base: contents.clone(), current: contents, ..State::default() };
        SimDisk { state: Mutex::new(state), bases: self.bases.clone() }
    }
}

impl Contents {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Sector(number, data) => {
                self.sectors.insert(*number, **data);
                self.len = self.len.max((number + 1) * SECTOR);
            }
            Change::Hole(first, end) => {
                let holes: Vec<u64> = self.sectors.range(*first..*end).map(|(number, _)| *number).collect();
                for number in holes {
                    self.sectors.remove(&number);
                }
            }
            Change::Len(len) => {
                self.len = *len;
                self.sectors.split_off(&len.div_ceil(SECTOR));
            }
        }
    }

    fn sector(&self, number: u64) -> Sector {
        self.sectors.get(&number).copied().unwrap_or([0; SECTOR as usize])
    }
}

impl State {
    fn begin(&mut self) -> io::Result<u64> {
        let number = self.operations;
        self.operations += 1;
        match self.fault {
            Some((at, errno, forever)) if number == at || (forever && number > at) => {
                Err(io::Error::from_raw_os_error(errno))
            }
            _ => Ok(number),
        }
    }

    fn change(&mut self, number: u64, change: Change) {
        self.current.apply(&change);
        self.log.push((number, Event::Change(change)));
    }

    fn write(&mut self, number: u64, offset: u64, mut data: &[u8]) {
        let mut at = offset;
        while !data.is_empty() {
            let within = (at % SECTOR) as usize;
            let part = data.len().min(SECTOR as usize - within);
            let mut sector = self.current.sector(at / SECTOR);
            sector[within..within + part].copy_from_slice(&data[..part]);
            self.change(number, Change::Sector(at / SECTOR, Box::new(sector)));
            at += part as u64;
            data = &data[part..];
        }
    }
}

impl Medium for SimDisk {
    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let mut done = 0;
        while done < buf.len() {
            let at = offset.0 + done as u64;
            let within = (at % SECTOR) as usize;
            let part = (buf.len() - done).min(SECTOR as usize - within);
            let sector = state.current.sector(at / SECTOR);
            buf[done..done + part].copy_from_slice(&sector[within..within + part]);
            done += part;
        }
        Ok(())
    }

    fn write_at(&self, offset: FileOffset, buf: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let number = state.begin()?;
        state.write(number, offset.0, buf);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state();
        let number = state.begin()?;
        state.log.push((number, Event::Flush));
        Ok(())
    }

    fn punch(&self, offset: FileOffset, len: Bytes) -> io::Result<()> {
        let mut state = self.state();
        let number = state.begin()?;
        let (start, end) = (offset.0, offset.0 + len.0);
        let (first, last) = (start.div_ceil(SECTOR), end / SECTOR);
        if first < last {
            state.change(number, Change::Hole(first, last));
        }
        let edges = if first > last { vec![(start, end)] } else { vec![(start, first * SECTOR), (last * SECTOR, end)] };
        for (from, to) in edges {
            if from < to && from < state.current.len {
                state.write(number, from, &vec![0; (to - from) as usize]);
            }
        }
        Ok(())
    }

    fn sync_ranges(&self, ranges: &[FileRange]) -> io::Result<()> {
        let mut state = self.state();
        let number = state.begin()?;
        let sectors = |(offset, len): &FileRange| (offset.0 / SECTOR, (offset.0 + len.0).div_ceil(SECTOR));
        state.log.push((number, Event::SyncSectors(ranges.iter().map(sectors).collect())));
        Ok(())
    }

    fn set_len(&self, len: Bytes) -> io::Result<()> {
        let mut state = self.state();
        let number = state.begin()?;
        state.change(number, Change::Len(len.0));
        Ok(())
    }

    fn len(&self) -> io::Result<Bytes> {
        Ok(Bytes(self.state().current.len))
    }
}
