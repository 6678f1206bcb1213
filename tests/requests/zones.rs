//! ZONE_OPEN, ZONE_CLOSE, ZONE_FINISH, ZONE_RESET and ZONE_RESET_ALL.

use crate::common::MIB;
use crate::common::cli::SMALL;
use crate::common::disk::{Disk, Setup};
use crate::common::model::{assert_ok, assert_same, pattern};
use crate::common::request::{MANAGEMENT, Req, State, Status, kind};

const SEQ: usize = 2;

/// A zone that has been brought into a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prepared {
    Empty,
    ImplicitOpen,
    ExplicitOpenEmpty,
    ExplicitOpenWritten,
    Closed,
    FullWritten,
    FullFinished,
    FullFinishedEmpty,
}

use Prepared::*;

/// Every state a driver can bring a sequential zone into.
pub(crate) const ALL: [Prepared; 8] =
    [Empty, ImplicitOpen, ExplicitOpenEmpty, ExplicitOpenWritten, Closed, FullWritten, FullFinished, FullFinishedEmpty];

impl Prepared {
    pub(crate) fn state(self) -> State {
        match self {
            Empty => State::Empty,
            ImplicitOpen => State::ImplicitOpen,
            ExplicitOpenEmpty | ExplicitOpenWritten => State::ExplicitOpen,
            Closed => State::Closed,
            FullWritten | FullFinished | FullFinishedEmpty => State::Full,
        }
    }

    pub(crate) fn is_full(self) -> bool {
        self.state() == State::Full
    }

    pub(crate) fn is_written(self) -> bool {
        !matches!(self, Empty | ExplicitOpenEmpty | FullFinishedEmpty)
    }

    pub(crate) fn prepare(self, disk: &mut Disk, zone: usize) {
        assert_ok(disk.reset(zone));
        if matches!(self, ImplicitOpen | ExplicitOpenWritten | Closed | FullFinished) {
            assert_ok(disk.write(disk.geo().start(zone), &pattern(77, 0, 8192)));
        }
        match self {
            Empty | ImplicitOpen => {}
            ExplicitOpenEmpty | ExplicitOpenWritten => assert_ok(disk.open(zone)),
            Closed => assert_ok(disk.close(zone)),
            FullWritten => disk.fill(zone, disk.geo().cap),
            FullFinished | FullFinishedEmpty => assert_ok(disk.finish(zone)),
        }
        assert_eq!(disk.state(zone), self.state(), "preparing {self:?}");
    }
}

/// In each state, `request` is answered with what `expected` says: the status and the state afterwards.
fn check_transitions(request: u32, expected: impl Fn(Prepared) -> (Status, State)) {
    let mut disk = Disk::small();
    for from in ALL {
        from.prepare(&mut disk, SEQ);
        let before = disk.zones();
        let contents = disk.read(disk.geo().start(SEQ), 16384).unwrap();
        let (status, state) = expected(from);
        assert_eq!(disk.manage(request, SEQ), status, "type {request} in {from:?}");
        let after = disk.zones();
        assert_eq!(after[SEQ].state, state, "after type {request} in {from:?}");
        if state != State::Full && state != State::Empty {
            assert_eq!(after[SEQ].wp, before[SEQ].wp, "write pointer after type {request} in {from:?}");
        }
        for zone in (0..disk.geo().zones()).filter(|zone| *zone != SEQ) {
            assert_eq!(after[zone], before[zone], "another zone after type {request} in {from:?}");
        }
        let reset = request == kind::ZONE_RESET;
        let left = if reset { vec![0; 16384] } else { contents };
        assert_same(&disk.read(disk.geo().start(SEQ), 16384).unwrap(), &left, disk.geo().start(SEQ));
    }
    disk.finish_clean();
}

#[test]
fn open_makes_a_zone_explicitly_open_unless_it_is_full() {
    check_transitions(kind::ZONE_OPEN, |from| match from {
        full if full.is_full() => (Status::InvalidCmd, State::Full),
        _ => (Status::Ok, State::ExplicitOpen),
    });
}

#[test]
fn close_makes_an_open_zone_closed_or_empty_and_is_refused_for_empty_and_full_ones() {
    check_transitions(kind::ZONE_CLOSE, |from| match from {
        full if full.is_full() => (Status::InvalidCmd, State::Full),
        Empty => (Status::InvalidCmd, State::Empty),
        ExplicitOpenEmpty => (Status::Ok, State::Empty),
        _ => (Status::Ok, State::Closed),
    });
}

#[test]
fn finish_makes_any_zone_full() {
    check_transitions(kind::ZONE_FINISH, |_| (Status::Ok, State::Full));
}

#[test]
fn reset_makes_any_zone_empty() {
    check_transitions(kind::ZONE_RESET, |_| (Status::Ok, State::Empty));
}

#[test]
fn a_write_or_append_opens_an_empty_or_closed_zone_implicitly_and_leaves_an_open_one_as_it_is() {
    let mut disk = Disk::small();
    let start = disk.geo().start(SEQ);
    for append in [false, true] {
        for from in ALL {
            from.prepare(&mut disk, SEQ);
            let wp = if from.is_full() { start } else { disk.zone(SEQ).wp };
            let data = pattern(5, 0, 4096);
            let status = if append {
                disk.append(start, &data).map_or_else(|refused| refused, |_| Status::Ok)
            } else {
                disk.write(wp, &data)
            };
            let (expected, state) = match from {
                full if full.is_full() => (Status::InvalidCmd, State::Full),
                ExplicitOpenEmpty | ExplicitOpenWritten => (Status::Ok, State::ExplicitOpen),
                _ => (Status::Ok, State::ImplicitOpen),
            };
            assert_eq!((status, disk.state(SEQ)), (expected, state), "append: {append}, {from:?}");
            if status == Status::Ok {
                assert_eq!(disk.zone(SEQ).wp, wp + 8);
            }
        }
    }
}

#[test]
fn reset_all_empties_every_sequential_zone_and_leaves_conventional_ones() {
    let mut disk = Disk::small();
    let conventional = pattern(9, 0, 65536);
    assert_ok(disk.write(disk.geo().start(1) - 8, &conventional));
    for (zone, from) in [Empty, ImplicitOpen, ExplicitOpenEmpty, Closed, FullWritten, FullFinished].iter().enumerate() {
        from.prepare(&mut disk, SEQ + zone);
    }
    // Its sector is not used.
    for sector in [0, 1, disk.geo().start(3), u64::MAX] {
        assert_eq!(disk.call(&Req::bare(kind::ZONE_RESET_ALL, sector)).status, Status::Ok, "sector {sector:#x}");
        for zone in disk.zones().into_iter().filter(|zone| !zone.conventional) {
            assert_eq!((zone.state, zone.wp), (State::Empty, zone.start));
        }
        disk.fill(SEQ + 1, 4096);
    }
    assert_ok(disk.reset_all());
    for zone in SEQ..disk.geo().zones() {
        assert_eq!(disk.read(disk.geo().start(zone), MIB as usize).unwrap(), vec![0; MIB as usize], "zone {zone}");
    }
    assert_same(&disk.read(disk.geo().start(1) - 8, 65536).unwrap(), &conventional, 0);
    disk.finish_clean();
}

#[test]
fn management_of_what_is_not_the_start_of_a_sequential_zone_is_invalid_and_changes_nothing() {
    let mut disk = Disk::small();
    disk.fill(SEQ, 8192);
    let before = disk.zones();
    let (start, end) = (disk.geo().start(SEQ), disk.geo().end());
    let conventional = [0, disk.geo().start(1)];
    for request in MANAGEMENT {
        for sector in [start + 1, start + 16, start - 1, end, end + 2048, 1 << 55, u64::MAX].iter().chain(&conventional)
        {
            let done = disk.call(&Req::bare(request, *sector));
            assert_eq!(done.status, Status::InvalidCmd, "type {request} at sector {sector:#x}");
        }
    }
    assert_eq!(disk.zones(), before);
}

#[test]
fn writes_and_a_reset_in_flight_together_leave_what_some_order_of_them_leaves() {
    let mut disk = Setup::new(SMALL).queue_size(256).start();
    let start = disk.geo().start(SEQ);
    for round in 0..20_u64 {
        disk.front().plug();
        let write = |tag: u64, at: u64| Req::write(start + 8 * at, pattern(tag, 8 * at as u32, 4096));
        let before: Vec<_> = (0..16).map(|at| disk.submit(0, &write(2 * round, at))).collect();
        let reset = disk.submit(0, &Req::reset(start));
        let after: Vec<_> = (0..4).map(|at| disk.submit(0, &write(2 * round + 1, at))).collect();
        disk.front().unplug();
        assert_eq!(disk.wait(reset).status, Status::Ok);
        let done = disk.front().wait_all(&[before, after].concat());
        assert!(done.iter().all(|done| matches!(done.status, Status::Ok | Status::UnalignedWp)), "{done:?}");
        let written = disk.zone(SEQ).written();
        let found = disk.read(start, MIB as usize).unwrap();
        for (block, found) in found.chunks(4096).enumerate() {
            let of = |tag: u64| found == pattern(tag, 8 * block as u32, 4096);
            let right = match block as u64 {
                at if at >= written / 8 => found.iter().all(|byte| *byte == 0),
                at if at < 4 && done[16 + block].status == Status::Ok => of(2 * round + 1),
                _ => done[block].status == Status::Ok && of(2 * round),
            };
            assert!(right, "round {round}, block {block} of {}: {:?}", written / 8, &found[..16]);
        }
        assert_ok(disk.reset(SEQ));
    }
    disk.finish_clean();
}

#[test]
fn every_prepared_state_survives_in_what_the_format_keeps_of_it() {
    let mut disk = Disk::small();
    let kept = [ImplicitOpen, ExplicitOpenEmpty, ExplicitOpenWritten, Closed, FullWritten, FullFinished];
    for (zone, from) in kept.iter().enumerate() {
        from.prepare(&mut disk, SEQ + zone);
    }
    disk.restart();
    for (zone, from) in kept.iter().enumerate() {
        let expected = match from {
            full if full.is_full() => State::Full,
            written if written.is_written() => State::Closed,
            _ => State::Empty,
        };
        assert_eq!(disk.state(SEQ + zone), expected, "{from:?} after a restart");
    }
    disk.finish_clean();
}
