use super::*;
use crate::store::ZoneInfo;
use crate::units::ZoneIndex;
use crate::virtio::status::Malformed;

/// Zone 1 of a disk of eight zones of 1 MiB (2048 sectors), of which 1536 sectors can be written.
fn zone(state: State, pointer: u64, next: u64) -> ZoneNow {
    let kind = if state == State::NotWp { ZoneKind::Conventional } else { ZoneKind::SequentialWriteRequired };
    let info = ZoneInfo {
        index: ZoneIndex(1),
        kind,
        state,
        start: Bytes(1 << 20),
        len: Bytes(1 << 20),
        capacity: Bytes(768 << 10),
        write_pointer: Bytes(pointer * 512),
    };
    ZoneNow { info, next_write: Bytes(next * 512) }
}

fn refused(request: Request, error: impl Into<RequestError>, zone: ZoneNow) -> Refused {
    Refused {
        request: Some(request),
        error: error.into(),
        zone: Some(zone),
        usage: Usage { open: 2, max_open: 2, active: 3, max_active: 3 },
        block: Bytes(4096),
        max_append: Bytes(65536),
        disk: Bytes(8 << 20),
        fault: None,
    }
}

fn write(start: u64, sectors: u64) -> Request {
    Request::Out { start: Sector(start), len: Bytes(sectors * 512) }
}

fn append(start: u64, sectors: u64) -> Request {
    Request::Append { zone: Sector(start), len: Bytes(sectors * 512) }
}

fn manage(action: Action, at: u64) -> Request {
    Request::Manage { action, zone: Sector(at) }
}

#[test]
fn each_rule_that_is_broken_is_named_with_what_came_and_what_was_expected() {
    use State::{Closed, Empty, Full, ImplicitOpen, NotWp, Offline, ReadOnly};
    let (invalid, unaligned) = (ZoneRefusal::InvalidCommand, ZoneRefusal::UnalignedWrite);
    let store = |refusal: ZoneRefusal| RequestError::from(Refusal::from(refusal));
    let open = || zone(ImplicitOpen, 2056, 2056);
    let table = [
        (
            refused(write(2064, 8), store(unaligned), open()),
            Rule::WritePointer,
            "write at 2064 of 8 sectors: ZONE_UNALIGNED_WP: zone 1 is implicit-open, its write pointer is 2056: \
             expected a write at 2056",
        ),
        (
            refused(write(2056, 8), store(unaligned), zone(ImplicitOpen, 2056, 2072)),
            Rule::WritePointer,
            "write at 2056 of 8 sectors: ZONE_UNALIGNED_WP: zone 1 is implicit-open, its write pointer is 2056, writes \
             in flight end at 2072: expected a write at 2072",
        ),
        (
            refused(write(2056, 3), store(unaligned), open()),
            Rule::BlockSize,
            "write at 2056 of 3 sectors: ZONE_UNALIGNED_WP: expected a multiple of 8 sectors, the block size of 4096 \
             bytes",
        ),
        (
            refused(append(2048, 3), store(unaligned), open()),
            Rule::BlockSize,
            "append to 2048 of 3 sectors: ZONE_UNALIGNED_WP: expected a multiple of 8 sectors, the block size of 4096 \
             bytes",
        ),
        (
            refused(write(3576, 16), store(invalid), zone(ImplicitOpen, 3576, 3576)),
            Rule::Capacity,
            "write at 3576 of 16 sectors: ZONE_INVALID_CMD: zone 1 is implicit-open, its write pointer is 3576, and it \
             can be written up to 3584: expected at most 8 sectors",
        ),
        (
            refused(append(2048, 8), store(invalid), zone(Full, 3584, 3584)),
            Rule::ZoneFull,
            "append to 2048 of 8 sectors: ZONE_INVALID_CMD: zone 1 is full: expected it to be reset first",
        ),
        (
            refused(write(4088, 16), store(invalid), open()),
            Rule::ZoneBorder,
            "write at 4088 of 16 sectors: ZONE_INVALID_CMD: zone 1 ends at 4096: expected a request within one zone",
        ),
        (
            refused(write(2048, 8), store(invalid), zone(ReadOnly, 2048, 2048)),
            Rule::ZoneState,
            "write at 2048 of 8 sectors: ZONE_INVALID_CMD: zone 1 is read-only",
        ),
        (
            refused(Request::In { start: Sector(4088), len: Bytes(8192) }, store(invalid), open()),
            Rule::ZoneBorder,
            "read at 4088 of 16 sectors: ZONE_INVALID_CMD: zone 1 ends at 4096: expected a request within one zone",
        ),
        (
            refused(Request::In { start: Sector(2048), len: Bytes(512) }, store(invalid), zone(Offline, 2048, 2048)),
            Rule::ZoneState,
            "read at 2048 of 1 sectors: ZONE_INVALID_CMD: zone 1 is offline",
        ),
        (
            refused(append(2056, 8), store(invalid), open()),
            Rule::ZoneStart,
            "append to 2056 of 8 sectors: ZONE_INVALID_CMD: expected the first sector of a zone: zone 1 begins at 2048",
        ),
        (
            refused(append(2048, 136), store(invalid), open()),
            Rule::AppendLength,
            "append to 2048 of 136 sectors: ZONE_INVALID_CMD: expected at most 128 sectors in an append",
        ),
        (
            refused(append(2048, 136), RequestError::AppendTooLong(Bytes(136 * 512)), open()),
            Rule::AppendLength,
            "append to 2048 of 136 sectors: ZONE_INVALID_CMD: expected at most 128 sectors in an append",
        ),
        (
            refused(manage(Action::Reset, 2048), store(invalid), zone(NotWp, 2048, 2048)),
            Rule::Conventional,
            "reset of 2048: ZONE_INVALID_CMD: zone 1 is conventional and has no write pointer",
        ),
        (
            refused(manage(Action::Close, 2048), store(invalid), zone(Empty, 2048, 2048)),
            Rule::ZoneState,
            "close of 2048: ZONE_INVALID_CMD: zone 1 is empty: expected an open or closed one",
        ),
        (
            refused(manage(Action::Open, 2048), store(invalid), zone(Full, 3584, 3584)),
            Rule::ZoneState,
            "open of 2048: ZONE_INVALID_CMD: zone 1 is full: expected an empty, open or closed one",
        ),
        (
            refused(manage(Action::Open, 2048), store(ZoneRefusal::OpenResource), zone(Closed, 2056, 2056)),
            Rule::OpenLimit,
            "open of 2048: ZONE_OPEN_RESOURCE: 2 zones are open, none of them implicitly, and 2 may be: close, finish \
             or reset one first",
        ),
        (
            refused(write(2048, 8), store(ZoneRefusal::ActiveResource), zone(Empty, 2048, 2048)),
            Rule::ActiveLimit,
            "write at 2048 of 8 sectors: ZONE_ACTIVE_RESOURCE: 3 zones are active, and 3 may be: finish or reset one \
             first",
        ),
        (
            refused(write(2048, 8), Refusal::ReadOnly, open()),
            Rule::ReadOnlyDisk,
            "write at 2048 of 8 sectors: IOERR: the disk is read-only",
        ),
        (
            refused(write(2048, 8), Refusal::Io, open()),
            Rule::HostIo,
            "write at 2048 of 8 sectors: IOERR: input/output error of the image file",
        ),
        (
            refused(write(2048, 8), Refusal::NoPower, open()),
            Rule::Power,
            "write at 2048 of 8 sectors: IOERR: the power is off",
        ),
    ];
    for (refused, rule, text) in table {
        assert_eq!((refused.rule(), refused.to_string().as_str()), (rule, text));
    }
}

#[test]
fn a_request_in_no_zone_is_explained_too() {
    let nowhere = |request, error| Refused {
        request,
        error,
        zone: None,
        ..refused(Request::Flush, error, zone(State::Full, 0, 0))
    };
    let table = [
        (
            nowhere(Some(write(16384, 8)), RequestError::Refused(Refusal::BadRange)),
            "write at 16384 of 8 sectors: IOERR: expected whole sectors below 16384, the end of the disk",
        ),
        (
            nowhere(Some(manage(Action::Reset, 99999)), Refusal::from(ZoneRefusal::InvalidCommand).into()),
            "reset of 99999: ZONE_INVALID_CMD: invalid zone command",
        ),
        (
            nowhere(None, RequestError::Malformed(Malformed::ShortHeader)),
            "a request: IOERR: malformed request: the header is too short",
        ),
        (
            nowhere(Some(Request::Report { start: Sector(16384), len: Bytes(128) }), RequestError::ReportBeyondEnd),
            "report from 16384: ZONE_INVALID_CMD: expected whole sectors below 16384, the end of the disk",
        ),
    ];
    for (refused, text) in table {
        assert_eq!(refused.to_string(), text);
    }
}

#[test]
fn where_a_request_should_have_begun_is_known() {
    let store = |refusal: ZoneRefusal| RequestError::from(Refusal::from(refusal));
    let open = || zone(State::ImplicitOpen, 2056, 2072);
    let expected = |request, refusal| refused(request, store(refusal), open()).expected();
    assert_eq!(expected(write(2056, 8), ZoneRefusal::UnalignedWrite), Some(Sector(2072)));
    assert_eq!(expected(append(2056, 8), ZoneRefusal::InvalidCommand), Some(Sector(2048)));
    assert_eq!(expected(write(2072, 3), ZoneRefusal::UnalignedWrite), None);
}

#[test]
fn rules_have_numbers_and_names_of_their_own() {
    for rule in Rule::ALL {
        assert_eq!(Rule::from_number(rule as u8), Some(rule));
        assert_eq!(Rule::ALL.iter().filter(|other| other.name() == rule.name()).count(), 1);
    }
    assert_eq!(Rule::from_number(0), None);
}
