//! The limits of open and active zones.

use crate::common::cli::{Geo, SMALL};
use crate::common::disk::{Disk, Setup};
use crate::common::model::{assert_ok, pattern};
use crate::common::request::{Req, State, Status};
use crate::common::{KIB, MIB, Rng};

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

/// A disk with zones 0 and 1 closed, 2 and 3 explicitly open: no further zone may become open or active.
fn at_both_limits() -> Disk {
    let mut disk = Setup::new(TIGHT).start();
    for zone in [0, 1] {
        assert_ok(put(&mut disk, zone));
        assert_ok(disk.close(zone));
    }
    assert_ok(disk.open(2));
    assert_ok(disk.open(3));
    disk
}

#[test]
fn where_both_limits_would_be_passed_the_active_one_is_named() {
    let mut disk = at_both_limits();
    assert_eq!(put(&mut disk, 4), Status::ActiveResource, "write of an empty zone");
    assert_eq!(disk.open(4), Status::ActiveResource, "open of an empty zone");
    assert_eq!(put(&mut disk, 0), Status::OpenResource, "write of a closed zone, which is active already");
}

#[test]
fn a_request_that_is_wrong_in_itself_is_told_so_and_not_that_a_limit_is_reached() {
    let mut disk = at_both_limits();
    let before = disk.zones();
    let (empty, closed) = (TIGHT.start(4), TIGHT.start(0));
    let past = TIGHT.cap as usize + 4096;
    let cases = [
        (Req::write(empty + 8, [1; 4096]), Status::UnalignedWp),
        (Req::write(empty, [1; 512]), Status::UnalignedWp),
        (Req::write(empty, vec![1; past]), Status::InvalidCmd),
        (Req::write(closed, [1; 4096]), Status::UnalignedWp),
        (Req::write(closed + 8, vec![1; past]), Status::InvalidCmd),
        (Req::append(empty, [1; 512]), Status::UnalignedWp),
        (Req::append(empty + 8, [1; 4096]), Status::InvalidCmd),
        (Req::append(closed, vec![1; TIGHT.append as usize + 4096]), Status::InvalidCmd),
        (Req::open(empty + 8), Status::InvalidCmd),
        (Req::close(empty), Status::InvalidCmd),
    ];
    for (req, status) in cases {
        let done = disk.call(&req);
        assert_eq!(done.status, status, "type {} of {} bytes at {:#x}", req.kind, req.out.len(), req.sector);
    }
    // What needs nothing of a limit is done.
    assert_ok(disk.open(2));
    assert_ok(disk.close(0));
    assert_ok(disk.reset(4));
    assert_eq!(disk.zones(), before);
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

/// Five sequential zones of 12 blocks.
const FIVE: Geo = Geo { size: 5 * 64 * KIB, zone: 64 * KIB, cap: 48 * KIB, conv: 0, append: 32 * KIB, ..SMALL };
const BLOCKS: u64 = 12;

/// What a driver asks of one zone.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Write,
    WriteTheRest,
    Append,
    Open,
    Close,
    Finish,
    Reset,
}

/// What the rules make of the zones, one request after the other: blocks written, states, and what the limits allow.
struct Rules {
    open: usize,
    active: usize,
    zones: [(State, u64); 5],
    /// Zones in the order of their last write.
    written: Vec<usize>,
}

impl Rules {
    fn count(&self, of: &[State]) -> usize {
        self.zones.iter().filter(|(state, _)| of.contains(state)).count()
    }

    /// Takes what a zone needs that is to be open, where the limits allow it.
    fn make_room(&mut self, zone: usize) -> Result<(), Status> {
        use State::{Closed, Empty, ExplicitOpen, ImplicitOpen};
        let state = self.zones[zone].0;
        if matches!(state, ImplicitOpen | ExplicitOpen) {
            return Ok(());
        }
        let active = self.count(&[ImplicitOpen, ExplicitOpen, Closed]);
        if state == Empty && self.active != 0 && active == self.active {
            return Err(Status::ActiveResource);
        }
        if self.open != 0 && self.count(&[ImplicitOpen, ExplicitOpen]) == self.open {
            let oldest = self.written.iter().find(|zone| self.zones[**zone].0 == ImplicitOpen);
            self.zones[*oldest.ok_or(Status::OpenResource)?].0 = Closed;
        }
        Ok(())
    }

    fn answer(&mut self, ask: Ask, zone: usize) -> Result<(), Status> {
        use State::{Closed, Empty, ExplicitOpen, Full, ImplicitOpen};
        let (state, blocks) = self.zones[zone];
        self.zones[zone] = match (ask, state) {
            (Ask::Reset, _) => (Empty, 0),
            (Ask::Finish, Full) => return Ok(()),
            (_, Full) | (Ask::Close, Empty) => return Err(Status::InvalidCmd),
            (Ask::Close, Closed) => return Ok(()),
            (Ask::Close, _) => (if blocks == 0 { Empty } else { Closed }, blocks),
            (Ask::Finish, _) => {
                self.make_room(zone)?;
                (Full, BLOCKS)
            }
            (Ask::Open, _) => {
                self.make_room(zone)?;
                (ExplicitOpen, blocks)
            }
            (Ask::Write | Ask::WriteTheRest | Ask::Append, _) => {
                self.make_room(zone)?;
                self.written.retain(|other| *other != zone);
                self.written.push(zone);
                let blocks = if matches!(ask, Ask::WriteTheRest) { BLOCKS } else { blocks + 1 };
                let open = if state == ExplicitOpen { ExplicitOpen } else { ImplicitOpen };
                (if blocks == BLOCKS { Full } else { open }, blocks)
            }
        };
        Ok(())
    }
}

fn request(ask: Ask, zone: usize, blocks: u64) -> Req {
    let (start, wp) = (FIVE.start(zone), FIVE.start(zone) + 8 * blocks.min(BLOCKS - 1));
    match ask {
        Ask::Write => Req::write(wp, pattern(blocks, 0, 4096)),
        Ask::WriteTheRest => Req::write(wp, pattern(blocks, 0, 4096 * (BLOCKS - blocks).max(1) as usize)),
        Ask::Append => Req::append(start, pattern(blocks, 0, 4096)),
        Ask::Open => Req::open(start),
        Ask::Close => Req::close(start),
        Ask::Finish => Req::finish(start),
        Ask::Reset => Req::reset(start),
    }
}

#[test]
fn limits_of_0_1_2_and_up_to_all_are_kept_at_the_border_whatever_the_order_of_requests() {
    use Ask::{Append, Close, Finish, Open, Reset, Write, WriteTheRest};
    let asks = [Write, Write, Append, Open, Close, Close, Finish, WriteTheRest, Reset, Reset];
    // Every other time all zones are reset and then crowded against the limits.
    let crowd = [Write, Append, Open, Open];
    let mut rng = Rng::new(17);
    let pairs =
        [(0, 0), (0, 1), (0, 2), (0, 4), (1, 0), (1, 1), (1, 2), (1, 4), (2, 0), (2, 2), (2, 3), (4, 0), (4, 4)];
    for (open, active) in pairs {
        let mut disk = Setup::new(Geo { open, active, ..FIVE }).start();
        assert_eq!((disk.config_u32(76), disk.config_u32(80)), (open, active), "limits in the configuration");
        let mut rules =
            Rules { open: open as usize, active: active as usize, zones: [(State::Empty, 0); 5], written: Vec::new() };
        let mut refused = 0;
        for step in 0..600 {
            let crowded = step / 20 % 2 == 1;
            if crowded && step % 20 == 0 {
                assert_ok(disk.reset_all());
                rules.zones = [(State::Empty, 0); 5];
            }
            let asks = if crowded { &crowd[..] } else { &asks };
            let (ask, zone) = (*rng.pick(asks), rng.below(5) as usize);
            let req = request(ask, zone, rules.zones[zone].1);
            let before = rules.zones;
            let expected = rules.answer(ask, zone).err().unwrap_or(Status::Ok);
            let what = format!("limits {open} and {active}, step {step}: {ask:?} of zone {zone} in {before:?}");
            assert_eq!(disk.call(&req).status, expected, "{what}");
            let found = disk.zones();
            for (zone, (state, blocks)) in found.iter().zip(rules.zones) {
                assert_eq!(zone.state, state, "{what}: {found:?}");
                assert!(state == State::Full || zone.written() == 8 * blocks, "{what}: {found:?}");
            }
            refused += usize::from(matches!(expected, Status::OpenResource | Status::ActiveResource));
        }
        assert_eq!(refused > 0, (open, active) != (0, 0), "limits {open} and {active}: {refused} refusals");
        disk.finish_clean();
    }
}
