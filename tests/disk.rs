//! The disk in a test's own process: what each operation does to a zone in each state, by the rules of virtio 1.3,
//! 5.2.6; what a cut of the power leaves; images. Only what the library shows its users is used.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::fs;

use vhost_user_zbd::disk::{
    Bytes, CutError, Disk, DiskError, GeometryRequest, ImageError, Opening, Rule, Sector, Shape, State, Status,
};

const KIB: u64 = 1024;
const ZONE: u64 = 64 * KIB;
const CAPACITY: u64 = 48 * KIB;
const APPEND: u64 = 44 * KIB;

/// Sectors.
const LEN: u64 = ZONE / 512;
const CAP: u64 = CAPACITY / 512;

/// The zone under test has sequential neighbours; the first zone is conventional.
const SEQUENTIAL: u64 = 3;

fn disk(block: u64) -> Disk {
    let shape =
        Shape::new(6, Bytes(ZONE)).zone_capacity(Bytes(CAPACITY)).conventional_zones(1).max_append(Bytes(APPEND));
    Disk::in_memory(&shape.block(Bytes(block))).unwrap()
}

fn pattern(seed: u64, sectors: u64) -> Vec<u8> {
    (0..sectors * 512).map(|at| (seed * 31 + at / 7 + at % 251) as u8 | 1).collect()
}

/// How a zone was brought where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prepared {
    Empty,
    Written,
    Opened,
    OpenedAndWritten,
    Closed,
    WrittenFull,
    Finished,
    Reset,
}

const ALL: [Prepared; 8] = [
    Prepared::Empty,
    Prepared::Written,
    Prepared::Opened,
    Prepared::OpenedAndWritten,
    Prepared::Closed,
    Prepared::WrittenFull,
    Prepared::Finished,
    Prepared::Reset,
];

/// A zone before an operation.
#[derive(Clone, Copy, Debug)]
struct Scene {
    from: Prepared,
    state: State,
    /// Its first sector.
    start: u64,
    /// Sectors up to the write pointer.
    written: u64,
    /// Sectors of a block.
    block: u64,
}

impl Scene {
    fn prepare(disk: &mut Disk, from: Prepared) -> Self {
        let (start, block) = (SEQUENTIAL * LEN, disk.block().0 / 512);
        let zone = Sector(start);
        let two = pattern(1, 2 * block);
        match from {
            Prepared::Empty => {}
            Prepared::Written => disk.write(zone, &two).unwrap(),
            Prepared::Opened => disk.open(zone).unwrap(),
            Prepared::OpenedAndWritten => disk.open(zone).and_then(|()| disk.write(zone, &two)).unwrap(),
            Prepared::Closed => disk.write(zone, &two).and_then(|()| disk.close(zone)).unwrap(),
            Prepared::WrittenFull => disk.write(zone, &pattern(1, CAP)).unwrap(),
            Prepared::Finished => disk.write(zone, &two).and_then(|()| disk.finish(zone)).unwrap(),
            Prepared::Reset => disk.write(zone, &two).and_then(|()| disk.reset(zone)).unwrap(),
        }
        let (state, written) = match from {
            Prepared::Empty | Prepared::Reset => (State::Empty, 0),
            Prepared::Written => (State::ImplicitOpen, 2 * block),
            Prepared::Opened => (State::ExplicitOpen, 0),
            Prepared::OpenedAndWritten => (State::ExplicitOpen, 2 * block),
            Prepared::Closed => (State::Closed, 2 * block),
            Prepared::WrittenFull | Prepared::Finished => (State::Full, CAP),
        };
        Self { from, state, start, written, block }
    }

    fn zone(&self) -> Sector {
        Sector(self.start)
    }

    fn at(&self, sectors: u64) -> Sector {
        Sector(self.start + sectors)
    }

    /// What the zone holds.
    fn contents(&self) -> Vec<u8> {
        let data = match self.from {
            Prepared::Empty | Prepared::Opened | Prepared::Reset => Vec::new(),
            Prepared::WrittenFull => pattern(1, CAP),
            _ => pattern(1, 2 * self.block),
        };
        [data.as_slice(), &vec![0; ZONE as usize - data.len()]].concat()
    }

    /// Answered so; the zone stays as it was.
    fn same(&self, status: Status) -> Answer {
        (status, self.state, self.written)
    }

    /// The same, where a full zone says first that it is full.
    fn refused(&self, status: Status) -> Answer {
        self.same(if self.state == State::Full { Status::ZoneInvalidCommand } else { status })
    }

    /// So many sectors more are written.
    fn grows(&self, sectors: u64) -> Answer {
        let written = self.written + sectors;
        match self.state {
            State::Full => self.same(Status::ZoneInvalidCommand),
            _ if written == CAP => (Status::Ok, State::Full, CAP),
            State::ExplicitOpen => (Status::Ok, State::ExplicitOpen, written),
            _ => (Status::Ok, State::ImplicitOpen, written),
        }
    }
}

/// The status, and state and written sectors afterwards.
type Answer = (Status, State, u64);

/// What is asked for; the data that it is to add to the zone; what it is answered with.
type Row = (&'static str, fn(&Scene, &mut Disk) -> Asked, fn(&Scene) -> Answer);
type Asked = Result<Vec<u8>, DiskError>;

fn write(disk: &mut Disk, at: Sector, sectors: u64) -> Asked {
    let data = pattern(2, sectors);
    disk.write(at, &data).map(|()| data)
}

fn append(disk: &mut Disk, zone: Sector, sectors: u64) -> Asked {
    let data = pattern(3, sectors);
    disk.append(zone, &data).map(|_| data)
}

fn nothing(done: Result<(), DiskError>) -> Asked {
    done.map(|()| Vec::new())
}

const ROWS: &[Row] = &[
    ("read of the zone", |s, d| nothing(d.read(s.zone(), Bytes(ZONE)).map(drop)), |s| s.same(Status::Ok)),
    (
        "read across its end",
        |s, d| nothing(d.read(s.at(LEN - 1), Bytes(1024)).map(drop)),
        |s| s.same(Status::ZoneInvalidCommand),
    ),
    ("read of nothing", |s, d| nothing(d.read(s.zone(), Bytes(0)).map(drop)), |s| s.same(Status::Ok)),
    ("read of half a sector", |s, d| nothing(d.read(s.zone(), Bytes(256)).map(drop)), |s| s.same(Status::IoErr)),
    ("report", |s, d| nothing(d.report(s.at(5), 1).map(drop)), |s| s.same(Status::Ok)),
    ("flush", |_, d| nothing(d.flush()), |s| s.same(Status::Ok)),
    ("write at the pointer", |s, d| write(d, s.at(s.written.min(CAP - s.block)), s.block), |s| s.grows(s.block)),
    (
        "write up to the capacity",
        |s, d| write(d, s.at(s.written.min(CAP - s.block)), (CAP - s.written).max(s.block)),
        |s| s.grows(CAP - s.written),
    ),
    (
        "write ahead of the pointer",
        |s, d| write(d, s.at((s.written + s.block).min(CAP)), s.block),
        |s| s.refused(Status::ZoneUnalignedWrite),
    ),
    (
        "write off the block",
        |s, d| write(d, s.at(s.written.min(CAP - 16) + 1), s.block),
        |s| s.refused(Status::ZoneUnalignedWrite),
    ),
    (
        "write past the capacity",
        |s, d| write(d, s.at(s.written), CAP - s.written + s.block),
        |s| s.same(Status::ZoneInvalidCommand),
    ),
    (
        "write into the next zone",
        |s, d| write(d, s.at(s.written), LEN - s.written + s.block),
        |s| s.same(Status::ZoneInvalidCommand),
    ),
    ("write of half a sector", |s, d| nothing(d.write(s.at(s.written), &[1; 256])), |s| s.same(Status::IoErr)),
    ("append", |s, d| append(d, s.zone(), s.block), |s| s.grows(s.block)),
    (
        "append past the capacity",
        |s, d| append(d, s.zone(), CAP - s.written + s.block),
        |s| s.same(Status::ZoneInvalidCommand),
    ),
    (
        "append longer than the limit",
        |s, d| append(d, s.zone(), APPEND / 512 + s.block),
        |s| s.same(Status::ZoneInvalidCommand),
    ),
    ("append off the zone's start", |s, d| append(d, s.at(s.block), s.block), |s| s.same(Status::ZoneInvalidCommand)),
    (
        "open",
        |s, d| nothing(d.open(s.zone())),
        |s| match s.state {
            State::Full => s.same(Status::ZoneInvalidCommand),
            _ => (Status::Ok, State::ExplicitOpen, s.written),
        },
    ),
    (
        "close",
        |s, d| nothing(d.close(s.zone())),
        |s| match s.state {
            State::Empty | State::Full => s.same(Status::ZoneInvalidCommand),
            _ if s.written == 0 => (Status::Ok, State::Empty, 0),
            _ => (Status::Ok, State::Closed, s.written),
        },
    ),
    ("finish", |s, d| nothing(d.finish(s.zone())), |_| (Status::Ok, State::Full, CAP)),
    ("reset", |s, d| nothing(d.reset(s.zone())), |_| (Status::Ok, State::Empty, 0)),
    ("reset of all", |_, d| nothing(d.reset_all()), |_| (Status::Ok, State::Empty, 0)),
    ("open off the zone's start", |s, d| nothing(d.open(s.at(1))), |s| s.same(Status::ZoneInvalidCommand)),
    ("reset off the zone's start", |s, d| nothing(d.reset(s.at(LEN - 1))), |s| s.same(Status::ZoneInvalidCommand)),
    ("finish of a conventional zone", |_, d| nothing(d.finish(Sector(0))), |s| s.same(Status::ZoneInvalidCommand)),
    ("append to a conventional zone", |s, d| append(d, Sector(0), s.block), |s| s.same(Status::ZoneInvalidCommand)),
    ("read past the disk", |_, d| nothing(d.read(Sector(6 * LEN), Bytes(512)).map(drop)), |s| s.same(Status::IoErr)),
    (
        "report past the disk",
        |_, d| nothing(d.report(Sector(6 * LEN), 1).map(drop)),
        |s| s.same(Status::ZoneInvalidCommand),
    ),
    ("write past the disk", |s, d| write(d, Sector(6 * LEN), s.block), |s| s.same(Status::IoErr)),
];

fn check_row(row: &Row, from: Prepared, block: u64) {
    let (name, ask, answer) = row;
    let mut disk = disk(block);
    // Both neighbours are in use.
    for zone in [SEQUENTIAL - 1, SEQUENTIAL + 1] {
        disk.append(Sector(zone * LEN), &pattern(9, 16)).unwrap();
    }
    let scene = Scene::prepare(&mut disk, from);
    let what = format!("{name}, {from:?}, blocks of {block} bytes");
    let before = disk.report(Sector(0), 6).unwrap();
    let mut contents = scene.contents();
    let (status, state, written) = answer(&scene);
    let asked = ask(&scene, &mut disk);
    assert_eq!(asked.as_ref().map_or_else(|error| error.status(), |_| Some(Status::Ok)), Some(status), "{what}");
    let after = disk.report(Sector(0), 6).unwrap();
    let zone = after[SEQUENTIAL as usize];
    assert_eq!((zone.state, zone.write_pointer), (state, Bytes((scene.start + written) * 512)), "{what}");
    let all = name.contains("all");
    for other in (0..6).filter(|other| *other != SEQUENTIAL as usize && !all) {
        assert_eq!(after[other], before[other], "{what}: zone {other}");
    }
    match asked {
        Ok(data) if state == State::Empty && data.is_empty() => contents.fill(0),
        Ok(data) => contents[scene.written as usize * 512 % ZONE as usize..][..data.len()].copy_from_slice(&data),
        Err(_) => {}
    }
    assert!(disk.read(scene.zone(), Bytes(ZONE)).unwrap() == contents, "{what}: other bytes");
    let open = after.iter().filter(|zone| zone.state.is_open()).count();
    assert_eq!(disk.usage().open as usize, open, "{what}: open zones");
    disk.end().unwrap();
}

#[test]
fn every_operation_on_a_zone_in_every_state_is_answered_by_the_rules() {
    for block in [512, 4096] {
        for row in ROWS {
            ALL.into_iter().for_each(|from| check_row(row, from, block));
        }
    }
}

#[test]
fn conventional_zones_are_written_anywhere_and_have_no_states() {
    let mut disk = disk(4096);
    disk.write(Sector(3), &pattern(1, 2)).unwrap();
    disk.write(Sector(4), &pattern(2, 1)).unwrap();
    let expected = [&[0; 3 * 512][..], &pattern(1, 1), &pattern(2, 1)].concat();
    assert_eq!(disk.read(Sector(0), Bytes(5 * 512)).unwrap(), expected);
    let across = disk.write(Sector(LEN - 1), &pattern(1, 2)).unwrap_err();
    assert_eq!(across.status(), Some(Status::ZoneInvalidCommand));
    for done in [disk.open(Sector(0)), disk.close(Sector(0)), disk.finish(Sector(0)), disk.reset(Sector(0))] {
        let error = done.unwrap_err();
        assert_eq!((error.status(), error.rule()), (Some(Status::ZoneInvalidCommand), Some(Rule::Conventional)));
    }
    disk.reset_all().unwrap();
    assert_eq!(disk.read(Sector(0), Bytes(5 * 512)).unwrap(), expected);
    assert_eq!(disk.report(Sector(7), 1).unwrap()[0].state, State::NotWp);
}

#[test]
fn limits_of_open_and_active_zones_have_their_statuses() {
    let shape = Shape::new(6, Bytes(ZONE)).max_open_zones(2).max_active_zones(3);
    let mut disk = Disk::in_memory(&shape).unwrap();
    let zone = |number: u64| Sector(number * LEN);
    disk.open(zone(0)).unwrap();
    disk.open(zone(1)).unwrap();
    let error = disk.open(zone(2)).unwrap_err();
    assert_eq!((error.status(), error.rule()), (Some(Status::ZoneOpenResource), Some(Rule::OpenLimit)));
    let error = disk.write(zone(2), &[1; 4096]).unwrap_err();
    assert_eq!(error.status(), Some(Status::ZoneOpenResource), "explicitly open zones are not closed for others");
    for number in 0..2 {
        disk.write(zone(number), &[1; 4096]).unwrap();
        disk.close(zone(number)).unwrap();
    }
    // Those opened by writes are closed for others.
    for number in 2..5 {
        let written = disk.append(zone(number), &[1; 4096]);
        match number {
            2 => assert_eq!(written.unwrap(), zone(2)),
            _ => assert_eq!(written.unwrap_err().status(), Some(Status::ZoneActiveResource)),
        }
    }
    let usage = disk.usage();
    assert_eq!((usage.open, usage.max_open, usage.active, usage.max_active), (1, 2, 3, 3));
    disk.finish(zone(0)).unwrap();
    disk.append(zone(3), &[1; 4096]).unwrap();
}

#[test]
fn a_refusal_says_what_was_asked_and_which_rule_it_broke() {
    let mut disk = disk(4096);
    let zone = Sector(SEQUENTIAL * LEN);
    disk.append(zone, &pattern(1, 16)).unwrap();
    let long = vec![1; APPEND as usize];
    let table: Vec<(Result<(), DiskError>, Rule, &str)> = vec![
        (disk.write(zone, &[1; 4096]), Rule::WritePointer, "write at 384 of 8 sectors: ZONE_UNALIGNED_WP: zone 3 is"),
        (disk.append(zone, &[1; 512]).map(drop), Rule::BlockSize, "append to 384 of 1 sectors: ZONE_UNALIGNED_WP: "),
        (
            disk.append(zone, &long).map(drop),
            Rule::Capacity,
            "ZONE_INVALID_CMD: zone 3 is implicit-open, its write pointer",
        ),
        (disk.append(Sector(385), &[1; 4096]).map(drop), Rule::ZoneStart, "expected the first sector of a zone"),
        (disk.read(Sector(LEN * 4 - 1), Bytes(1024)).map(drop), Rule::ZoneBorder, "zone 3 ends at 512"),
        (
            disk.read(Sector(u64::MAX), Bytes(512)).map(drop),
            Rule::Range,
            "read at 18446744073709551615 of 1 sectors: IOERR: ",
        ),
        (
            disk.read(Sector(0), Bytes(1 << 40)).map(drop),
            Rule::Malformed,
            "read: IOERR: malformed request: more than 268435456",
        ),
        (disk.read(Sector(0), Bytes(u64::MAX)).map(drop), Rule::Malformed, "read: IOERR: malformed request: more than"),
    ];
    for (done, rule, words) in table {
        let error = done.unwrap_err();
        assert_eq!(error.rule(), Some(rule), "{error}");
        assert!(error.to_string().contains(words), "{error}\n  has not: {words}");
    }
}

#[test]
fn a_report_has_as_many_zones_as_asked_for_from_the_one_that_holds_its_start() {
    let mut disk = Disk::in_memory(&Shape::new(3000, Bytes(8 * KIB))).unwrap();
    assert_eq!(disk.report(Sector(0), 0).unwrap(), []);
    for (start, max, first, count) in
        [(0, 1, 0, 1), (15, 2, 0, 2), (16, 1025, 1, 1025), (0, usize::MAX, 0, 3000), (47_999, 9, 2999, 1)]
    {
        let zones = disk.report(Sector(start), max).unwrap();
        let numbers: Vec<u32> = zones.iter().map(|zone| zone.index.0).collect();
        assert_eq!(numbers, (first..first + count).collect::<Vec<u32>>(), "{max} from {start}");
    }
}

#[test]
fn a_disk_need_not_consist_of_whole_zones() {
    let geometry = GeometryRequest {
        size: Bytes(2 * ZONE + 8 * KIB),
        zone_size: Bytes(ZONE),
        zone_capacity: Bytes(CAPACITY),
        conventional_zones: 0,
        max_open_zones: 0,
        max_active_zones: 0,
        max_append_bytes: Bytes(0),
    };
    let mut disk = Disk::in_memory(&Shape::from(geometry)).unwrap();
    assert_eq!(disk.append(Sector(2 * LEN), &pattern(1, 16)).unwrap(), Sector(2 * LEN));
    let last = disk.report(Sector(2 * LEN), 9).unwrap();
    assert_eq!(
        (last.len(), last[0].len, last[0].capacity, last[0].state),
        (1, Bytes(8 * KIB), Bytes(8 * KIB), State::Full)
    );
}

#[test]
fn what_cannot_be_is_refused_by_its_name_and_value() {
    let refused = |shape: Shape| Disk::in_memory(&shape).unwrap_err().to_string();
    let shape = Shape::new(3, Bytes(ZONE));
    for (shape, words) in [
        (Shape::new(3, Bytes(1000)), "the disk in memory: zone_size is 1000: expected a power of two"),
        (Shape::new(0, Bytes(ZONE)), "size is 0: expected a multiple of 512 bytes, and not 0"),
        (Shape::new(u32::MAX, Bytes(u64::MAX)), "zone_size is 18446744073709551615"),
        (shape.conventional_zones(3), "conventional_zones is 3"),
        (shape.block(Bytes(1024)), "block is 1024: expected 512 or 4096"),
        (shape.max_append(Bytes(512)), "max_append_bytes of the image is 512: expected at least the block size, 4096"),
    ] {
        let said = refused(shape);
        assert!(said.contains(words), "{said}\n  has not: {words}");
    }
}

/// A disk with something to lose in three zones: a write, a reset and a finish; zone 0 has a block flushed before.
fn volatile() -> Disk {
    let mut disk = Disk::in_memory(&Shape::new(5, Bytes(ZONE)).conventional_zones(1)).unwrap();
    disk.write(Sector(0), &pattern(1, 8)).unwrap();
    for zone in 1..4 {
        disk.append(Sector(zone * LEN), &pattern(zone, 16)).unwrap();
    }
    disk.flush().unwrap();
    assert_eq!(disk.volatile_bytes(), 0);
    disk.write(Sector(0), &pattern(7, 8)).unwrap();
    disk.append(Sector(LEN), &pattern(8, 32)).unwrap();
    disk.reset(Sector(2 * LEN)).unwrap();
    disk.finish(Sector(3 * LEN)).unwrap();
    assert!(disk.volatile_bytes() > 0);
    disk
}

/// State, pointer in sectors of the zone, and contents of each zone.
fn picture(disk: &mut Disk) -> Vec<(State, u64, Vec<u8>)> {
    let zones = disk.report(Sector(0), usize::MAX).unwrap();
    let look = |zone: vhost_user_zbd::disk::ZoneInfo| {
        let bytes = disk.read(zone.start.to_sector(), zone.len).unwrap();
        (zone.state, (zone.write_pointer.0 - zone.start.0) / 512, bytes)
    };
    zones.into_iter().map(look).collect()
}

fn padded(data: &[u8]) -> Vec<u8> {
    [data, &vec![0; ZONE as usize - data.len()]].concat()
}

#[test]
fn a_cut_loses_what_its_words_say_and_nothing_that_is_stable() {
    let old = [
        (State::NotWp, 0, padded(&pattern(1, 8))),
        (State::Closed, 16, padded(&pattern(1, 16))),
        (State::Closed, 16, padded(&pattern(2, 16))),
        (State::Closed, 16, padded(&pattern(3, 16))),
        (State::Empty, 0, padded(&[])),
    ];
    let new = [
        (State::NotWp, 0, padded(&pattern(7, 8))),
        (State::Closed, 48, padded(&[pattern(1, 16), pattern(8, 32)].concat())),
        (State::Empty, 0, padded(&[])),
        (State::Full, LEN, padded(&pattern(3, 16))),
        (State::Empty, 0, padded(&[])),
    ];
    let of = |lost: &[usize]| -> Vec<_> {
        (0..5).map(|zone| if lost.contains(&zone) { old[zone].clone() } else { new[zone].clone() }).collect()
    };
    for (words, lost) in [
        ("", &[0, 1, 2, 3][..]),
        ("lose=all", &[0, 1, 2, 3]),
        ("lose=nothing", &[]),
        ("lose=zone:1,3", &[1, 3]),
        ("keep=zone:2", &[0, 1, 3]),
        ("lose=all mgmt=stable", &[0, 1]),
    ] {
        let mut disk = volatile();
        let cut = disk.power_cut(words).unwrap();
        assert!(!disk.has_power());
        disk.power_on();
        assert!(disk.has_power());
        assert_eq!(disk.volatile_bytes(), 0, "what a cut has left is stable");
        assert!(picture(&mut disk) == of(lost), "{words}: {cut:?}");
        // Each zone goes on from its pointer.
        disk.append(Sector(4 * LEN), &pattern(5, 8)).unwrap();
        disk.append(Sector(LEN), &pattern(5, 8)).unwrap();
        disk.end().unwrap();
    }
}

#[test]
fn the_same_seed_leaves_the_same_and_so_does_the_outcome_of_an_earlier_cut() {
    let mut kinds = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let (mut one, mut two, mut three) = (volatile(), volatile(), volatile());
        let cut = one.power_cut(&format!("seed={seed}")).unwrap();
        assert_eq!(two.power_cut(&format!("seed={seed}")).unwrap(), cut);
        assert_eq!(three.power_cut_as(&cut).unwrap().digest, cut.digest);
        let [one, two, three] = [&mut one, &mut two, &mut three].map(|disk| {
            disk.power_on();
            picture(disk)
        });
        assert!(one == two && one == three, "seed {seed}");
        kinds.insert(cut.digest);
    }
    assert!(kinds.len() > 8, "forty seeds leave {} states", kinds.len());
}

#[test]
fn without_power_every_request_fails_and_says_why() {
    let mut disk = volatile();
    disk.power_cut("lose=all").unwrap();
    let zone = Sector(LEN);
    let asked = [
        disk.read(zone, Bytes(512)).map(drop),
        disk.write(zone, &[1; 4096]),
        disk.append(zone, &[1; 4096]).map(drop),
        disk.report(zone, 1).map(drop),
        disk.open(zone),
        disk.close(zone),
        disk.finish(zone),
        disk.reset(zone),
        disk.reset_all(),
        disk.flush(),
    ];
    for done in asked {
        let error = done.unwrap_err();
        assert_eq!((error.status(), error.rule()), (Some(Status::IoErr), Some(Rule::Power)), "{error}");
    }
    assert!(matches!(disk.power_cut("").unwrap_err(), DiskError::Cut(CutError::Off)));
    disk.power_on();
    disk.write(Sector(4 * LEN), &[1; 4096]).unwrap();
}

#[test]
fn wrong_words_of_a_cut_are_refused_and_cut_nothing() {
    let mut disk = volatile();
    for (words, said) in [
        ("loose=all", "'loose=all' is not known"),
        ("lose=zone:9", "lose is 'zone:9': expected numbers of zones below 5"),
        ("seed=1 lose=all", "exclude one another"),
        ("at=request:3", "at and then have no meaning here"),
        ("then=dead", "at and then have no meaning here"),
        ("state=cut.json", "expected power_cut_as"),
    ] {
        let error = disk.power_cut(words).unwrap_err().to_string();
        assert!(error.contains(said), "{words}: {error}");
        assert!(disk.has_power(), "{words}");
    }
    assert_eq!(disk.report(Sector(LEN), 1).unwrap()[0].write_pointer, Bytes(ZONE + 48 * 512));
}

#[test]
fn an_image_is_there_again_when_it_is_opened_whatever_ended_its_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    let mut disk = Disk::create_image(&path, &Shape::new(4, Bytes(ZONE)).block(Bytes(512))).unwrap();
    disk.append(Sector(0), &pattern(1, 3)).unwrap();
    drop(disk);
    let mut disk = Disk::open_image(&path, Opening::default().block(Bytes(512))).unwrap();
    assert_eq!(disk.read(Sector(0), Bytes(3 * 512)).unwrap(), pattern(1, 3));
    disk.append(Sector(0), &pattern(2, 5)).unwrap();
    disk.finish(Sector(LEN)).unwrap();
    disk.flush().unwrap();
    disk.append(Sector(2 * LEN), &pattern(3, 8)).unwrap();
    disk.power_cut("lose=all").unwrap();
    drop(disk);
    let mut disk = Disk::open_image(&path, Opening::default()).unwrap();
    let states: Vec<State> = disk.report(Sector(0), 4).unwrap().iter().map(|zone| zone.state).collect();
    assert_eq!(states, [State::Closed, State::Full, State::Empty, State::Empty]);
    assert_eq!(disk.read(Sector(3), Bytes(5 * 512)).unwrap(), pattern(2, 5));
    disk.end().unwrap();
}

#[test]
fn an_image_that_is_not_to_be_had_says_which_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    let shape = Shape::new(4, Bytes(ZONE));
    let error = |result: Result<Disk, DiskError>| match result.unwrap_err() {
        DiskError::Image { name, why } => {
            assert!(name.ends_with("disk.qcow2"), "{name}");
            why
        }
        other => panic!("{other}"),
    };
    assert!(matches!(error(Disk::open_image(&path, Opening::default())), ImageError::File(_)));
    let bad = error(Disk::create_image(&path, &shape.conventional_zones(4)));
    assert!(bad.to_string().starts_with("conventional_zones is 4"), "{bad}");
    assert!(!path.exists(), "what was begun is removed");
    fs::write(&path, "something else").unwrap();
    assert!(matches!(error(Disk::open_image(&path, Opening::default())), ImageError::Open(_)));
    assert!(matches!(error(Disk::create_image(&path, &shape)), ImageError::File(_)));
    assert_eq!(fs::read(&path).unwrap(), b"something else");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let folder = error(Disk::open_image(&path, Opening::default())).to_string();
    assert!(folder.contains("not a regular file: expected a qcow2 image in a file"), "{folder}");
}

#[test]
fn a_disk_that_is_read_only_refuses_changes_and_never_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    let mut disk = Disk::create_image(&path, &Shape::new(4, Bytes(ZONE))).unwrap();
    disk.append(Sector(0), &pattern(1, 8)).unwrap();
    disk.end().unwrap();
    let before = fs::read(&path).unwrap();
    let mut disk = Disk::open_image(&path, Opening::default().read_only()).unwrap();
    assert_eq!(disk.read(Sector(0), Bytes(4096)).unwrap(), pattern(1, 8));
    let asked =
        [disk.append(Sector(0), &[1; 4096]).map(drop), disk.open(Sector(0)), disk.reset(Sector(0)), disk.reset_all()];
    for done in asked {
        let error = done.unwrap_err();
        assert_eq!((error.status(), error.rule()), (Some(Status::IoErr), Some(Rule::ReadOnlyDisk)), "{error}");
    }
    disk.flush().unwrap();
    assert!(disk.power_cut("").is_err(), "there is nothing to lose");
    disk.end().unwrap();
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn ten_thousand_cuts_of_one_disk_each_leave_a_prefix_of_what_was_appended() {
    let mut disk = Disk::in_memory(&Shape::new(3, Bytes(ZONE))).unwrap();
    let mut torn = 0;
    for seed in 0..10_000u64 {
        let data = [pattern(seed, 16), pattern(seed + 1, 24)];
        for zone in 0..3 {
            disk.append(Sector(zone * LEN), &data[0]).unwrap();
            if zone == 1 {
                disk.flush().unwrap();
            }
            disk.append(Sector(zone * LEN), &data[1]).unwrap();
        }
        let cut = disk.power_cut(&format!("seed={seed}")).unwrap();
        disk.power_on();
        torn += cut.zones.iter().filter(|zone| zone.torn).count();
        let zones = disk.report(Sector(0), 3).unwrap();
        for zone in zones {
            let kept = (zone.write_pointer.0 - zone.start.0) as usize;
            assert!(kept <= 40 * 512 && kept.is_multiple_of(4096), "seed {seed}: {zone:?}");
            assert!(zone.index.0 == 2 || kept >= 16 * 512, "seed {seed}: what was flushed is gone: {zone:?}");
            let expected = [&data.concat()[..kept], &vec![0; 40 * 512 - kept]].concat();
            assert!(disk.read(zone.start.to_sector(), Bytes(40 * 512)).unwrap() == expected, "seed {seed}: {zone:?}");
        }
        disk.reset_all().unwrap();
        disk.flush().unwrap();
    }
    assert!(torn > 1000, "{torn} writes were torn");
}
