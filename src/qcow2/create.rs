//! Making an image.
//!
//! Layout: header, refcount table, refcount blocks, write-pointer table, L1 table, each at a cluster border and in
//! this order, as QEMU's series lays them out. The refcount table is made large enough for the largest file the image
//! can become, as moving it later costs barriers. The sector with the magic is written last, after all else is
//! durable: a file cut off before is not an image.

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::alloc::reserve_step;
use super::backing::{self, Backing, Identity};
use super::entry::Entries;
use super::error::CreateError;
use super::extension::{self, RawV7};
use super::header::{self, FILE_LIMIT, HEADER_LENGTH, L1_LIMIT, REFCOUNT_TABLE_LIMIT, RawHeader};
use super::order::ByteOrder;
use super::refcount::Refcounts;
use super::{ZonedLayout, table};
use crate::storage::Medium;
use crate::units::{Bytes, FileOffset};
use crate::zone::{Clamp, Geometry, GeometryRequest};

/// Width of the refcounts written: 16 bits, QEMU's default.
const REFCOUNT_ORDER: u32 = 4;
/// What a disk writes as a whole.
const SECTOR: usize = 512;
/// How many reservations the refcount table has room for beyond the full device, for those lost in crashes.
const SLACK_STEPS: u64 = 16;

/// What an image is to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// The device's shape; its limits are stored as given.
    pub geometry: GeometryRequest,
    /// Bytes of a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: Bytes,
    /// The byte order of the write-pointer table: little only for images that a v7 QEMU must open.
    pub table_order: ByteOrder,
}

/// Where everything goes; all in clusters.
#[derive(Debug)]
struct Layout {
    bits: u32,
    refcount_table: u64,
    refcount_blocks: u64,
    zonedmeta: u64,
    l1_entries: u64,
    l1: u64,
}

impl Layout {
    fn new(geometry: &Geometry, cluster_size: Bytes) -> Result<Self, CreateError> {
        let size = geometry.size();
        let cluster = cluster_size.0;
        if !cluster.is_power_of_two() || !(512..=2 << 20).contains(&cluster) {
            return Err(CreateError::ClusterSize { value: cluster_size });
        }
        let too_large = |table, limit| CreateError::TooLarge { size, cluster_size, table, limit };
        let bits = cluster.trailing_zeros();
        let l1_entries = size.0.div_ceil(cluster * (cluster / 8));
        if l1_entries > L1_LIMIT / 8 {
            return Err(too_large("L1 table", L1_LIMIT));
        }
        let mut layout = Self {
            bits,
            refcount_table: 1,
            refcount_blocks: 1,
            zonedmeta: (u64::from(geometry.nr_zones()) * table::ENTRY).div_ceil(cluster),
            l1_entries,
            l1: (l1_entries * 8).div_ceil(cluster),
        };
        // Both tables count themselves, so their sizes are found by trying; both only ever grow here, and the limit
        // ends it.
        let per_block = layout.per_block();
        loop {
            let data = size.0.div_ceil(cluster) + l1_entries;
            let slack = SLACK_STEPS * reserve_step(bits) + data / 128;
            let largest = layout.clusters() + data + slack;
            let blocks = largest.div_ceil(per_block - 1) + 1;
            let refcount_table = (blocks * 8).div_ceil(cluster);
            let refcount_blocks = layout.clusters().div_ceil(per_block);
            if refcount_table > REFCOUNT_TABLE_LIMIT / cluster {
                return Err(too_large("refcount table", REFCOUNT_TABLE_LIMIT));
            }
            if (largest + blocks).checked_mul(cluster).is_none_or(|end| end > FILE_LIMIT) {
                return Err(too_large("file", FILE_LIMIT));
            }
            if refcount_table <= layout.refcount_table && refcount_blocks <= layout.refcount_blocks {
                return Ok(layout);
            }
            layout.refcount_table = layout.refcount_table.max(refcount_table);
            layout.refcount_blocks = layout.refcount_blocks.max(refcount_blocks);
        }
    }

    fn per_block(&self) -> u64 {
        1 << (self.bits + 3 - REFCOUNT_ORDER)
    }

    fn offset(&self, cluster: u64) -> FileOffset {
        FileOffset(cluster << self.bits)
    }

    fn refcount_table_at(&self) -> u64 {
        1
    }

    fn refcount_blocks_at(&self) -> u64 {
        self.refcount_table_at() + self.refcount_table
    }

    fn zonedmeta_at(&self) -> u64 {
        self.refcount_blocks_at() + self.refcount_blocks
    }

    fn l1_at(&self) -> u64 {
        self.zonedmeta_at() + self.zonedmeta
    }

    fn clusters(&self) -> u64 {
        self.l1_at() + self.l1
    }
}

/// Makes an image in an empty file and returns the limits that it can only meet in part. All of it is durable on
/// return; after an error or a crash midway the file is no image.
pub fn create<S: Medium>(storage: &S, options: &CreateOptions) -> Result<Vec<Clamp>, CreateError> {
    lay_out(storage, options, None, |at, entries| {
        let written = table::write_empty(storage, at, entries, 0..entries.geometry.nr_zones());
        written.map_err(|source| CreateError::Io { doing: "write the zonedmeta table", source })
    })
}

/// The same, on a base where there is one; `fill` writes the entries of the zones into the table at a place of the file.
pub(super) fn lay_out<S: Medium>(
    storage: &S,
    options: &CreateOptions,
    backing: Option<&Backing>,
    fill: impl FnOnce(FileOffset, &Entries) -> Result<(), CreateError>,
) -> Result<Vec<Clamp>, CreateError> {
    let (geometry, clamps) = Geometry::new(&options.geometry)?;
    let layout = Layout::new(&geometry, options.cluster_size)?;
    let io = |doing| move |source| CreateError::Io { doing, source };
    let len = storage.len().map_err(io("read the length of the file"))?;
    if len.0 != 0 {
        return Err(CreateError::NotEmpty { len });
    }
    let first = first_cluster(&layout, options, &geometry, backing)?;
    // L1 and the rest of the tables are zeros, which a grown file has by itself.
    storage.set_len(Bytes(layout.offset(layout.clusters()).0)).map_err(io("extend the file"))?;
    let blocks: Vec<u64> =
        (0..layout.refcount_blocks).map(|index| layout.offset(layout.refcount_blocks_at() + index).0).collect();
    let bytes: Vec<u8> = blocks.iter().flat_map(|offset| offset.to_be_bytes()).collect();
    let at = layout.offset(layout.refcount_table_at());
    storage.write_at(at, &bytes).map_err(io("write the refcount table"))?;
    let refcounts = Refcounts { table: blocks, order: REFCOUNT_ORDER, cluster_bits: layout.bits };
    refcounts.fill(storage, 0..layout.clusters(), 1).map_err(io("write the refcounts"))?;
    let entries = Entries { geometry, layout: ZonedLayout::V7, order: options.table_order };
    fill(layout.offset(layout.zonedmeta_at()), &entries)?;
    let (sector, rest) = first.split_at(SECTOR.min(first.len()));
    if !rest.is_empty() {
        storage.write_at(FileOffset(sector.len() as u64), rest).map_err(io("write the header extensions"))?;
    }
    storage.flush().map_err(io("flush the file"))?;
    storage.write_at(FileOffset(0), sector).map_err(io("write the header"))?;
    storage.flush().map_err(io("flush the file"))?;
    Ok(clamps)
}

/// The header and its extensions.
fn first_cluster(
    layout: &Layout,
    options: &CreateOptions,
    geometry: &Geometry,
    backing: Option<&Backing>,
) -> Result<Vec<u8>, CreateError> {
    let mut raw = RawHeader::new_zeroed();
    raw.magic = U32::new(header::MAGIC);
    raw.version = U32::new(3);
    raw.cluster_bits = U32::new(layout.bits);
    raw.size = U64::new(geometry.size().0);
    raw.l1_size = U32::new(layout.l1_entries as u32);
    raw.l1_table_offset = U64::new(layout.offset(layout.l1_at()).0);
    raw.refcount_table_offset = U64::new(layout.offset(layout.refcount_table_at()).0);
    raw.refcount_table_clusters = U32::new(layout.refcount_table as u32);
    raw.incompatible_features = U64::new(header::ZONED);
    raw.autoclear_features = U64::new(header::ORDERLY);
    raw.refcount_order = U32::new(REFCOUNT_ORDER);
    raw.header_length = U32::new(HEADER_LENGTH as u32);
    // The geometry's rules keep the sizes below 4 GiB.
    let request = &options.geometry;
    let zoned = RawV7 {
        zoned: extension::HOST_MANAGED,
        reserved: [0; 3],
        zone_size: U32::new(request.zone_size.0 as u32),
        zone_capacity: U32::new(request.zone_capacity.0 as u32),
        conventional_zones: U32::new(request.conventional_zones),
        nr_zones: U32::new(geometry.nr_zones()),
        max_active_zones: U32::new(request.max_active_zones),
        max_open_zones: U32::new(request.max_open_zones),
        max_append_bytes: U32::new(request.max_append_bytes.0 as u32),
        zonedmeta_size: U64::new(u64::from(geometry.nr_zones()) * table::ENTRY),
        zonedmeta_offset: U64::new(layout.offset(layout.zonedmeta_at()).0),
    };
    let mut assemble = |names: &[(u8, u8, &str)]| {
        let mut bytes = vec![0; HEADER_LENGTH];
        if let Some(backing) = backing {
            extension::push(&mut bytes, backing::FORMAT, backing::QCOW2.as_bytes());
            let identity = backing.identity.as_ref().map(Identity::encode);
            identity.iter().for_each(|identity| extension::push(&mut bytes, backing::IDENTITY, identity));
        }
        extension::push(&mut bytes, extension::FEATURE_NAMES, &feature_names(names));
        extension::push(&mut bytes, extension::ZONED_MAGIC, zoned.as_bytes());
        extension::push(&mut bytes, extension::END, &[]);
        if let Some(backing) = backing {
            raw.backing_file_offset = U64::new(bytes.len() as u64);
            raw.backing_file_size = U32::new(backing.name.len() as u32);
            bytes.extend_from_slice(backing.name.as_bytes());
        }
        let (header, _) = bytes.split_at_mut(HEADER_LENGTH);
        header.copy_from_slice(raw.as_bytes());
        bytes
    };
    let whole = assemble(&extension::STANDARD_NAMES);
    let fits = |bytes: &[u8]| bytes.len() as u64 <= options.cluster_size.0;
    let name_fits = backing.is_none_or(|backing| backing.name.len() <= backing::LONGEST_NAME);
    if fits(&whole) && name_fits {
        return Ok(whole);
    }
    // The smallest clusters only have room for the name that matters: that of the bit other programs do not know.
    let own: Vec<_> = extension::STANDARD_NAMES.iter().filter(|name| (name.0, name.1) == (0, 5)).copied().collect();
    let least = assemble(&own);
    match backing {
        Some(backing) if !fits(&least) || !name_fits => {
            let (len, cluster_size) = (backing.name.len(), options.cluster_size);
            Err(CreateError::BaseName { len, cluster_size })
        }
        _ => Ok(least),
    }
}

fn feature_names(names: &[(u8, u8, &str)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(names.len() * extension::FEATURE_NAME_LENGTH);
    for (kind, bit, name) in names {
        let end = bytes.len() + extension::FEATURE_NAME_LENGTH;
        bytes.extend_from_slice(&[*kind, *bit]);
        bytes.extend_from_slice(name.as_bytes());
        bytes.resize(end, 0);
    }
    bytes
}
