//! Beginning to record: a new log, or one that is there and goes on where the image is what it says.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::sync::Arc;

use super::entry::{Accepted, Ended, Entry};
use super::format::{HEADER_BYTES, Header, HeaderError, encode, pointers_digest};
use super::reader::{ReadError, Reader};
use super::writer::{Clock, Log, Place};
use crate::observe::Kind;
use crate::storage::Medium;
use crate::store::{Tag, ZonedDevice};
use crate::units::{Bytes, FileOffset, ZoneIndex};
use crate::virtio::status::Status;
use crate::zone::{Geometry, ZoneKind};
use zerocopy::IntoBytes;

/// Zones looked at in one go.
const CHUNK: usize = 1024;

/// Why recording cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is none of this disk.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// It was ended for want of room.
    #[error(
        "the recording has ended where its file could not be written, and the disk was served on without it: expected \
         another file"
    )]
    NotWritten,
    /// The image was changed by others since.
    #[error(
        "the write pointer of zone {zone} is {found}, where the recording has left it at {expected}: the image was written \
         without it: expected another file"
    )]
    OtherPointer {
        /// The zone.
        zone: ZoneIndex,
        /// Its pointer in the image.
        found: Bytes,
        /// What the log says, in words.
        expected: String,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Begins to record in a file: writes what stands at the beginning, or goes on behind what is there, of which a record that was
/// cut short is removed. `device` is the disk at the bottom, and `block` the unit of writes.
pub fn begin(
    file: Arc<dyn Medium>,
    input: impl Read,
    device: &dyn ZonedDevice,
    block: Bytes,
    clock: Clock,
) -> Result<Log, SessionError> {
    let geometry = device.geometry();
    let pointers = pointers_of(device);
    if file.len()? == Bytes(0) {
        let header = Header::new(geometry, block, pointers_digest(pointers.iter().copied()));
        let mut bytes = header.as_bytes().to_vec();
        encode(&Entry::Session { generation: 0, pointers }, 0, clock(), &mut bytes);
        file.write_at(FileOffset(0), &bytes)?;
        return Ok(Log::new(file, Place { at: bytes.len() as u64, number: 1, left: Vec::new() }, clock));
    }
    let mut reader = Reader::new(input)?;
    reader.header().check_same(geometry, block)?;
    let mut standing = Standing::new(*geometry);
    while let Some(record) = reader.read()? {
        standing.take(record.number, &record.entry);
    }
    let (at, number) = (reader.at(), reader.number());
    // A header alone is what a daemon leaves that dies at once.
    let generation = standing.agrees(&pointers)?.map_or(0, |generation| generation.saturating_add(1));
    if at == HEADER_BYTES as u64 && reader.header().pointers() != pointers_digest(pointers.iter().copied()) {
        return Err(SessionError::Header(HeaderError::Damaged));
    }
    if reader.left_over() != 0 {
        log::warn!("the recording was cut short: {} bytes of its last record are removed", reader.left_over());
    }
    file.set_len(Bytes(at))?;
    let log = Log::new(file, Place { at, number, left: standing.in_flight() }, clock);
    log.begin_session(generation, pointers);
    Ok(log)
}

/// The write pointers of the sequential zones that are not empty.
pub fn pointers_of(device: &dyn ZonedDevice) -> Vec<(ZoneIndex, Bytes)> {
    let geometry = device.geometry();
    let (mut pointers, mut chunk) = (Vec::new(), Vec::with_capacity(CHUNK));
    for first in (0..geometry.nr_zones()).step_by(CHUNK) {
        chunk.clear();
        // Cannot fail: the zone exists.
        let _ = device.report(geometry.start(ZoneIndex(first)).to_sector(), CHUNK, &mut chunk);
        let written =
            chunk.iter().filter(|zone| zone.kind != ZoneKind::Conventional && zone.write_pointer > zone.start);
        pointers.extend(written.map(|zone| (zone.index, zone.write_pointer)));
    }
    pointers
}

/// How a log leaves the zones.
struct Standing {
    geometry: Geometry,
    zones: BTreeMap<ZoneIndex, Reach>,
    /// Requests that were accepted and not answered, by what accepted them.
    open: HashMap<u64, Accepted>,
    generation: Option<u64>,
    not_written: bool,
}

/// Where a zone's pointer may stand.
#[derive(Clone, Copy)]
struct Reach {
    /// At least here.
    answered: u64,
    /// At most here.
    accepted: u64,
}

impl Standing {
    fn new(geometry: Geometry) -> Self {
        Self { geometry, zones: BTreeMap::new(), open: HashMap::new(), generation: None, not_written: false }
    }

    fn reach(&mut self, zone: ZoneIndex) -> &mut Reach {
        let start = if zone.0 < self.geometry.nr_zones() { self.geometry.start(zone).0 } else { 0 };
        self.zones.entry(zone).or_insert(Reach { answered: start, accepted: start })
    }

    fn stand(&mut self, pointers: &[(ZoneIndex, Bytes)]) {
        for (zone, pointer) in pointers {
            *self.reach(*zone) = Reach { answered: pointer.0, accepted: pointer.0 };
        }
    }

    fn take(&mut self, number: u64, entry: &Entry) {
        match entry {
            Entry::Session { generation, pointers } => {
                self.generation = Some(*generation);
                self.zones.clear();
                self.open.clear();
                self.stand(pointers);
            }
            Entry::Accept(accepted) => {
                if let (Some(zone), Kind::Write | Kind::Append) = (self.sequential(accepted), accepted.kind) {
                    let end = accepted.place.0.saturating_add(accepted.len.into());
                    let reach = self.reach(zone);
                    if reach.accepted != accepted.place.0 {
                        // Those before it have failed.
                        reach.answered = accepted.place.0;
                    }
                    reach.accepted = end;
                }
                self.open.insert(number, *accepted);
            }
            Entry::Answer { of, status, .. } => {
                let Some(accepted) = self.open.remove(of).filter(|_| *status == Status::Ok) else { return };
                let Some(zone) = self.sequential(&accepted) else { return };
                let (start, end) = (self.geometry.start(zone).0, self.geometry.writable_end(zone).0);
                let written = accepted.place.0.saturating_add(accepted.len.into());
                let reach = self.reach(zone);
                match accepted.kind {
                    Kind::Write | Kind::Append => reach.answered = written,
                    Kind::Reset | Kind::ResetAll => *reach = Reach { answered: start, accepted: start },
                    Kind::Finish => *reach = Reach { answered: end, accepted: end },
                    _ => {}
                }
            }
            Entry::Cut { pointers, .. } => {
                self.open.clear();
                for reach in self.zones.values_mut() {
                    reach.accepted = reach.answered;
                }
                self.stand(pointers);
            }
            Entry::End(why) => self.not_written = *why == Ended::NotWritten,
            _ => {}
        }
    }

    fn sequential(&self, accepted: &Accepted) -> Option<ZoneIndex> {
        let there = accepted.zone.filter(|zone| zone.0 < self.geometry.nr_zones());
        there.filter(|zone| self.geometry.kind(*zone) != ZoneKind::Conventional)
    }

    /// Checks that an image with these pointers is what the log has left, and gives its last generation.
    fn agrees(&self, pointers: &[(ZoneIndex, Bytes)]) -> Result<Option<u64>, SessionError> {
        if self.not_written {
            return Err(SessionError::NotWritten);
        }
        if self.generation.is_none() {
            return Ok(None);
        }
        let found: BTreeMap<_, _> = pointers.iter().copied().collect();
        for zone in self.zones.keys().chain(found.keys()) {
            if zone.0 >= self.geometry.nr_zones() {
                continue;
            }
            let start = self.geometry.start(*zone);
            let found = found.get(zone).copied().unwrap_or(start);
            let reach = self.zones.get(zone).copied().unwrap_or(Reach { answered: start.0, accepted: start.0 });
            let in_flight =
                |kinds: &[Kind]| self.open.values().any(|open| open.zone == Some(*zone) && kinds.contains(&open.kind));
            let fits = (reach.answered..=reach.accepted).contains(&found.0)
                || (found == start && in_flight(&[Kind::Reset, Kind::ResetAll]))
                || (found == self.geometry.writable_end(*zone) && in_flight(&[Kind::Finish]));
            if !fits {
                let expected = match reach.answered == reach.accepted {
                    true => reach.answered.to_string(),
                    false => format!("{} to {}", reach.answered, reach.accepted),
                };
                return Err(SessionError::OtherPointer { zone: *zone, found, expected });
            }
        }
        Ok(self.generation)
    }

    /// The requests that were in flight at the end.
    fn in_flight(&self) -> Vec<(Tag, u64)> {
        self.open.iter().filter_map(|(number, accepted)| Some((accepted.tag?, *number))).collect()
    }
}
