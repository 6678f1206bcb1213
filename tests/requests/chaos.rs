//! Requests that get in each other's way, from all queues at once: each answer is one the specification has, and what
//! is left is a disk that keeps every rule.

use std::collections::HashMap;

use crate::common::cli::Geo;
use crate::common::disk::{Disk, Setup};
use crate::common::model::{pattern, stamp};
use crate::common::request::{Done, Req, State, Status, kind};
use crate::common::{KIB, Rng, SECTOR};

with_each_engine! {
    whatever_the_order_of_conflicting_requests_the_disk_keeps_its_rules,
}

const GEO: Geo = Geo {
    size: 10 * 256 * KIB,
    zone: 256 * KIB,
    cap: 192 * KIB,
    conv: 1,
    open: 3,
    active: 5,
    append: 64 * KIB,
    cluster: 64 * KIB,
};

const QUEUES: usize = 4;

/// A request for a zone, any that a guest may send, right or wrong at the moment it comes.
fn random_request(rng: &mut Rng, tag: u64) -> (usize, Req) {
    let zone = rng.below(GEO.zones() as u64) as usize;
    let start = GEO.start(zone);
    let count = 8 * (1 + rng.below(8));
    let data = pattern(tag, 0, (count * SECTOR) as usize);
    let req = match rng.below(100) {
        0..35 => Req::append(start, data),
        35..60 => Req::write(start + 8 * rng.below(GEO.cap(zone) / 8), data),
        60..72 => Req::write(start, data),
        72..78 => Req::read(start, (count * SECTOR) as usize),
        78..84 => Req::open(start),
        84..89 => Req::close(start),
        89..92 => Req::finish(start),
        92..96 => Req::reset(start),
        96..98 => Req::report(start, 4096),
        98 => Req::flush(),
        _ => Req::reset_all(),
    };
    (zone, req)
}

fn check_answer(req: &Req, done: &Done) {
    use Status::{ActiveResource, InvalidCmd, Ok, OpenResource, UnalignedWp};
    let right: &[Status] = match req.kind {
        kind::OUT => &[Ok, UnalignedWp, InvalidCmd, OpenResource, ActiveResource],
        kind::ZONE_APPEND | kind::ZONE_OPEN | kind::ZONE_FINISH => &[Ok, InvalidCmd, OpenResource, ActiveResource],
        kind::ZONE_CLOSE | kind::ZONE_RESET => &[Ok, InvalidCmd],
        _ => &[Ok],
    };
    assert!(right.contains(&done.status), "type {} at {:#x}: {:?}", req.kind, req.sector, done.status);
}

/// With nothing in flight: limits are kept, each zone holds whole requests up to its pointer and zeros behind it.
fn check_disk(disk: &mut Disk, owner: &HashMap<u64, usize>) {
    let zones = disk.zones();
    let count = |states: &[State]| zones.iter().filter(|zone| states.contains(&zone.state)).count() as u32;
    let open = count(&[State::ImplicitOpen, State::ExplicitOpen]);
    let active = open + count(&[State::Closed]);
    assert!(open <= GEO.open && active <= GEO.active, "{open} open and {active} active zones: {zones:#?}");
    for (index, zone) in zones.iter().enumerate().filter(|(_, zone)| !zone.conventional) {
        let found = disk.read(zone.start, GEO.zone as usize).unwrap();
        let stamps: Vec<_> = found.chunks(SECTOR as usize).map(|bytes| stamp(bytes).expect("a whole sector")).collect();
        let written = stamps.iter().take_while(|stamp| stamp.is_some()).count();
        assert!(stamps[written..].iter().all(Option::is_none), "zone {index} has data behind a gap at {written}");
        match zone.state {
            State::Empty => assert_eq!((zone.written(), written), (0, 0), "zone {index} is empty"),
            State::Full => assert!(written as u64 <= zone.cap, "zone {index} is full"),
            _ => assert_eq!(zone.written(), written as u64, "zone {index} is {:?}", zone.state),
        }
        let mut expected = 0;
        for stamp in stamps[..written].iter().flatten() {
            assert_eq!(owner.get(&stamp.tag), Some(&index), "zone {index} has data of another request");
            assert!(stamp.at == 0 || stamp.at == expected, "zone {index}: request {} is torn", stamp.tag);
            expected = stamp.at + 1;
        }
    }
}

fn whatever_the_order_of_conflicting_requests_the_disk_keeps_its_rules(setup: impl Fn(Geo) -> Setup) {
    let mut disk = setup(GEO).queues(QUEUES as u32).queue_size(256).start();
    let mut rng = Rng::new(77);
    let mut owner = HashMap::new();
    let mut tag = 0;
    for round in 0..40 {
        let mut asked = Vec::new();
        for _ in 0..120 {
            tag += 1;
            let (zone, req) = random_request(&mut rng, tag);
            owner.insert(tag, zone);
            let queue = rng.below(QUEUES as u64) as usize;
            asked.push((disk.submit(queue, &req), req));
        }
        for (token, req) in asked {
            let done = disk.wait(token);
            check_answer(&req, &done);
        }
        check_disk(&mut disk, &owner);
        if round % 10 == 9 {
            let before: Vec<_> = disk.zones().iter().map(|zone| (zone.wp, zone.state == State::Full)).collect();
            disk.restart();
            let after: Vec<_> = disk.zones().iter().map(|zone| (zone.wp, zone.state == State::Full)).collect();
            assert_eq!(after, before, "round {round}: pointers after a restart");
            check_disk(&mut disk, &owner);
        }
    }
    disk.finish_clean();
}
