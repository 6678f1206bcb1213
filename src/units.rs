//! Units of measure at the borders between modules, so that a sector, a byte count on the guest's device and a
//! position in the image file cannot be mistaken for one another.

use std::fmt;

/// Bytes in one virtio sector; the unit of every sector number a guest sends.
pub const SECTOR_SIZE: u64 = 512;

/// A position on the guest's device in 512-byte sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sector(pub u64);

/// A length, or a position on the guest's device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

/// A position in the image file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FileOffset(pub u64);

/// The number of a zone, counted from 0 at the start of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ZoneIndex(pub u32);

/// Which file of a backing chain: 0 is the image itself, 1 the base that it builds on, 2 the base of that, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Depth(pub u8);

impl Depth {
    /// The image itself, the only file of a chain that is written.
    pub const TOP: Self = Self(0);
}

impl Sector {
    /// The same position in bytes, or `None` where it does not fit 64 bits.
    pub fn to_bytes(self) -> Option<Bytes> {
        self.0.checked_mul(SECTOR_SIZE).map(Bytes)
    }
}

impl Bytes {
    /// The sector that holds this position (rounded down).
    pub fn to_sector(self) -> Sector {
        Sector(self.0 / SECTOR_SIZE)
    }

    /// The sum, or `None` on overflow.
    pub fn checked_add(self, other: Bytes) -> Option<Bytes> {
        self.0.checked_add(other.0).map(Bytes)
    }

    /// Whether this is a multiple of `unit` bytes (`unit` is not zero).
    pub fn is_multiple_of(self, unit: u64) -> bool {
        self.0.is_multiple_of(unit)
    }
}

impl FileOffset {
    /// The position `len` bytes further on, or `None` on overflow.
    pub fn checked_add(self, len: Bytes) -> Option<FileOffset> {
        self.0.checked_add(len.0).map(FileOffset)
    }
}

impl ZoneIndex {
    /// This number as an index into a slice with one element a zone.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Sector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sector {:#x}", self.0)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for FileOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for ZoneIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
