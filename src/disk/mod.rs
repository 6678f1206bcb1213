//! A zoned disk in a process's own memory: for unit tests of software for zones, without a guest, a daemon or a socket.
//!
//! A [`Disk`] answers as the served disk does, since the same code does it: each operation is a chain of descriptors in
//! a small guest memory, [`Requests`] carries it out, and the answer is the status byte found there. What is refused
//! comes back as [`DiskError::Status`], with that status and the rule in words. There are no threads and no sockets, no
//! result depends on a clock, and the same calls have the same results.
//!
//! ```
//! use vhost_user_zbd::disk::{Bytes, Disk, Sector, Shape, State, Status};
//!
//! // Three zones of 64 KiB.
//! let mut disk = Disk::in_memory(&Shape::new(3, Bytes(64 << 10)))?;
//! disk.write(Sector(0), &[1; 4096])?;
//! // An append says where it has put its data.
//! assert_eq!(disk.append(Sector(0), &[2; 4096])?, Sector(8));
//! let zone = disk.report(Sector(0), 1)?[0];
//! assert_eq!((zone.state, zone.write_pointer), (State::ImplicitOpen, Bytes(8192)));
//! assert_eq!(disk.read(Sector(8), Bytes(512))?, [2; 512]);
//!
//! let refused = disk.write(Sector(0), &[3; 4096]).unwrap_err();
//! assert_eq!(refused.status(), Some(Status::ZoneUnalignedWrite));
//! assert_eq!(
//!     refused.to_string(),
//!     "write at 0 of 8 sectors: ZONE_UNALIGNED_WP: zone 0 is implicit-open, its write pointer is 16: \
//!      expected a write at 16"
//! );
//! # Ok::<(), vhost_user_zbd::disk::DiskError>(())
//! ```
//!
//! # Loss of power
//!
//! A disk has a volatile cache: what was not flushed is lost when the [power is cut](Disk::power_cut), as a drive may
//! lose it. Then every request fails until the [power is back](Disk::power_on).
//!
//! ```
//! use vhost_user_zbd::disk::{Bytes, Disk, Sector, Shape, Status};
//!
//! let mut disk = Disk::in_memory(&Shape::new(3, Bytes(64 << 10)))?;
//! disk.append(Sector(0), &[1; 4096])?;
//! disk.flush()?;
//! disk.append(Sector(0), &[2; 8192])?;
//! let cut = disk.power_cut("lose=all")?;
//! assert_eq!((cut.zones[0].accepted, cut.zones[0].kept), (12288, 4096));
//! assert_eq!(disk.flush().unwrap_err().status(), Some(Status::IoErr));
//! disk.power_on();
//! assert_eq!(disk.report(Sector(0), 1)?[0].write_pointer, Bytes(4096));
//! assert_eq!(disk.read(Sector(8), Bytes(4096))?, [0; 4096]);
//! # Ok::<(), vhost_user_zbd::disk::DiskError>(())
//! ```
//!
//! # Images
//!
//! A disk may live in an image file, of which the commands know as much as of any other.
//!
//! ```
//! use vhost_user_zbd::disk::{Bytes, Disk, Opening, Sector, Shape};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("disk.qcow2");
//! let mut disk = Disk::create_image(&path, &Shape::new(3, Bytes(64 << 10)))?;
//! disk.append(Sector(128), &[7; 4096])?;
//! disk.end()?;
//!
//! let mut disk = Disk::open_image(&path, Opening::default())?;
//! assert_eq!(disk.report(Sector(128), 1)?[0].write_pointer, Bytes((64 << 10) + 4096));
//! assert_eq!(disk.read(Sector(128), Bytes(4096))?, [7; 4096]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | subject |
//! | --- | --- |
//! | `assembly` | image, store, layers and device put together |
//! | `guest` | the guest's memory, and the chain of each request in it |
//! | `shape` | what a new disk looks like, how one is opened |
//! | `faults` | rules by which requests fail, and zones go away |
//! | `error` | why an operation was not done |

mod assembly;
mod error;
mod faults;
mod guest;
mod shape;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use virtio_bindings::bindings::virtio_blk as wire;

pub use error::{DiskError, ImageError};
pub use shape::{Opening, Shape};

use crate::device::Device;
use crate::device::requests::Requests;
use crate::device::router::{Bell, Rung};
pub use crate::fault::{RuleProgress, RuleWords, Saved, SavedZone};
use crate::io::DataPath;
pub use crate::observe::Rule;
use crate::power::Power;
use crate::power::switch::{Gate, enter};
pub use crate::power::{CutConventional, CutError, CutOutcome, CutZone, Words};
use crate::store::{Batch, Refusal};
pub use crate::store::{Usage, ZoneInfo};
pub use crate::units::{Bytes, Sector, ZoneIndex};
use crate::virtio::report::{ENTRY_BYTES, read_report};
use crate::virtio::request::MAX_DATA;
pub use crate::virtio::status::Status;
use crate::virtio::status::{Malformed, RequestError};
pub use crate::zone::{Geometry, GeometryError, GeometryRequest, State, ZoneKind};
use guest::{Chain, Guest};

/// Zones asked for in one report.
const REPORTED: usize = 1024;

/// Rounds without anything to do before a request counts as never answered: a round may have left something for the
/// next.
const IDLE: u32 = 2;

/// Rounds of one request, at most: what is left then goes on with the next. A reset of all zones of the largest disk takes
/// some ten thousand.
const ROUNDS: u32 = 1 << 24;

/// A zoned disk in this process. See the [module](self).
///
/// A disk that is dropped leaves its image as a killed daemon does: all that was answered is there. [`end`](Self::end)
/// also gives back what was reserved.
pub struct Disk {
    requests: Requests<dyn DataPath + Send>,
    guest: Guest,
    device: Arc<Device>,
    /// Says how much I/O is in flight, to whoever cuts the power.
    gate: Gate,
    /// As it was when the last round began.
    power: Power,
    /// Rung when the housekeeper, or a cut, has left something for the requests.
    bell: Arc<Rung>,
    /// Rung when there is something to do for the housekeeper.
    work: Arc<Rung>,
    batch: Batch,
    close: Box<dyn Fn() -> io::Result<()> + Send>,
}

impl Disk {
    /// A new disk in memory.
    pub fn in_memory(shape: &Shape) -> Result<Self, DiskError> {
        assembly::in_memory(shape)
    }

    /// A new disk in a file that is not there yet.
    pub fn create_image(path: impl AsRef<Path>, shape: &Shape) -> Result<Self, DiskError> {
        assembly::create(path.as_ref(), shape)
    }

    /// The disk of an image, which no other process may be writing to.
    pub fn open_image(path: impl AsRef<Path>, opening: Opening) -> Result<Self, DiskError> {
        assembly::open(path.as_ref(), opening)
    }

    /// Ends in order: gives back the space reserved in advance, and makes all durable.
    pub fn end(self) -> Result<(), DiskError> {
        let closed = (self.close)();
        closed.map_err(|error| DiskError::Image { name: "the disk".to_owned(), why: ImageError::Close(error) })
    }

    /// The shape of the disk.
    pub fn geometry(&self) -> &Geometry {
        self.device.disk.geometry()
    }

    /// The zones that are open and active, and how many may be.
    pub fn usage(&self) -> Usage {
        self.device.disk.usage()
    }

    /// The longest append.
    pub fn max_append(&self) -> Bytes {
        self.device.identity.max_append
    }

    /// The unit of writes to sequential zones.
    pub fn block(&self) -> Bytes {
        self.device.identity.block
    }

    /// Bytes that a power cut may take.
    pub fn volatile_bytes(&self) -> u64 {
        self.device.cache.as_ref().map_or(0, |cache| cache.volatile_bytes())
    }

    /// Whether there is power.
    pub fn has_power(&self) -> bool {
        !self.device.switch.power().is_off()
    }

    /// Up to `max` zones, from the one that holds `start` on.
    pub fn report(&mut self, start: Sector, max: usize) -> Result<Vec<ZoneInfo>, DiskError> {
        let mut zones = Vec::new();
        let mut next = start;
        loop {
            let count = max.saturating_sub(zones.len()).min(REPORTED);
            let room = ENTRY_BYTES * (1 + count);
            let chain = Chain { kind: wire::VIRTIO_BLK_T_ZONE_REPORT, sector: next, out: &[], room, appends: false };
            let answer = self.ask("report", &chain)?;
            let Some(mut found) = read_report(self.geometry(), &answer.data) else { return Ok(zones) };
            let Some(end) = found.last().map(ZoneInfo::end) else { return Ok(zones) };
            zones.append(&mut found);
            if zones.len() >= max || end >= self.geometry().size() {
                return Ok(zones);
            }
            next = end.to_sector();
        }
    }

    /// Reads `len` bytes from `start`.
    pub fn read(&mut self, start: Sector, len: Bytes) -> Result<Vec<u8>, DiskError> {
        // What does not fit a machine's word is too long by far.
        let room = usize::try_from(len.0).unwrap_or(usize::MAX);
        let chain = Chain { kind: wire::VIRTIO_BLK_T_IN, sector: start, out: &[], room, appends: false };
        self.ask("read", &chain).map(|answer| answer.data)
    }

    /// Writes `data` at `start`.
    pub fn write(&mut self, start: Sector, data: &[u8]) -> Result<(), DiskError> {
        let chain = Chain { kind: wire::VIRTIO_BLK_T_OUT, sector: start, out: data, room: 0, appends: false };
        self.ask("write", &chain).map(drop)
    }

    /// Writes `data` at the write pointer of the zone that begins at `zone`. Returns where it is.
    ///
    /// ```
    /// # use vhost_user_zbd::disk::{Bytes, Disk, Sector, Shape};
    /// # let mut disk = Disk::in_memory(&Shape::new(3, Bytes(64 << 10)))?;
    /// let places = [disk.append(Sector(256), &[1; 4096])?, disk.append(Sector(256), &[2; 4096])?];
    /// assert_eq!(places, [Sector(256), Sector(264)]);
    /// # Ok::<(), vhost_user_zbd::disk::DiskError>(())
    /// ```
    pub fn append(&mut self, zone: Sector, data: &[u8]) -> Result<Sector, DiskError> {
        let kind = wire::VIRTIO_BLK_T_ZONE_APPEND;
        let chain = Chain { kind, sector: zone, out: data, room: 0, appends: true };
        self.ask("append", &chain).map(|answer| answer.appended)
    }

    /// Opens the zone that begins at `zone`.
    pub fn open(&mut self, zone: Sector) -> Result<(), DiskError> {
        self.manage("open", wire::VIRTIO_BLK_T_ZONE_OPEN, zone)
    }

    /// Closes it.
    pub fn close(&mut self, zone: Sector) -> Result<(), DiskError> {
        self.manage("close", wire::VIRTIO_BLK_T_ZONE_CLOSE, zone)
    }

    /// Makes it full, whatever is written.
    pub fn finish(&mut self, zone: Sector) -> Result<(), DiskError> {
        self.manage("finish", wire::VIRTIO_BLK_T_ZONE_FINISH, zone)
    }

    /// Makes it empty.
    pub fn reset(&mut self, zone: Sector) -> Result<(), DiskError> {
        self.manage("reset", wire::VIRTIO_BLK_T_ZONE_RESET, zone)
    }

    /// Makes all sequential zones empty.
    pub fn reset_all(&mut self) -> Result<(), DiskError> {
        self.manage("reset of all zones", wire::VIRTIO_BLK_T_ZONE_RESET_ALL, Sector(0))
    }

    /// Makes all stable that was answered before.
    pub fn flush(&mut self) -> Result<(), DiskError> {
        self.manage("flush", wire::VIRTIO_BLK_T_FLUSH, Sector(0))
    }

    /// Cuts the power now, and says what is left. `words` are those of `ctl power-cut`, separated by spaces: one of
    /// `lose=all` (which holds where nothing is said), `lose=nothing`, `lose=zone:N,N`, `keep=zone:N,N` and `seed=N`;
    /// besides `model=virtio` and `mgmt=stable`. Every request fails with IOERR until [`power_on`](Self::power_on);
    /// zones that were open are closed.
    ///
    /// ```
    /// # use vhost_user_zbd::disk::{Bytes, Disk, Sector, Shape};
    /// # let mut disk = Disk::in_memory(&Shape::new(3, Bytes(64 << 10)))?;
    /// disk.write(Sector(0), &[1; 65536])?;
    /// disk.flush()?;
    /// disk.reset(Sector(0))?;
    /// // Nothing says that the reset is stable, and this drive has not done it.
    /// let cut = disk.power_cut("lose=zone:0")?;
    /// assert_eq!(cut.zones[0].resets_lost, 1);
    /// disk.power_on();
    /// assert_eq!(disk.read(Sector(0), Bytes(65536))?, [1; 65536]);
    /// # Ok::<(), vhost_user_zbd::disk::DiskError>(())
    /// ```
    pub fn power_cut(&mut self, words: &str) -> Result<CutOutcome, DiskError> {
        let state =
            |_: &str| Err("state is a file of ctl's: expected power_cut_as with what that cut has returned".to_owned());
        self.cut(Words::parse(words.split_whitespace(), state).map_err(CutError::Words)?)
    }

    /// Cuts the power, and leaves what an earlier cut of a disk with the same past has left.
    pub fn power_cut_as(&mut self, outcome: &CutOutcome) -> Result<CutOutcome, DiskError> {
        let state = serde_json::to_value(outcome).map_err(|error| CutError::State(error.to_string()))?;
        self.cut(Words { state: Some(state), ..Words::default() })
    }

    /// The power comes back, as with a reset of the device. Changes nothing while there is power.
    pub fn power_on(&mut self) {
        if !self.has_power() {
            self.device.reset();
        }
    }

    fn manage(&mut self, name: &'static str, kind: u32, zone: Sector) -> Result<(), DiskError> {
        self.ask(name, &Chain { kind, sector: zone, out: &[], room: 0, appends: false }).map(drop)
    }

    /// Has a request carried out.
    fn ask(&mut self, name: &'static str, chain: &Chain<'_>) -> Result<Answer, DiskError> {
        let bytes = chain.out.len().max(chain.room);
        if bytes as u64 > MAX_DATA.0 {
            return Err(too_long(name));
        }
        if !self.requests.is_quiet() {
            // What was held back and has ended comes first.
            self.go_on(|_| true);
        }
        while self.device.counts.take_refusal().is_some() {}
        let no_memory = |_| DiskError::NoMemory { bytes: Bytes(bytes as u64) };
        if self.guest.make_room(bytes).map_err(no_memory)? {
            self.requests.set_memory(Arc::clone(self.guest.mem()));
        }
        let asked = self.guest.ask(chain).map_err(no_memory)?;
        let mem = Arc::clone(self.guest.mem());
        if let Some(chain) = self.guest.chain(&mem) {
            self.requests.take(chain, &mut None, |_| {});
        }
        let answered = self.go_on(|disk| disk.guest.is_answered(&asked));
        let status = self.guest.status(&asked).filter(|_| answered);
        match status {
            None => Err(DiskError::Unanswered { request: name }),
            Some(Status::Ok) => {
                Ok(Answer { data: self.guest.data(&asked), appended: self.guest.appended(&asked).unwrap_or_default() })
            }
            Some(status) => Err(self.refused(name, status)),
        }
    }

    /// Does what there is to do, the housekeeper's work included, until nothing is left. Returns whether it has come
    /// `to_this`.
    fn go_on(&mut self, to_this: impl Fn(&Self) -> bool) -> bool {
        let mut idle = 0;
        for _ in 0..ROUNDS {
            let before = std::mem::replace(&mut self.power, self.device.switch.power());
            if self.power.is_off() && !before.is_off() {
                self.requests.lose_power(self.power == Power::Failing);
            }
            let mut worked = self.requests.settle();
            // A data path in this process does not fail as a whole: a layer that does leaves the request unanswered.
            let ended = self.requests.collect().unwrap_or(false);
            if ended && self.power == Power::Frozen {
                // A cut may have waited for it.
                self.work.ring();
            }
            worked |= ended;
            worked |= self.requests.settle();
            // No answer goes out while the power is about to go.
            if self.power != Power::Frozen {
                worked |= self.take_answers();
            }
            *enter(&self.gate) = self.requests.in_io();
            if self.let_time_pass() {
                self.work.ring();
            }
            worked |= self.keep_house();
            if self.bell.take() {
                self.requests.read_mail();
                worked = true;
            }
            idle = if worked { 0 } else { idle + 1 };
            if idle == IDLE {
                break;
            }
        }
        to_this(self)
    }

    /// Takes back the chains that the device has answered; false where there are none.
    fn take_answers(&mut self) -> bool {
        let (guest, mut any) = (&mut self.guest, false);
        self.requests.give_back(|head, _| {
            guest.take_back(head);
            any = true;
        });
        any
    }

    /// A step of the housekeeper; false where there is none to do.
    fn keep_house(&mut self) -> bool {
        if !self.work.take() {
            return false;
        }
        let disk = &self.device.disk;
        if disk.housekeep(&mut self.batch) {
            self.work.ring();
        }
        disk.commit(&mut self.batch);
        self.device.router.deliver(self.batch.events.drain(..));
        true
    }

    fn cut(&mut self, words: Words) -> Result<CutOutcome, DiskError> {
        if words.at.is_some() || words.then.is_some() {
            let said = "at and then have no meaning here: the power is cut at once, and every request fails".to_owned();
            return Err(CutError::Words(said).into());
        }
        let words = Words { then: Some("fail".to_owned()), ..words };
        let cache = self.device.cache.as_ref().map(Arc::clone).ok_or(CutError::Off)?;
        let (tell, told) = mpsc::channel();
        cache.command(words, Box::new(move |result| drop(tell.send(result))))?;
        self.go_on(|_| true);
        Ok(told.try_recv().map_err(|_| DiskError::Unanswered { request: "power cut" })??)
    }

    /// Why a request was answered with this status.
    fn refused(&self, name: &str, status: Status) -> DiskError {
        match self.device.counts.take_refusal().filter(|refused| refused.error.status() == status) {
            Some(refused) => DiskError::Status { status, rule: refused.rule(), words: refused.to_string() },
            // Only what is below the store fails without being looked into.
            None => DiskError::Status {
                status,
                rule: Rule::HostIo,
                words: format!("{name}: {}: {}", status.name(), Refusal::Io),
            },
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("geometry", self.geometry())
            .field("power", &self.device.switch.power())
            .finish_non_exhaustive()
    }
}

/// What the device has written.
struct Answer {
    data: Vec<u8>,
    appended: Sector,
}

/// The answer to a request that is longer than any, which needs no memory to be known.
fn too_long(name: &str) -> DiskError {
    let error = RequestError::from(Malformed::TooLong(MAX_DATA));
    let status = error.status();
    DiskError::Status { status, rule: Rule::Malformed, words: format!("{name}: {}: {error}", status.name()) }
}

#[cfg(test)]
mod tests;

/// The Rust of the page for people runs with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../../docs/disk.md")]
struct Page;
