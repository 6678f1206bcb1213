//! Header extensions: the walk over them, the feature name table and the zoned extension.
//!
//! The zoned extension is read in each [`ZonedLayout`] (the series that adds zones to qcow2, sections "Header" and "Other
//! layouts"). All revisions of the QEMU series use the same magic with other fields; they are told apart by which
//! fields make sense together, never by the length alone, and those that are not read are refused by name.

use std::mem::offset_of;

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::backing::{self, Identity};
use super::error::OpenError;
use super::{ZonedLayout, table};
use crate::units::Bytes;
use crate::zone::GeometryRequest;

/// End of the extensions.
pub(super) const END: u32 = 0;
/// The feature name table.
pub(super) const FEATURE_NAMES: u32 = 0x6803_f857;
/// The zoned extension, "\0zbd".
pub(super) const ZONED_MAGIC: u32 = 0x007a_6264;
/// Length of an entry of the feature name table.
pub(super) const FEATURE_NAME_LENGTH: usize = 48;
/// `zoned` for a host-managed device.
pub(super) const HOST_MANAGED: u8 = 1;

/// The zoned extension's data in [`ZonedLayout::V7`] as it stands in the file, every integer big-endian.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawV7 {
    pub(super) zoned: u8,
    pub(super) reserved: [u8; 3],
    pub(super) zone_size: U32,
    pub(super) zone_capacity: U32,
    pub(super) conventional_zones: U32,
    pub(super) nr_zones: U32,
    pub(super) max_active_zones: U32,
    pub(super) max_open_zones: U32,
    pub(super) max_append_bytes: U32,
    pub(super) zonedmeta_size: U64,
    pub(super) zonedmeta_offset: U64,
}

/// The same in [`ZonedLayout::B`].
#[derive(Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawB {
    zoned: u8,
    reserved: [u8; 3],
    nr_zones: U32,
    zone_size: U64,
    zone_capacity: U64,
    zonedmeta_offset: U64,
    conventional_zones: U32,
    max_active_zones: U32,
    max_open_zones: U32,
}

/// The zoned extension, its fields by their names in that series and with the values stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZonedExtension {
    /// The layout it is stored in.
    pub layout: ZonedLayout,
    /// The zoned model; 1 is host-managed.
    pub zoned: u8,
    /// Bytes from one zone start to the next.
    pub zone_size: u64,
    /// Writable bytes of a sequential zone.
    pub zone_capacity: u64,
    /// How many zones, from the first, are conventional.
    pub conventional_zones: u32,
    /// How many zones there are.
    pub nr_zones: u32,
    /// Most zones active at a time; 0 is no limit.
    pub max_active_zones: u32,
    /// Most zones open at a time; 0 is no limit.
    pub max_open_zones: u32,
    /// Longest append in bytes; 0 where none is stated, as layout B never does.
    pub max_append_bytes: u32,
    /// Length of the write-pointer table in bytes; what the zones need where the layout does not store it.
    pub zonedmeta_size: u64,
    /// Where the write-pointer table is.
    pub zonedmeta_offset: u64,
}

impl From<RawV7> for ZonedExtension {
    fn from(raw: RawV7) -> Self {
        Self {
            layout: ZonedLayout::V7,
            zoned: raw.zoned,
            zone_size: raw.zone_size.get().into(),
            zone_capacity: raw.zone_capacity.get().into(),
            conventional_zones: raw.conventional_zones.get(),
            nr_zones: raw.nr_zones.get(),
            max_active_zones: raw.max_active_zones.get(),
            max_open_zones: raw.max_open_zones.get(),
            max_append_bytes: raw.max_append_bytes.get(),
            zonedmeta_size: raw.zonedmeta_size.get(),
            zonedmeta_offset: raw.zonedmeta_offset.get(),
        }
    }
}

impl From<RawB> for ZonedExtension {
    fn from(raw: RawB) -> Self {
        Self {
            layout: ZonedLayout::B,
            zoned: raw.zoned,
            zone_size: raw.zone_size.get(),
            zone_capacity: raw.zone_capacity.get(),
            conventional_zones: raw.conventional_zones.get(),
            nr_zones: raw.nr_zones.get(),
            max_active_zones: raw.max_active_zones.get(),
            max_open_zones: raw.max_open_zones.get(),
            max_append_bytes: 0,
            zonedmeta_size: u64::from(raw.nr_zones.get()) * table::ENTRY,
            zonedmeta_offset: raw.zonedmeta_offset.get(),
        }
    }
}

impl ZonedExtension {
    /// Reads the extension, or names the other layout it has. `size` is the device's, `file_len` the file's.
    pub(super) fn parse(data: &[u8], size: Bytes, cluster_size: Bytes, file_len: u64) -> Result<Self, OpenError> {
        let found = Place { data, size: size.0, cluster_size: cluster_size.0, file_len }.recognise()?;
        match found.zoned {
            HOST_MANAGED => {}
            0 => return Err(OpenError::ZonedNone),
            other => return Err(OpenError::field("zoned", other, "1 (host-managed)")),
        }
        match data {
            [_, 0, 0, 0, ..] => Ok(found),
            [_, a, b, c, ..] => Err(OpenError::hex("reserved", u32::from_be_bytes([0, *a, *b, *c]).into(), "0")),
            _ => Err(OpenError::UnknownLayout { len: data.len() }),
        }
    }

    /// The fields of a layout, where there is room for them; what they say is not looked at.
    fn read(layout: ZonedLayout, data: &[u8]) -> Option<Self> {
        match layout {
            ZonedLayout::V7 => RawV7::read_from_prefix(data).ok().map(|(raw, _)| raw.into()),
            ZonedLayout::B => RawB::read_from_prefix(data).ok().map(|(raw, _)| raw.into()),
        }
    }

    /// What changes of the extension's data where the disk becomes larger: where in it, and the bytes.
    pub(super) fn size_fields(&self) -> Vec<(usize, Vec<u8>)> {
        let zones = self.nr_zones.to_be_bytes().to_vec();
        let (size, offset) = (self.zonedmeta_size.to_be_bytes().to_vec(), self.zonedmeta_offset.to_be_bytes().to_vec());
        match self.layout {
            ZonedLayout::V7 => vec![
                (offset_of!(RawV7, nr_zones), zones),
                (offset_of!(RawV7, zonedmeta_size), size),
                (offset_of!(RawV7, zonedmeta_offset), offset),
            ],
            ZonedLayout::B => vec![(offset_of!(RawB, nr_zones), zones), (offset_of!(RawB, zonedmeta_offset), offset)],
        }
    }

    /// The geometry that the fields describe, for [`Geometry::new`](crate::zone::Geometry::new) to judge.
    pub(super) fn geometry_request(&self, size: Bytes) -> GeometryRequest {
        GeometryRequest {
            size,
            zone_size: Bytes(self.zone_size),
            zone_capacity: Bytes(self.zone_capacity),
            conventional_zones: self.conventional_zones,
            max_open_zones: self.max_open_zones,
            max_active_zones: self.max_active_zones,
            max_append_bytes: Bytes(u64::from(self.max_append_bytes)),
        }
    }
}

/// What is needed to judge whether a layout's fields make sense together.
struct Place<'a> {
    data: &'a [u8],
    size: u64,
    cluster_size: u64,
    file_len: u64,
}

impl Place<'_> {
    fn u32(&self, at: usize) -> u64 {
        let bytes = self.data.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, |bytes| u64::from(u32::from_be_bytes(bytes)))
    }

    fn u64(&self, at: usize) -> u64 {
        let bytes = self.data.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_be_bytes)
    }

    fn zones_fit(&self, zone_size: u64, zone_capacity: u64, nr_zones: u64) -> bool {
        zone_size.is_power_of_two()
            && (1..=zone_size).contains(&zone_capacity)
            && nr_zones == self.size.div_ceil(zone_size)
    }

    fn is_table_offset(&self, offset: u64) -> bool {
        offset != 0 && offset.is_multiple_of(self.cluster_size) && offset < self.file_len
    }

    /// How much of what a layout says makes sense: its zones, and where its table is. Neither does by chance.
    fn sense(&self, read: &ZonedExtension) -> u32 {
        let zones = self.zones_fit(read.zone_size, read.zone_capacity, read.nr_zones.into());
        u32::from(zones) + u32::from(self.is_table_offset(read.zonedmeta_offset))
    }

    /// The extension in the layout that makes sense. Where one half of it does not, a field is damaged, and reading on
    /// names it.
    fn recognise(&self) -> Result<ZonedExtension, OpenError> {
        let mut likely: Option<(u32, ZonedExtension)> = None;
        let mut long_enough = false;
        for read in ZonedLayout::ALL.into_iter().filter_map(|layout| ZonedExtension::read(layout, self.data)) {
            long_enough = true;
            let sense = self.sense(&read);
            if sense > likely.map_or(0, |(most, _)| most) {
                likely = Some((sense, read));
            }
        }
        match likely {
            Some((2, read)) if read.layout.length() == self.data.len() => return Ok(read),
            _ => {}
        }
        if let Some(revision) = self.other_revision() {
            return Err(OpenError::OtherLayout { revision });
        }
        match likely {
            Some((_, read)) => Ok(read),
            None if long_enough => Err(OpenError::UnknownLayout { len: self.data.len() }),
            None => {
                let lengths = ZonedLayout::ALL.map(|layout| format!("{} ({})", layout.length(), layout.title()));
                let expected = format!("at least {}", lengths.join(" or "));
                Err(OpenError::field("the length of the zoned extension", self.data.len(), expected))
            }
        }
    }

    fn other_revision(&self) -> Option<&'static str> {
        let len = self.data.len();
        if len >= 56 && self.zones_fit(self.u64(4), self.u64(12), self.u32(24)) && self.is_table_offset(self.u64(48)) {
            return Some("v8 to v10 of the QEMU series");
        }
        let counted_first = len >= 48 && self.zones_fit(self.u64(8), self.u64(16), self.u32(4));
        if counted_first && self.is_table_offset(self.u64(40)) {
            return Some("layout A (zone_size and zone_capacity of 64 bits, with max_append)");
        }
        let nr_zones = self.u32(16);
        let swapped = self.is_table_offset(self.u64(32)) && self.u64(40) == nr_zones.saturating_mul(8);
        let counts = |unit: u64| self.zones_fit(self.u32(4) * unit, self.u32(8) * unit, nr_zones);
        if len >= 48 && swapped && (counts(1) || counts(512)) {
            return Some("v2 to v4 of the QEMU series");
        }
        None
    }
}

/// A feature bit's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FeatureName {
    /// 0 incompatible, 1 compatible, 2 autoclear.
    pub(super) kind: u8,
    pub(super) bit: u8,
    pub(super) name: String,
}

/// The names that new images carry: those that QEMU gives its bits, and bit 5.
pub(super) const STANDARD_NAMES: [(u8, u8, &str); 9] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (0, 5, "zoned format"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// The extensions of an image that matter here.
#[derive(Debug, Default)]
pub(super) struct Extensions<'a> {
    /// The zoned extension's data.
    pub(super) zoned: Option<&'a [u8]>,
    /// Where in the area that is.
    pub(super) zoned_at: usize,
    pub(super) names: Vec<FeatureName>,
    /// The format of the base's file.
    pub(super) base_format: Option<&'a [u8]>,
    /// Which content of the base's file is meant.
    pub(super) base_identity: Option<Identity>,
}

/// Walks over the extensions in `area`, which reaches from the end of the header to the end of its cluster.
pub(super) fn walk(area: &[u8]) -> Result<Extensions<'_>, OpenError> {
    let mut found = Extensions::default();
    let mut rest = area;
    while let Some((head, data)) = rest.split_first_chunk::<8>() {
        let [m0, m1, m2, m3, l0, l1, l2, l3] = *head;
        let magic = u32::from_be_bytes([m0, m1, m2, m3]);
        let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if magic == END {
            break;
        }
        let Some(content) = data.get(..len) else {
            let expected = format!("at most {}, the rest of the header's cluster", data.len());
            let field = if magic == ZONED_MAGIC {
                "the length of the zoned extension"
            } else {
                "the length of a header extension"
            };
            return Err(OpenError::field(field, len, expected));
        };
        match magic {
            ZONED_MAGIC if found.zoned.is_some() => {
                return Err(OpenError::field("the number of zoned extensions", "more than 1", "1"));
            }
            ZONED_MAGIC => {
                found.zoned = Some(content);
                found.zoned_at = area.len() - data.len();
            }
            backing::FORMAT => found.base_format = Some(content),
            backing::IDENTITY => found.base_identity = Some(Identity::parse(content)?),
            FEATURE_NAMES => found.names = feature_names(content),
            _ => {}
        }
        rest = data.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(found)
}

/// Appends an extension.
pub(super) fn push(bytes: &mut Vec<u8>, magic: u32, data: &[u8]) {
    bytes.extend_from_slice(&magic.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// The extensions in `area` but for some kinds and the one that ends them, as they stand there; and how long all of them are.
pub(super) fn without(area: &[u8], kinds: &[u32]) -> Result<(usize, Vec<u8>), OpenError> {
    walk(area)?;
    let mut kept = Vec::new();
    let mut at = 0;
    while let Some([m0, m1, m2, m3, l0, l1, l2, l3]) = area.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let magic = u32::from_be_bytes([*m0, *m1, *m2, *m3]);
        if magic == END {
            at += 8;
            break;
        }
        let len = 8 + (u32::from_be_bytes([*l0, *l1, *l2, *l3]) as usize).next_multiple_of(8);
        if !kinds.contains(&magic) {
            kept.extend_from_slice(area.get(at..at + len).unwrap_or_default());
        }
        at += len;
    }
    Ok((at, kept))
}

fn feature_names(content: &[u8]) -> Vec<FeatureName> {
    let entries = content.as_chunks::<FEATURE_NAME_LENGTH>().0;
    let text = |bytes: &[u8]| {
        let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        // The name ends up in a message on a terminal: an image must not be able to put control characters there.
        String::from_utf8_lossy(name).chars().filter(|c| !c.is_control()).collect()
    };
    entries.iter().map(|entry| FeatureName { kind: entry[0], bit: entry[1], name: text(&entry[2..]) }).collect()
}
