#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes as _, GuestAddress};

use super::*;
use crate::virtio::memory::Memory;
use crate::virtio::testing::{Buffer, descriptors, memory, parse, parse_raw};

const HEADER: u64 = 0x1000;
const DATA: u64 = 0x10000;
const STATUS: u64 = 0x7000;

fn put_header(mem: &Memory, kind: u32, sector: u64) {
    mem.write_slice(&kind.to_le_bytes(), GuestAddress(HEADER)).unwrap();
    mem.write_slice(&[0xee; 4], GuestAddress(HEADER + 4)).unwrap();
    mem.write_slice(&sector.to_le_bytes(), GuestAddress(HEADER + 8)).unwrap();
}

fn byte(mem: &Memory, addr: u64) -> u8 {
    mem.read_obj(GuestAddress(addr)).unwrap()
}

/// Cuts `len` bytes from `addr` at the given places.
fn cut(addr: u64, len: u32, cuts: &[u32], writable: bool) -> Vec<Buffer> {
    let mut places: Vec<u32> = cuts.iter().map(|cut| cut % (len + 1)).chain([0, len]).collect();
    places.sort_unstable();
    places.windows(2).map(|pair| (addr + u64::from(pair[0]), pair[1] - pair[0], writable)).collect()
}

/// The resolved data as offsets into guest memory, adjacent pieces joined.
fn resolved(mem: &Memory, buffers: &Buffers, direction: Direction) -> Vec<(u64, usize)> {
    let base = mem.slices(GuestAddress(0), 1).next().unwrap().unwrap().ptr_guard().as_ptr() as u64;
    let mut iovecs = Vec::new();
    buffers.resolve(mem, direction, &mut iovecs).unwrap();
    let mut joined: Vec<(u64, usize)> = Vec::new();
    for iovec in iovecs {
        let at = iovec.iov_base as u64 - base;
        match joined.last_mut() {
            Some((start, len)) if *start + *len as u64 == at => *len += iovec.iov_len,
            _ => joined.push((at, iovec.iov_len)),
        }
    }
    joined
}

proptest! {
    /// 2.7.4: a device makes no assumption about how a request is cut into descriptors.
    #[test]
    fn a_write_is_the_same_in_any_framing(
        header_cuts in prop::collection::vec(0u32..17, 0..6),
        data_cuts in prop::collection::vec(0u32..4097, 0..8),
        join in any::<bool>(),
    ) {
        let mem = memory();
        put_header(&mem, 1, 77);
        let mut chain = cut(HEADER, 16, &header_cuts, false);
        if join {
            // Header and data in one descriptor.
            let len = chain.last().unwrap().1;
            let addr = chain.last().unwrap().0;
            chain.pop();
            chain.extend(cut(addr, len + 4096, &data_cuts, false));
        } else {
            chain.extend(cut(DATA, 4096, &data_cuts, false));
        }
        chain.push((STATUS, 1, true));
        let (buffers, request) = parse(&mem, &chain);
        prop_assert_eq!(request, Ok(Request::Out { start: Sector(77), len: Bytes(4096) }));
        let at = if join { HEADER + 16 } else { DATA };
        prop_assert_eq!(resolved(&mem, &buffers, Direction::Readable), vec![(at, 4096)]);
        prop_assert!(buffers.put_status(&mem, Status::ZoneUnalignedWrite));
        prop_assert_eq!(byte(&mem, STATUS), 4);
    }

    /// 5.2.6: the status is the last device-writable byte, wherever the descriptors end.
    #[test]
    fn a_read_has_its_status_in_the_last_writable_byte(
        cuts in prop::collection::vec(0u32..1026, 0..8),
    ) {
        let mem = memory();
        put_header(&mem, 0, 5);
        let mut chain = vec![(HEADER, 16, false)];
        chain.extend(cut(DATA, 1025, &cuts, true));
        let (buffers, request) = parse(&mem, &chain);
        prop_assert_eq!(request, Ok(Request::In { start: Sector(5), len: Bytes(1024) }));
        prop_assert_eq!(resolved(&mem, &buffers, Direction::Writable), vec![(DATA, 1024)]);
        mem.write_slice(&[0xff; 1025], GuestAddress(DATA)).unwrap();
        prop_assert_eq!(buffers.write(&mem, Bytes(1000), &[7; 100]), Ok(24));
        prop_assert!(buffers.put_status(&mem, Status::Ok));
        prop_assert_eq!((byte(&mem, DATA + 999), byte(&mem, DATA + 1023), byte(&mem, DATA + 1024)), (0xff, 7, 0));
    }

    /// Whatever a guest puts into the ring, parsing ends without a panic and touches only guest memory.
    #[test]
    fn no_chain_of_any_kind_panics(
        raw in prop::collection::vec(
            (prop_oneof![0u64..0x200000, any::<u64>()], prop_oneof![0u32..5000, any::<u32>()], 0u16..8, 0u16..12),
            1..10,
        ),
        kind in 0u32..30,
    ) {
        let mem = memory();
        put_header(&mem, kind, 0);
        let chain: Vec<Descriptor> =
            raw.iter().map(|(addr, len, flags, next)| Descriptor::new(*addr, *len, *flags, *next)).collect();
        let (buffers, request) = parse_raw(&mem, &chain);
        if buffers.put_status(&mem, Status::IoErr) {
            let mut iovecs = Vec::new();
            let _ = buffers.resolve(&mem, Direction::Writable, &mut iovecs);
            let _ = buffers.write(&mem, Bytes(3), &[0; 64]);
        } else {
            prop_assert!(request.is_err());
        }
    }
}

#[test]
fn every_type_is_recognised() {
    let mem = memory();
    let manage = |action| Ok(Request::Manage { action, zone: Sector(8) });
    let table = [
        (4, Ok(Request::Flush)),
        (8, Ok(Request::GetId)),
        (16, Ok(Request::Report { start: Sector(8), len: Bytes(64) })),
        (18, manage(Action::Open)),
        (20, manage(Action::Close)),
        (22, manage(Action::Finish)),
        (24, manage(Action::Reset)),
        (26, Ok(Request::ResetAll)),
        (11, Err(RequestError::Unknown(11))),
        (13, Err(RequestError::Unknown(13))),
        (0x8000_0000, Err(RequestError::Unknown(0x8000_0000))),
    ];
    for (kind, expected) in table {
        put_header(&mem, kind, 8);
        let (buffers, request) = parse(&mem, &[(HEADER, 16, false), (DATA, 65, true)]);
        assert_eq!(request, expected, "type {kind}");
        assert!(buffers.can_answer());
    }
}

#[test]
fn an_append_needs_eight_bytes_for_its_sector_and_may_have_more() {
    let mem = memory();
    put_header(&mem, 15, 8);
    let expected = Ok(Request::Append { zone: Sector(8), len: Bytes(4096) });
    // As Linux sends it: 8 bytes of sector, 7 unused, status.
    let (buffers, request) = parse(&mem, &[(HEADER, 16, false), (DATA, 4096, false), (STATUS, 16, true)]);
    assert_eq!(request, expected);
    assert_eq!(buffers.write(&mem, Bytes(0), &0x1234u64.to_le_bytes()), Ok(8));
    assert!(buffers.put_status(&mem, Status::Ok));
    assert_eq!((byte(&mem, STATUS), byte(&mem, STATUS + 1), byte(&mem, STATUS + 15)), (0x34, 0x12, 0));
    // As the specification draws it.
    let (_, request) =
        parse(&mem, &[(HEADER, 16, false), (DATA, 4096, false), (STATUS, 8, true), (STATUS + 8, 1, true)]);
    assert_eq!(request, expected);
    let (buffers, request) = parse(&mem, &[(HEADER, 16, false), (DATA, 4096, false), (STATUS, 8, true)]);
    assert_eq!(request, Err(Malformed::NoAppendSector.into()));
    assert!(buffers.can_answer());
}

#[test]
fn a_malformed_chain_is_answered_where_a_status_can_be_written() {
    let mem = memory();
    put_header(&mem, 0, 0);
    let outside = 1 << 20;
    let table: [(&[Buffer], Malformed, bool); 11] = [
        (&[(HEADER, 16, false)], Malformed::NoStatus, false),
        (&[(HEADER, 16, false), (STATUS, 0, true)], Malformed::NoStatus, false),
        (&[(HEADER, 15, false), (STATUS, 1, true)], Malformed::ShortHeader, true),
        (&[(STATUS, 1, true)], Malformed::ShortHeader, true),
        (&[(STATUS, 1, true), (HEADER, 16, false)], Malformed::Direction, true),
        (&[(HEADER, 16, false), (DATA, 512, false), (STATUS, 1, true)], Malformed::Direction, true),
        (&[(outside, 16, false), (STATUS, 1, true)], Malformed::OutsideMemory, true),
        (&[(HEADER, 16, false), (outside, 1, true)], Malformed::OutsideMemory, false),
        (&[(HEADER, 16, false), (outside - 1, 2, true)], Malformed::OutsideMemory, false),
        (&[(HEADER, 16, false), (u64::MAX, 2, true)], Malformed::OutsideMemory, false),
        (&[(HEADER, 16, false), (0, u32::MAX / 2, true), (STATUS, 1, true)], Malformed::TooLong(MAX_DATA), true),
    ];
    for (chain, expected, answered) in table {
        let (buffers, request) = parse(&mem, chain);
        assert_eq!(request, Err(expected.into()), "{chain:x?}");
        assert_eq!(buffers.can_answer(), answered, "{chain:x?}");
    }
}

#[test]
fn data_outside_memory_is_found_before_any_of_it_is_used() {
    let mem = memory();
    put_header(&mem, 0, 0);
    let (buffers, request) = parse(&mem, &[(HEADER, 16, false), ((1 << 20) - 512, 1024, true), (STATUS, 1, true)]);
    assert_eq!(request, Ok(Request::In { start: Sector(0), len: Bytes(1024) }));
    let mut iovecs = Vec::new();
    assert_eq!(buffers.resolve(&mem, Direction::Writable, &mut iovecs), Err(Malformed::OutsideMemory));
}

#[test]
fn a_write_with_room_for_data_from_the_device_is_refused() {
    let mem = memory();
    put_header(&mem, 1, 0);
    let (_, request) = parse(&mem, &[(HEADER, 16, false), (DATA, 512, false), (STATUS, 2, true)]);
    assert_eq!(request, Err(Malformed::Direction.into()));
}

#[test]
fn a_chain_without_an_end_is_not_a_request() {
    let mem = memory();
    put_header(&mem, 1, 0);
    let mut looping = descriptors(&[(HEADER, 16, false), (DATA, 512, false), (STATUS, 1, true)]);
    looping[2] = Descriptor::new(STATUS, 1, 3, 2);
    let mut leading_out = looping.clone();
    leading_out[2] = Descriptor::new(STATUS, 1, 3, 2048);
    let indirect_in_nothing = [Descriptor::new(1 << 20, 32, 4, 0)];
    let indirect_of_odd_size = [Descriptor::new(0x2000, 33, 4, 0)];
    for chain in [&looping[..], &leading_out, &indirect_in_nothing, &indirect_of_odd_size] {
        let (buffers, request) = parse_raw(&mem, chain);
        assert!(
            matches!(request, Err(RequestError::Malformed(Malformed::NoEnd | Malformed::TooMany(_)))),
            "{request:?}"
        );
        assert!(!buffers.can_answer());
    }
}

#[test]
fn an_indirect_table_is_followed_alone_and_behind_direct_descriptors() {
    let mem = memory();
    put_header(&mem, 1, 9);
    let table = descriptors(&[(HEADER, 16, false), (DATA, 512, false), (STATUS, 1, true)]);
    for (index, descriptor) in table.iter().enumerate() {
        mem.write_obj(*descriptor, GuestAddress(0x2000 + 16 * index as u64)).unwrap();
    }
    let expected = Ok(Request::Out { start: Sector(9), len: Bytes(512) });
    let (_, request) = parse_raw(&mem, &[Descriptor::new(0x2000, 48, 4, 0)]);
    assert_eq!(request, expected);
    // 2.7.5.3.2: direct descriptors may come before the indirect one.
    let rest = descriptors(&[(DATA, 512, false), (STATUS, 1, true)]);
    for (index, descriptor) in rest.iter().enumerate() {
        mem.write_obj(*descriptor, GuestAddress(0x3000 + 16 * index as u64)).unwrap();
    }
    let (_, request) = parse_raw(&mem, &[Descriptor::new(HEADER, 16, 1, 1), Descriptor::new(0x3000, 32, 4, 0)]);
    assert_eq!(request, expected);
    // 2.7.5.3.1: a table in a table is not allowed.
    mem.write_obj(Descriptor::new(0x2000, 48, 4, 0), GuestAddress(0x4000)).unwrap();
    let (_, request) = parse_raw(&mem, &[Descriptor::new(0x4000, 16, 4, 0)]);
    assert_eq!(request, Err(Malformed::NoEnd.into()));
}

#[test]
fn more_descriptors_than_any_request_needs_are_refused() {
    let mem = memory();
    put_header(&mem, 1, 0);
    let mut chain = vec![(HEADER, 16, false)];
    chain.extend((0..MAX_DESCRIPTORS as u64).map(|index| (DATA + index, 1, false)));
    chain.push((STATUS, 1, true));
    let (buffers, request) = parse(&mem, &chain);
    assert_eq!(request, Err(Malformed::TooMany(MAX_DESCRIPTORS).into()));
    assert!(!buffers.can_answer());
}
