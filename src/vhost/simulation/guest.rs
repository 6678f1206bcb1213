//! The guest of a world: what it asks for, and what it makes of the answers.

use virtio_bindings::bindings::virtio_blk as wire;

use super::driver::{Chain, MOST};
use super::oracle::{BLOCK, Life, Mark, fill, numbers};
use super::world::{World, ZONE, ZONE_BLOCKS, ZONES};
use crate::virtio::status::Status;

/// What a request is about, as the guest remembers.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Write {
        zone: usize,
        first: usize,
        blocks: Vec<u64>,
        append: bool,
    },
    WriteOff {
        zone: usize,
    },
    WriteConventional {
        first: usize,
        blocks: usize,
    },
    Read {
        zone: usize,
        first: usize,
        answered: usize,
    },
    ReadConventional {
        first: usize,
        from: Vec<usize>,
    },
    Flush {
        marks: Vec<Mark>,
        versions: Vec<usize>,
        /// The process that it was asked of, where a sync of that has failed before.
        blown: Option<usize>,
    },
    Reset {
        zone: usize,
    },
    Finish {
        zone: usize,
    },
    /// Opens or closes.
    Touch {
        zone: usize,
    },
    Report {
        low: Vec<(usize, Mark)>,
    },
    GetId,
}

/// A request that is about to be issued: what it is about, its type, where on the disk in bytes, its data, and how much the
/// device may write.
type Choice = (Asked, u32, u64, Vec<u8>, usize);

impl World {
    pub(super) fn issue(&mut self, number: usize) {
        let Some(place) = self.lanes[number].driver.free_place() else { return };
        let chosen = match self.rng.below(100) {
            0..50 => self.choose_write(number),
            50..68 => self.choose_read(),
            68..74 => self.choose_conventional(number),
            74..84 => Some((self.flush(), wire::VIRTIO_BLK_T_FLUSH, 0, Vec::new(), 0)),
            84..96 => self.choose_management(number),
            96..98 => Some((self.report(), wire::VIRTIO_BLK_T_ZONE_REPORT, 0, Vec::new(), 64 + 64 * ZONES as usize)),
            _ => Some((Asked::GetId, wire::VIRTIO_BLK_T_GET_ID, 0, Vec::new(), 20)),
        };
        let Some((asked, kind, byte, out, room)) = chosen else { return };
        let chain = Chain { kind, sector: byte / 512, out: &out, room };
        let lane = &mut self.lanes[number];
        lane.kicked |= lane.driver.ask(&self.mem, place, &chain, &mut self.rng);
        log::trace!("queue {number}, place {place}: {asked:?}");
        lane.asked[place] = Some(asked);
        self.seen.requests += 1;
    }

    /// Data of new blocks.
    fn new_blocks(&mut self, count: usize) -> (Vec<u64>, Vec<u8>) {
        let (mut all, mut bytes) = (Vec::new(), Vec::new());
        for _ in 0..count {
            self.last += 1;
            all.push(self.last);
            fill(self.last, &mut bytes);
        }
        (all, bytes)
    }

    fn choose_write(&mut self, number: usize) -> Option<Choice> {
        let index = self.rng.below(self.zones.len() as u64) as usize;
        let zone = &self.zones[index];
        if index % self.lanes.len() != number || zone.alone || zone.doubtful {
            return None;
        }
        let (start, first, left) = (zone.start, zone.lives.last().unwrap().blocks.len(), zone.left());
        if self.rng.below(20) == 0 && left > 4 {
            let (_, bytes) = self.new_blocks(1);
            self.zones[index].in_flight += 1;
            let at = start + (first as u64 + 2) * BLOCK;
            return Some((Asked::WriteOff { zone: index }, wire::VIRTIO_BLK_T_OUT, at, bytes, 0));
        }
        let most = left.min(MOST / BLOCK as usize) as u64;
        let blocks = (1 + self.rng.below(most.max(1))).min(most) as usize;
        if blocks == 0 {
            return None;
        }
        let (all, bytes) = self.new_blocks(blocks);
        let append = self.rng.below(2) == 0;
        let zone = &mut self.zones[index];
        zone.life().issue(&all);
        zone.in_flight += 1;
        let asked = Asked::Write { zone: index, first, blocks: all, append };
        Some(match append {
            true => (asked, wire::VIRTIO_BLK_T_ZONE_APPEND, start, bytes, 8),
            false => (asked, wire::VIRTIO_BLK_T_OUT, start + first as u64 * BLOCK, bytes, 0),
        })
    }

    fn choose_read(&mut self) -> Option<Choice> {
        let index = self.rng.below(ZONES) as usize;
        let first = self.rng.below(ZONE_BLOCKS as u64) as usize;
        let most = (ZONE_BLOCKS - first).min(MOST / BLOCK as usize);
        let blocks = 1 + self.rng.below(most as u64) as usize;
        let at = index as u64 * ZONE + first as u64 * BLOCK;
        let room = blocks * BLOCK as usize;
        if index == 0 {
            let from = self.conventional.blocks[first..first + blocks].iter().map(|block| block.answered).collect();
            return Some((Asked::ReadConventional { first, from }, wire::VIRTIO_BLK_T_IN, at, Vec::new(), room));
        }
        let zone = &mut self.zones[index - 1];
        if zone.alone {
            return None;
        }
        zone.in_flight += 1;
        let answered = zone.answered_blocks();
        Some((Asked::Read { zone: index - 1, first, answered }, wire::VIRTIO_BLK_T_IN, at, Vec::new(), room))
    }

    fn choose_conventional(&mut self, number: usize) -> Option<Choice> {
        let first = self.rng.below(ZONE_BLOCKS as u64 - 8) as usize;
        let blocks = 1 + self.rng.below(8) as usize;
        let free = self.conventional.blocks[first..first + blocks].iter().all(|block| !block.writing);
        if number != 0 || !free {
            return None;
        }
        let (all, bytes) = self.new_blocks(blocks);
        for (block, version) in self.conventional.blocks[first..].iter_mut().zip(all) {
            block.numbers.push(version);
            block.writing = true;
        }
        let asked = Asked::WriteConventional { first, blocks };
        Some((asked, wire::VIRTIO_BLK_T_OUT, first as u64 * BLOCK, bytes, 0))
    }

    fn choose_management(&mut self, number: usize) -> Option<Choice> {
        let index = self.rng.below(self.zones.len() as u64) as usize;
        let zone = &mut self.zones[index];
        if index % self.lanes.len() != number || zone.alone || zone.doubtful || zone.in_flight != 0 {
            return None;
        }
        (zone.alone, zone.in_flight) = (true, 1);
        let start = zone.start;
        let finished = zone.lives.last().unwrap().finished || zone.left() == 0;
        let (asked, kind) = match self.rng.below(10) {
            0..5 => {
                zone.lives.push(Life::default());
                (Asked::Reset { zone: index }, wire::VIRTIO_BLK_T_ZONE_RESET)
            }
            5..7 => {
                zone.life().finished |= !finished;
                (Asked::Finish { zone: index }, wire::VIRTIO_BLK_T_ZONE_FINISH)
            }
            7 => (Asked::Touch { zone: index }, wire::VIRTIO_BLK_T_ZONE_CLOSE),
            _ => (Asked::Touch { zone: index }, wire::VIRTIO_BLK_T_ZONE_OPEN),
        };
        Some((asked, kind, start, Vec::new(), 0))
    }

    pub(super) fn flush(&self) -> Asked {
        Asked::Flush {
            marks: self.zones.iter().map(|zone| zone.answered).collect(),
            versions: self.conventional.blocks.iter().map(|block| block.answered).collect(),
            blown: self.weather.borrow().sync_has_failed.then_some(self.seen.deaths),
        }
    }

    pub(super) fn report(&self) -> Asked {
        Asked::Report { low: self.zones.iter().map(|zone| (zone.lives.len(), zone.answered)).collect() }
    }

    pub(super) fn take_answers(&mut self, number: usize) {
        for answer in self.lanes[number].driver.answers(&self.mem) {
            let asked = self.lanes[number].asked[answer.place].take().unwrap();
            let status = Status::from_byte(answer.status).unwrap_or_else(|| panic!("{asked:?} has no status"));
            self.take_answer(&asked, status, &answer.data);
        }
    }

    /// A request that did not succeed was allowed to fail like that. Its zone is to be looked at anew.
    fn take_failure(&mut self, asked: &Asked, status: Status, zone: Option<usize>) {
        let doubtful = zone.is_some_and(|zone| self.zones[zone].doubtful);
        let allowed = match status {
            Status::Ok | Status::Unsupported => false,
            Status::IoErr => self.faulty,
            Status::ZoneOpenResource | Status::ZoneActiveResource => self.limited && zone.is_some(),
            Status::ZoneUnalignedWrite => doubtful,
            Status::ZoneInvalidCommand => doubtful || matches!(asked, Asked::Touch { .. }),
        };
        assert!(allowed, "{asked:?} has ended with {}", status.name());
        self.seen.failures += 1;
        if let Some(zone) = zone
            && !matches!(asked, Asked::Read { .. })
        {
            self.zones[zone].doubtful = true;
        }
    }

    fn take_answer(&mut self, asked: &Asked, status: Status, data: &[u8]) {
        log::trace!("{asked:?} is answered: {}", status.name());
        let ok = status == Status::Ok;
        let zone = match *asked {
            Asked::Write { zone, .. }
            | Asked::WriteOff { zone }
            | Asked::Read { zone, .. }
            | Asked::Reset { zone }
            | Asked::Finish { zone }
            | Asked::Touch { zone } => Some(zone),
            _ => None,
        };
        match asked {
            // As it has to be.
            Asked::WriteOff { .. } if status == Status::ZoneUnalignedWrite => {}
            Asked::WriteOff { .. } if ok => panic!("a write off the pointer has succeeded"),
            Asked::WriteConventional { first, blocks } => {
                let versions = &mut self.conventional.blocks[*first..first + blocks];
                versions.iter_mut().for_each(|block| block.writing = false);
                match ok {
                    true => versions.iter_mut().for_each(|block| {
                        block.answered = block.numbers.len() - 1;
                        block.stable = if self.write_through { block.answered } else { block.stable };
                    }),
                    false => self.take_failure(asked, status, None),
                }
            }
            _ if !ok => self.take_failure(asked, status, zone),
            Asked::Write { zone, first, blocks, append } => {
                let zone = &mut self.zones[*zone];
                let mut at = *first;
                if *append {
                    at = (u64::from_le_bytes(data[..8].try_into().unwrap()) - zone.start / 512) as usize;
                    let behind = at + blocks.len() <= zone.capacity && at >= zone.answered.blocks;
                    assert!(at == *first || zone.doubtful && behind, "{asked:?} is at block {at}");
                }
                zone.written(at, blocks);
            }
            Asked::Read { zone, first, answered, .. } => {
                self.zones[*zone].check_read(*first, *answered, &numbers(data));
            }
            Asked::ReadConventional { first, from } => self.conventional.check(*first, from, &numbers(data)),
            Asked::Flush { marks, versions, blown } => {
                assert_ne!(*blown, Some(self.seen.deaths), "a flush has succeeded behind one that failed");
                self.flushed(marks, versions);
            }
            Asked::Reset { zone } => {
                let zone = &mut self.zones[*zone];
                zone.answered = Mark { life: zone.lives.len() - 1, ..Mark::default() };
                self.seen.resets += 1;
            }
            Asked::Finish { zone } => {
                let zone = &mut self.zones[*zone];
                zone.answered.finished = zone.lives.last().unwrap().finished;
                self.seen.full += 1;
            }
            Asked::Report { low } => self.check_report(low, data),
            Asked::GetId => assert_eq!(data, b"twenty bytes of name"),
            Asked::Touch { .. } | Asked::WriteOff { .. } => {}
        }
        if let Some(index) = zone {
            let changed = ok && !matches!(asked, Asked::Read { .. });
            if self.write_through && changed {
                let zone = &mut self.zones[index];
                zone.stable = zone.stable.max(zone.answered);
            }
            self.end_of(index);
        }
    }

    /// What was answered before a flush was issued is stable.
    fn flushed(&mut self, marks: &[Mark], versions: &[usize]) {
        for (zone, mark) in self.zones.iter_mut().zip(marks) {
            zone.stable = zone.stable.max(*mark);
        }
        for (block, version) in self.conventional.blocks.iter_mut().zip(versions) {
            block.stable = block.stable.max(*version);
        }
    }

    /// A request of a zone is over.
    fn end_of(&mut self, index: usize) {
        let zone = &mut self.zones[index];
        zone.in_flight -= 1;
        if zone.in_flight != 0 {
            return;
        }
        zone.alone = false;
        if zone.doubtful {
            let info = self.infos()[index + 1];
            self.zones[index].look_anew(info.state, info.write_pointer);
        }
    }

    fn check_report(&self, low: &[(usize, Mark)], data: &[u8]) {
        let word = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().unwrap());
        assert_eq!(word(0), ZONES);
        for (index, (zone, (lives, mark))) in self.zones.iter().zip(low).enumerate() {
            let pointer = word(64 + 64 * (index + 1) + 16) * 512;
            let blocks = (pointer - zone.start) / BLOCK;
            let quiet = *lives == zone.lives.len() && mark.life + 1 == *lives && !zone.alone && !zone.doubtful;
            let least = if quiet { mark.blocks as u64 } else { 0 };
            assert!((least..=zone.capacity as u64).contains(&blocks), "zone {index} is reported at block {blocks}");
        }
    }
}
