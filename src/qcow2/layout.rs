//! The layouts of the zoned extension that images are read and written in, and what goes with each.
//!
//! Everything that sets one layout apart from another is in its [`Traits`]; whoever needs to know asks the layout. The
//! fields of each are in [`extension`](super::extension), which also tells these from the layouts nobody reads here.

use super::order::ByteOrder;
use crate::units::{Bytes, ZoneIndex};
use crate::zone::Geometry;

/// A layout of the zoned extension and its write-pointer table (the series that adds zones to qcow2, sections "Header", "Other
/// layouts" and "Layout B in practice").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZonedLayout {
    /// Revisions v5 to v7 of the QEMU series; what is made here.
    V7,
    /// The newest one of the series.
    B,
}

/// What a finish stores, which is also the highest pointer that a zone may have.
#[derive(Clone, Copy, Debug)]
enum FullPointer {
    /// The start of the next zone, even where the device ends before it.
    NextZone,
    /// The end of what can be written of the zone.
    WritableEnd,
}

/// What sets a layout apart.
#[derive(Debug)]
struct Traits {
    name: &'static str,
    title: &'static str,
    /// Bytes of the extension's data; longer is read too.
    length: usize,
    /// Which bit of an entry marks a conventional zone.
    conventional_bit: u32,
    /// The byte orders in which tables of this layout are found.
    orders: &'static [ByteOrder],
    full: FullPointer,
    /// Programs that write this layout are known to cut pointers to 32 bits.
    cuts_pointers: bool,
    /// A zone must be a multiple of the cluster size.
    whole_clusters: bool,
    /// The longest append has a field.
    states_append: bool,
}

const V7: Traits = Traits {
    name: "v7",
    title: "v5 to v7 of the QEMU series",
    length: 48,
    conventional_bit: 59,
    orders: &[ByteOrder::Big, ByteOrder::Little],
    full: FullPointer::NextZone,
    cuts_pointers: true,
    whole_clusters: false,
    states_append: true,
};

const B: Traits = Traits {
    name: "B",
    title: "layout B of the QEMU series",
    length: 44,
    conventional_bit: 63,
    orders: &[ByteOrder::Big],
    full: FullPointer::WritableEnd,
    cuts_pointers: false,
    whole_clusters: true,
    states_append: false,
};

impl ZonedLayout {
    /// Every layout that is read.
    pub const ALL: [Self; 2] = [Self::V7, Self::B];

    fn traits(self) -> &'static Traits {
        match self {
            Self::V7 => &V7,
            Self::B => &B,
        }
    }

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        self.traits().name
    }

    /// Its name for people.
    pub fn title(self) -> &'static str {
        self.traits().title
    }

    /// Bytes of the extension's data.
    pub fn length(self) -> usize {
        self.traits().length
    }

    /// Which bit of an entry marks a conventional zone.
    pub fn conventional_bit(self) -> u32 {
        self.traits().conventional_bit
    }

    /// What marks the entry of a conventional zone.
    pub(super) fn conventional_flag(self) -> u64 {
        1 << self.conventional_bit()
    }

    /// The byte orders in which its tables are found, the usual one first.
    pub(super) fn orders(self) -> &'static [ByteOrder] {
        self.traits().orders
    }

    /// Whether an entry may have been cut to 32 bits by the program that wrote it.
    pub(super) fn cuts_pointers(self) -> bool {
        self.traits().cuts_pointers
    }

    /// Whether a zone must be a multiple of the cluster size.
    pub(super) fn has_whole_clusters(self) -> bool {
        self.traits().whole_clusters
    }

    /// Whether an image says how long an append may be.
    pub(super) fn states_append(self) -> bool {
        self.traits().states_append
    }

    /// The pointer that a finish of a sequential zone stores, and the highest that the zone may have.
    pub(super) fn full_pointer(self, geometry: &Geometry, zone: ZoneIndex) -> Bytes {
        match self.traits().full {
            FullPointer::NextZone => Bytes(geometry.start(zone).0 + geometry.zone_size().0),
            FullPointer::WritableEnd => geometry.writable_end(zone),
        }
    }
}
