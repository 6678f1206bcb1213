//! Overlays put on other bases, and taken into theirs: what their disks show, also where the process dies or the power goes.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "tests fail by panicking and share helpers")]

mod sim;

use std::sync::Arc;

use sim::Rng;
use sim::disk::SimDisk;
use sim::rig::{self, Rig};
use vhost_user_zbd::qcow2::{self, Base, BaseMedium, Comparison, Image, OpenError, RebaseError};
use vhost_user_zbd::store::{Action, Op};
use vhost_user_zbd::units::{Bytes, ZoneIndex};
use vhost_user_zbd::zone::GeometryRequest;

const ZONE: u64 = 64 * 1024;
const CAPACITY: u64 = 48 * 1024;
const ZONES: u64 = 5;

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

/// Writes, finishes and resets at random, and ends in order.
fn used(disk: Arc<SimDisk>, random: &mut Rng, requests: u64) -> Arc<SimDisk> {
    let mut rig = Rig::open(disk);
    for _ in 0..requests {
        let zone = random.below(ZONES);
        let data = vec![random.below(255) as u8 + 1; (random.below(24) as usize + 1) * 512];
        let start = Bytes(zone * ZONE).to_sector();
        let op = match random.below(6) {
            _ if zone == 0 => {
                let place = random.below(ZONE / 512 - 24);
                Op::Write { start: Bytes(place * 512).to_sector(), len: Bytes(data.len() as u64) }
            }
            0 => Op::Manage { action: Action::Finish, zone: start },
            1 | 2 => Op::Manage { action: Action::Reset, zone: start },
            _ => {
                let data = &data[..data.len().min(8192)];
                let _full = rig.run(Op::Append { zone: start, len: Bytes(data.len() as u64) }, data.to_vec());
                continue;
            }
        };
        let _refused = rig.run(op, if matches!(op, Op::Write { .. }) { data } else { Vec::new() });
    }
    rig.store.close().unwrap();
    settled(&rig.disk)
}

fn settled(disk: &SimDisk) -> Arc<SimDisk> {
    let disk = disk.after_kill();
    disk.settle();
    Arc::new(disk)
}

fn base(disk: &Arc<SimDisk>) -> Base {
    Base::open(Arc::clone(disk) as BaseMedium, "never changed".to_owned(), rig::base_of(disk)).unwrap()
}

fn is_equal(mut first: Image<SimDisk>, mut second: Image<SimDisk>) -> bool {
    let mut comparison = Comparison::new(&mut first, &mut second).unwrap();
    let mut zones = comparison.zones();
    zones.all(|zone| comparison.zone(ZoneIndex(zone), |_| ()).unwrap().is_none())
}

/// The disk that a power loss, or a death, before an operation leaves.
fn left(disk: &SimDisk, before: u64, random: &mut Rng) -> Arc<SimDisk> {
    let share = [0, 50, 100][random.below(3) as usize];
    settled(&disk.crash_before(before).keeping(|_, _| random.below(100) < share))
}

#[test]
fn a_rebased_image_shows_what_it_did_on_either_base_whenever_the_power_goes() {
    let mut losses = 0;
    for seed in 0..12 {
        let mut random = Rng::new(seed);
        let cluster = [4096, 65536, 131_072][(seed % 3) as usize];
        let old = used(rig::create(geometry(), Bytes(4096)), &mut random, 20);
        let new = used(rig::create(geometry(), Bytes(65536)), &mut random, 20);
        let top = used(rig::fork(&old, Bytes(cluster)), &mut random, 12);
        let whole = settled(&top);
        qcow2::rebase(&whole, base(&old), base(&new), "new", |_| ()).unwrap();
        for before in (0..=whole.operations()).step_by(1 + random.below(3) as usize) {
            let left = left(&whole, before, &mut random);
            let on = match Image::backing_of(&*left).unwrap().unwrap().name.as_str() {
                "new" => base(&new),
                _ => base(&old),
            };
            // An image that died in the midst of changing over is opened for writing, as whoever goes on does.
            let image = Image::open_over(Arc::clone(&left), qcow2::Access::ReadWrite, Some(on));
            let mut image = match image {
                Err(OpenError::BaseChanged { .. }) => {
                    Image::open_over(Arc::clone(&left), qcow2::Access::ReadWrite, Some(base(&new))).unwrap()
                }
                other => other.unwrap(),
            };
            assert_eq!(image.check().unwrap().errors, 0);
            assert!(is_equal(image, rig::look(&top).unwrap()), "seed {seed}, before operation {before}");
            losses += 1;
        }
    }
    println!("{losses} losses of power, 0 violations");
}

#[test]
fn a_commit_that_is_ended_anywhere_is_brought_to_its_end_by_another() {
    let mut losses = 0;
    for seed in 0..12 {
        let mut random = Rng::new(100 + seed);
        let cluster = [4096, 65536, 131_072][(seed % 3) as usize];
        let lowest = used(rig::create(geometry(), Bytes(65536)), &mut random, 20);
        let below = if seed % 2 == 0 { lowest } else { used(rig::fork(&lowest, Bytes(4096)), &mut random, 10) };
        let top = used(rig::fork(&below, Bytes(cluster)), &mut random, 15);
        let commit = |top: &Arc<SimDisk>, below: &Arc<SimDisk>| {
            let stamp = || Ok("never changed".to_owned());
            qcow2::commit(top, below, rig::base_of(below), stamp, |_, _| ())
        };
        let (whole, into) = (settled(&top), settled(&below));
        commit(&whole, &into).unwrap();
        assert!(is_equal(rig::look(&into).unwrap(), rig::look(&top).unwrap()), "seed {seed}");
        let (top_operations, base_operations) = (whole.operations(), into.operations());
        for number in 0..top_operations + base_operations {
            let (top_left, base_left) = (settled(&top), settled(&below));
            match number.checked_sub(base_operations) {
                None => base_left.fail_at(number, libc::EIO, true),
                Some(number) => top_left.fail_at(number, libc::EIO, true),
            }
            let _failed = commit(&top_left, &base_left);
            let top_left = left(&top_left, top_left.operations(), &mut random);
            let base_left = left(&base_left, base_left.operations(), &mut random);
            commit(&top_left, &base_left).unwrap_or_else(|error| panic!("seed {seed}, {number}: {error}"));
            let mut image = rig::look(&base_left).unwrap();
            assert_eq!(image.check().unwrap().errors, 0);
            assert!(is_equal(image, rig::look(&top).unwrap()), "seed {seed}, ended at operation {number}");
            // The image goes on, on a base that has all of it.
            let on =
                Base::open(Arc::clone(&base_left) as BaseMedium, "never changed".to_owned(), rig::base_of(&base_left));
            let again = Image::open_over(Arc::clone(&top_left), qcow2::Access::ReadOnly, Some(on.unwrap())).unwrap();
            assert!(is_equal(again, rig::look(&top).unwrap()), "seed {seed}, {number}: the image on its base");
            losses += 1;
        }
    }
    println!("{losses} ends in the midst, 0 violations");
}

#[test]
fn a_copy_of_a_base_is_taken_for_it_and_nothing_else_is() {
    let mut random = Rng::new(7);
    let old = used(rig::create(geometry(), Bytes(4096)), &mut random, 20);
    let other = used(rig::create(geometry(), Bytes(4096)), &mut random, 20);
    let top = used(rig::fork(&old, Bytes(4096)), &mut random, 12);
    let moved = Base::open(settled(&old) as BaseMedium, "at another time".to_owned(), None).unwrap();
    let wrong = qcow2::relink(&top, &base(&other), "other").unwrap_err();
    assert!(matches!(wrong, RebaseError::Different { .. }), "{wrong}");
    qcow2::relink(&top, &moved, "moved").unwrap();
    assert_eq!(Image::backing_of(&*top).unwrap().unwrap().name, "moved");
    let again = Image::open_over(Arc::clone(&top), qcow2::Access::ReadOnly, Some(moved)).unwrap();
    drop(again);
    assert!(matches!(rig::look(&top), Err(OpenError::BaseChanged { .. })));
}
