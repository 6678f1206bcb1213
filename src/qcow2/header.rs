//! The header of a version-3 image: QEMU's docs/interop/qcow2, section "Header".
//!
//! [`Header::parse`] checks each field alone; what depends on the file or on other tables is checked by the opener.

use std::ops::Range;

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Access;
use super::error::OpenError;
use super::extension::FeatureName;
use crate::units::{Bytes, FileOffset};

/// What an image begins with: "QFI" and 0xfb, big-endian.
pub const MAGIC: u32 = 0x5146_49fb;
/// Where the fields stand of the name of the base's file: its place and its length.
pub(super) const BACKING_FIELDS: Range<u64> = 8..20;
/// Where the fields stand that a growing disk changes: its size, the encryption's method, size and place of the L1 table.
pub(super) const DISK_FIELDS: Range<u64> = 24..48;
/// Where the fields of the refcount table's place stand: eight bytes offset, four bytes length in clusters.
pub(super) const REFCOUNT_TABLE_FIELDS: u64 = 48;
/// Where the incompatible features stand.
pub(super) const INCOMPATIBLE_FIELD: u64 = 72;
/// Where the autoclear features stand.
pub(super) const AUTOCLEAR_FIELD: u64 = 88;
/// Length of the header that [`RawHeader`] describes and that new images get.
pub(super) const HEADER_LENGTH: usize = size_of::<RawHeader>();
/// The fields up to and including header_length; every version-3 header has them.
pub(super) const LEAST_LENGTH: u32 = 104;
/// QEMU's limit for an L1 table.
pub(super) const L1_LIMIT: u64 = 32 << 20;
/// The longest file: offsets of clusters have 56 bits.
pub(super) const FILE_LIMIT: u64 = 1 << 56;
/// QEMU's limit for a refcount table.
pub(super) const REFCOUNT_TABLE_LIMIT: u64 = 8 << 20;

/// Incompatible feature bit 0: the refcounts may be wrong.
pub(super) const DIRTY: u64 = 1 << 0;
/// Incompatible feature bit 1: metadata is known to be damaged.
pub(super) const CORRUPT: u64 = 1 << 1;
/// Incompatible feature bit 2: guest data lives in another file.
const EXTERNAL_DATA_FILE: u64 = 1 << 2;
/// Incompatible feature bit 3: compression_type is not 0.
const COMPRESSION_TYPE: u64 = 1 << 3;
/// Incompatible feature bit 4: L2 entries of 128 bits with subclusters.
const EXTENDED_L2: u64 = 1 << 4;
/// Incompatible feature bit 5: the zoned extension.
pub(super) const ZONED: u64 = 1 << 5;

/// Autoclear feature bit 63, this project's own: the last writer ended in order, and beyond the write pointers of zones
/// that hold data the file reads as zeros. Any other program that writes the image clears the bit, as the format asks.
pub(super) const ORDERLY: u64 = 1 << 63;
/// Autoclear feature bit 62, this project's own: what is written down at the end of the file is to be changed ([`redo`](super::redo)).
pub(super) const CHANGING: u64 = 1 << 62;

/// The header as it stands in the file, every integer big-endian.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub(super) magic: U32,
    pub(super) version: U32,
    pub(super) backing_file_offset: U64,
    pub(super) backing_file_size: U32,
    pub(super) cluster_bits: U32,
    pub(super) size: U64,
    pub(super) crypt_method: U32,
    pub(super) l1_size: U32,
    pub(super) l1_table_offset: U64,
    pub(super) refcount_table_offset: U64,
    pub(super) refcount_table_clusters: U32,
    pub(super) nb_snapshots: U32,
    pub(super) snapshots_offset: U64,
    pub(super) incompatible_features: U64,
    pub(super) compatible_features: U64,
    pub(super) autoclear_features: U64,
    pub(super) refcount_order: U32,
    pub(super) header_length: U32,
    pub(super) compression_type: u8,
    pub(super) padding: [u8; 7],
}

/// The header's fields by their names in the qcow2 document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format version; always 3.
    pub version: u32,
    /// Logarithm of the cluster size.
    pub cluster_bits: u32,
    /// Bytes on the device.
    pub size: Bytes,
    /// Where the name of the base's file is in the first cluster, and how long it is.
    pub(super) backing_name: Option<(FileOffset, u32)>,
    /// Entries of the L1 table.
    pub l1_size: u32,
    /// Where the L1 table is.
    pub l1_table_offset: FileOffset,
    /// Where the refcount table is.
    pub refcount_table_offset: FileOffset,
    /// How long the refcount table is.
    pub refcount_table_clusters: u32,
    /// Features that a reader must know.
    pub incompatible_features: u64,
    /// Features that a reader may ignore.
    pub compatible_features: u64,
    /// Features that a writer who does not know them clears.
    pub autoclear_features: u64,
    /// Logarithm of the width of a refcount in bits.
    pub refcount_order: u32,
    /// Where the extensions begin.
    pub header_length: u32,
}

impl Header {
    /// Reads the fields and checks each alone. Features are checked by [`Header::check_features`], which needs the
    /// names that the extensions give them.
    pub(super) fn parse(raw: &RawHeader) -> Result<Self, OpenError> {
        let version = raw.version.get();
        if version != 3 {
            let hint = if version == 2 {
                "; version 2 has no feature bits, so other programs would write over zones"
            } else {
                ""
            };
            return Err(OpenError::Version { version, hint });
        }
        let cluster_bits = raw.cluster_bits.get();
        if !(9..=21).contains(&cluster_bits) {
            return Err(OpenError::field("cluster_bits", cluster_bits, "9 to 21"));
        }
        let header_length = raw.header_length.get();
        if header_length < LEAST_LENGTH || !header_length.is_multiple_of(8) || header_length > 1 << cluster_bits {
            let expected = format!("a multiple of 8 from {LEAST_LENGTH} to the cluster size, {}", 1u64 << cluster_bits);
            return Err(OpenError::field("header_length", header_length, expected));
        }
        let refcount_order = raw.refcount_order.get();
        if refcount_order > 6 {
            return Err(OpenError::field("refcount_order", refcount_order, "0 to 6"));
        }
        let name = (FileOffset(raw.backing_file_offset.get()), raw.backing_file_size.get());
        let header = Self {
            backing_name: Some(name).filter(|(at, len)| (at.0, *len) != (0, 0)),
            version,
            cluster_bits,
            size: Bytes(raw.size.get()),
            l1_size: raw.l1_size.get(),
            l1_table_offset: FileOffset(raw.l1_table_offset.get()),
            refcount_table_offset: FileOffset(raw.refcount_table_offset.get()),
            refcount_table_clusters: raw.refcount_table_clusters.get(),
            incompatible_features: raw.incompatible_features.get(),
            compatible_features: raw.compatible_features.get(),
            autoclear_features: raw.autoclear_features.get(),
            refcount_order,
            header_length,
        };
        header.check_tables()?;
        Ok(header)
    }

    fn check_tables(&self) -> Result<(), OpenError> {
        let cluster_size = self.cluster_size().0;
        for (field, offset) in
            [("l1_table_offset", self.l1_table_offset), ("refcount_table_offset", self.refcount_table_offset)]
        {
            if offset.0 == 0 || !offset.0.is_multiple_of(cluster_size) {
                let expected = format!("a multiple of the cluster size, {cluster_size}, and not 0");
                return Err(OpenError::hex(field, offset.0, expected));
            }
        }
        let clusters = self.refcount_table_clusters;
        let most = REFCOUNT_TABLE_LIMIT / cluster_size;
        if clusters == 0 || u64::from(clusters) > most {
            return Err(OpenError::field("refcount_table_clusters", clusters, format!("1 to {most}")));
        }
        let needed = self.size.0.div_ceil(self.bytes_per_l2());
        let most = L1_LIMIT / 8;
        if u64::from(self.l1_size) < needed || u64::from(self.l1_size) > most {
            let expected = format!("at least {needed} for a device of {} bytes, and at most {most}", self.size);
            return Err(OpenError::field("l1_size", self.l1_size, expected));
        }
        Ok(())
    }

    /// Refuses what this project cannot serve, by name.
    pub(super) fn check_features(&self, raw: &RawHeader) -> Result<(), OpenError> {
        let bits = self.incompatible_features;
        let unsupported = |feature, hint| Err(OpenError::Unsupported { feature, hint });
        let convert = "; convert the image with a program that supports it";
        if bits & EXTERNAL_DATA_FILE != 0 {
            return unsupported("an external data file (incompatible feature bit 2)", convert);
        }
        if raw.crypt_method.get() != 0 {
            return unsupported("encryption (crypt_method is not 0)", convert);
        }
        if bits & EXTENDED_L2 != 0 {
            return unsupported("extended L2 entries (incompatible feature bit 4)", convert);
        }
        if raw.nb_snapshots.get() != 0 {
            return unsupported(
                "an image with internal snapshots (nb_snapshots is not 0)",
                "; delete the snapshots first",
            );
        }
        let compression_type = if self.header_length > LEAST_LENGTH { raw.compression_type } else { 0 };
        if bits & COMPRESSION_TYPE != 0 {
            let zstd = "compression type zstd (incompatible feature bit 3)";
            let other = "an unknown compression type (incompatible feature bit 3)";
            return unsupported(if compression_type == 1 { zstd } else { other }, convert);
        }
        if compression_type != 0 {
            return Err(OpenError::field(
                "compression_type",
                compression_type,
                "0 while incompatible feature bit 3 is not set",
            ));
        }
        Ok(())
    }

    /// Refuses to write an image that is marked as damaged, but for a repair of what the dirty bit marks.
    pub(super) fn check_marks(&self, access: Access, repair: bool) -> Result<(), OpenError> {
        let bits = self.incompatible_features;
        match access {
            Access::ReadWrite if bits & CORRUPT != 0 => Err(OpenError::Corrupt),
            Access::ReadWrite if bits & DIRTY != 0 && !repair => Err(OpenError::Dirty),
            Access::ReadWrite | Access::ReadOnly => Ok(()),
        }
    }

    /// Refuses incompatible features that nobody here knows, with the name the image gives them.
    pub(super) fn check_unknown(&self, names: &[FeatureName]) -> Result<(), OpenError> {
        let known = DIRTY | CORRUPT | EXTERNAL_DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2 | ZONED;
        let unknown = self.incompatible_features & !known;
        if unknown == 0 {
            return Ok(());
        }
        let bit = unknown.trailing_zeros();
        let named = names.iter().find(|name| name.kind == 0 && u32::from(name.bit) == bit);
        let name = named.map_or_else(|| "unnamed by the image".to_string(), |name| name.name.clone());
        Err(OpenError::UnknownFeature { bit, name })
    }

    /// The bytes of [`DISK_FIELDS`]; encrypted images are not opened.
    pub(super) fn disk_fields(&self) -> Vec<u8> {
        let (size, l1_at) = (self.size.0.to_be_bytes(), self.l1_table_offset.0.to_be_bytes());
        [&size[..], &[0; 4], &self.l1_size.to_be_bytes(), &l1_at].concat()
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> Bytes {
        Bytes(1 << self.cluster_bits)
    }

    /// Entries of an L2 table.
    pub(super) fn l2_entries(&self) -> u64 {
        1 << (self.cluster_bits - 3)
    }

    /// Bytes on the device that one L2 table maps.
    pub(super) fn bytes_per_l2(&self) -> u64 {
        1 << (2 * self.cluster_bits - 3)
    }

    /// How many clusters `bytes` from a cluster border take.
    pub(super) fn clusters(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_size().0)
    }
}
