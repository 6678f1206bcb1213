//! What a loss of power may take of a disk at one moment, for those who choose it and for those who go through all choices.

use super::outcome::CutZone;
use super::rules::{Place, Steps, mend};
use crate::units::ZoneIndex;

/// What a loss of power may take of the sequential zones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losable {
    /// Zones that have anything to lose, in order.
    pub zones: Vec<(ZoneIndex, Steps)>,
    /// Active zones besides these.
    pub others: u64,
    /// How many zones may be active; 0 is any number.
    pub most_active: u64,
}

impl Losable {
    /// Mends a choice, a place for each zone, that would leave more active zones than there may be (R9). Returns which it changed.
    pub fn mend(&self, places: &mut [Place]) -> Vec<bool> {
        let all: Vec<&Steps> = self.zones.iter().map(|(_, steps)| steps).collect();
        mend(&all, places, self.others, self.most_active)
    }

    /// What is told of a choice.
    pub fn told(&self, places: &[Place], mended: &[bool]) -> Vec<CutZone> {
        let each = |(((zone, steps), place), mended): (((_, _), _), _)| told(zone, steps, place, mended);
        self.zones.iter().map(|(zone, steps)| (zone, steps)).zip(places).zip(mended).map(each).collect()
    }
}

fn told(zone: &ZoneIndex, steps: &Steps, place: &Place, mended: &bool) -> CutZone {
    let left = steps.left(*place);
    CutZone {
        zone: zone.0,
        stable: steps.stable,
        accepted: steps.furthest(),
        kept: left.pointer,
        operations: steps.operations(),
        torn: left.torn,
        resets_lost: left.resets_lost,
        finishes_lost: left.finishes_lost,
        mended: *mended,
    }
}
