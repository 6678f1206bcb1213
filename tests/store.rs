//! The store against a model: results, states, pointers and contents, in one process and across its death.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "tests fail by panicking and share helpers")]

mod sim;

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use sim::disk::SimDisk;
use sim::model::{Model, same};
use sim::rig::{self, Rig};
use vhost_user_zbd::qcow2::{Comparison, MOST_BASES, compare_shapes};
use vhost_user_zbd::store::{Action, Op, Refusal, Reply};
use vhost_user_zbd::units::{Bytes, Sector, ZoneIndex};
use vhost_user_zbd::zone::{GeometryRequest, State};

const ZONE: u64 = 64 * 1024;
const ZONES: u64 = 6;
const CAPACITY: u64 = 48 * 1024;

fn geometry() -> GeometryRequest {
    GeometryRequest {
        size: Bytes(ZONES * ZONE),
        zone_size: Bytes(ZONE),
        zone_capacity: Bytes(CAPACITY),
        conventional_zones: 1,
        max_open_zones: 0,
        max_active_zones: 0,
        max_append_bytes: Bytes(8192),
    }
}

/// A request with lengths in sectors, and whether a write goes to the pointer.
#[derive(Clone, Copy, Debug)]
enum Want {
    Write {
        zone: u64,
        len: u64,
    },
    WriteAt {
        zone: u64,
        sector: u64,
        len: u64,
    },
    Append {
        zone: u64,
        len: u64,
    },
    Manage {
        zone: u64,
        action: Action,
    },
    ResetAll,
    Flush,
    Reopen,
    Kill,
    /// An orderly end, and an image on what is there, with clusters of this size.
    Fork {
        cluster_size: u64,
    },
}

fn any_want() -> impl Strategy<Value = Want> {
    let zone = 0..ZONES;
    let len = prop_oneof![3 => 1..=8u64, 2 => 9..=64u64, 1 => Just(CAPACITY / 512)];
    let action = prop_oneof![Just(Action::Open), Just(Action::Close), Just(Action::Finish), Just(Action::Reset)];
    prop_oneof![
        6 => (zone.clone(), len.clone()).prop_map(|(zone, len)| Want::Write { zone, len }),
        2 => (zone.clone(), 0..ZONE / 512, len.clone()).prop_map(|(zone, sector, len)| Want::WriteAt { zone, sector, len }),
        3 => (zone.clone(), 1..=17u64).prop_map(|(zone, len)| Want::Append { zone, len }),
        5 => (zone, action).prop_map(|(zone, action)| Want::Manage { zone, action }),
        1 => Just(Want::ResetAll),
        1 => Just(Want::Flush),
        1 => Just(Want::Reopen),
        1 => Just(Want::Kill),
        2 => prop::sample::select(vec![4096, 65536, 131_072, 2 << 20]).prop_map(|cluster_size| Want::Fork { cluster_size }),
    ]
}

/// The request for what is wanted, given where the zone stands, with data that tells its origin.
fn request(want: Want, model: &Model, stamp: u8) -> (Op, Vec<u8>) {
    let sector = |zone: u64, offset: u64| Sector((zone * ZONE + offset) / 512);
    let data = |len: u64| (0..len * 512).map(|at| stamp ^ (at / 512) as u8 | 1).collect::<Vec<u8>>();
    match want {
        Want::Write { zone, len } => {
            let start = sector(zone, model.zones[zone as usize].written);
            let len = len.min(ZONES * ZONE / 512 - start.0);
            (Op::Write { start, len: Bytes(len * 512) }, data(len))
        }
        Want::WriteAt { zone, sector: offset, len } => {
            let len = len.min(ZONES * ZONE / 512 - zone * ZONE / 512 - offset);
            (Op::Write { start: sector(zone, offset * 512), len: Bytes(len * 512) }, data(len))
        }
        Want::Append { zone, len } => (Op::Append { zone: sector(zone, 0), len: Bytes(len * 512) }, data(len)),
        Want::Manage { zone, action } => (Op::Manage { action, zone: sector(zone, 0) }, Vec::new()),
        Want::ResetAll => (Op::ResetAll, Vec::new()),
        Want::Flush | Want::Reopen | Want::Kill | Want::Fork { .. } => (Op::Flush, Vec::new()),
    }
}

/// All zones and all bytes are what the model says.
fn compare(rig: &mut Rig, model: &Model) {
    for (index, zone) in rig.zones().into_iter().enumerate() {
        let expected = &model.zones[index];
        assert_eq!(
            (zone.state, zone.write_pointer.0 - zone.start.0),
            (expected.state, expected.written),
            "zone {index}"
        );
        let contents = rig.read(zone.start.0, ZONE as usize);
        assert!(contents == expected.data, "contents of zone {index}");
    }
}

/// No error in the image, and no leak unless some are allowed.
fn check(rig: &Rig, leaks_allowed: bool) {
    let disk = Arc::new(rig.disk.after_kill());
    let report = rig::look(&disk).unwrap().check().unwrap();
    assert_eq!(report.errors, 0, "{:?}", report.findings);
    assert!(leaks_allowed || report.leaks == 0, "{} leaks", report.leaks);
}

/// A conventional zone of the model takes a write only inside itself; the store lets it run over to the next
/// conventional zone, of which there is one here: such writes cross into a sequential zone and are refused.
fn crosses(op: Op, model: &Model) -> bool {
    let Op::Write { start, len } = op else { return false };
    let offset = start.0 * 512;
    model.zones[(offset / ZONE) as usize].state == State::NotWp && offset % ZONE + len.0 > ZONE
}

/// Runs a sequence on one image after the other, each on the one before, and on a flat image beside them.
fn run_sequence(cluster_size: u64, wants: &[Want]) {
    let mut rig = Rig::open(rig::create(geometry(), Bytes(cluster_size)));
    let mut flat = Rig::open(rig::create(geometry(), Bytes(cluster_size)));
    let mut model = Model::new(&geometry());
    let mut killed = false;
    let mut bases = Vec::new();
    for (number, want) in wants.iter().enumerate() {
        if let Want::Fork { cluster_size } = want
            && rig.disk.bases().len() < MOST_BASES
        {
            rig.store.close().unwrap();
            check(&rig, killed);
            let base = Arc::new(rig.disk.after_kill());
            bases.push((Arc::clone(&base), base.content()));
            rig = Rig::open(rig::fork(&base, Bytes(*cluster_size)));
            flat = Rig::open(Arc::new(flat.disk.after_kill()));
            model = model.reopened();
            killed = false;
            continue;
        }
        if matches!(want, Want::Reopen | Want::Kill) {
            killed |= matches!(want, Want::Kill);
            if matches!(want, Want::Reopen) {
                rig.store.close().unwrap();
                // What a kill left reserved stays so.
                check(&rig, killed);
            }
            let disk = Arc::new(rig.disk.after_kill());
            rig = Rig::open(disk);
            flat = Rig::open(Arc::new(flat.disk.after_kill()));
            check(&rig, true);
            model = model.reopened();
            continue;
        }
        let (op, data) = request(*want, &model, number as u8);
        if crosses(op, &model) {
            let outcome = rig.run(op, data).0;
            assert!(matches!(outcome, Err(Refusal::Zone(_))), "{op:?}: {outcome:?}");
            continue;
        }
        let expected = model.run(op, &data);
        assert_eq!(flat.run(op, data.clone()).0.is_ok(), expected.is_ok());
        let outcome = rig.run(op, data).0;
        assert!(same(op, outcome, expected), "request {number} {op:?}: {outcome:?} instead of {expected:?}");
    }
    compare(&mut rig, &model);
    rig.store.close().unwrap();
    flat.store.close().unwrap();
    assert_equal_images(&rig.disk, &flat.disk);
    for (base, content) in bases {
        assert!(base.content() == content, "a base has changed");
    }
}

/// What `diff` finds of two images is nothing.
fn assert_equal_images(first: &Arc<SimDisk>, second: &Arc<SimDisk>) {
    let (mut first, mut second) = (rig::look(first).unwrap(), rig::look(second).unwrap());
    assert_eq!(compare_shapes(&first, &second), []);
    let mut comparison = Comparison::new(&mut first, &mut second).unwrap();
    for zone in comparison.zones() {
        assert_eq!(comparison.zone(ZoneIndex(zone), |_| ()).unwrap(), None);
    }
}

/// How many sequences are run: `STORE_SEQUENCES` is for the long form.
fn cases() -> u32 {
    std::env::var("STORE_SEQUENCES").ok().and_then(|number| number.parse().ok()).unwrap_or(150)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, rng_seed: RngSeed::Fixed(11), ..ProptestConfig::default() })]

    #[test]
    fn requests_one_at_a_time_end_as_in_the_model_across_restarts_and_kills(
        cluster_bits in prop_oneof![Just(9u32), Just(12), Just(16)],
        wants in prop::collection::vec(any_want(), 1..60),
    ) {
        run_sequence(1 << cluster_bits, &wants);
    }

    #[test]
    fn writes_in_flight_may_land_in_any_order_and_are_acknowledged_without_a_gap(
        order in prop::collection::vec(any::<prop::sample::Index>(), 48),
        lens in prop::collection::vec(1..=6u64, 2..16),
        append in any::<bool>(),
    ) {
        land_in_any_order(&order, &lens, append);
    }
}

fn land_in_any_order(order: &[prop::sample::Index], lens: &[u64], append: bool) {
    let mut rig = Rig::open(rig::create(geometry(), Bytes(4096)));
    let zone = 2 * ZONE;
    let mut at = 0;
    let mut begun = Vec::new();
    for (number, len) in lens.iter().enumerate() {
        let data = vec![number as u8 + 1; (len * 512) as usize];
        let (start, len) = (Sector((zone + at) / 512), Bytes(len * 512));
        let op = if append { Op::Append { zone: Sector(zone / 512), len } } else { Op::Write { start, len } };
        let reply = if append { Reply::Appended(start) } else { Reply::Done };
        // The first write waits for the zone to be cleared; the others have to come after it was admitted.
        let slot = rig.begin(op, data.clone());
        while number == 0 && rig.housekeep() {}
        begun.push((slot, reply, at, data));
        at += len.0;
    }
    while rig.housekeep() {}
    for pick in order {
        let ready = rig.ready();
        if ready.is_empty() {
            break;
        }
        rig.perform(ready[pick.index(ready.len())]);
        let pointer = rig.zones()[2].write_pointer.0 - zone;
        for (slot, reply, offset, data) in &begun {
            let acknowledged = rig.outcome(*slot);
            assert!(acknowledged.is_none() || acknowledged == Some(Ok(*reply)));
            assert_eq!(
                acknowledged.is_some(),
                offset + data.len() as u64 <= pointer,
                "acknowledged exactly below the pointer"
            );
        }
        let mut killed = Rig::open(Arc::new(rig.disk.after_kill()));
        assert_eq!(killed.zones()[2].write_pointer.0 - zone, pointer, "a kill leaves the pointer where it was");
        let contents = killed.read(zone, pointer as usize);
        for (_, _, offset, data) in begun.iter().filter(|(slot, ..)| rig.outcome(*slot).is_some()) {
            assert_eq!(&contents[*offset as usize..][..data.len()], data, "acknowledged data survives a kill");
        }
    }
    rig.drain();
    assert_eq!(rig.zones()[2].write_pointer.0 - zone, at);
}

#[test]
fn a_failed_write_fails_those_behind_it_and_the_pointer_stands_at_the_last_good_sector() {
    let mut rig = Rig::open(rig::create(geometry(), Bytes(4096)));
    let zone = 3 * ZONE;
    assert_eq!(rig.write(zone, vec![1; 4096]), Ok(Reply::Done));
    let write = |rig: &mut Rig, at: u64, byte: u8| {
        let op = Op::Write { start: Sector((zone + at) / 512), len: Bytes(4096) };
        rig.begin(op, vec![byte; 4096])
    };
    let first = write(&mut rig, 4096, 2);
    let second = write(&mut rig, 8192, 3);
    let third = write(&mut rig, 12288, 4);
    rig.perform(third);
    rig.disk.fail_at(rig.disk.operations(), libc::EIO, false);
    rig.perform(second);
    assert_eq!(rig.outcome(first), None);
    rig.perform(first);
    rig.drain();
    assert_eq!(rig.outcome(first), Some(Ok(Reply::Done)));
    assert_eq!(rig.outcome(second), Some(Err(Refusal::Io)));
    assert_eq!(rig.outcome(third), Some(Err(Refusal::Io)));
    assert_eq!(rig.zones()[3].write_pointer.0, zone + 8192);
    assert_eq!(rig.write(zone + 8192, vec![5; 512]), Ok(Reply::Done), "the zone goes on from its pointer");
    assert_eq!(rig.read(zone + 8192, 1024), [vec![5; 512], vec![0; 512]].concat());
}

#[test]
fn a_reset_of_all_that_waited_for_a_write_that_fails_leaves_its_zone_usable() {
    let mut rig = Rig::open(rig::create(geometry(), Bytes(4096)));
    let write = rig.begin(Op::Write { start: Sector(ZONE / 512), len: Bytes(512) }, vec![1; 512]);
    while rig.housekeep() {}
    let reset = rig.begin(Op::ResetAll, Vec::new());
    assert_eq!(rig.outcome(reset), None);
    rig.disk.fail_at(rig.disk.operations(), libc::EIO, false);
    rig.perform(write);
    rig.drain();
    assert_eq!((rig.outcome(write), rig.outcome(reset)), (Some(Err(Refusal::Io)), Some(Ok(Reply::Done))));
    assert_eq!(rig.write(ZONE, vec![2; 512]), Ok(Reply::Done));
}

#[test]
fn only_a_flush_of_the_guests_makes_its_data_durable() {
    let mut rig = Rig::open(rig::create(geometry(), Bytes(4096)));
    let zones: Vec<u64> = (1..rig.zones().len() as u64).map(|zone| zone * ZONE).collect();
    let before = rig.disk.flushes();
    for round in 0..3 {
        for zone in &zones {
            assert_eq!(rig.write(*zone, vec![round; 8192]), Ok(Reply::Done));
        }
        let finish = Op::Manage { action: Action::Finish, zone: Sector(zones[0] / 512) };
        assert_eq!(rig.run(finish, Vec::new()).0, Ok(Reply::Done));
        assert_eq!(rig.run(Op::ResetAll, Vec::new()).0, Ok(Reply::Done));
    }
    assert_eq!(rig.disk.flushes(), before, "space was reserved, mapped and cleared");
    assert_eq!(rig.run(Op::Flush, Vec::new()).0, Ok(Reply::Done));
    assert_eq!(rig.disk.flushes(), before + 1);
}

#[test]
fn a_failed_flush_fails_every_later_flush_until_the_image_is_opened_again() {
    let mut rig = Rig::open(rig::create(geometry(), Bytes(4096)));
    assert_eq!(rig.write(ZONE, vec![1; 512]), Ok(Reply::Done));
    rig.disk.fail_at(rig.disk.operations(), libc::EIO, false);
    assert_eq!(rig.run(Op::Flush, Vec::new()).0, Err(Refusal::Io));
    assert_eq!(rig.run(Op::Flush, Vec::new()).0, Err(Refusal::Io));
    let mut again = Rig::open(Arc::new(rig.disk.after_kill()));
    assert_eq!(again.run(Op::Flush, Vec::new()).0, Ok(Reply::Done));
}

#[test]
fn an_operation_that_fails_below_is_an_error_of_its_request_and_loses_nothing_acknowledged() {
    let wants = |zone| {
        [
            Want::Write { zone, len: 9 },
            Want::Append { zone, len: 3 },
            Want::Manage { zone, action: Action::Reset },
            Want::Write { zone, len: 96 },
            Want::Manage { zone, action: Action::Finish },
            Want::Manage { zone, action: Action::Reset },
            Want::Write { zone, len: 5 },
            Want::Write { zone: 0, len: 7 },
        ]
    };
    for errno in [libc::EIO, libc::ENOSPC] {
        for failing in 0..40 {
            let mut rig = Rig::open(rig::create(geometry(), Bytes(4096)));
            let mut model = Model::new(&geometry());
            rig.disk.fail_at(rig.disk.operations() + failing, errno, false);
            for (number, want) in wants(2).into_iter().chain(wants(4)).enumerate() {
                let (op, data) = request(want, &model, number as u8);
                let mut after = model.clone();
                let expected = after.run(op, &data);
                match rig.run(op, data).0 {
                    Err(Refusal::Io) => {
                        // What a failed write left before its pointer is not known to the model: start over there.
                        rig.disk.heal();
                        let zone = if number < 8 { 2 } else { 4 };
                        let reset = Op::Manage { action: Action::Reset, zone: Sector(zone * ZONE / 512) };
                        let _ = rig.run(reset, Vec::new());
                        assert_eq!(model.run(reset, &[]), Ok(Reply::Done));
                        if rig.run(Op::Flush, Vec::new()).0.is_err() {
                            rig = Rig::open(Arc::new(rig.disk.after_kill()));
                            model = model.reopened();
                        }
                        assert!(matches!(rig.run(reset, Vec::new()).0, Ok(Reply::Done)));
                        if matches!(want, Want::Write { zone: 0, .. }) {
                            model = after;
                            let (op, data) = request(want, &model, number as u8);
                            assert_eq!(rig.run(op, data).0, Ok(Reply::Done));
                            assert_eq!(model.run(reset, &[]), Ok(Reply::Done));
                        }
                    }
                    outcome => {
                        assert!(same(op, outcome, expected), "{op:?}: {outcome:?} instead of {expected:?}");
                        model = after;
                    }
                }
            }
            compare(&mut rig, &model);
            check(&rig, true);
        }
    }
}

#[test]
fn a_reset_gives_the_space_back_and_the_zone_reads_zeros() {
    let mut rig = Rig::open(rig::create(geometry(), Bytes(4096)));
    assert_eq!(rig.write(ZONE, vec![0xaa; CAPACITY as usize]), Ok(Reply::Done));
    let full = rig.disk.allocated();
    let reset = Op::Manage { action: Action::Reset, zone: Sector(ZONE / 512) };
    assert_eq!(rig.run(reset, Vec::new()).0, Ok(Reply::Done));
    assert_eq!(rig.disk.allocated(), full - CAPACITY);
    assert!(rig.read(ZONE, ZONE as usize).iter().all(|byte| *byte == 0));
}

#[test]
fn space_is_mapped_before_a_zone_s_writes_come_to_it() {
    const MIB: u64 = 1 << 20;
    let geometry = GeometryRequest {
        size: Bytes(64 * MIB),
        zone_size: Bytes(32 * MIB),
        zone_capacity: Bytes(32 * MIB),
        ..geometry()
    };
    let mut rig = Rig::open(rig::create(geometry, Bytes(65536)));
    let piece = 256 * 1024;
    let mut waited = Vec::new();
    for at in (32 * MIB..64 * MIB).step_by(piece) {
        let op = Op::Write { start: Bytes(at).to_sector(), len: Bytes(piece as u64) };
        let slot = rig.begin(op, vec![1; piece]);
        if rig.ready() != [slot] {
            waited.push(at - 32 * MIB);
        }
        rig.drain();
        assert!(rig.outcome(slot).unwrap().is_ok());
    }
    assert_eq!(waited, [0], "the first has nothing before it");
    assert!(rig.read(63 * MIB, 4096).iter().all(|byte| *byte == 1));
}

#[test]
fn nothing_is_mapped_ahead_of_a_zone_that_was_reset_meanwhile() {
    let geometry = GeometryRequest {
        size: Bytes(8 << 20),
        zone_size: Bytes(4 << 20),
        zone_capacity: Bytes(4 << 20),
        ..geometry()
    };
    let disk = rig::create(geometry, Bytes(65536));
    let mut rig = Rig::open(Arc::clone(&disk));
    let start = Bytes(4 << 20).to_sector();
    assert!(rig.write(4 << 20, vec![1; 512 * 1024]).is_ok());
    // This one asks for space behind it, and the reset comes before the housekeeper.
    let slot =
        rig.begin(Op::Write { start: Bytes((4 << 20) + 512 * 1024).to_sector(), len: Bytes(4096) }, vec![2; 4096]);
    rig.perform(slot);
    let slot = rig.begin(Op::Manage { action: Action::Reset, zone: start }, Vec::new());
    assert!(rig.outcome(slot).unwrap().is_ok());
    rig.drain();
    drop(rig);
    let image = rig::look(&disk).unwrap();
    let mut extents = Vec::new();
    image.extents(Bytes(4 << 20), Bytes(4 << 20), &mut extents, usize::MAX).unwrap();
    assert_eq!(extents.iter().map(|extent| extent.len.0).sum::<u64>(), 1 << 20, "{extents:?}");
}

#[test]
fn a_reset_waits_for_the_clearing_that_is_under_way_in_its_zone() {
    let mut before = Rig::open(rig::create(geometry(), Bytes(65536)));
    before.write(ZONE, vec![1; 1024]).unwrap();
    let mut rig = Rig::open(Arc::new(before.disk.after_kill()));
    let manage = |action| Op::Manage { action, zone: Bytes(ZONE).to_sector() };
    let finish = rig.begin(manage(Action::Finish), Vec::new());
    let reset = rig.begin(manage(Action::Reset), Vec::new());
    assert_eq!(rig.outcome(reset), None);
    rig.drain();
    assert_eq!((rig.outcome(finish), rig.outcome(reset)), (Some(Ok(Reply::Done)), Some(Ok(Reply::Done))));
    assert_eq!(rig.zones()[1].state, State::Empty);
    rig.write(ZONE, vec![2; 512]).unwrap();
    assert_eq!(rig.read(ZONE, 1024), [vec![2; 512], vec![0; 512]].concat());
}
