//! Zone reports: `struct virtio_blk_zone_report`, a header of 64 bytes and 64 bytes a zone (virtio 1.3, 5.2.6).

use virtio_bindings::bindings::virtio_blk::{VIRTIO_BLK_ZT_CONV, VIRTIO_BLK_ZT_SWR};
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::status::{Malformed, RequestError};
use crate::store::{Refusal, ZoneInfo};
use crate::units::{Bytes, Sector};
use crate::zone::{Geometry, State, ZoneKind};

/// Bytes of the header, and of each zone's descriptor.
pub const ENTRY_BYTES: usize = 64;

/// Zones asked of the store at a time: bounds the scratch memory of a report.
const CHUNK: usize = 256;

#[derive(FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
struct Descriptor {
    z_cap: U64,
    z_start: U64,
    z_wp: U64,
    z_type: u8,
    z_state: u8,
    reserved: [u8; 38],
}

const _: () = assert!(size_of::<Descriptor>() == ENTRY_BYTES);

impl From<&ZoneInfo> for Descriptor {
    fn from(zone: &ZoneInfo) -> Self {
        let z_type = match zone.kind {
            ZoneKind::Conventional => VIRTIO_BLK_ZT_CONV,
            ZoneKind::SequentialWriteRequired => VIRTIO_BLK_ZT_SWR,
        };
        Self {
            z_cap: U64::new(zone.capacity.to_sector().0),
            z_start: U64::new(zone.start.to_sector().0),
            z_wp: U64::new(zone.write_pointer.to_sector().0),
            z_type: z_type as u8,
            z_state: zone.state as u8,
            reserved: [0; 38],
        }
    }
}

impl Descriptor {
    /// The zone of a disk of this shape that is described; none where there is no such zone.
    fn zone(&self, geometry: &Geometry) -> Option<ZoneInfo> {
        let bytes = |sectors: U64| Sector(sectors.get()).to_bytes();
        let start = bytes(self.z_start)?;
        let index = geometry.zone_starting_at(start)?;
        let kind = match u32::from(self.z_type) {
            VIRTIO_BLK_ZT_CONV => ZoneKind::Conventional,
            VIRTIO_BLK_ZT_SWR => ZoneKind::SequentialWriteRequired,
            _ => return None,
        };
        let (capacity, write_pointer) = (bytes(self.z_cap)?, bytes(self.z_wp)?);
        let state = State::from_number(self.z_state)?;
        Some(ZoneInfo { index, kind, state, start, len: geometry.len(index), capacity, write_pointer })
    }
}

/// Reads a report of a disk of this shape, as [`write_report`] writes it. None where the bytes are no such report.
pub fn read_report(geometry: &Geometry, bytes: &[u8]) -> Option<Vec<ZoneInfo>> {
    let (header, zones) = bytes.split_at_checked(ENTRY_BYTES)?;
    let nr_zones = usize::try_from(u64::from_le_bytes(*header.first_chunk()?)).ok()?;
    let zones = zones.get(..nr_zones.checked_mul(ENTRY_BYTES)?)?.chunks_exact(ENTRY_BYTES);
    zones.map(|entry| Descriptor::read_from_bytes(entry).ok()?.zone(geometry)).collect()
}

/// Scratch memory of reports, kept from one to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    zones: Vec<ZoneInfo>,
    bytes: Vec<u8>,
}

/// Writes a report into a buffer of `len` bytes: the zone that holds `start` and as many after it as fit. `fetch`
/// appends zones to a list, as [`ZonedStore::report`](crate::store::ZonedStore::report) does; `put` writes bytes at
/// an offset of the buffer. Returns how many bytes were written.
pub fn write_report(
    geometry: &Geometry,
    start: Sector,
    len: Bytes,
    scratch: &mut Scratch,
    mut fetch: impl FnMut(Sector, usize, &mut Vec<ZoneInfo>) -> Result<(), Refusal>,
    mut put: impl FnMut(Bytes, &[u8]) -> Result<usize, Malformed>,
) -> Result<Bytes, RequestError> {
    const ENTRY: u64 = ENTRY_BYTES as u64;
    if len.0 < ENTRY {
        return Err(RequestError::ReportTooShort(len));
    }
    let first = start.to_bytes().and_then(|start| geometry.zone_at(start)).ok_or(RequestError::ReportBeyondEnd)?;
    let fit = usize::try_from(len.0 / ENTRY - 1).unwrap_or(usize::MAX);
    let mut next = geometry.start(first);
    let mut nr_zones = 0usize;
    while nr_zones < fit && next < geometry.size() {
        scratch.zones.clear();
        scratch.bytes.clear();
        fetch(next.to_sector(), CHUNK.min(fit - nr_zones), &mut scratch.zones)?;
        let Some(last) = scratch.zones.last() else { break };
        next = Bytes(last.start.0.saturating_add(last.len.0));
        for zone in &scratch.zones {
            scratch.bytes.extend_from_slice(Descriptor::from(zone).as_bytes());
        }
        put(Bytes(ENTRY * (1 + nr_zones as u64)), &scratch.bytes)?;
        nr_zones += scratch.zones.len();
    }
    let mut header = [0; ENTRY_BYTES];
    header[..8].copy_from_slice(&(nr_zones as u64).to_le_bytes());
    put(Bytes(0), &header)?;
    Ok(Bytes(ENTRY * (1 + nr_zones as u64)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::units::ZoneIndex;
    use crate::virtio::testing::geometry;

    /// The first zone is conventional, the second holds 8 sectors, the others are empty.
    fn info(index: u32) -> ZoneInfo {
        let geometry = geometry();
        let zone = ZoneIndex(index);
        let start = geometry.start(zone);
        let (state, written) = match index {
            0 => (State::NotWp, 0),
            1 => (State::ImplicitOpen, 4096),
            _ => (State::Empty, 0),
        };
        ZoneInfo {
            index: zone,
            kind: geometry.kind(zone),
            state,
            start,
            len: geometry.len(zone),
            capacity: geometry.capacity(zone),
            write_pointer: Bytes(start.0 + written),
        }
    }

    fn report(start: u64, len: u64) -> Result<(Bytes, Vec<u8>), RequestError> {
        let geometry = geometry();
        let mut buffer = vec![0xaa; len as usize];
        let written = write_report(
            &geometry,
            Sector(start),
            Bytes(len),
            &mut Scratch::default(),
            |from, max, out| {
                let first = geometry.zone_at(from.to_bytes().unwrap()).unwrap().0;
                // Fewer than asked for at a time, as a store may answer.
                out.extend((first..geometry.nr_zones()).take(max.min(5)).map(info));
                Ok(())
            },
            |offset, bytes| {
                buffer[offset.0 as usize..][..bytes.len()].copy_from_slice(bytes);
                Ok(bytes.len())
            },
        )?;
        Ok((written, buffer))
    }

    fn le64(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    #[test]
    fn a_descriptor_has_its_fields_where_the_specification_puts_them() {
        let (written, bytes) = report(0, 64 * 3).unwrap();
        assert_eq!(written, Bytes(64 * 3));
        assert_eq!(le64(&bytes, 0), 2);
        assert!(bytes[8..64].iter().all(|byte| *byte == 0));
        let (conventional, sequential) = (&bytes[64..128], &bytes[128..]);
        let zone_sectors = (64 << 20) / 512;
        assert_eq!([le64(conventional, 0), le64(conventional, 8)], [zone_sectors, 0]);
        assert_eq!(conventional[24..26], [1, 0]);
        assert_eq!(le64(sequential, 0), (48 << 20) / 512, "capacity in sectors");
        assert_eq!([le64(sequential, 8), le64(sequential, 16)], [zone_sectors, zone_sectors + 8]);
        assert_eq!(sequential[24..26], [2, 2]);
        assert!(sequential[26..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_report_reads_as_it_was_written_and_nothing_else_reads_as_one() {
        let (_, bytes) = report(0, 64 * 4).unwrap();
        let read = |bytes: &[u8]| read_report(&geometry(), bytes);
        assert_eq!(read(&bytes).unwrap(), [0, 1, 2].map(info));
        assert_eq!(read(&bytes[..64 * 4 - 1]), None, "cut short");
        assert_eq!(read(&bytes[..63]), None, "no header");
        // The number of zones, the start, the type and the state of the first.
        for at in [7, 64 + 8, 64 + 24, 64 + 25] {
            let mut wrong = bytes.clone();
            wrong[at] = 77;
            assert_eq!(read(&wrong), None, "byte {at}");
        }
    }

    #[test]
    fn nr_zones_is_what_fits_and_what_is_there() {
        for (len, zones) in [(64, 0), (127, 0), (128, 1), (64 * 8 + 63, 7), (1 << 16, 12)] {
            let (written, bytes) = report(0, len).unwrap();
            assert_eq!((le64(&bytes, 0), written.0), (zones, 64 + 64 * zones), "buffer of {len}");
            assert!(bytes[written.0 as usize..].iter().all(|byte| *byte == 0xaa), "nothing behind it is touched");
        }
    }

    #[test]
    fn a_sector_inside_a_zone_reports_from_that_zone() {
        let zone_sectors = (64 << 20) / 512;
        let (_, bytes) = report(zone_sectors * 3 + 17, 1 << 16).unwrap();
        assert_eq!((le64(&bytes, 0), le64(&bytes, 64 + 8)), (9, zone_sectors * 3));
    }

    #[test]
    fn a_buffer_without_room_for_the_header_and_a_start_beyond_the_end_are_invalid() {
        assert_eq!(report(0, 63).unwrap_err(), RequestError::ReportTooShort(Bytes(63)));
        assert_eq!(report((768 << 20) / 512, 4096).unwrap_err(), RequestError::ReportBeyondEnd);
        assert_eq!(report(u64::MAX, 4096).unwrap_err(), RequestError::ReportBeyondEnd);
    }
}
