//! Feature bits: what the device offers, and what follows from what a driver accepted.
//!
//! Rules: virtio 1.3, 5.2.3 "Feature bits" and 5.2.5 "Device Initialization"; bit 30 belongs to vhost-user.

use std::fmt;

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_ZONED,
};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// VHOST_USER_F_PROTOCOL_FEATURES: the frontend may negotiate protocol features and enables each ring.
const PROTOCOL_FEATURES: u32 = 30;

/// What the bits are called.
const NAMES: [(u32, &str); 12] = [
    (VIRTIO_F_VERSION_1, "VERSION_1"),
    (VIRTIO_BLK_F_ZONED, "ZONED"),
    (VIRTIO_BLK_F_RO, "RO"),
    (VIRTIO_BLK_F_FLUSH, "FLUSH"),
    (VIRTIO_BLK_F_CONFIG_WCE, "CONFIG_WCE"),
    (VIRTIO_BLK_F_BLK_SIZE, "BLK_SIZE"),
    (VIRTIO_BLK_F_TOPOLOGY, "TOPOLOGY"),
    (VIRTIO_BLK_F_SEG_MAX, "SEG_MAX"),
    (VIRTIO_BLK_F_MQ, "MQ"),
    (VIRTIO_RING_F_INDIRECT_DESC, "INDIRECT_DESC"),
    (VIRTIO_RING_F_EVENT_IDX, "EVENT_IDX"),
    (PROTOCOL_FEATURES, "PROTOCOL_FEATURES"),
];

/// A set of feature bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u64);

impl Features {
    /// What the device offers. Never DISCARD or WRITE_ZEROES: they would move data behind the write pointers. Offering
    /// WRITE_ZEROES for conventional zones alone is no way out: Linux would send it to sequential zones as well, at
    /// the write pointer, and after a refusal writes nothing more there until it has seen a report.
    pub fn offered(read_only: bool) -> Self {
        let always = [
            VIRTIO_F_VERSION_1,
            VIRTIO_BLK_F_ZONED,
            VIRTIO_BLK_F_FLUSH,
            VIRTIO_BLK_F_CONFIG_WCE,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_TOPOLOGY,
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_MQ,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_RING_F_EVENT_IDX,
            PROTOCOL_FEATURES,
        ];
        let bits = always.iter().fold(0, |bits, bit| bits | 1 << bit);
        Self(if read_only { bits | 1 << VIRTIO_BLK_F_RO } else { bits })
    }

    /// The same without zones: what an ordinary disk offers.
    pub fn of_ordinary_disk(self) -> Self {
        Self(self.0 & !(1 << VIRTIO_BLK_F_ZONED))
    }

    /// The set that a driver accepted, or `None` where it holds a bit that is not offered by `self`.
    pub fn accept(self, bits: u64) -> Option<Self> {
        (bits & !self.0 == 0).then_some(Self(bits))
    }

    /// The bits as they go over the wire.
    pub fn bits(self) -> u64 {
        self.0
    }

    fn has(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }

    /// The driver knows zoned disks. Without it the disk must not work (5.2.5.2).
    pub fn zoned(self) -> bool {
        self.has(VIRTIO_BLK_F_ZONED)
    }

    /// The driver sends flushes.
    pub fn flush(self) -> bool {
        self.has(VIRTIO_BLK_F_FLUSH)
    }

    /// The driver may read and write the `writeback` field.
    pub fn config_wce(self) -> bool {
        self.has(VIRTIO_BLK_F_CONFIG_WCE)
    }

    /// Notifications are suppressed by ring indices instead of flags.
    pub fn event_idx(self) -> bool {
        self.has(VIRTIO_RING_F_EVENT_IDX)
    }

    /// Rings start disabled and are enabled one by one.
    pub fn protocol_features(self) -> bool {
        self.has(PROTOCOL_FEATURES)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = NAMES.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| *name);
        f.write_str(names.next().unwrap_or("none"))?;
        names.try_for_each(|name| write!(f, ", {name}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn offers_zones_and_never_discard_or_write_zeroes() {
        let offered = Features::offered(false);
        assert!(offered.zoned() && offered.flush() && offered.config_wce() && offered.event_idx());
        for never in [13, 14, 16, VIRTIO_BLK_F_RO] {
            assert_eq!(offered.bits() & 1 << never, 0, "bit {never}");
        }
        assert_ne!(offered.bits() & 1 << VIRTIO_F_VERSION_1, 0);
    }

    #[test]
    fn an_ordinary_disk_offers_all_but_zones() {
        let (zoned, ordinary) = (Features::offered(false), Features::offered(false).of_ordinary_disk());
        assert!(!ordinary.zoned());
        assert_eq!(zoned.bits() & !ordinary.bits(), 1 << VIRTIO_BLK_F_ZONED);
    }

    #[test]
    fn offers_ro_only_when_read_only() {
        assert_ne!(Features::offered(true).bits() & 1 << VIRTIO_BLK_F_RO, 0);
    }

    #[test]
    fn a_bit_that_is_not_offered_cannot_be_accepted() {
        let offered = Features::offered(false);
        assert_eq!(offered.accept(offered.bits()), Some(offered));
        assert_eq!(offered.accept(1 << 34), None, "packed rings");
        assert!(!offered.accept(0).unwrap().zoned());
    }

    #[test]
    fn every_bit_that_is_offered_has_a_name() {
        let named = NAMES.iter().fold(0, |bits, (bit, _)| bits | 1 << bit);
        assert_eq!(Features::offered(true).bits(), named);
        assert_eq!(Features(1 << 17 | 1 << 32).to_string(), "VERSION_1, ZONED");
        assert_eq!(Features(0).to_string(), "none");
    }
}
