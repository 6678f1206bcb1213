//! The bytes of a log: what is put in comes out, and no damage is taken for a record.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::format::{
    HEAD_BYTES, HEADER_BYTES, Header, HeaderError, Packed, ZERO_BLOCK, check_of, encode, pointers_digest,
};
use super::*;
use crate::observe::Kind;
use crate::store::Tag;
use crate::units::{Bytes, ZoneIndex};
use crate::virtio::status::Status;
use crate::zone::testing::geometry;

fn header() -> Header {
    Header::new(&geometry(8, 2), Bytes(4096), 17)
}

fn log(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = header().as_bytes().to_vec();
    for (number, entry) in entries.iter().enumerate() {
        encode(entry, number as u64, number as u64 * 10, &mut bytes);
    }
    bytes
}

/// The records of a log up to where it ends or is damaged, how many bytes are left over, and whether it is damaged.
fn read(bytes: &[u8]) -> Result<(Vec<Entry>, u64, bool), ReadError> {
    let mut reader = Reader::new(bytes)?;
    let mut entries = Vec::new();
    loop {
        match reader.read() {
            Ok(Some(record)) => {
                assert_eq!((record.number, record.time_ns), (entries.len() as u64, entries.len() as u64 * 10));
                entries.push(record.entry);
            }
            Ok(None) => return Ok((entries, reader.left_over(), false)),
            Err(ReadError::Damaged { number, .. }) => {
                assert_eq!(number, entries.len() as u64);
                return Ok((entries, reader.left_over(), true));
            }
            Err(other) => return Err(other),
        }
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..300)
}

fn pointers() -> impl Strategy<Value = Vec<(ZoneIndex, Bytes)>> {
    proptest::collection::vec((any::<u32>().prop_map(ZoneIndex), any::<u64>().prop_map(Bytes)), 0..8)
}

fn place() -> impl Strategy<Value = Bytes> {
    (0..u64::MAX).prop_map(Bytes)
}

fn tag() -> impl Strategy<Value = Option<Tag>> {
    proptest::option::of((0..u16::MAX, any::<u16>()).prop_map(|(queue, slot)| Tag { queue, slot }))
}

fn accept() -> impl Strategy<Value = Entry> {
    let kind = proptest::sample::select(&Kind::ALL[..]);
    let zone = proptest::option::of((0..u32::MAX).prop_map(ZoneIndex));
    let accepted = |(tag, kind, zone, place, len)| Entry::Accept(Accepted { tag, kind, zone, place, len });
    (tag(), kind, zone, place(), any::<u32>()).prop_map(accepted)
}

fn data() -> impl Strategy<Value = Entry> {
    let run = (0..1000u32, proptest::collection::vec(any::<u8>(), 1..100)).prop_map(|(at, bytes)| Run { at, bytes });
    (0..u64::MAX, 0..u64::MAX, proptest::collection::vec(run, 0..3))
        .prop_map(|(of, at, runs)| Entry::Data(Data { of, at, len: 2000, runs }))
}

fn entry() -> impl Strategy<Value = Entry> {
    let number = || 0..u64::MAX;
    let status = proptest::sample::select(&Status::ALL[..]);
    prop_oneof![
        accept(),
        data(),
        (number(), place()).prop_map(|(of, good)| Entry::Failed { of, good }),
        (number(), status, proptest::option::of(place())).prop_map(|(of, status, appended)| Entry::Answer {
            of,
            status,
            appended
        }),
        (0..u16::MAX).prop_map(|queue| Entry::Flush { queue }),
        ".{0,40}".prop_map(Entry::Mark),
        (proptest::option::of(number()), ".{0,40}").prop_map(|(of, text)| Entry::Fault { of, text }),
        Just(Entry::DeviceReset),
        (place(), bytes()).prop_map(|(at, content)| Entry::Block { at, content }),
        (place(), bytes()).prop_map(|(at, content)| Entry::Poked { at, content }),
        (any::<bool>(), pointers()).prop_map(|(fails, pointers)| Entry::Cut { fails, pointers }),
        (number(), pointers()).prop_map(|(generation, pointers)| Entry::Session { generation, pointers }),
        Just(Entry::End(Ended::Orderly)),
    ]
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    proptest::collection::vec(entry(), 0..8)
}

proptest! {
    #[test]
    fn a_log_says_what_was_put_into_it(entries in entries()) {
        prop_assert_eq!(read(&log(&entries)).unwrap(), (entries, 0, false));
    }

    #[test]
    fn a_log_that_is_cut_short_is_read_to_its_last_whole_record(entries in entries(), at in any::<proptest::sample::Index>()) {
        let bytes = log(&entries);
        let ends: Vec<usize> = (0..=entries.len()).map(|count| log(&entries[..count]).len()).collect();
        let cut = HEADER_BYTES + at.index(bytes.len() - HEADER_BYTES + 1);
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        let expected = (entries[..whole].to_vec(), (cut - ends[whole]) as u64, false);
        prop_assert_eq!(read(&bytes[..cut]).unwrap(), expected);
    }

    #[test]
    fn no_damaged_byte_makes_a_record(entries in entries(), at in any::<proptest::sample::Index>(), flip in 1u8..) {
        let mut bytes = log(&entries);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        match read(&bytes) {
            Err(ReadError::Header(_)) => prop_assert!(at < HEADER_BYTES),
            Err(other) => panic!("{other}"),
            Ok((found, left_over, damaged)) => {
                prop_assert!(damaged || left_over != 0, "byte {at} is wrong, and nobody says so");
                prop_assert_eq!(&found[..], &entries[..found.len()]);
                prop_assert!(log(&found).len() <= at, "the record with the wrong byte");
            }
        }
    }

    #[test]
    fn any_bytes_behind_a_header_make_no_record_and_no_panic(tail in bytes(), entries in entries()) {
        let mut bytes = log(&entries);
        bytes.extend_from_slice(&tail);
        let (found, left_over, damaged) = read(&bytes).unwrap();
        prop_assert_eq!(&found[..], &entries[..]);
        prop_assert!(tail.is_empty() || damaged || left_over as usize == tail.len());
        let _ = read(&tail);
    }

    #[test]
    fn records_are_read_in_their_order_and_none_may_be_missing(entries in entries(), a in any::<proptest::sample::Index>()) {
        prop_assume!(entries.len() > 1);
        let gone = a.index(entries.len() - 1);
        let (first, second) = (log(&entries[..gone]).len(), log(&entries[..=gone]).len());
        let mut bytes = log(&entries);
        bytes.drain(first..second);
        prop_assert_eq!(read(&bytes).unwrap(), (entries[..gone].to_vec(), 0, true));
    }

    #[test]
    fn packed_data_is_what_was_packed_without_its_blocks_of_zeros(
        blocks in proptest::collection::vec(any::<bool>(), 0..6),
        rest in 0..ZERO_BLOCK,
    ) {
        let mut written: Vec<u8> = blocks.iter().flat_map(|data| vec![u8::from(*data); ZERO_BLOCK]).collect();
        written.extend(vec![7; rest]);
        let mut packed = Packed::default();
        packed.pack(|bytes| bytes.extend_from_slice(b"something before"));
        packed.pack(|bytes| bytes.extend_from_slice(&written));
        let mut bytes = header().as_bytes().to_vec();
        packed.encode(3, 512, 0, 0, &mut bytes);
        let data = blocks.iter().filter(|data| **data).count() * ZERO_BLOCK + rest;
        prop_assert!(bytes.len() <= HEADER_BYTES + HEAD_BYTES + data + 8 * (blocks.len() + 1));
        let (entries, ..) = read(&bytes).unwrap();
        let Entry::Data(Data { of: 3, at: 512, len, runs }) = &entries[0] else { panic!("{entries:?}") };
        let mut unpacked = vec![0; *len as usize];
        for Run { at, bytes } in runs {
            unpacked[*at as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        prop_assert_eq!(unpacked, written);
    }

    #[test]
    fn another_value_of_one_byte_is_another_check(content in bytes(), at in any::<proptest::sample::Index>(), flip in 1u8..) {
        prop_assume!(!content.is_empty());
        let mut other = content.clone();
        other[at.index(content.len())] ^= flip;
        prop_assert_ne!(check_of(&content), check_of(&other));
        other.copy_from_slice(&content);
        other.push(0);
        prop_assert_ne!(check_of(&content), check_of(&other), "a zero more");
    }
}

#[test]
fn a_header_is_known_by_its_magic_its_version_and_its_check() {
    let good = header();
    assert_eq!(Header::parse(good.as_bytes()), Ok(good));
    let parse = |at: usize, to: u8| {
        let mut bytes = good.as_bytes().to_vec();
        bytes[at] = to;
        Header::parse(&bytes)
    };
    assert_eq!(parse(0, b'Q'), Err(HeaderError::Magic));
    assert_eq!(parse(8, 9), Err(HeaderError::Version(9)));
    assert_eq!(parse(20, 9), Err(HeaderError::Damaged));
    assert_eq!(Header::parse(&good.as_bytes()[1..]), Err(HeaderError::Magic));
}

#[test]
fn a_log_of_a_disk_of_another_shape_is_refused_by_what_differs() {
    let other = |geometry, block| header().check_same(&geometry, Bytes(block)).map_err(|error| error.to_string());
    assert_eq!(other(geometry(8, 2), 4096), Ok(()));
    let block = "a recording of another disk, whose block size is 4096: expected 512";
    assert_eq!(other(geometry(8, 2), 512), Err(block.to_owned()));
    let zones = "a recording of another disk, whose conventional_zones is 2: expected 1";
    assert_eq!(other(geometry(8, 1), 4096), Err(zones.to_owned()));
    assert!(other(geometry(9, 2), 4096).unwrap_err().contains("whose size is"));
}

#[test]
fn the_digest_of_pointers_is_that_of_their_set() {
    let [a, b, c] = [(1, 4096), (2, 4096), (1, 8192)].map(|(zone, pointer)| (ZoneIndex(zone), Bytes(pointer)));
    assert_eq!(pointers_digest([a, b]), pointers_digest([b, a]));
    let all = [vec![], vec![a], vec![b], vec![c], vec![a, b], vec![b, c]];
    let digests: std::collections::BTreeSet<u64> = all.iter().map(|set| pointers_digest(set.iter().copied())).collect();
    assert_eq!(digests.len(), all.len());
}

#[test]
fn nothing_is_read_behind_the_record_that_says_that_the_log_was_not_written_on() {
    let mut bytes = log(&[Entry::DeviceReset, Entry::End(Ended::NotWritten)]);
    bytes.extend_from_slice(b"what was there before");
    assert_eq!(read(&bytes).unwrap(), (vec![Entry::DeviceReset, Entry::End(Ended::NotWritten)], 0, false));
}
