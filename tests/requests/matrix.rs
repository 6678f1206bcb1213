//! Every request in every state that a driver can bring a zone into: one table.

use crate::common::cli::{Geo, SMALL};
use crate::common::disk::{Disk, Setup};
use crate::common::model::{assert_ok, assert_same, pattern};
use crate::common::request::{MANAGEMENT, Req, State, Status, kind};
use crate::common::{KIB, SECTOR};
use crate::zones::{ALL, Prepared};

/// Eight zones of 128 KiB, 96 KiB of each writable, and appends of up to 92 KiB.
const GEO: Geo = Geo { size: 8 * 128 * KIB, zone: 128 * KIB, cap: 96 * KIB, append: 92 * KIB, ..SMALL };

/// Sectors in a zone, sectors of it that can be written, and sectors in the longest append.
const LEN: u64 = 128 * KIB / SECTOR;
const CAP: u64 = 96 * KIB / SECTOR;
const APPEND: u64 = 92 * KIB / SECTOR;

/// The zone under test: sequential, with sequential zones on both sides.
const SEQ: usize = 3;

/// The last conventional zone.
const CONV: usize = 1;

/// A zone before a request, and the disk's write granularity.
#[derive(Clone, Copy)]
struct Scene {
    from: Prepared,
    /// Its first sector.
    start: u64,
    /// Sectors written; for a full zone what it can hold.
    written: u64,
    /// Sectors in a block.
    block: u64,
}

impl Scene {
    fn wp(&self) -> u64 {
        self.start + self.written
    }

    fn write(&self, at: u64, count: u64) -> Option<Req> {
        Some(Req::write(at, data(count)))
    }

    fn append(&self, at: u64, count: u64) -> Option<Req> {
        Some(Req::append(at, data(count)))
    }

    /// Answered with `status`; the zone is as it was.
    fn same(&self, status: Status) -> Answer {
        (status, self.from.state(), self.written)
    }

    /// A write of `count` sectors that a zone with room for it takes.
    fn grows(&self, count: u64) -> Answer {
        match self.from.state() {
            State::Full => self.same(Status::InvalidCmd),
            _ if self.written + count == CAP => (Status::Ok, State::Full, CAP),
            State::ExplicitOpen => (Status::Ok, State::ExplicitOpen, self.written + count),
            _ => (Status::Ok, State::ImplicitOpen, self.written + count),
        }
    }

    /// Refused with `status`, but a full zone says first that it is full.
    fn refused(&self, status: Status) -> Answer {
        self.same(if self.from.is_full() { Status::InvalidCmd } else { status })
    }
}

/// The status, the state afterwards, and the sectors written then.
type Answer = (Status, State, u64);

/// A name, the request (none where a scene has no such request), and what the rules say of it.
type Row = (&'static str, fn(&Scene) -> Option<Req>, fn(&Scene) -> Answer);

fn data(count: u64) -> Vec<u8> {
    pattern(0x5eed, 0, (count * SECTOR) as usize)
}

const ROWS: &[Row] = &[
    ("read of the whole zone", |s| Some(Req::read(s.start, (LEN * SECTOR) as usize)), |s| s.same(Status::Ok)),
    ("read of its last sector", |s| Some(Req::read(s.start + LEN - 1, 512)), |s| s.same(Status::Ok)),
    ("read across its end", |s| Some(Req::read(s.start + LEN - 1, 1024)), |s| s.same(Status::InvalidCmd)),
    ("read across its start", |s| Some(Req::read(s.start - 1, 1024)), |s| s.same(Status::InvalidCmd)),
    ("report from its start", |s| Some(Req::report(s.start, 128)), |s| s.same(Status::Ok)),
    ("report from its last sector", |s| Some(Req::report(s.start + LEN - 1, 128)), |s| s.same(Status::Ok)),
    ("report into too little", |s| Some(Req::report(s.start, 63)), |s| s.same(Status::InvalidCmd)),
    ("flush", |_| Some(Req::flush()), |s| s.same(Status::Ok)),
    ("get id", |_| Some(Req::get_id()), |s| s.same(Status::Ok)),
    (
        "write of a block at the pointer",
        |s| s.write(s.wp().min(s.start + CAP - s.block), s.block),
        |s| s.grows(s.block),
    ),
    (
        "write up to the capacity",
        |s| s.write(s.wp().min(s.start + CAP - s.block), (CAP - s.written).max(s.block)),
        |s| s.grows(CAP - s.written),
    ),
    (
        "write ahead of the pointer",
        |s| s.write((s.wp() + s.block).min(s.start + CAP), s.block),
        |s| s.refused(Status::UnalignedWp),
    ),
    (
        "write behind the pointer",
        |s| (s.written > 0).then(|| Req::write(s.start, data(s.block))),
        |s| s.refused(Status::UnalignedWp),
    ),
    (
        "write that begins off the granularity",
        |s| s.write(s.wp().min(s.start + CAP - 16) + 1, s.block),
        |s| s.refused(Status::UnalignedWp),
    ),
    (
        "write that ends off the granularity",
        |s| (s.block > 1).then(|| Req::write(s.wp(), data(s.block - 1))),
        |s| s.refused(Status::UnalignedWp),
    ),
    ("write past the capacity", |s| s.write(s.wp(), CAP - s.written + s.block), |s| s.same(Status::InvalidCmd)),
    ("write behind the capacity", |s| s.write(s.start + CAP, s.block), |s| s.refused(Status::UnalignedWp)),
    ("write into the next zone", |s| s.write(s.wp(), LEN - s.written + s.block), |s| s.same(Status::InvalidCmd)),
    // Two things are wrong with each of these.
    (
        "write off the pointer into the next zone",
        |s| s.write(s.start + LEN - s.block, 2 * s.block),
        |s| s.same(Status::InvalidCmd),
    ),
    (
        "write past the capacity that ends off the granularity",
        |s| (s.block > 1).then(|| Req::write(s.wp(), data(CAP - s.written + s.block - 1))),
        |s| s.refused(Status::UnalignedWp),
    ),
    (
        "append longer than the limit that ends off the granularity",
        |s| (s.block > 1).then(|| Req::append(s.start, data(APPEND + 1))),
        |s| s.same(Status::InvalidCmd),
    ),
    ("append of a block", |s| s.append(s.start, s.block), |s| s.grows(s.block)),
    (
        "append up to the capacity",
        |s| (s.written > 0).then(|| Req::append(s.start, data((CAP - s.written).max(s.block)))),
        |s| s.grows(CAP - s.written),
    ),
    ("append of the limit", |s| (s.written == 0).then(|| Req::append(s.start, data(APPEND))), |s| s.grows(APPEND)),
    (
        "append past the capacity",
        |s| (s.written > 0).then(|| Req::append(s.start, data(CAP - s.written + s.block))),
        |s| s.same(Status::InvalidCmd),
    ),
    ("append longer than the limit", |s| s.append(s.start, APPEND + s.block), |s| s.same(Status::InvalidCmd)),
    (
        "append off the granularity",
        |s| (s.block > 1).then(|| Req::append(s.start, data(s.block - 1))),
        |s| s.refused(Status::UnalignedWp),
    ),
    (
        "append at the pointer",
        |s| (s.written > 0).then(|| Req::append(s.wp(), data(s.block))),
        |s| s.same(Status::InvalidCmd),
    ),
    ("append at its second sector", |s| s.append(s.start + 1, s.block), |s| s.same(Status::InvalidCmd)),
    (
        "open",
        |s| Some(Req::open(s.start)),
        |s| match s.from.is_full() {
            true => s.same(Status::InvalidCmd),
            false => (Status::Ok, State::ExplicitOpen, s.written),
        },
    ),
    (
        "close",
        |s| Some(Req::close(s.start)),
        |s| match s.from.state() {
            State::Empty | State::Full => s.same(Status::InvalidCmd),
            _ if s.written == 0 => (Status::Ok, State::Empty, 0),
            _ => (Status::Ok, State::Closed, s.written),
        },
    ),
    ("finish", |s| Some(Req::finish(s.start)), |_| (Status::Ok, State::Full, CAP)),
    ("reset", |s| Some(Req::reset(s.start)), |_| (Status::Ok, State::Empty, 0)),
    ("open off its start", |s| Some(Req::open(s.start + s.block)), |s| s.same(Status::InvalidCmd)),
    ("close off its start", |s| Some(Req::close(s.start + 1)), |s| s.same(Status::InvalidCmd)),
    ("finish off its start", |s| Some(Req::finish(s.start + LEN - 1)), |s| s.same(Status::InvalidCmd)),
    ("reset off its start", |s| Some(Req::reset(s.start + s.block)), |s| s.same(Status::InvalidCmd)),
    ("discard", |s| Some(Req { out: vec![0; 16], ..Req::bare(kind::DISCARD, s.start) }), |s| s.same(Status::Unsupp)),
    (
        "write zeroes",
        |s| Some(Req { out: vec![0; 16], ..Req::bare(kind::WRITE_ZEROES, s.start) }),
        |s| s.same(Status::Unsupp),
    ),
    (
        "secure erase",
        |s| Some(Req { out: vec![0; 16], ..Req::bare(kind::SECURE_ERASE, s.start) }),
        |s| s.same(Status::Unsupp),
    ),
    // Last, since it touches the neighbours too.
    ("reset of all", |_| Some(Req::reset_all()), |_| (Status::Ok, State::Empty, 0)),
];

/// What a zone must read as after a request that was answered with `status`.
fn contents_after(mut contents: Vec<u8>, req: &Req, status: Status, scene: &Scene) -> Vec<u8> {
    match req.kind {
        _ if status != Status::Ok => {}
        kind::OUT | kind::ZONE_APPEND => {
            let at = (scene.written * SECTOR) as usize;
            contents[at..at + req.out.len()].copy_from_slice(&req.out);
        }
        kind::ZONE_RESET | kind::ZONE_RESET_ALL => contents.fill(0),
        _ => {}
    }
    contents
}

/// Whether the scene has such a request; then it was answered as the row says.
fn check_row(disk: &mut Disk, scene: &Scene, (name, req, answer): &Row) -> bool {
    let Some(req) = req(scene) else { return false };
    let what = format!("{name} in {:?}, blocks of {} sectors", scene.from, scene.block);
    let (before, contents) = (disk.zones(), disk.read(scene.start, (LEN * SECTOR) as usize).unwrap());
    let (status, state, written) = answer(scene);
    let done = disk.call(&req);
    assert_eq!(done.status, status, "{what}");
    assert!(status == Status::Ok || done.used_len == 1, "{what}: {} bytes written with a refusal", done.used_len);
    if (req.kind, status) == (kind::ZONE_APPEND, Status::Ok) {
        assert_eq!(done.number(), scene.wp(), "{what}: append_sector");
    }
    let after = disk.zones();
    assert_eq!(after[SEQ].state, state, "{what}");
    if state != State::Full {
        assert_eq!(after[SEQ].written(), written, "{what}");
    }
    for zone in (0..GEO.zones()).filter(|zone| *zone != SEQ && req.kind != kind::ZONE_RESET_ALL) {
        assert_eq!(after[zone], before[zone], "{what}: zone {zone}");
    }
    let expected = contents_after(contents, &req, status, scene);
    assert_same(&disk.read(scene.start, expected.len()).unwrap(), &expected, scene.start);
    true
}

fn check_all(block: u64) {
    let mut disk = Setup::new(GEO).args(&["--block-size", &(block * SECTOR).to_string()]).start();
    assert_eq!(u64::from(disk.config_u32(84)), APPEND, "the append limit these rows count on");
    // A neighbour that is in use on both sides.
    for zone in [SEQ - 1, SEQ + 1] {
        disk.fill(zone, 4096);
    }
    for row in ROWS {
        let mut asked = 0;
        for from in ALL {
            from.prepare(&mut disk, SEQ);
            let written = match from {
                full if full.is_full() => CAP,
                written if written.is_written() => 16,
                _ => 0,
            };
            asked += usize::from(check_row(&mut disk, &Scene { from, start: GEO.start(SEQ), written, block }, row));
        }
        assert!(asked > 0 || block == 1, "{}: in no state", row.0);
    }
    disk.finish_clean();
}

#[test]
fn every_request_in_every_state_of_a_zone_is_answered_as_the_table_says() {
    check_all(8);
}

#[test]
fn every_request_in_every_state_of_a_zone_is_answered_as_the_table_says_with_a_granularity_of_512() {
    check_all(1);
}

#[test]
fn every_request_to_a_conventional_zone_is_answered_as_on_any_disk_or_invalid() {
    let mut disk = Setup::new(GEO).start();
    let (start, next) = (GEO.start(CONV), GEO.start(CONV + 1));
    disk.fill(CONV + 1, 4096);
    let mut rows = vec![
        ("read", Req::read(start, 4096), Status::Ok),
        ("read across two conventional zones", Req::read(start - 8, 8192), Status::Ok),
        ("read into a sequential zone", Req::read(next - 1, 1024), Status::InvalidCmd),
        ("write", Req::write(start + 40, data(8)), Status::Ok),
        ("write over what is there", Req::write(start + 44, data(8)), Status::Ok),
        ("write of a sector, off the granularity", Req::write(start + 3, data(1)), Status::Ok),
        ("write across two conventional zones", Req::write(start - 8, data(16)), Status::Ok),
        ("write of its last sector", Req::write(next - 1, data(1)), Status::Ok),
        ("write into a sequential zone", Req::write(next - 8, data(16)), Status::InvalidCmd),
        ("append", Req::append(start, data(8)), Status::InvalidCmd),
        ("report", Req::report(start + 5, 128), Status::Ok),
        ("flush", Req::flush(), Status::Ok),
        ("discard", Req { out: vec![0; 16], ..Req::bare(kind::DISCARD, start) }, Status::Unsupp),
        ("write zeroes", Req { out: vec![0; 16], ..Req::bare(kind::WRITE_ZEROES, start) }, Status::Unsupp),
    ];
    rows.extend(MANAGEMENT.map(|request| ("management", Req::bare(request, start), Status::InvalidCmd)));
    let mut expected = vec![0; (2 * LEN * SECTOR) as usize];
    let zones = disk.zones();
    for (name, req, status) in rows {
        assert_eq!(disk.call(&req).status, status, "{name}, type {}", req.kind);
        if (req.kind, status) == (kind::OUT, Status::Ok) {
            let at = (req.sector * SECTOR) as usize;
            expected[at..at + req.out.len()].copy_from_slice(&req.out);
        }
        assert_same(&disk.read(0, expected.len()).unwrap(), &expected, 0);
        assert_eq!(disk.zones(), zones, "{name}: a conventional zone has no state but NOT_WP");
    }
    assert_ok(disk.reset_all());
    assert_same(&disk.read(0, expected.len()).unwrap(), &expected, 0);
    disk.finish_clean();
}
