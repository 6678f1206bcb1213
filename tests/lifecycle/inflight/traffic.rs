//! Random requests on several queues whose every answer is judged, whichever daemon gives it.
//!
//! A zone is in one [`Mode`] at a time, chosen so that the right answers are known although requests are concurrent:
//! writes one behind the other on one queue, appends on any, one management request alone, or a [`Race`], whose
//! answers are judged together when all are there. What is read is not changed meanwhile.

use crate::common::cli::Geo;
use crate::common::disk::Disk;
use crate::common::frontend::Token;
use crate::common::model::{Model, assert_same, pattern};
use crate::common::request::{Done, Req, State, Status, kind};
use crate::common::{PATIENCE, Rng, SECTOR, eventually};
use std::time::{Duration, Instant};

use super::race::{Entry, Race};

/// A request in flight, and what it does once it is done.
#[derive(Clone, Debug)]
pub(super) enum What {
    Write {
        sector: u64,
        count: u64,
        tag: u64,
    },
    Append {
        count: u64,
        tag: u64,
    },
    Overwrite {
        sector: u64,
        count: u64,
        tag: u64,
    },
    Read {
        sector: u64,
        expected: Vec<u8>,
    },
    Reset,
    Finish,
    Open,
    Close,
    ResetAll,
    Flush,
    /// One that must be refused, and how.
    Wrong(Status),
}

#[derive(Debug)]
struct InFlight {
    zone: usize,
    what: What,
    token: Token,
}

/// What goes on in a zone.
#[derive(Clone, Debug, Default)]
pub(super) enum Mode {
    #[default]
    Idle,
    /// Writes, each at the end of the one before, on one queue.
    Pipeline(usize),
    /// Appends, on any queue.
    Appends,
    /// One request that nothing else goes with.
    Alone,
    Race(Race),
}

#[derive(Clone, Debug, Default)]
struct Zone {
    mode: Mode,
    /// Requests in flight that change it.
    changes: usize,
    reads: usize,
    /// Sectors that its appends in flight will have written.
    pending: u64,
    /// Where its pipeline of writes ends.
    end: u64,
    /// It was explicitly opened.
    explicit: bool,
}

/// How long requests are made.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    Answers(usize),
    Time(Duration),
}

/// A disk under random load, with what it must hold.
#[derive(Debug)]
pub(super) struct Traffic {
    pub(super) disk: Disk,
    pub(super) model: Model,
    pub(super) rng: Rng,
    tag: u64,
    depth: usize,
    flying: Vec<InFlight>,
    zones: Vec<Zone>,
    /// Requests answered.
    pub(super) answered: usize,
}

impl Traffic {
    pub(super) fn new(disk: Disk, seed: u64, depth: usize) -> Self {
        let model = Model::new(disk.geo());
        let zones = vec![Zone::default(); disk.geo().zones()];
        Self { disk, model, rng: Rng::new(seed), tag: seed << 32, depth, flying: Vec::new(), zones, answered: 0 }
    }

    fn geo(&self) -> Geo {
        self.disk.geo()
    }

    /// How many requests are in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.flying.len()
    }

    /// Makes requests. Others are in flight at the end.
    pub(super) fn run(&mut self, until: Until) {
        let goal = |answers| self.answered + answers;
        let (goal, end) = match until {
            Until::Answers(answers) => (goal(answers), Instant::now() + PATIENCE),
            Until::Time(time) => (usize::MAX, Instant::now() + time),
        };
        while self.answered < goal && Instant::now() < end {
            self.fill();
            if self.take_answers() == 0 {
                self.disk.front().collect_until(end);
            }
        }
        assert!(goal == usize::MAX || self.answered >= goal, "waited {PATIENCE:?} for answers: {:?}", self.flying);
    }

    /// Makes requests until as many as may be are in flight.
    pub(super) fn fill(&mut self) {
        let mut attempts = 0;
        while self.flying.len() < self.depth && attempts < 4 * self.depth {
            attempts += 1;
            self.choose();
        }
    }

    /// Waits for every answer. None is missing and none too many.
    #[track_caller]
    pub(super) fn drain(&mut self) {
        eventually("the answers to all requests in flight", || {
            self.take_answers();
            if self.flying.is_empty() {
                return Some(());
            }
            let soon = Instant::now() + Duration::from_millis(500);
            self.disk.front().collect_until(soon);
            None
        });
        let front = self.disk.front();
        assert_eq!((front.collect(), front.in_flight_count()), (0, 0), "answers too many, answers missing");
        for queue in &front.queues {
            assert_eq!(queue.used_index(&front.mem), queue.avail_idx, "requests and answers of queue {}", queue.index);
        }
    }

    /// Waits for every answer; then the disk holds what these say. The zones are in the states these say, but for
    /// those that the guest did not open itself, which an end of the daemon closes.
    #[track_caller]
    pub(super) fn drain_and_verify(&mut self) {
        self.drain();
        self.model.verify(&mut self.disk, true);
        for zone in self.geo().first_seq()..self.geo().zones() {
            let explicit = self.disk.state(zone) == State::ExplicitOpen;
            assert_eq!(explicit, self.zones[zone].explicit, "whether zone {zone} is explicitly open");
        }
    }

    /// Judges what was answered. Returns how much that was.
    pub(super) fn take_answers(&mut self) -> usize {
        let before = self.answered;
        loop {
            let start = self.answered;
            for op in std::mem::take(&mut self.flying) {
                match self.disk.front().poll(op.token) {
                    None => self.flying.push(op),
                    Some(done) => {
                        self.answered += 1;
                        self.judge(&op, &done);
                    }
                }
            }
            // An answer may have come behind the place of its request in the list: nobody is told of it again.
            if self.answered == start {
                return start - before;
            }
        }
    }

    fn judge(&mut self, op: &InFlight, done: &Done) {
        let zone = op.zone;
        if let What::Read { sector, expected } = &op.what {
            self.zones[zone].reads -= 1;
            assert_eq!(done.status, Status::Ok, "a read at sector {sector:#x}");
            return assert_same(&done.data, expected, *sector);
        }
        if let What::ResetAll = op.what {
            return self.judge_reset_all(done);
        }
        if let What::Flush = op.what {
            return assert_eq!(done.status, Status::Ok, "a flush");
        }
        self.zones[zone].changes -= 1;
        if let Mode::Race(race) = &mut self.zones[zone].mode {
            race.answer(op.token, done);
        } else {
            self.judge_change(zone, &op.what, done);
        }
        self.settle(zone);
    }

    fn judge_change(&mut self, zone: usize, what: &What, done: &Done) {
        let expected = if let What::Wrong(status) = what { *status } else { Status::Ok };
        assert_eq!(done.status, expected, "zone {zone}: {what:?}");
        let (model, state) = (&mut self.model, &mut self.zones[zone]);
        match what {
            What::Write { sector, count, tag } | What::Overwrite { sector, count, tag } => {
                model.wrote(*sector, *count, *tag);
            }
            What::Append { count, tag } => {
                place_append(model, zone, done.number(), *count, *tag);
                state.pending -= count;
            }
            What::Reset => model.reset(zone),
            What::Finish => model.finish(zone),
            What::Open => state.explicit = true,
            What::Close => state.explicit = false,
            What::Wrong(_) | What::Read { .. } | What::ResetAll | What::Flush => {}
        }
        if matches!(what, What::Reset) || model.is_full(zone) {
            state.explicit = false;
        }
    }

    fn judge_reset_all(&mut self, done: &Done) {
        assert_eq!(done.status, Status::Ok, "a reset of all zones");
        for zone in self.geo().first_seq()..self.geo().zones() {
            match &mut self.zones[zone].mode {
                Mode::Race(race) => race.answer_reset_all(done),
                _ => {
                    self.model.reset(zone);
                    self.zones[zone].explicit = false;
                }
            }
            self.zones[zone].changes -= 1;
            self.settle(zone);
        }
    }

    /// What follows for a zone from the last answer of a group.
    fn settle(&mut self, zone: usize) {
        if self.zones[zone].changes > 0 {
            return;
        }
        let geo = self.geo();
        self.zones[zone].pending = 0;
        if let Mode::Race(race) = std::mem::take(&mut self.zones[zone].mode) {
            let reset = race.settle(&mut self.model, zone, &geo);
            if reset || self.model.is_full(zone) {
                self.zones[zone].explicit = false;
            }
        }
    }

    fn submit(&mut self, queue: usize, zone: usize, what: What, req: &Req) -> Token {
        match &what {
            What::Read { .. } => self.zones[zone].reads += 1,
            What::Flush => {}
            What::ResetAll => self.zones[self.disk.geo().first_seq()..].iter_mut().for_each(|zone| zone.changes += 1),
            _ => self.zones[zone].changes += 1,
        }
        let token = self.disk.submit(queue, req);
        self.flying.push(InFlight { zone, what, token });
        token
    }

    /// Any queue.
    pub(super) fn queue(&mut self) -> usize {
        let queues = self.disk.front().queues.len() as u64;
        self.rng.below(queues) as usize
    }

    /// Whether a queue takes `more` requests without waiting for answers, of which there may be none.
    fn has_room(&mut self, queue: usize, more: usize) -> bool {
        let front = self.disk.front();
        let each = if front.queues[queue].size < 64 { 1 } else { 4 };
        front.queues[queue].room() >= each * more
    }

    /// Makes one request, or a race of some, or none when the dice ask for what cannot be now.
    fn choose(&mut self) {
        let queue = self.queue();
        if !self.has_room(queue, 1) || self.flying.iter().any(|op| matches!(op.what, What::ResetAll)) {
            return;
        }
        let zone = self.rng.below(self.geo().zones() as u64) as usize;
        match self.rng.below(1000) {
            0..15 => drop(self.submit(queue, zone, What::Flush, &Req::flush())),
            15..20 => self.choose_reset_all(queue),
            20..120 => self.choose_read(queue, zone),
            _ if self.geo().is_conventional(zone) => self.choose_overwrite(queue, zone),
            120..200 => self.choose_race(queue, zone),
            200..280 => self.choose_alone(queue, zone),
            _ => self.choose_data(queue, zone),
        }
    }

    pub(super) fn next_tag(&mut self) -> u64 {
        self.tag += 1;
        self.tag
    }

    pub(super) fn count(&mut self) -> u64 {
        let most = *self.rng.pick(&[1, 4, 16]);
        8 * (1 + self.rng.below(most))
    }

    fn idle(&self, zone: usize) -> bool {
        matches!(self.zones[zone].mode, Mode::Idle) && self.zones[zone].changes == 0 && self.zones[zone].reads == 0
    }

    /// Reads what is acknowledged, while more may be written behind it.
    fn choose_read(&mut self, queue: usize, zone: usize) {
        let (geo, state) = (self.geo(), &self.zones[zone]);
        let written = if geo.is_conventional(zone) { geo.len(zone) } else { self.model.zones[zone].sectors_known() };
        if matches!(state.mode, Mode::Alone | Mode::Race(_)) || written < 8 {
            return;
        }
        let count = self.count().min(written / 8 * 8);
        let first = 8 * self.rng.below((written - count) / 8 + 1);
        let sector = geo.start(zone) + first;
        if self.overlaps(sector, count, true) {
            return;
        }
        let all = &self.model.zones[zone].sectors[first as usize..(first + count) as usize];
        let expected: Vec<u8> = all.iter().flat_map(|stamp| crate::common::model::sector(*stamp)).collect();
        let req = Req::read(sector, expected.len());
        self.submit(queue, zone, What::Read { sector, expected }, &req);
    }

    /// Whether a conventional range is written by a request in flight, or read where that matters.
    fn overlaps(&self, sector: u64, count: u64, to_read: bool) -> bool {
        let meets = |at: u64, len: u64| sector < at + len && at < sector + count;
        self.flying.iter().any(|op| match &op.what {
            What::Overwrite { sector, count, .. } => meets(*sector, *count),
            What::Read { sector, expected } => !to_read && meets(*sector, expected.len() as u64 / SECTOR),
            _ => false,
        })
    }

    fn choose_overwrite(&mut self, queue: usize, zone: usize) {
        let (count, tag) = (self.count(), self.next_tag());
        let sector = self.geo().start(zone) + 8 * self.rng.below((self.geo().len(zone) - count) / 8);
        if !self.overlaps(sector, count, false) {
            let req = Req::write(sector, pattern(tag, 0, (count * SECTOR) as usize));
            self.submit(queue, zone, What::Overwrite { sector, count, tag }, &req);
        }
    }

    /// One more write or append behind those in flight.
    fn choose_data(&mut self, queue: usize, zone: usize) {
        let (geo, count, tag) = (self.geo(), self.count(), self.next_tag());
        if matches!(self.zones[zone].mode, Mode::Idle) && self.zones[zone].changes == 0 {
            let appends = self.rng.below(2) == 0;
            self.zones[zone].mode = if appends { Mode::Appends } else { Mode::Pipeline(queue) };
            self.zones[zone].end = self.model.wp(zone);
        }
        let pipe = if let Mode::Pipeline(queue) = self.zones[zone].mode { queue } else { queue };
        let has_room = self.has_room(pipe, 1);
        let data = || pattern(tag, 0, (count * SECTOR) as usize);
        let Zone { pending, end, .. } = self.zones[zone];
        let (room, left) = (self.model.room(zone), geo.start(zone) + geo.cap(zone) - end);
        match self.zones[zone].mode {
            Mode::Appends if pending + count <= room && count * SECTOR <= geo.append => {
                self.zones[zone].pending += count;
                self.submit(queue, zone, What::Append { count, tag }, &Req::append(geo.start(zone), data()));
            }
            Mode::Pipeline(queue) if has_room && room > 0 && count <= left => {
                self.zones[zone].end += count;
                self.submit(queue, zone, What::Write { sector: end, count, tag }, &Req::write(end, data()));
            }
            _ => {}
        }
        if self.zones[zone].changes == 0 {
            self.zones[zone].mode = Mode::Idle;
        }
    }

    /// A request that must not meet others in its zone.
    fn choose_alone(&mut self, queue: usize, zone: usize) {
        if !self.idle(zone) {
            return;
        }
        let (start, full, room) = (self.geo().start(zone), self.model.is_full(zone), self.model.room(zone));
        let explicit = self.zones[zone].explicit;
        let untouched = self.model.wp(zone) == start && !full && !explicit;
        let (what, req) = match self.rng.below(12) {
            _ if full && self.rng.below(3) == 0 => (What::Reset, Req::reset(start)),
            0 => (What::Reset, Req::reset(start)),
            1 => (What::Finish, Req::finish(start)),
            2..5 if !full && self.may_open() => (What::Open, Req::open(start)),
            5..8 if explicit => (What::Close, Req::close(start)),
            8 if untouched || full => (What::Wrong(Status::InvalidCmd), Req::close(start)),
            9 if room >= 16 => (What::Wrong(Status::UnalignedWp), Req::write(self.model.wp(zone) + 8, [1; 4096])),
            10 => (What::Wrong(Status::IoErr), Req::write(self.geo().end(), [1; 4096])),
            11 => (What::Wrong(Status::Unsupp), Req::bare(kind::DISCARD, 0)),
            _ => return,
        };
        self.zones[zone].mode = Mode::Alone;
        self.submit(queue, zone, what, &req);
    }

    /// Whether one more zone may be explicitly open: one is left for all the others.
    fn may_open(&self) -> bool {
        let opening = self.flying.iter().filter(|op| matches!(op.what, What::Open)).count();
        let open = self.zones.iter().filter(|zone| zone.explicit).count();
        self.geo().open == 0 || open + opening + 1 < self.geo().open as usize
    }

    fn choose_race(&mut self, queue: usize, zone: usize) {
        if !self.idle(zone) {
            return;
        }
        let Some((race, entries)) = Race::choose(self, queue, zone) else { return };
        self.run_race(zone, race, entries);
    }

    fn run_race(&mut self, zone: usize, race: Race, entries: Vec<Entry>) {
        if entries.iter().any(|e| !self.has_room(e.queue, entries.len())) {
            return;
        }
        self.zones[zone].mode = Mode::Race(race);
        for Entry { queue, what, req } in entries {
            let token = self.submit(queue, zone, what.clone(), &req);
            if let Mode::Race(race) = &mut self.zones[zone].mode {
                race.add(token, what);
            }
        }
    }

    /// Resets all zones, with writes to some of them behind it on the same queue.
    fn choose_reset_all(&mut self, queue: usize) {
        let geo = self.geo();
        let sequential = geo.first_seq()..geo.zones();
        if !sequential.clone().all(|zone| self.idle(zone)) || !self.has_room(queue, 9) {
            return;
        }
        self.submit(queue, 0, What::ResetAll, &Req::reset_all());
        let first = sequential.start + self.rng.below(sequential.len() as u64 - 1) as usize;
        for zone in [first, first + 1] {
            if let Some((race, entries)) = Race::behind_reset_all(self, queue, zone) {
                self.run_race(zone, race, entries);
            }
        }
    }
}

/// Takes the data of an append to where the device says it is: inside its zone, and over nothing that was written.
#[track_caller]
pub(super) fn place_append(model: &mut Model, zone: usize, sector: u64, count: u64, tag: u64) {
    assert_eq!(model.zone_of(sector), zone, "an append to zone {zone} tells of sector {sector:#x}");
    let first = (sector - (model.wp(zone) - model.zones[zone].written)) as usize;
    let taken = model.zones[zone].sectors[first..].iter().take(count as usize).find_map(|stamp| *stamp);
    assert!(taken.is_none(), "an append of tag {tag} tells of sector {sector:#x}, where there is {taken:?}");
    model.wrote(sector, count, tag);
}
