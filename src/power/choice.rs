//! What a cut leaves of the disk: chosen among what the rules allow, and had from the store.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::cache::{CutError, VolatileCache};
use super::losable::Losable;
use super::notes::lock;
use super::outcome::{CutConventional, CutOutcome, Digest};
use super::rules::{Left, Place, Steps, chance};
use super::switch::Then;
use super::words::{Cut, Loss};
use crate::store::{Rewind, ZoneInfo, ZoneNow};
use crate::units::{Bytes, ZoneIndex};
use crate::zone::{Geometry, State, ZoneKind};

/// Zones looked at in one go.
const CHUNK: usize = 1024;

impl VolatileCache {
    /// Chooses what is left, and has the store change to it. Nothing is in flight.
    pub(super) fn cut(&self, cut: &Cut) -> Result<CutOutcome, CutError> {
        let losable = self.losable(|now| now.info.write_pointer);
        let zones = &losable.zones;
        let geometry = self.below.geometry();
        let (places, mended) = self.choose(cut, &losable)?;
        let lefts: Vec<Left> = zones.iter().zip(&places).map(|((_, steps), place)| steps.left(*place)).collect();
        let report = losable.told(&places, &mended);
        let (conventional, blocks) = self.choose_blocks(cut, geometry);
        let rewind = Rewind {
            pointers: zones.iter().zip(&lefts).map(|((zone, _), left)| (*zone, Bytes(left.pointer))).collect(),
            blocks,
        };
        self.below.rewind(&rewind, cut.then == Then::Fail).map_err(CutError::Store)?;
        self.notes.clear();
        lock(&self.blocks).clear();
        if cut.anything_unstable {
            zones.iter().zip(&lefts).for_each(|((zone, steps), left)| self.scramble(cut, *zone, steps, left));
        }
        Ok(CutOutcome {
            digest: self.digest(&conventional),
            seed: match cut.loss {
                Loss::Seed(seed) => Some(seed),
                _ => None,
            },
            then: cut.then,
            model: cut.model().to_owned(),
            mgmt: cut.management().to_owned(),
            requests: self.requests.load(Ordering::Relaxed),
            zones: report,
            conventional,
        })
    }

    /// What a loss of power may take now. `landed` says how far the data of a zone has come that is written to.
    pub fn losable(&self, landed: impl Fn(&ZoneNow) -> Bytes) -> Losable {
        let mut zones = BTreeMap::new();
        for (zone, mut history) in self.notes.all(|zone, history| (zone, history.clone())) {
            let Some(now) = self.below.zone_now(self.below.geometry().start(zone).to_sector()) else { continue };
            match history.ends_in_reset() {
                true if !self.below.can_take_back(zone) => history.keep_reset(),
                true => {}
                // What did not land cannot be kept.
                false => history.cut_back(landed(&now).0),
            }
            zones.insert(zone, history.steps().clone());
        }
        let most_active = self.below.geometry().max_active_zones().into();
        let mut others = 0;
        let mut count = |info: &ZoneInfo| {
            let active = info.write_pointer > info.start && info.write_pointer.0 < info.start.0 + info.capacity.0;
            let active = active && info.state != State::Full && info.kind != ZoneKind::Conventional;
            others += u64::from(active && !zones.contains_key(&info.index));
        };
        if most_active != 0 {
            self.each_zone(&mut count);
        }
        Losable { zones: zones.into_iter().collect(), others, most_active }
    }

    /// Shows each block of a conventional zone that has an old version, in order: its number, and the oldest.
    pub fn each_old_block(&self, mut each: impl FnMut(u64, &[u8])) {
        lock(&self.blocks).volatile().for_each(|(block, content)| each(block, content));
    }

    fn each_zone(&self, mut each: impl FnMut(&ZoneInfo)) {
        let geometry = self.below.geometry();
        let mut chunk = Vec::with_capacity(CHUNK);
        for first in (0..geometry.nr_zones()).step_by(CHUNK) {
            chunk.clear();
            // Cannot fail: the zone exists.
            let _ = self.below.report(geometry.start(ZoneIndex(first)).to_sector(), CHUNK, &mut chunk);
            chunk.iter().for_each(&mut each);
        }
    }

    /// Where each zone is afterwards in what was done to it, and whether that was mended.
    fn choose(&self, cut: &Cut, losable: &Losable) -> Result<(Vec<Place>, Vec<bool>), CutError> {
        let mut places = Vec::with_capacity(losable.zones.len());
        for (zone, steps) in &losable.zones {
            let chosen = self.place(cut, *zone, steps)?;
            let least = if cut.stable_management { steps.behind_management() } else { chosen };
            places.push(chosen.max(least));
        }
        let mended = losable.mend(&mut places);
        Ok((places, mended))
    }

    fn place(&self, cut: &Cut, zone: ZoneIndex, steps: &Steps) -> Result<Place, CutError> {
        let (first, last) = (Place { operations: 0, torn: 0 }, Place { operations: steps.operations(), torn: 0 });
        Ok(match &cut.loss {
            Loss::All => first,
            Loss::Nothing => last,
            Loss::Zones(lost) => {
                if lost.contains(&zone.0) {
                    first
                } else {
                    last
                }
            }
            Loss::AllBut(kept) => {
                if kept.contains(&zone.0) {
                    last
                } else {
                    first
                }
            }
            Loss::Seed(seed) => {
                let count = steps.operations();
                let number = |which| chance(*seed, [zone.0.into(), count, which]);
                steps.chosen(number(0), number(1), self.block)
            }
            Loss::State(state) => {
                let Some(left) = state.zones.iter().find(|left| left.zone == zone.0) else { return Ok(last) };
                let place = steps.place_of(left.kept, left.resets_lost, left.finishes_lost);
                place.ok_or_else(|| {
                    CutError::State(format!(
                        "state leaves the write pointer of zone {zone} at {}, {} resets and {} finishes lost: expected \
                         something between {} and {}, as this disk has it",
                        left.kept,
                        left.resets_lost,
                        left.finishes_lost,
                        steps.stable,
                        steps.furthest()
                    ))
                })?
            }
        })
    }

    /// What each block with an old version is afterwards: in words, and those that become old again.
    fn choose_blocks(&self, cut: &Cut, geometry: &Geometry) -> (Vec<CutConventional>, Vec<(Bytes, Vec<u8>)>) {
        let blocks = lock(&self.blocks);
        let (mut told, mut old): (Vec<CutConventional>, Vec<_>) = (Vec::new(), Vec::new());
        for (block, content) in blocks.volatile() {
            let at = Bytes(block * self.block);
            let Some(zone) = geometry.zone_at(at) else { continue };
            let new = match &cut.loss {
                Loss::All => false,
                Loss::Nothing => true,
                Loss::Zones(lost) => !lost.contains(&zone.0),
                Loss::AllBut(kept) => kept.contains(&zone.0),
                Loss::Seed(seed) => chance(*seed, [zone.0.into(), block, 2]) & 1 == 1,
                Loss::State(state) => {
                    state.conventional.iter().find(|told| told.zone == zone.0).is_none_or(|told| told.is_new(block))
                }
            };
            match told.last_mut() {
                Some(last) if last.zone == zone.0 => last.add(block, new),
                _ => {
                    let mut next = CutConventional { zone: zone.0, volatile: 0, kept: 0, new: Vec::new() };
                    next.add(block, new);
                    told.push(next);
                }
            }
            if !new {
                old.push((at, content.to_vec()));
            }
        }
        (told, old)
    }

    /// Makes the bytes of a zone that are not stable something else. The pointer stays.
    fn scramble(&self, cut: &Cut, zone: ZoneIndex, steps: &Steps, left: &Left) {
        let kept_reset = left.resets_lost == 0 && left.pointer < steps.stable;
        let from = if kept_reset { steps.span.start } else { steps.stable };
        let seed = if let Loss::Seed(seed) = cut.loss { seed } else { 0 };
        for at in (from..left.pointer).step_by(self.block as usize) {
            let number = chance(seed, [zone.0.into(), at, 3]);
            let len = self.block.min(left.pointer - at) as usize;
            let content = match number % 3 {
                0 => continue,
                1 => vec![0; len],
                _ => vec![(number >> 8) as u8; len],
            };
            if let Err(refusal) = self.below.poke(Bytes(at), &content) {
                log::error!("zone {zone}: what was not stable could not be changed: {refusal}");
            }
        }
    }

    /// The same for the same pointers and states of all zones, and the same choice of blocks.
    fn digest(&self, conventional: &[CutConventional]) -> String {
        let mut digest = Digest::default();
        self.each_zone(|info| {
            digest.add(info.write_pointer.0);
            digest.add(info.state as u64);
        });
        for zone in conventional {
            digest.add(zone.zone.into());
            zone.new.iter().for_each(|(first, count)| {
                digest.add(*first);
                digest.add(*count);
            });
        }
        digest.text()
    }
}
