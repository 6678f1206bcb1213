//! Recognisable contents, and what each sector of a disk must read as.

use super::SECTOR;
use super::cli::Geo;
use super::disk::Disk;
use super::request::{State, Status};

/// `len` bytes that no other tag has: each sector tells its tag and its number in the request, from `first` on.
pub fn pattern(tag: u64, first: u32, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len);
    for at in 0..len.div_ceil(SECTOR as usize) as u32 {
        out.extend(sector(Some(Stamp { tag, at: first + at })));
    }
    out.truncate(len);
    out
}

/// What one sector was last written with: sector `at` of the request with this tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The request.
    pub tag: u64,
    /// Which of its sectors.
    pub at: u32,
}

/// The bytes of a sector with this stamp; zeros without one.
pub fn sector(stamp: Option<Stamp>) -> [u8; SECTOR as usize] {
    let mut out = [0; SECTOR as usize];
    let Some(Stamp { tag, at }) = stamp else { return out };
    for (word, bytes) in out.chunks_mut(16).enumerate() {
        bytes[..8].copy_from_slice(&tag.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        bytes[8..12].copy_from_slice(&at.to_le_bytes());
        bytes[12..].copy_from_slice(&(word as u32 ^ 0x5a5a_5a5a).to_le_bytes());
    }
    out
}

/// The stamp of a sector's bytes: `Ok(None)` for zeros, an error for anything that no pattern has.
pub fn stamp(bytes: &[u8]) -> Result<Option<Stamp>, String> {
    if bytes.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    let hashed = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    // The inverse of the multiplier in `sector`, modulo 2^64.
    let tag = hashed.wrapping_mul(0xf1de_83e1_9937_733d).wrapping_sub(1);
    let at = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
    let found = Stamp { tag, at };
    if sector(Some(found))[..] == *bytes { Ok(Some(found)) } else { Err(format!("torn sector: {:02x?}", &bytes[..16])) }
}

/// What one zone must hold.
#[derive(Clone, Debug)]
pub struct ZoneModel {
    /// Each sector of the zone.
    pub sectors: Vec<Option<Stamp>>,
    /// Sectors written.
    pub written: u64,
    /// Whether it was finished.
    pub finished: bool,
}

impl ZoneModel {
    /// Sectors from the start on that are known to be written: fewer than `written` while an append is not answered
    /// whose sectors lie below those of another that is.
    pub fn sectors_known(&self) -> u64 {
        self.sectors.iter().take_while(|stamp| stamp.is_some()).count() as u64
    }
}

/// What a disk must hold, by the requests that were acknowledged.
#[derive(Clone, Debug)]
pub struct Model {
    geo: Geo,
    /// Its zones.
    pub zones: Vec<ZoneModel>,
}

impl Model {
    /// An empty disk.
    pub fn new(geo: Geo) -> Self {
        let empty = |zone| ZoneModel { sectors: vec![None; geo.len(zone) as usize], written: 0, finished: false };
        Self { geo, zones: (0..geo.zones()).map(empty).collect() }
    }

    /// The zone that has a sector.
    pub fn zone_of(&self, sector: u64) -> usize {
        (sector / (self.geo.zone / SECTOR)) as usize
    }

    /// Request `tag` has written `count` sectors at `sector`.
    pub fn wrote(&mut self, sector: u64, count: u64, tag: u64) {
        let zone = self.zone_of(sector);
        let offset = sector - self.geo.start(zone);
        for at in 0..count {
            self.zones[zone].sectors[(offset + at) as usize] = Some(Stamp { tag, at: at as u32 });
        }
        if !self.geo.is_conventional(zone) {
            let written = &mut self.zones[zone].written;
            *written = (*written).max(offset + count);
        }
    }

    /// A zone was reset.
    pub fn reset(&mut self, zone: usize) {
        self.zones[zone].sectors.fill(None);
        self.zones[zone].written = 0;
        self.zones[zone].finished = false;
    }

    /// All sequential zones were reset.
    pub fn reset_all(&mut self) {
        (self.geo.first_seq()..self.geo.zones()).for_each(|zone| self.reset(zone));
    }

    /// A zone was finished.
    pub fn finish(&mut self, zone: usize) {
        self.zones[zone].finished = true;
    }

    /// Where the next write of a zone goes.
    pub fn wp(&self, zone: usize) -> u64 {
        self.geo.start(zone) + self.zones[zone].written
    }

    /// Whether a zone takes no more.
    pub fn is_full(&self, zone: usize) -> bool {
        self.zones[zone].finished || self.zones[zone].written == self.geo.cap(zone)
    }

    /// Sectors of a zone that can still be written.
    pub fn room(&self, zone: usize) -> u64 {
        if self.is_full(zone) { 0 } else { self.geo.cap(zone) - self.zones[zone].written }
    }

    /// What a zone must read as.
    pub fn contents(&self, zone: usize) -> Vec<u8> {
        self.zones[zone].sectors.iter().flat_map(|stamp| sector(*stamp)).collect()
    }

    /// The disk's zones and every byte of it are as they must be. `open` says whether zones may still be open, as they
    /// are not after a restart.
    #[track_caller]
    pub fn verify(&self, disk: &mut Disk, open: bool) {
        for zone in 0..self.geo.zones() {
            self.verify_pointer(disk, zone, open);
            self.verify_contents(disk, zone);
        }
    }

    /// The report of one zone is as it must be.
    #[track_caller]
    pub fn verify_pointer(&self, disk: &mut Disk, zone: usize, open: bool) {
        let found = disk.zone(zone);
        assert_eq!((found.start, found.cap), (self.geo.start(zone), self.geo.cap(zone)), "geometry of zone {zone}");
        let right = match found.state {
            State::NotWp => self.geo.is_conventional(zone),
            State::Full => self.is_full(zone),
            State::Empty => !self.is_full(zone) && self.zones[zone].written == 0,
            State::Closed => !self.is_full(zone) && self.zones[zone].written > 0,
            State::ImplicitOpen | State::ExplicitOpen => open && !self.is_full(zone),
            State::ReadOnly | State::Offline => false,
        };
        let Self { zones, .. } = self;
        let (written, finished) = (zones[zone].written, zones[zone].finished);
        assert!(right, "zone {zone} is {:?} with {written} sectors written, finished: {finished}", found.state);
        if !matches!(found.state, State::NotWp | State::Full) {
            assert_eq!(found.wp, self.wp(zone), "write pointer of zone {zone}, which is {:?}", found.state);
        }
    }

    /// Every byte of one zone is as it must be.
    #[track_caller]
    pub fn verify_contents(&self, disk: &mut Disk, zone: usize) {
        let expected = self.contents(zone);
        let step = 256 << 10;
        for (part, expected) in expected.chunks(step).enumerate() {
            let at = self.geo.start(zone) + (part * step) as u64 / SECTOR;
            let found =
                disk.read(at, expected.len()).unwrap_or_else(|status| panic!("reading zone {zone}: {status:?}"));
            assert_same(&found, expected, at);
        }
    }
}

/// Equal, or the first sector that differs and what it holds.
#[track_caller]
pub fn assert_same(found: &[u8], expected: &[u8], first: u64) {
    assert_eq!(found.len(), expected.len(), "length of the data at sector {first:#x}");
    let size = SECTOR as usize;
    for (at, (found, expected)) in found.chunks(size).zip(expected.chunks(size)).enumerate() {
        if found != expected {
            let (found, expected) = (stamp(found), stamp(expected));
            panic!("sector {:#x} holds {found:?}, expected {expected:?}", first + at as u64);
        }
    }
}

/// A status that must be OK.
#[track_caller]
pub fn assert_ok(status: Status) {
    assert_eq!(status, Status::Ok);
}
