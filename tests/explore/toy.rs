//! A toy store on raw zones, careful or with one bug planted, written as a recording; and what a crash has left of it, read back.
//!
//! Zone 0, a conventional one, has the label twice, of two blocks each. Zones 1 and 2 have superblocks by turns, one a block; the one with the
//! highest epoch says which of the other zones have records. A record is one block or two; of a key the one with the highest number counts.
//! What is promised: after each operation there is, whatever happens, what was there after it or after an earlier one, but none before the last
//! `sync`; and a label that was once set, no older than the last that was promised.

use std::collections::{BTreeMap, BTreeSet};

use vhost_user_zbd::disk::Disk;
use vhost_user_zbd::observe::Kind;
use vhost_user_zbd::units::{Bytes, Sector};

use crate::tape::{BLOCK, Tape};

const ZONES: u64 = 8;
const BLOCKS: u64 = 4;
const SUPER: [u64; 2] = [1, 2];
const RECORDS: std::ops::Range<u64> = 3..ZONES;

/// What is wrong with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    None,
    SyncWithoutFlush,
    PromiseBeforeFlushEnds,
    SuperblockBeforeCopies,
    ResetBeforeSuperblock,
    RecordBelievedByItsFirstBlock,
    BothLabelsAtOnce,
    SuperblocksResetFirst,
    NextZoneWithoutFlush,
    DeleteNotDirty,
    ResetBelievedAtOnce,
}

/// Each bug, with the fewest requests or blocks that have to be lost for it to show.
pub(crate) const BUGS: [(Bug, u64); 10] = [
    (Bug::SyncWithoutFlush, 1),
    (Bug::PromiseBeforeFlushEnds, 1),
    (Bug::SuperblockBeforeCopies, 1),
    (Bug::ResetBeforeSuperblock, 1),
    (Bug::RecordBelievedByItsFirstBlock, 1),
    // A block of each copy.
    (Bug::BothLabelsAtOnce, 2),
    // The power may go between the reset and the write.
    (Bug::SuperblocksResetFirst, 0),
    (Bug::NextZoneWithoutFlush, 1),
    (Bug::DeleteNotDirty, 1),
    (Bug::ResetBelievedAtOnce, 1),
];

/// Keys, with the number of the record that has each.
type Content = BTreeMap<u64, u64>;

/// A block: words at its beginning, the sum of all of what belongs together in the first.
fn block(words: &[u64]) -> Vec<u8> {
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize(BLOCK as usize, words[1] as u8 | 1);
    bytes
}

fn sum(blocks: &[u8]) -> u64 {
    blocks[8..].iter().fold(7, |sum: u64, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What belongs together, with its sum put in.
fn summed(words: &[u64], blocks: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = block(words);
    // What each further block begins with tells it from any other's.
    (1..blocks).for_each(|at| bytes.extend(block(&[words[1], words[1] * 4 + at as u64])));
    let sum = sum(&bytes);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes[..64].chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

fn is_sound(bytes: &[u8]) -> bool {
    sum(bytes) == words(bytes)[0]
}

/// The store as it runs.
pub(crate) struct Toy {
    pub(crate) tape: Tape,
    bug: Bug,
    written: [u64; ZONES as usize],
    live: Vec<u64>,
    supers: usize,
    epoch: u64,
    label: u64,
    is_dirty: bool,
    content: Content,
    sizes: BTreeMap<u64, usize>,
    number: u64,
    /// What was there after each operation.
    pub(crate) history: Vec<Content>,
}

impl Toy {
    /// The store after a fixed life: keys set, set again, deleted and gathered, with syncs in between.
    pub(crate) fn lived(bug: Bug) -> Self {
        let mut toy = Self {
            tape: Tape::new(ZONES, BLOCKS, 1, 0),
            bug,
            written: [0; ZONES as usize],
            live: vec![RECORDS.start],
            supers: 0,
            epoch: 0,
            label: 0,
            is_dirty: true,
            content: Content::new(),
            sizes: BTreeMap::new(),
            number: 0,
            history: vec![Content::new()],
        };
        toy.write_super();
        toy.write_label();
        toy.flush();
        toy.sync();
        toy.put(0, 1);
        toy.sync();
        toy.put(1, 2);
        toy.put(2, 1);
        toy.put(3, 1);
        toy.put(1, 1);
        toy.sync();
        toy.delete(0);
        toy.sync();
        toy.gather();
        toy.set_label();
        toy.put(0, 2);
        toy.sync();
        toy.put(2, 2);
        toy.gather();
        toy.sync();
        toy
    }

    fn put(&mut self, key: u64, blocks: usize) {
        self.number += 1;
        self.write_record(key, self.number, blocks, 1);
        self.content.insert(key, self.number);
        self.sizes.insert(self.number, blocks);
        self.is_dirty = true;
        self.history.push(self.content.clone());
    }

    fn delete(&mut self, key: u64) {
        self.number += 1;
        self.write_record(key, self.number, 1, 0);
        self.content.remove(&key);
        self.is_dirty |= self.bug != Bug::DeleteNotDirty;
        self.history.push(self.content.clone());
    }

    fn sync(&mut self) {
        let promise = format!("sync {}", self.history.len() - 1);
        match self.bug {
            Bug::SyncWithoutFlush => _ = self.tape.mark(&promise),
            Bug::PromiseBeforeFlushEnds => {
                self.tape.flush_comes();
                let flush = self.tape.accept(Kind::Flush, 0, 0);
                self.tape.mark(&promise);
                self.tape.answer(flush);
            }
            _ => {
                if self.is_dirty {
                    self.flush();
                }
                self.tape.mark(&promise);
            }
        }
        self.is_dirty = false;
    }

    /// The records that count go to a new zone, and the old ones are reset.
    fn gather(&mut self) {
        // Until all of them are there, the old ones count.
        let old = self.live.clone();
        self.live.push(self.empty_zone());
        for (key, number) in self.content.clone() {
            self.write_record(key, number, self.sizes[&number], 1);
        }
        if self.bug != Bug::SuperblockBeforeCopies {
            self.flush();
        }
        self.live.retain(|zone| !old.contains(zone));
        self.write_super();
        if self.bug != Bug::ResetBeforeSuperblock {
            self.flush();
        }
        old.into_iter().for_each(|zone| self.reset(zone));
    }

    fn set_label(&mut self) {
        self.write_label();
        self.flush();
        self.tape.mark(&format!("label {}", self.label));
    }

    /// The copies of the label, one after the other.
    fn write_label(&mut self) {
        self.label += 1;
        for copy in 0..2 {
            let of = self.tape.accept(Kind::Write, copy * 2 * BLOCK, 2 * BLOCK);
            self.tape.data(of, &summed(&[0, self.label], 2));
            self.tape.answer(of);
            if copy == 0 && self.bug != Bug::BothLabelsAtOnce {
                self.flush();
            }
        }
    }

    fn write_super(&mut self) {
        self.epoch += 1;
        let mut words = vec![0, self.epoch, self.live.len() as u64];
        words.extend(&self.live);
        let (now, next) = (SUPER[self.supers], SUPER[1 - self.supers]);
        // Three are enough, so that the zones change often.
        if self.written[now as usize] < 3 {
            return self.write(now, &summed(&words, 1));
        }
        self.supers = 1 - self.supers;
        if self.bug == Bug::SuperblocksResetFirst {
            self.reset(now);
            self.write(next, &summed(&words, 1));
        } else {
            self.write(next, &summed(&words, 1));
            self.flush();
            self.reset(now);
        }
    }

    /// Writes behind the other records, in a new zone where there is no room.
    fn write_record(&mut self, key: u64, number: u64, blocks: usize, is_there: u64) {
        let mut zone = *self.live.last().unwrap();
        if self.written[zone as usize] + blocks as u64 > BLOCKS {
            if self.bug != Bug::NextZoneWithoutFlush {
                self.flush();
            }
            zone = self.empty_zone();
            self.live.push(zone);
            self.write_super();
        }
        self.write(zone, &summed(&[0, number, key, blocks as u64, is_there], blocks));
    }

    fn empty_zone(&self) -> u64 {
        RECORDS.clone().find(|zone| self.written[*zone as usize] == 0 && !self.live.contains(zone)).unwrap()
    }

    fn write(&mut self, zone: u64, bytes: &[u8]) {
        let place = (zone * BLOCKS + self.written[zone as usize]) * BLOCK;
        let of = self.tape.accept(Kind::Write, place, bytes.len() as u64);
        self.tape.data(of, bytes);
        self.tape.answer(of);
        self.written[zone as usize] += bytes.len() as u64 / BLOCK;
    }

    fn reset(&mut self, zone: u64) {
        let of = self.tape.accept(Kind::Reset, zone * BLOCKS * BLOCK, 0);
        self.tape.answer(of);
        self.written[zone as usize] = 0;
    }

    fn flush(&mut self) {
        self.tape.flush_comes();
        let of = self.tape.accept(Kind::Flush, 0, 0);
        self.tape.answer(of);
    }
}

/// The blocks of a zone up to its write pointer; of a conventional one, all.
fn zone_of(disk: &mut Disk, zone: u64) -> Vec<u8> {
    let info = disk.report(Sector(zone * BLOCKS * BLOCK / 512), 1).unwrap()[0];
    let len = if zone == 0 { BLOCKS * BLOCK } else { info.write_pointer.0 - info.start.0 };
    if len == 0 { Vec::new() } else { disk.read(info.start.to_sector(), Bytes(len)).unwrap() }
}

/// What is wrong with what a crash has left, by what was promised.
pub(crate) fn complaint(disk: &mut Disk, marks: &[String], history: &[Content], bug: Bug) -> Option<String> {
    let promised =
        |what: &str| marks.iter().rev().find_map(|mark| mark.strip_prefix(what)?.trim().parse::<usize>().ok());
    let synced = promised("sync")?;
    let copies = zone_of(disk, 0);
    let label = copies.chunks(2 * BLOCK as usize).filter(|copy| is_sound(copy)).map(|copy| words(copy)[1]).max();
    if label < Some(promised("label").unwrap_or(1) as u64) {
        return Some(format!("the label is {label:?}"));
    }
    let supers: Vec<u8> = SUPER.iter().flat_map(|zone| zone_of(disk, *zone)).collect();
    let supers = supers.chunks(BLOCK as usize).filter(|block| is_sound(block)).map(words);
    let Some(newest) = supers.max_by_key(|words| words[1]) else { return Some("there is no superblock".to_owned()) };
    let live: BTreeSet<u64> = match bug {
        Bug::ResetBelievedAtOnce => RECORDS.collect(),
        _ => newest[3..3 + newest[2] as usize].iter().copied().collect(),
    };
    let mut newest: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
    for zone in live {
        let bytes = zone_of(disk, zone);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let [_, number, key, blocks, is_there] = words(rest)[..5] else { unreachable!() };
            let len = rest.len().min(blocks as usize * BLOCK as usize);
            let whole = len == blocks as usize * BLOCK as usize;
            if bug == Bug::RecordBelievedByItsFirstBlock && !whole {
                return Some(format!("record {number} has only its first block"));
            }
            if !whole || !is_sound(&rest[..len]) {
                break;
            }
            let known = newest.entry(key).or_default();
            *known = (*known).max((number, is_there == 1));
            rest = &rest[len..];
        }
    }
    let found: Content =
        newest.into_iter().filter(|(_, (_, there))| *there).map(|(key, (number, _))| (key, number)).collect();
    let is_legal = history[synced..].contains(&found);
    (!is_legal).then(|| format!("there is {found:?}, and {synced} operations were made stable"))
}
