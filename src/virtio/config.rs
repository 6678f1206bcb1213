//! The configuration space: 96 bytes that tell the driver what disk this is.
//!
//! Layout: `struct virtio_blk_config` of virtio 1.3, 5.2.4, with the zoned characteristics at offset 72. Frontends
//! ask for 57, 60 or 96 bytes, at any offset: what lies past the end reads as zeros. Only `writeback`, at 32, can be
//! written.

use virtio_bindings::bindings::virtio_blk::VIRTIO_BLK_Z_HM;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use crate::units::{Bytes, SECTOR_SIZE};
use crate::zone::Geometry;

/// Bytes of the configuration space.
pub const CONFIG_SIZE: usize = 96;

/// The offset of the one field that a driver may write.
const WRITEBACK_OFFSET: usize = 32;

/// Most data segments of a request; what a queue cannot carry is taken off, but Linux needs 126 for its reports.
const SEG_MAX: u32 = 254;
const SEG_MAX_LEAST: u32 = 126;

/// The smallest buffer that a driver is sure to fit in one segment.
const SEGMENT_BYTES: u64 = 4096;

/// The largest ring that frontends ask for; what `--queue-size` is when it is not given.
pub const DEFAULT_QUEUE_SIZE: u16 = 32768;

/// The longest append that the segments of a request are sure to carry on a ring of this size. An image whose limit
/// is higher is served with this one.
pub fn max_append_carried(queue_size: u16) -> Bytes {
    Bytes(u64::from(seg_max(queue_size)) * SEGMENT_BYTES)
}

fn seg_max(queue_size: u16) -> u32 {
    u32::from(queue_size.saturating_sub(2)).clamp(SEG_MAX_LEAST, SEG_MAX)
}

#[derive(Clone, IntoBytes, Immutable)]
#[repr(C)]
struct Layout {
    capacity: U64,
    size_max: U32,
    seg_max: U32,
    cylinders: U16,
    heads: u8,
    sectors: u8,
    blk_size: U32,
    physical_block_exp: u8,
    alignment_offset: u8,
    min_io_size: U16,
    opt_io_size: U32,
    writeback: u8,
    unused0: u8,
    num_queues: U16,
    discard_and_write_zeroes: [u8; 36],
    zone_sectors: U32,
    max_open_zones: U32,
    max_active_zones: U32,
    max_append_sectors: U32,
    write_granularity: U32,
    model: u8,
    unused2: [u8; 3],
}

const _: () = assert!(size_of::<Layout>() == CONFIG_SIZE);
const _: () = assert!(std::mem::offset_of!(Layout, writeback) == WRITEBACK_OFFSET);
const _: () = assert!(std::mem::offset_of!(Layout, zone_sectors) == 72);

/// Why a device cannot be described to a driver. Names the option, its value and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Only two block sizes work with the drivers there are.
    #[error("--block-size is {0}: expected 512 or 4096")]
    BlockSize(u32),
    /// A driver needs at least one queue.
    #[error("--num-queues is 0: expected at least 1")]
    NoQueues,
    /// Ring sizes are powers of two.
    #[error("--queue-size is {0}: expected a power of two up to 32768")]
    QueueSize(u16),
    /// An append shorter than a block could never be written.
    #[error("max_append_bytes of the image is {max_append}: expected at least the block size, {block_size}")]
    AppendBelowBlock {
        /// The image's limit.
        max_append: Bytes,
        /// The block size asked for.
        block_size: u32,
    },
    /// The device is too large for a 32-bit field.
    #[error("zone_size of the image is {0}: expected less than 2 TiB")]
    ZoneSize(Bytes),
}

/// What the configuration space is made from, besides the geometry.
#[derive(Clone, Copy, Debug)]
pub struct DeviceShape {
    /// Bytes of a logical block, and the unit of writes to sequential zones.
    pub block_size: u32,
    /// How many queues a driver is told of.
    pub num_queues: u16,
    /// The largest ring.
    pub queue_size: u16,
    /// The cache mode after a reset: false is write-through.
    pub writeback: bool,
}

/// What a write to the configuration space did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Every byte was what it is already.
    Nothing,
    /// The cache mode is another one now.
    Writeback(bool),
    /// The first byte that would have changed cannot be changed; nothing was.
    ReadOnlyField {
        /// Its offset.
        offset: usize,
    },
}

/// The configuration space of one device.
#[derive(Clone)]
pub struct ConfigSpace {
    layout: Layout,
    default_writeback: bool,
}

impl ConfigSpace {
    /// Describes a device.
    pub fn new(geometry: &Geometry, shape: &DeviceShape) -> Result<Self, ConfigError> {
        let DeviceShape { block_size, num_queues, queue_size, writeback } = *shape;
        if !matches!(block_size, 512 | 4096) {
            return Err(ConfigError::BlockSize(block_size));
        }
        if num_queues == 0 {
            return Err(ConfigError::NoQueues);
        }
        if !queue_size.is_power_of_two() {
            return Err(ConfigError::QueueSize(queue_size));
        }
        let zone_sectors = u32::try_from(geometry.zone_size().0 / SECTOR_SIZE)
            .map_err(|_| ConfigError::ZoneSize(geometry.zone_size()))?;
        let layout = Layout {
            capacity: U64::new(geometry.size().0 / SECTOR_SIZE),
            size_max: U32::ZERO,
            seg_max: U32::new(seg_max(queue_size)),
            cylinders: U16::ZERO,
            heads: 0,
            sectors: 0,
            blk_size: U32::new(block_size),
            // Physical blocks are logical blocks; Linux takes write_granularity for both on a zoned disk.
            physical_block_exp: 0,
            alignment_offset: 0,
            min_io_size: U16::new(1),
            opt_io_size: U32::ZERO,
            writeback: u8::from(writeback),
            unused0: 0,
            num_queues: U16::new(num_queues),
            discard_and_write_zeroes: [0; 36],
            zone_sectors: U32::new(zone_sectors),
            max_open_zones: U32::new(geometry.max_open_zones()),
            max_active_zones: U32::new(geometry.max_active_zones()),
            max_append_sectors: U32::new(append_sectors(geometry, block_size, queue_size)?),
            write_granularity: U32::new(block_size),
            model: VIRTIO_BLK_Z_HM as u8,
            unused2: [0; 3],
        };
        Ok(Self { layout, default_writeback: writeback })
    }

    /// The same of an ordinary disk of another size.
    pub fn of_ordinary_disk(mut self, size: Bytes) -> Self {
        self.layout.capacity = U64::new(size.0 / SECTOR_SIZE);
        for field in [
            &mut self.layout.zone_sectors,
            &mut self.layout.max_open_zones,
            &mut self.layout.max_active_zones,
            &mut self.layout.max_append_sectors,
            &mut self.layout.write_granularity,
        ] {
            *field = U32::ZERO;
        }
        self.layout.model = 0;
        self
    }

    /// `size` bytes from `offset`; zeros where the space has none.
    pub fn read(&self, offset: usize, size: usize) -> Vec<u8> {
        self.layout.as_bytes().iter().copied().skip(offset).chain(std::iter::repeat(0)).take(size).collect()
    }

    /// Takes a driver's write. A byte that is not `writeback` and would change spoils the whole write.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Written {
        let mut written = Written::Nothing;
        for (at, (new, old)) in data.iter().zip(self.layout.as_bytes().iter().skip(offset)).enumerate() {
            let offset = offset + at;
            if new == old {
                continue;
            }
            if offset != WRITEBACK_OFFSET {
                return Written::ReadOnlyField { offset };
            }
            written = Written::Writeback(*new != 0);
        }
        // A device that is write-through by its command line stays so; the field says what is in force.
        match written {
            Written::Writeback(on) if on != self.writeback() && (self.default_writeback || !on) => {
                self.set_writeback(on);
                written
            }
            _ => Written::Nothing,
        }
    }

    /// Whether `writeback` says that writes are cached until a flush.
    pub fn writeback(&self) -> bool {
        self.layout.writeback != 0
    }

    /// Changes the cache mode.
    pub fn set_writeback(&mut self, on: bool) {
        self.layout.writeback = u8::from(on);
    }

    /// Back to the cache mode that a reset leaves.
    pub fn reset(&mut self) {
        self.set_writeback(self.default_writeback);
    }

    /// The longest append that the driver was told of.
    pub fn max_append(&self) -> Bytes {
        Bytes(u64::from(self.layout.max_append_sectors.get()) * SECTOR_SIZE)
    }
}

/// The append limit in sectors: whole blocks, and no more than the segments of a request are sure to carry. Where the
/// image states none, only the zone bounds it too.
fn append_sectors(geometry: &Geometry, block_size: u32, queue_size: u16) -> Result<u32, ConfigError> {
    let max_append = geometry.max_append().unwrap_or(geometry.zone_capacity());
    let bytes = max_append.min(max_append_carried(queue_size)).0;
    let whole = bytes - bytes % u64::from(block_size);
    u32::try_from(whole / SECTOR_SIZE)
        .ok()
        .filter(|sectors| *sectors != 0)
        .ok_or(ConfigError::AppendBelowBlock { max_append, block_size })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::virtio::testing::geometry;
    use crate::zone::GeometryRequest;

    const SHAPE: DeviceShape = DeviceShape { block_size: 4096, num_queues: 2, queue_size: 256, writeback: true };

    fn le32(space: &ConfigSpace, offset: usize) -> u32 {
        u32::from_le_bytes(space.read(offset, 4).try_into().unwrap())
    }

    /// A disk whose image states this append limit, 0 for none, with zones of this capacity.
    fn with_append(max_append_bytes: Bytes, zone_capacity: Bytes) -> Geometry {
        let request = GeometryRequest {
            size: Bytes(768 << 20),
            zone_size: Bytes(64 << 20),
            zone_capacity,
            conventional_zones: 0,
            max_open_zones: 0,
            max_active_zones: 0,
            max_append_bytes,
        };
        Geometry::new(&request).unwrap().0
    }

    #[test]
    fn every_field_lies_where_the_specification_puts_it() {
        let space = ConfigSpace::new(&geometry(), &SHAPE).unwrap();
        assert_eq!(u64::from_le_bytes(space.read(0, 8).try_into().unwrap()), (768 << 20) / 512);
        assert_eq!(le32(&space, 8), 0, "size_max is not offered");
        assert_eq!(le32(&space, 12), 254);
        assert_eq!(le32(&space, 20), 4096);
        assert_eq!(space.read(32, 4), [1, 0, 2, 0]);
        assert_eq!(space.read(36, 36), [0; 36]);
        assert_eq!(le32(&space, 72), (64 << 20) / 512);
        assert_eq!((le32(&space, 76), le32(&space, 80)), (6, 8));
        assert_eq!(le32(&space, 84), 128 << 10 >> 9);
        assert_eq!(le32(&space, 88), 4096);
        assert_eq!(space.read(92, 4), [1, 0, 0, 0]);
    }

    #[test]
    fn an_ordinary_disk_has_its_own_size_and_nothing_of_zones() {
        let zoned = ConfigSpace::new(&geometry(), &SHAPE).unwrap();
        let ordinary = zoned.clone().of_ordinary_disk(Bytes(1 << 20));
        assert_eq!(u64::from_le_bytes(ordinary.read(0, 8).try_into().unwrap()), 2048);
        assert_eq!(ordinary.read(8, 64), zoned.read(8, 64));
        assert_eq!(ordinary.read(72, 24), [0; 24]);
    }

    #[test]
    fn any_offset_and_size_gives_exactly_size_bytes_padded_with_zeros() {
        let space = ConfigSpace::new(&geometry(), &SHAPE).unwrap();
        let all = space.read(0, 96);
        for (offset, size) in [(0, 57), (0, 60), (0, 256), (90, 20), (96, 4), (4000, 96), (33, 1)] {
            let read = space.read(offset, size);
            assert_eq!(read.len(), size);
            for (at, byte) in read.iter().enumerate() {
                assert_eq!(*byte, all.get(offset + at).copied().unwrap_or(0), "{offset}+{at}");
            }
        }
    }

    #[test]
    fn only_writeback_can_be_written() {
        let mut space = ConfigSpace::new(&geometry(), &SHAPE).unwrap();
        assert_eq!(space.write(32, &[0]), Written::Writeback(false));
        assert!(!space.writeback());
        assert_eq!(space.write(0, &[9]), Written::ReadOnlyField { offset: 0 });
        assert_eq!(space.write(31, &[1, 1]), Written::ReadOnlyField { offset: 31 });
        assert!(!space.writeback(), "the rest of a refused write has no effect");
        space.reset();
        assert!(space.writeback());
    }

    #[test]
    fn writing_back_what_was_read_changes_nothing() {
        let mut space = ConfigSpace::new(&geometry(), &SHAPE).unwrap();
        let all = space.read(0, 200);
        assert_eq!(space.write(0, &all), Written::Nothing);
        assert_eq!(space.read(0, 200), all);
    }

    #[test]
    fn a_write_through_device_stays_write_through() {
        let mut space = ConfigSpace::new(&geometry(), &DeviceShape { writeback: false, ..SHAPE }).unwrap();
        assert_eq!(space.write(32, &[1]), Written::Nothing);
        assert!(!space.writeback());
    }

    #[test]
    fn the_append_limit_is_what_the_segments_carry_in_whole_blocks() {
        let stated = |limit: u64| with_append(Bytes(limit), Bytes(64 << 20));
        assert_eq!(append_sectors(&stated(32 << 20), 4096, 128), Ok(126 * 8));
        assert_eq!(append_sectors(&stated(10 * 1024), 4096, 128), Ok(16));
        assert_eq!(append_sectors(&stated(10 * 1024), 512, 128), Ok(20));
        let refused = append_sectors(&stated(512), 4096, 128).unwrap_err();
        assert_eq!(refused.to_string(), "max_append_bytes of the image is 512: expected at least the block size, 4096");
    }

    #[test]
    fn where_no_append_limit_is_stated_it_is_what_the_queue_carries_and_the_zone_takes() {
        let unstated = |capacity: u64| with_append(Bytes(0), Bytes(capacity));
        assert_eq!(append_sectors(&unstated(64 << 20), 4096, 128), Ok(126 * 8));
        assert_eq!(append_sectors(&unstated(64 << 20), 4096, 32768), Ok(254 * 8));
        assert_eq!(append_sectors(&unstated(4096), 4096, 128), Ok(8));
        assert_eq!(append_sectors(&unstated(1536), 512, 128), Ok(3));
    }

    #[test]
    fn a_small_queue_still_announces_the_segments_linux_needs() {
        let space = ConfigSpace::new(&geometry(), &DeviceShape { queue_size: 16, ..SHAPE }).unwrap();
        assert_eq!(le32(&space, 12), 126);
    }

    #[test]
    fn a_shape_that_no_driver_takes_is_refused_by_name() {
        let refused = |shape: DeviceShape| ConfigSpace::new(&geometry(), &shape).err().unwrap().to_string();
        assert!(refused(DeviceShape { block_size: 1024, ..SHAPE }).starts_with("--block-size is 1024"));
        assert!(refused(DeviceShape { num_queues: 0, ..SHAPE }).starts_with("--num-queues is 0"));
        assert!(refused(DeviceShape { queue_size: 100, ..SHAPE }).starts_with("--queue-size is 100"));
    }
}
