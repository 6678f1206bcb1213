//! A disk in this process, of the same shape as the served ones, by the same words.

use vhost_user_zbd::disk::{Bytes, Disk, DiskError, Sector, Shape, ZoneIndex};

use crate::common::SECTOR;
use crate::common::request::{Req, State, Status, kind};
use crate::rig::GEO;
use crate::table::Target;

pub(crate) struct Library(Disk);

impl Library {
    pub(crate) fn new() -> Self {
        let shape = Shape::new(GEO.zones() as u32, Bytes(GEO.zone))
            .zone_capacity(Bytes(GEO.cap))
            .conventional_zones(GEO.conv)
            .max_append(Bytes(GEO.append));
        Self(Disk::in_memory(&shape).unwrap())
    }
}

fn answer<T>(result: Result<T, DiskError>) -> Result<T, Status> {
    result.map_err(|error| Status::from(error.status().unwrap_or_else(|| panic!("{error}")) as u8))
}

impl Target for Library {
    fn ask(&mut self, req: &Req) -> Status {
        let (disk, sector) = (&mut self.0, Sector(req.sector));
        let result = match req.kind {
            kind::IN => disk.read(sector, Bytes(req.in_len as u64)).map(drop),
            kind::OUT => disk.write(sector, &req.out),
            kind::ZONE_APPEND => disk.append(sector, &req.out).map(drop),
            kind::FLUSH => disk.flush(),
            kind::ZONE_REPORT => disk.report(sector, 1).map(drop),
            kind::ZONE_OPEN => disk.open(sector),
            kind::ZONE_CLOSE => disk.close(sector),
            kind::ZONE_FINISH => disk.finish(sector),
            kind::ZONE_RESET => disk.reset(sector),
            _ => disk.reset_all(),
        };
        answer(result).map_or_else(|status| status, |()| Status::Ok)
    }

    fn bytes(&mut self, sector: u64, len: usize) -> Result<Vec<u8>, Status> {
        answer(self.0.read(Sector(sector), Bytes(len as u64)))
    }

    fn zone(&mut self, zone: usize) -> (State, u64) {
        use vhost_user_zbd::disk::State as Is;
        let info = self.0.report(Sector(GEO.start(zone)), 1).unwrap()[0];
        assert_eq!(info.index, ZoneIndex(zone as u32));
        let state = match info.state {
            Is::NotWp => State::NotWp,
            Is::Empty => State::Empty,
            Is::ImplicitOpen => State::ImplicitOpen,
            Is::ExplicitOpen => State::ExplicitOpen,
            Is::Closed => State::Closed,
            Is::ReadOnly => State::ReadOnly,
            Is::Full => State::Full,
            Is::Offline => State::Offline,
        };
        (state, info.write_pointer.0 / SECTOR)
    }

    fn add(&mut self, name: &str, words: &str) {
        let (options, action) = words.split_once("do ").unwrap();
        let options: Vec<&str> = options.split_whitespace().collect();
        let which: Vec<String> = options.chunks(2).map(|pair| pair.join("=")).collect();
        self.0.fault(name, &which.join(" "), action).unwrap_or_else(|error| panic!("{words}: {error}"));
    }

    fn clear(&mut self, name: &str) {
        self.0.fault_clear(Some(name)).unwrap();
    }

    fn acted(&mut self, name: &str) -> (u64, u64) {
        let rules = self.0.faults().rules;
        let rule = rules.into_iter().find(|rule| rule.name == name).unwrap();
        rule.progress.map(|progress| (progress.acted, progress.matched)).unwrap()
    }

    fn restore_now(&mut self, zone: usize) {
        self.0.restore_now(&zone.to_string()).unwrap();
    }

    fn assert_slots(&mut self, context: &str) {
        let zones = self.0.report(Sector(0), usize::MAX).unwrap();
        let usage = self.0.usage();
        let open = zones.iter().filter(|zone| zone.state.is_open()).count() as u32;
        let active = zones.iter().filter(|zone| zone.state.is_active()).count() as u32;
        assert_eq!((usage.open, usage.active), (open, active), "{context}");
    }
}
