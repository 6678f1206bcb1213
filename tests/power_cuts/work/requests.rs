//! What is asked next, zone by zone.

use std::ops::Range;

use super::{APPEND, Flying, Habits, Kind, Mode, Planned, Worker};
use crate::block::{BLOCK, Label};
use crate::common::Rng;
use crate::common::request::Req;
use crate::rules::What;

impl Worker {
    /// Asks for something.
    pub(super) fn step(&mut self, rng: &mut Rng, habits: &Habits, plugged: &mut bool) {
        let queue = rng.below(self.queues()) as usize;
        let dice = rng.below(100);
        if dice < habits.flushes && !self.rules.write_through {
            self.submit(queue, What::Flush, Kind::Flush, &Req::flush());
            if rng.below(2) == 0 {
                // The flush alone, and no more than the luck of the others.
                self.unplug(plugged);
                let last = self.flying.len() - 1;
                self.wait_until(&[last]);
            }
        } else if dice < habits.flushes + habits.conventional && self.rules.shape.conv > 0 {
            self.conventional(rng, queue);
        } else if self.worked_on == self.rules.shape.sequential() && rng.below(150) == 0 {
            self.unplug(plugged);
            self.reset_all(rng, queue);
        } else {
            for _ in 0..8 {
                let zone = self.worked_on.start + rng.below(self.worked_on.len() as u64) as usize;
                if self.sequential(rng, zone, queue, plugged) {
                    break;
                }
            }
        }
    }

    fn conventional(&mut self, rng: &mut Rng, queue: usize) {
        let shape = self.rules.shape;
        let zone = rng.below(shape.conv as u64) as usize;
        // Few places, so that there are versions.
        let at = rng.below(u64::from(shape.len.min(12))) as u32;
        let len = (1 + rng.below(6) as u32).min(shape.len - at);
        let overlaps =
            |flying: &Flying| flying.zone == Some(zone) && flying.blocks.start < at + len && at < flying.blocks.end;
        if self.flying.iter().any(overlaps) {
            return;
        }
        let sector = shape.sector(zone, at);
        if rng.below(8) == 0 {
            let expected = (at..at + len).map(|at| self.rules.version(zone, at)).collect();
            self.read(queue, zone, at..at + len, expected);
            return;
        }
        let label = self.label(zone);
        let req = Req::write(sector, label.data(len));
        self.submit(queue, What::Write { zone, at, label, len }, Kind::Change, &req);
    }

    fn read(&mut self, queue: usize, zone: usize, blocks: Range<u32>, expected: Vec<Option<Label>>) {
        let len = expected.len() * BLOCK;
        let req = Req::read(self.rules.shape.sector(zone, blocks.start), len);
        self.submit(queue, What::Other, Kind::Read(expected), &req);
        let last = self.flying.last_mut().expect("just submitted");
        (last.zone, last.blocks) = (Some(zone), blocks);
    }

    fn reset_all(&mut self, rng: &mut Rng, queue: usize) {
        self.wait_for_all();
        if self.is_off {
            return;
        }
        self.submit(queue, What::ResetAll, Kind::Change, &Req::reset_all());
        for zone in self.rules.shape.sequential() {
            self.planned[zone].out += 1;
            self.planned[zone].mode = Mode::Resets { queue: None };
            self.plan_reset(zone);
        }
        if rng.below(2) == 0 {
            self.wait_for_all();
        }
    }

    fn plan_reset(&mut self, zone: usize) {
        let planned = &mut self.planned[zone];
        if planned.written > 0 || planned.full {
            planned.begin_life();
        }
        (planned.written, planned.full, planned.explicit, planned.steady) = (0, false, false, false);
    }

    /// How many zones are active, or may be while something is in flight.
    fn active(&self) -> usize {
        let counts = |planned: &&Planned| planned.is_active() || planned.out > 0;
        self.planned.iter().filter(counts).count()
    }

    fn has_slot(&self, zone: usize) -> bool {
        let planned = &self.planned[zone];
        planned.is_active()
            || planned.out > 0
            || self.rules.shape.active == 0
            || self.active() < self.rules.shape.active
    }

    /// Asks something of a sequential zone; false where nothing can be asked now.
    fn sequential(&mut self, rng: &mut Rng, zone: usize, queue: usize, plugged: &mut bool) -> bool {
        if self.planned[zone].reads > 0 {
            return false;
        }
        if self.planned[zone].out > 0 {
            return self.more(rng, zone, queue);
        }
        let full = self.planned[zone].full;
        let ordered = Mode::Ordered { queue };
        match rng.below(100) {
            0..60 if full => self.begin(zone, Mode::Resets { queue: None }).reset_on(zone, queue),
            60..75 if full => self.begin(zone, Mode::Finishes { queue: None }).finish_on(zone, queue),
            _ if full => return false,
            0..45 => return self.make_slot(rng, zone, plugged) && self.begin(zone, ordered).write(rng, zone),
            45..75 => {
                return self.make_slot(rng, zone, plugged) && self.begin(zone, Mode::Appends).append(rng, zone, queue);
            }
            75..87 => self.begin(zone, Mode::Resets { queue: None }).reset_on(zone, queue),
            87..95 if self.may_finish(zone) => self.begin(zone, Mode::Finishes { queue: None }).finish_on(zone, queue),
            95..98 => return self.open_or_close(zone, queue, plugged),
            _ => {
                let held = self.rules.held(zone);
                let len = self.rules.shape.len.min(8);
                let from = held.written().saturating_sub(len / 2).min(self.rules.shape.len - len);
                let expected = (from..from + len).map(|at| held.blocks.get(at as usize).copied()).collect();
                self.read(queue, zone, from..from + len, expected);
                self.planned[zone].reads += 1;
            }
        }
        true
    }

    fn begin(&mut self, zone: usize, mode: Mode) -> &mut Self {
        self.planned[zone].mode = mode;
        self
    }

    /// Goes on with what is in flight in a zone.
    fn more(&mut self, rng: &mut Rng, zone: usize, queue: usize) -> bool {
        match self.planned[zone].mode {
            Mode::Appends => return self.append(rng, zone, queue),
            Mode::Resets { queue: behind } => self.reset_on(zone, behind.unwrap_or(queue)),
            Mode::Finishes { queue: behind } => self.finish_on(zone, behind.unwrap_or(queue)),
            Mode::Ordered { queue } => match rng.below(100) {
                0..75 if !self.planned[zone].full => return self.write(rng, zone),
                75..90 => self.begin(zone, Mode::Resets { queue: Some(queue) }).reset_on(zone, queue),
                _ => {
                    let may = self.may_finish(zone);
                    if may {
                        self.begin(zone, Mode::Finishes { queue: Some(queue) }).finish_on(zone, queue);
                    }
                    return may;
                }
            },
        }
        true
    }

    /// A slot among the active zones, for which another zone may have to go.
    fn make_slot(&mut self, rng: &mut Rng, zone: usize, plugged: &mut bool) -> bool {
        if self.has_slot(zone) {
            return true;
        }
        let goes = |zone: &usize| {
            let planned = &self.planned[*zone];
            planned.written > 0 && !planned.full && planned.out == 0 && planned.reads == 0
        };
        let others: Vec<usize> = self.rules.shape.sequential().filter(goes).collect();
        if others.is_empty() {
            return false;
        }
        let other = *rng.pick(&others);
        let queue = rng.below(self.queues()) as usize;
        match rng.below(3) {
            0 => self.begin(other, Mode::Resets { queue: None }).reset_on(other, queue),
            1 if self.may_finish(other) => self.begin(other, Mode::Finishes { queue: None }).finish_on(other, queue),
            _ => {
                let rest = self.rules.shape.cap - self.planned[other].written;
                self.begin(other, Mode::Ordered { queue }).write_blocks(other, rest);
            }
        }
        self.unplug(plugged);
        let last = self.flying.len() - 1;
        self.wait_until(&[last]);
        !self.is_off && self.has_slot(zone)
    }

    fn write(&mut self, rng: &mut Rng, zone: usize) -> bool {
        let room = self.rules.shape.cap - self.planned[zone].written;
        if room == 0 || self.planned[zone].full {
            return false;
        }
        let len = *rng.pick(&[1, 1, 2, 3, 5, 8, 16]);
        let len = if room <= 24 && rng.below(6) == 0 { room } else { len.min(room) };
        self.write_blocks(zone, len);
        true
    }

    fn write_blocks(&mut self, zone: usize, len: u32) {
        let Mode::Ordered { queue } = self.planned[zone].mode else { panic!("a write in {:?}", self.planned[zone]) };
        let (at, label) = (self.planned[zone].written, self.label(zone));
        let req = Req::write(self.rules.shape.sector(zone, at), label.data(len));
        self.submit(queue, What::Write { zone, at, label, len }, Kind::Change, &req);
        self.plan_data(zone, len);
    }

    fn append(&mut self, rng: &mut Rng, zone: usize, queue: usize) -> bool {
        let room = self.rules.shape.cap - self.planned[zone].written;
        if room == 0 || self.planned[zone].full {
            return false;
        }
        let len = (*rng.pick(&[1, 1, 2, 3, 5, APPEND])).min(room);
        let label = self.label(zone);
        let req = Req::append(self.rules.shape.sector(zone, 0), label.data(len));
        self.submit(queue, What::Append { zone, label, len }, Kind::Change, &req);
        self.plan_data(zone, len);
        true
    }

    fn plan_data(&mut self, zone: usize, len: u32) {
        let cap = self.rules.shape.cap;
        let planned = &mut self.planned[zone];
        planned.out += 1;
        planned.written += len;
        if planned.written == cap {
            (planned.full, planned.explicit) = (true, false);
        }
    }

    fn reset_on(&mut self, zone: usize, queue: usize) {
        let req = Req::reset(self.rules.shape.sector(zone, 0));
        self.submit(queue, What::Reset { zone }, Kind::Change, &req);
        self.planned[zone].out += 1;
        self.plan_reset(zone);
    }

    /// Whether a finish cannot be refused for want of resources, whatever becomes of what is in flight.
    fn may_finish(&self, zone: usize) -> bool {
        let planned = &self.planned[zone];
        self.rules.shape.active == 0 || planned.full || planned.steady
    }

    fn finish_on(&mut self, zone: usize, queue: usize) {
        let req = Req::finish(self.rules.shape.sector(zone, 0));
        self.submit(queue, What::Finish { zone }, Kind::Change, &req);
        let planned = &mut self.planned[zone];
        planned.out += 1;
        (planned.full, planned.explicit) = (true, false);
    }

    /// Opens a zone, or closes one that was opened, and waits for it.
    fn open_or_close(&mut self, zone: usize, queue: usize, plugged: &mut bool) -> bool {
        let shape = self.rules.shape;
        let opened = self.planned.iter().filter(|planned| planned.explicit).count();
        let (kind, req): (_, fn(u64) -> Req) = if self.planned[zone].explicit {
            (Kind::Close, Req::close)
        } else if self.has_slot(zone) && (shape.open == 0 || opened + 1 < shape.open) {
            (Kind::Open, Req::open)
        } else {
            return false;
        };
        self.submit(queue, What::Other, kind, &req(shape.sector(zone, 0)));
        self.flying.last_mut().expect("just submitted").zone = Some(zone);
        self.unplug(plugged);
        let last = self.flying.len() - 1;
        self.wait_until(&[last]);
        true
    }
}
