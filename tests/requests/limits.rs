//! The limits of open and active zones.

use crate::common::MIB;
use crate::common::cli::{Geo, SMALL};
use crate::common::disk::{Disk, Setup};
use crate::common::model::{assert_ok, pattern};
use crate::common::request::{State, Status};

/// Ten sequential zones, at most two of them open and four active.
const TIGHT: Geo = Geo { size: 10 * MIB, conv: 0, open: 2, active: 4, ..SMALL };

fn put(disk: &mut Disk, zone: usize) -> Status {
    let zone = disk.zone(zone);
    disk.write(zone.wp, &pattern(1, 0, 4096))
}

fn states(disk: &mut Disk) -> Vec<State> {
    disk.zones().iter().map(|zone| zone.state).collect()
}

#[test]
fn the_least_recently_written_implicitly_open_zone_is_closed_for_another() {
    let mut disk = Setup::new(TIGHT).start();
    for zone in [0, 1, 0, 2] {
        assert_ok(put(&mut disk, zone));
    }
    use State::{Closed, Empty, ImplicitOpen};
    assert_eq!(states(&mut disk)[..4], [ImplicitOpen, Closed, ImplicitOpen, Empty], "zone 1 was written longest ago");
    // A closed zone that is written again is open again, and zone 0 is now the oldest.
    assert_ok(put(&mut disk, 1));
    assert_eq!(states(&mut disk)[..4], [Closed, ImplicitOpen, ImplicitOpen, Empty]);
    // Appends count as writes.
    assert_eq!(disk.append(TIGHT.start(2), &pattern(1, 0, 4096)), Ok(TIGHT.start(2) + 8));
    assert_ok(put(&mut disk, 3));
    assert_eq!(states(&mut disk)[..4], [Closed, Closed, ImplicitOpen, ImplicitOpen]);
}

#[test]
fn an_explicitly_open_zone_is_never_closed_for_another() {
    let mut disk = Setup::new(TIGHT).start();
    assert_ok(disk.open(0));
    assert_ok(put(&mut disk, 1));
    assert_ok(disk.open(2));
    use State::{Closed, Empty, ExplicitOpen};
    assert_eq!(states(&mut disk)[..4], [ExplicitOpen, Closed, ExplicitOpen, Empty]);
    for zone in [1, 3] {
        let before = disk.zones();
        assert_eq!(put(&mut disk, zone), Status::OpenResource, "write to zone {zone}");
        assert_eq!(disk.append(TIGHT.start(zone), &[1; 4096]), Err(Status::OpenResource), "append to zone {zone}");
        assert_eq!(disk.open(zone), Status::OpenResource, "open of zone {zone}");
        assert_eq!(disk.zones(), before, "a refusal for want of resources changes nothing");
    }
    // Written, it stays explicitly open.
    assert_ok(put(&mut disk, 0));
    assert_eq!(disk.state(0), ExplicitOpen);
    // Closing one lets another be opened.
    assert_ok(disk.close(0));
    assert_ok(put(&mut disk, 3));
}

#[test]
fn the_active_limit_counts_closed_zones_and_no_zone_is_sacrificed_for_it() {
    let mut disk = Setup::new(TIGHT).start();
    for zone in 0..4 {
        assert_ok(put(&mut disk, zone));
    }
    let before = disk.zones();
    assert_eq!(put(&mut disk, 4), Status::ActiveResource, "write");
    assert_eq!(disk.append(TIGHT.start(4), &[1; 4096]), Err(Status::ActiveResource), "append");
    assert_eq!(disk.open(4), Status::ActiveResource, "open");
    assert_eq!(disk.zones(), before, "a refusal for want of resources changes nothing");
    // Zones that are active go on; a reset or a finish of one makes room.
    assert_ok(put(&mut disk, 0));
    assert_ok(disk.reset(1));
    assert_ok(put(&mut disk, 4));
    assert_eq!(put(&mut disk, 5), Status::ActiveResource);
    assert_ok(disk.finish(2));
    assert_ok(put(&mut disk, 5));
    assert_eq!(put(&mut disk, 6), Status::ActiveResource);
    // Filling a zone makes room as well.
    let left = TIGHT.cap - 512 * disk.zone(3).written();
    disk.fill(3, left);
    assert_eq!(disk.state(3), State::Full);
    assert_ok(put(&mut disk, 6));
}

#[test]
fn where_both_limits_would_be_passed_the_active_one_is_named() {
    let mut disk = Setup::new(TIGHT).start();
    for zone in [0, 1] {
        assert_ok(put(&mut disk, zone));
        assert_ok(disk.close(zone));
    }
    assert_ok(disk.open(2));
    assert_ok(disk.open(3));
    assert_eq!(put(&mut disk, 4), Status::ActiveResource, "write of an empty zone");
    assert_eq!(disk.open(4), Status::ActiveResource, "open of an empty zone");
    assert_eq!(put(&mut disk, 0), Status::OpenResource, "write of a closed zone, which is active already");
}

#[test]
fn an_explicitly_opened_empty_zone_is_active_until_it_is_closed() {
    let mut disk = Setup::new(Geo { open: 4, ..TIGHT }).start();
    for zone in 0..4 {
        assert_ok(disk.open(zone));
    }
    assert_eq!(put(&mut disk, 4), Status::ActiveResource);
    assert_ok(disk.close(3));
    assert_eq!(disk.state(3), State::Empty);
    assert_ok(put(&mut disk, 4));
}

#[test]
fn a_finish_needs_the_resources_of_the_states_it_passes_through() {
    let mut disk = Setup::new(TIGHT).start();
    for zone in 0..4 {
        assert_ok(put(&mut disk, zone));
    }
    assert_eq!(disk.finish(4), Status::ActiveResource, "an empty zone while the active limit is reached");
    assert_eq!(disk.state(4), State::Empty);
    assert_ok(disk.finish(0));
    assert_ok(disk.finish(4));
    assert_ok(disk.reset_all());
    assert_ok(put(&mut disk, 0));
    assert_ok(disk.close(0));
    assert_ok(disk.open(1));
    assert_ok(disk.open(2));
    assert_eq!(disk.finish(0), Status::OpenResource, "a closed zone while two are explicitly open");
    assert_eq!(disk.state(0), State::Closed);
    assert_ok(disk.finish(1));
    assert_ok(disk.finish(0));
}

#[test]
fn a_limit_of_one_open_zone_lets_writes_wander() {
    let mut disk = Setup::new(Geo { open: 1, active: 0, ..TIGHT }).start();
    for round in 0..3 {
        for zone in 0..10 {
            assert_ok(put(&mut disk, zone));
            let open = states(&mut disk).iter().filter(|state| **state == State::ImplicitOpen).count();
            assert_eq!(open, 1, "round {round}, zone {zone}");
        }
    }
}

#[test]
fn a_pipeline_over_more_zones_than_may_be_open_is_served() {
    let mut disk = Setup::new(Geo { open: 2, active: 0, ..TIGHT }).queues(2).queue_size(256).start();
    let mut tokens = Vec::new();
    for round in 0..8 {
        for zone in 0..8 {
            let req = crate::common::request::Req::write(TIGHT.start(zone) + 8 * round, pattern(round, 0, 4096));
            tokens.push(disk.submit(zone % 2, &req));
        }
    }
    for done in disk.front().wait_all(&tokens) {
        assert_eq!(done.status, Status::Ok, "implicitly open zones are closed, not refused");
    }
    let open = states(&mut disk).iter().filter(|state| **state == State::ImplicitOpen).count();
    assert!(open <= 2, "{open} zones are open");
    disk.finish_clean();
}

#[test]
fn a_limit_that_all_sequential_zones_fit_in_is_no_limit() {
    for (open, active) in [(10, 10), (10, 0), (0, 10)] {
        let mut disk = Setup::new(Geo { open, active, ..TIGHT }).start();
        assert_eq!((disk.config_u32(76), disk.config_u32(80)), (0, 0), "open {open}, active {active}");
        for zone in 0..10 {
            assert_ok(disk.open(zone));
        }
    }
}

#[test]
fn the_limits_stand_in_the_configuration() {
    let mut disk = Setup::new(TIGHT).start();
    assert_eq!((disk.config_u32(76), disk.config_u32(80)), (2, 4));
}

#[test]
fn after_a_restart_partly_written_zones_are_closed_and_count_as_active() {
    let mut disk = Setup::new(TIGHT).start();
    for zone in 0..4 {
        assert_ok(put(&mut disk, zone));
    }
    disk.restart();
    assert_eq!(states(&mut disk)[..5], [State::Closed, State::Closed, State::Closed, State::Closed, State::Empty]);
    assert_eq!(put(&mut disk, 4), Status::ActiveResource);
    assert_ok(put(&mut disk, 3));
}
