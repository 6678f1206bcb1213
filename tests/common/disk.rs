//! An image, the daemon that serves it, and a connected frontend: what a test of the device works with.

use std::path::Path;
use std::process::ExitStatus;

use super::cli::{Geo, Image, SMALL};
use super::daemon::Daemon;
use super::frontend::{Frontend, Options, Token};
use super::proto::Talk;
use super::request::{Done, Req, State, Status, Zone, kind};

/// What a disk is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The image.
    pub geo: Geo,
    /// Arguments of `serve`.
    pub args: Vec<String>,
    /// The frontend.
    pub options: Options,
}

impl Default for Setup {
    fn default() -> Self {
        Self::new(SMALL)
    }
}

impl Setup {
    /// A disk of this shape with one queue.
    pub fn new(geo: Geo) -> Self {
        Self { geo, args: Vec::new(), options: Options::default() }
    }

    /// With more arguments of `serve`.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_string()));
        self
    }

    /// With several queues.
    pub fn queues(mut self, queues: u32) -> Self {
        self.options.queues = queues;
        self.args(&["--num-queues", &queues.to_string()])
    }

    /// With queues of another size.
    pub fn queue_size(mut self, size: u16) -> Self {
        self.options.queue_size = size;
        self
    }

    /// With another amount of guest memory.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.options.memory = bytes;
        self
    }

    /// Without these device features.
    pub fn without(mut self, features: u64) -> Self {
        self.options.without |= features;
        self
    }

    /// Without these protocol features.
    pub fn without_protocol(mut self, features: u64) -> Self {
        self.options.without_protocol |= features;
        self
    }

    /// Makes the image, starts the daemon, connects.
    #[track_caller]
    pub fn start(self) -> Disk {
        let image = Image::create(&self.geo);
        self.start_on(image)
    }

    /// Starts the daemon on an image that is there, connects.
    #[track_caller]
    pub fn start_on(self, image: Image) -> Disk {
        let mut daemon = Self::daemon(&self.args, &image);
        let stream = daemon.connect();
        let front = Frontend::connect(stream, &self.options).unwrap_or_else(|e| panic!("connecting: {e}"));
        Disk { daemon, front: Some(front), image, setup: self }
    }

    fn daemon(args: &[String], image: &Image) -> Daemon {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Daemon::start(image.path(), &image.beside("socket"), &args)
    }
}

/// A served disk.
#[derive(Debug)]
pub struct Disk {
    /// The daemon.
    pub daemon: Daemon,
    front: Option<Frontend>,
    /// The image.
    pub image: Image,
    /// What it was started with.
    pub setup: Setup,
}

impl Disk {
    /// The small disk with one queue.
    pub fn small() -> Self {
        Setup::default().start()
    }

    /// A disk that a service serves on `socket`, with an image of the setup's shape that is somewhere else.
    #[track_caller]
    pub fn of_service(setup: Setup, socket: &Path) -> Self {
        let mut daemon = Daemon::elsewhere(socket);
        let front = Frontend::connect(daemon.connect(), &setup.options).unwrap_or_else(|e| panic!("connecting: {e}"));
        Self { daemon, front: Some(front), image: Image::absent(), setup }
    }

    /// The image's shape.
    pub fn geo(&self) -> Geo {
        self.setup.geo
    }

    /// The connected frontend.
    pub fn front(&mut self) -> &mut Frontend {
        self.front.as_mut().expect("no frontend is connected")
    }

    /// Hangs up.
    pub fn disconnect(&mut self) {
        self.front = None;
    }

    /// Hangs up and connects a new frontend.
    #[track_caller]
    pub fn reconnect(&mut self) {
        let options = self.setup.options.clone();
        self.reconnect_with(&options);
    }

    /// Hangs up and connects another frontend.
    #[track_caller]
    pub fn reconnect_with(&mut self, options: &Options) {
        self.try_reconnect(options).unwrap_or_else(|e| panic!("connecting again: {e}"));
    }

    /// Hangs up and tries to connect another frontend.
    pub fn try_reconnect(&mut self, options: &Options) -> Talk<()> {
        self.front = None;
        let stream = self.daemon.connect();
        self.front = Some(Frontend::connect(stream, options)?);
        Ok(())
    }

    /// Hangs up and ends the daemon in an orderly way.
    pub fn stop(&mut self) -> ExitStatus {
        self.front = None;
        self.daemon.terminate()
    }

    /// Starts the daemon anew, after its end, and connects.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.front = None;
        self.daemon = Setup::daemon(&self.setup.args, &self.image);
        self.reconnect();
    }

    /// Starts the daemon anew, after its end, and goes on with the frontend that is there, as [`Frontend::reconnect`]
    /// says.
    #[track_caller]
    pub fn resume(&mut self) {
        self.try_resume().unwrap_or_else(|e| panic!("going on with another daemon: {e}"));
    }

    /// The same, where the daemon may refuse or die.
    #[track_caller]
    pub fn try_resume(&mut self) -> Talk<()> {
        self.respawn();
        self.rejoin()
    }

    /// Starts the daemon anew and leaves the frontend with its broken connection.
    #[track_caller]
    pub fn respawn(&mut self) {
        self.daemon = Setup::daemon(&self.setup.args, &self.image);
    }

    /// Goes on with the same frontend on a new connection.
    pub fn rejoin(&mut self) -> Talk<()> {
        let stream = self.daemon.connect();
        self.front().reconnect(stream)
    }

    /// Ends the daemon in an orderly way and starts it anew.
    #[track_caller]
    pub fn restart(&mut self) {
        let status = self.stop();
        assert!(status.success(), "the daemon ended with {status} on SIGTERM");
        self.start_again();
    }

    /// Ends everything in an orderly way; `check` and qemu-img then find nothing wrong.
    #[track_caller]
    pub fn finish_clean(mut self) {
        let status = self.stop();
        assert!(status.success(), "the daemon ended with {status} on SIGTERM");
        self.assert_image_sound();
    }

    /// `check` and qemu-img find nothing wrong. The daemon must not be running.
    #[track_caller]
    pub fn assert_image_sound(&self) {
        self.image.assert_clean();
        let table = 8 * self.geo().zones() as u64;
        self.image.assert_qemu_agrees(table.div_ceil(self.geo().cluster));
    }

    /// A request on the first queue.
    #[track_caller]
    pub fn call(&mut self, req: &Req) -> Done {
        self.front().call(0, req)
    }

    /// A request on any queue, not waited for.
    pub fn submit(&mut self, queue: usize, req: &Req) -> Token {
        self.front().submit(queue, req)
    }

    /// Waits for a request.
    #[track_caller]
    pub fn wait(&mut self, token: Token) -> Done {
        self.front().wait(token)
    }

    /// Writes.
    #[track_caller]
    pub fn write(&mut self, sector: u64, data: &[u8]) -> Status {
        self.call(&Req::write(sector, data)).status
    }

    /// Reads; the data is all that was asked for, or the refusal.
    #[track_caller]
    pub fn read(&mut self, sector: u64, len: usize) -> Result<Vec<u8>, Status> {
        let done = self.call(&Req::read(sector, len));
        if done.status == Status::Ok {
            assert_eq!(done.used_len as usize, len + 1, "used length of a read");
            return Ok(done.data);
        }
        Err(done.status)
    }

    /// Appends; where it landed, or the refusal.
    #[track_caller]
    pub fn append(&mut self, zone: u64, data: &[u8]) -> Result<u64, Status> {
        let done = self.call(&Req::append(zone, data));
        if done.status == Status::Ok { Ok(done.number()) } else { Err(done.status) }
    }

    /// Reports at most `count` zones from the one with `sector`.
    #[track_caller]
    pub fn report(&mut self, sector: u64, count: usize) -> Vec<Zone> {
        let done = self.call(&Req::report(sector, 64 + 64 * count));
        assert_eq!(done.status, Status::Ok, "report at sector {sector:#x}");
        done.zones()
    }

    /// All zones.
    #[track_caller]
    pub fn zones(&mut self) -> Vec<Zone> {
        self.report(0, self.geo().zones())
    }

    /// One zone.
    #[track_caller]
    pub fn zone(&mut self, zone: usize) -> Zone {
        let start = self.geo().start(zone);
        let zones = self.report(start, 1);
        assert_eq!(zones.len(), 1, "a report with room for one zone has one");
        zones[0]
    }

    /// The state of one zone.
    #[track_caller]
    pub fn state(&mut self, zone: usize) -> State {
        self.zone(zone).state
    }

    /// A management request for one zone.
    #[track_caller]
    pub fn manage(&mut self, kind: u32, zone: usize) -> Status {
        let start = self.geo().start(zone);
        self.call(&Req::bare(kind, start)).status
    }

    /// Opens a zone.
    #[track_caller]
    pub fn open(&mut self, zone: usize) -> Status {
        self.manage(kind::ZONE_OPEN, zone)
    }

    /// Closes a zone.
    #[track_caller]
    pub fn close(&mut self, zone: usize) -> Status {
        self.manage(kind::ZONE_CLOSE, zone)
    }

    /// Finishes a zone.
    #[track_caller]
    pub fn finish(&mut self, zone: usize) -> Status {
        self.manage(kind::ZONE_FINISH, zone)
    }

    /// Resets a zone.
    #[track_caller]
    pub fn reset(&mut self, zone: usize) -> Status {
        self.manage(kind::ZONE_RESET, zone)
    }

    /// Resets all zones.
    #[track_caller]
    pub fn reset_all(&mut self) -> Status {
        self.call(&Req::reset_all()).status
    }

    /// Makes all stable.
    #[track_caller]
    pub fn flush(&mut self) -> Status {
        self.call(&Req::flush()).status
    }

    /// The serial's 20 bytes.
    #[track_caller]
    pub fn get_id(&mut self) -> Vec<u8> {
        let done = self.call(&Req::get_id());
        assert_eq!(done.status, Status::Ok, "GET_ID");
        done.data
    }

    /// Bytes of the configuration.
    #[track_caller]
    pub fn config(&mut self, offset: u32, size: u32) -> Vec<u8> {
        let answer = self.front().conn.get_config(offset, size).unwrap_or_else(|e| panic!("GET_CONFIG: {e}"));
        answer.unwrap_or_else(|| panic!("GET_CONFIG of {size} bytes at {offset} was refused"))
    }

    /// A 32-bit number of the configuration.
    #[track_caller]
    pub fn config_u32(&mut self, offset: u32) -> u32 {
        u32::from_le_bytes(self.config(offset, 4).try_into().expect("four bytes"))
    }

    /// Writes `len` bytes at the write pointer of a zone, as often as it takes to reach `total` bytes.
    #[track_caller]
    pub fn fill(&mut self, zone: usize, total: u64) {
        let data = super::model::pattern(zone as u64, 0, 64 << 10);
        let mut left = total;
        while left > 0 {
            let wp = self.zone(zone).wp;
            let part = left.min(data.len() as u64);
            assert_eq!(self.write(wp, &data[..part as usize]), Status::Ok, "filling zone {zone} at {wp:#x}");
            left -= part;
        }
    }

    /// Whether the device still does what it should: writes, reads back and resets the last zone.
    #[track_caller]
    pub fn assert_works(&mut self) {
        let zone = self.geo().zones() - 1;
        let start = self.geo().start(zone);
        assert_eq!(self.reset(zone), Status::Ok, "reset");
        let data = super::model::pattern(0xa11ce, 0, 4096);
        assert_eq!(self.write(start, &data), Status::Ok, "write");
        assert_eq!(self.read(start, 4096), Ok(data), "read");
        assert_eq!(self.reset(zone), Status::Ok, "reset");
    }
}
