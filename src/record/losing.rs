//! What a loss of power may take of a disk that goes through a log, at the record where it stands.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

use super::error::ReplayError;
use super::machine::Machine;
use crate::power::Losable;
use crate::storage::Medium;
use crate::units::{Bytes, ZoneIndex};

/// A block of a conventional zone that a loss of power may take: what the power finds stable, and what was written last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LosableBlock {
    /// Its number on the disk, in units of writes.
    pub number: u64,
    /// Its content where it is lost.
    pub old: Vec<u8>,
    /// Its content where it is kept.
    pub new: Vec<u8>,
}

impl<M: Medium + 'static> Machine<M> {
    /// What a loss of power may take now, what is in flight included as far as its data is known.
    pub fn losable(&self) -> Losable {
        let mut stops: HashMap<ZoneIndex, Bytes> = HashMap::new();
        for (of, flight) in self.flights.iter().rev() {
            if let Some(zone) = flight.accepted.zone.filter(|_| !flight.is_known() || self.undone.contains(of)) {
                // The first is the last that is put in.
                stops.insert(zone, flight.accepted.place);
            }
        }
        self.cache.losable(|now| stops.get(&now.info.index).copied().unwrap_or(now.next_write))
    }

    /// The blocks of conventional zones that a loss of power may take, in order.
    pub fn losable_blocks(&self) -> Result<Vec<LosableBlock>, ReplayError> {
        let size = self.granularity.0;
        let mut blocks: BTreeMap<u64, LosableBlock> = BTreeMap::new();
        self.cache.each_old_block(|number, old| {
            blocks.insert(number, LosableBlock { number, old: old.to_vec(), new: Vec::new() });
        });
        let read = |number: u64, len: usize| -> Result<Vec<u8>, ReplayError> {
            let mut bytes = vec![0; len];
            let refused = |why| ReplayError::Refused { record: 0, why };
            self.store.peek(Bytes(number * size), &mut bytes).map_err(refused)?;
            Ok(bytes)
        };
        for block in blocks.values_mut() {
            block.new = read(block.number, block.old.len())?;
        }
        for flight in self.flights.values() {
            let accepted = &flight.accepted;
            if accepted.zone.is_some_and(|zone| self.is_sequential(zone)) || !flight.is_known() {
                continue;
            }
            for (number, content) in (accepted.place.0 / size..).zip(flight.data.chunks(size as usize)) {
                if let Entry::Vacant(entry) = blocks.entry(number) {
                    entry.insert(LosableBlock { number, old: read(number, content.len())?, new: Vec::new() });
                }
                blocks.entry(number).and_modify(|block| block.new = content.to_vec());
            }
        }
        Ok(blocks.into_values().collect())
    }

    /// Shows the number of each block of a conventional zone that a loss of power may take, but for those that are being written.
    pub fn each_old_block(&self, mut each: impl FnMut(u64)) {
        self.cache.each_old_block(|number, _| each(number));
    }

    /// The unit of writes.
    pub fn granularity(&self) -> Bytes {
        self.granularity
    }

    /// Whether nothing is in flight, and all is stable.
    pub fn is_quiet(&self) -> bool {
        let requests = self.flights.is_empty() && self.flushes.is_empty() && self.waiting.is_empty();
        requests && self.left_out.is_empty() && self.blocks.is_empty() && self.cache.has_nothing_to_lose()
    }

    /// The write pointer of a zone, writes in flight left out.
    pub fn pointer(&self, zone: ZoneIndex) -> Bytes {
        let start = self.geometry().start(zone);
        self.store.zone_now(start.to_sector()).map_or(start, |now| now.info.write_pointer)
    }
}
