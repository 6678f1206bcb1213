//! A served disk with a volatile cache and its control socket: cuts the power, brings it back in each way that a guest
//! has, and looks at what is there.

use std::ops::Range;
use std::time::Duration;

use serde_json::{Value, json};

use super::block::{Label, SECTORS, Seen};
use super::rules::{Shape, Sight, zone_bytes};
use crate::common::Rng;
use crate::common::cli::{Geo, Image, TWELVE, run};
use crate::common::control::Control;
use crate::common::disk::{Disk, Setup};
use crate::common::frontend::Token;
use crate::common::proto::{Talk, msg, pf};
use crate::common::request::{Req, State, Status};

/// The shape of the disk.
pub(crate) const GEO: Geo = TWELVE;

/// A way to reset the device, by which the power comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// RESET_DEVICE.
    ResetDevice,
    /// Rings stopped by GET_VRING_BASE and set up again with base 0; the in-flight region, if there is one, is another
    /// or the same.
    StopRings { fresh: bool },
    /// Rings disabled and set up again with base 0, as user-mode Linux does, which knows no in-flight region.
    DisableRings,
    /// A new connection that brings no in-flight region.
    NewConnection,
    /// A new connection of a frontend that tracks nothing.
    UntrackedConnection,
    /// Another daemon, and a new connection.
    NewDaemon,
}

impl Way {
    /// Those that a frontend has.
    pub(crate) fn all(tracked: bool) -> &'static [Self] {
        use Way::{DisableRings, NewConnection, NewDaemon, ResetDevice, StopRings, UntrackedConnection};
        match tracked {
            true => &[
                ResetDevice,
                StopRings { fresh: true },
                StopRings { fresh: false },
                NewConnection,
                UntrackedConnection,
                NewDaemon,
            ],
            false => &[ResetDevice, StopRings { fresh: true }, DisableRings, NewConnection, NewDaemon],
        }
    }

    /// One of those that take no new process, mostly.
    pub(crate) fn random(rng: &mut Rng, tracked: bool) -> Self {
        let way = *rng.pick(Self::all(tracked));
        let way = if way == (Self::StopRings { fresh: false }) { Self::StopRings { fresh: true } } else { way };
        if way == Self::NewDaemon && rng.below(8) > 0 { Self::ResetDevice } else { way }
    }
}

/// The disk.
#[derive(Debug)]
pub(crate) struct Rig {
    /// Image, daemon and frontend.
    pub(crate) disk: Disk,
    /// Its shape.
    pub(crate) shape: Shape,
    control: Control,
    /// Used indices when the device fell silent.
    silent: Option<Vec<u16>>,
}

impl Rig {
    /// A new disk with a cache of the default size.
    #[track_caller]
    pub(crate) fn start(setup: Setup) -> Self {
        let image = Image::create(&setup.geo);
        Self::start_on(setup.args(&["--volatile-cache"]), image)
    }

    /// A disk on an image that is there. The setup says whether it has a volatile cache.
    #[track_caller]
    pub(crate) fn start_on(setup: Setup, image: Image) -> Self {
        let shape = Shape::new(&setup.geo);
        let control = image.beside("control");
        let disk = setup.args(&["--control-path", &image.beside_name("control")]).start_on(image);
        Self { disk, shape, control: Control::connect(&control), silent: None }
    }

    /// Whether the frontend has an in-flight region.
    pub(crate) fn is_tracked(&self) -> bool {
        self.disk.setup.options.without_protocol & pf::INFLIGHT_SHMFD == 0
    }

    /// A command that must be obeyed.
    #[track_caller]
    pub(crate) fn ask(&mut self, command: &Value) -> Value {
        match self.control.ask(command) {
            Some(Ok(result)) => result,
            Some(Err(error)) => panic!("{command}: {error}"),
            None => panic!("{command}: the daemon has ended"),
        }
    }

    /// A cut, which must be obeyed: what it has left, or that it is armed.
    #[track_caller]
    pub(crate) fn cut(&mut self, fields: &Value) -> Value {
        let result = self.ask(&command(fields));
        if fields["at"].is_null() {
            self.note_cut(fields);
        }
        result
    }

    /// A cut with `then=exit`: what it has left, which the daemon says before it ends.
    #[track_caller]
    pub(crate) fn cut_and_exit(&mut self, fields: &Value) -> Value {
        self.cut_and_exit_read_late(fields, Duration::ZERO)
    }

    /// The same, to one who reads nothing for a while.
    #[track_caller]
    pub(crate) fn cut_and_exit_read_late(&mut self, fields: &Value, pause: Duration) -> Value {
        self.control.send(&command(fields));
        std::thread::sleep(pause);
        let answer = self.control.receive();
        let status = self.disk.daemon.wait();
        assert!(status.success(), "the daemon ended with {status} by a cut");
        let answer = answer.unwrap_or_else(|| panic!("{fields}: the daemon has ended without a word"));
        answer.unwrap_or_else(|error| panic!("{fields}: {error}"))
    }

    /// Sets a mark that a cut with `then=exit` waits for: what that has left.
    #[track_caller]
    pub(crate) fn cut_at_mark_and_exit(&mut self, name: &str) -> Value {
        let told = self.ask(&json!({"cmd": "mark", "name": name}));
        let status = self.disk.daemon.wait();
        assert!(status.success(), "the daemon ended with {status} by a cut");
        told
    }

    /// A cut now, which may be refused.
    pub(crate) fn try_cut(&mut self, fields: &Value) -> Result<Value, String> {
        let answer = self.control.ask(&command(fields)).expect("the daemon runs");
        if answer.is_ok() {
            self.note_cut(fields);
        }
        answer
    }

    /// A cut that is refused: why.
    #[track_caller]
    pub(crate) fn refuses(&mut self, fields: &Value) -> String {
        match self.control.ask(&command(fields)) {
            Some(Err(error)) => error,
            other => panic!("{fields}: expected a refusal: {other:?}"),
        }
    }

    /// Notes that a cut has happened: nothing is answered from now on, unless it was told to fail.
    pub(crate) fn note_cut(&mut self, fields: &Value) {
        if fields["then"] != "fail" {
            self.silent = Some(self.used());
        }
    }

    fn used(&mut self) -> Vec<u16> {
        let front = self.disk.front();
        front.queues.iter().map(|queue| queue.used_index(&front.mem)).collect()
    }

    /// What `info` says of the power. None where the daemon has ended.
    pub(crate) fn power(&mut self) -> Option<Value> {
        let info = self.control.ask(&json!({"cmd": "info"}))?.unwrap_or_else(|error| panic!("info: {error}"));
        let power = info["power"].clone();
        assert!(power.is_object(), "info says nothing of the power: {info}");
        Some(power)
    }

    /// Whether the power is off.
    pub(crate) fn is_off(&mut self) -> bool {
        self.power().is_none_or(|power| power["state"] == "off")
    }

    /// The state of the power in words.
    pub(crate) fn state_of_power(&mut self) -> String {
        self.power().map_or_else(String::new, |power| power["state"].as_str().expect("a word").to_owned())
    }

    /// No answer has come since the power went.
    #[track_caller]
    pub(crate) fn assert_silent(&mut self) {
        if let Some(silent) = self.silent.clone() {
            assert_eq!(self.used(), silent, "used indices: an answer after the cut");
        }
    }

    /// Brings the power back.
    #[track_caller]
    pub(crate) fn power_on(&mut self, way: Way) {
        self.try_power_on(way).unwrap_or_else(|error| panic!("{way:?}: {error}"));
        self.silent = None;
    }

    fn try_power_on(&mut self, way: Way) -> Talk<()> {
        let queues = self.disk.front().queues.len();
        match way {
            Way::ResetDevice => {
                self.disk.front().conn.tell(msg::RESET_DEVICE, &[], &[])?;
                self.assert_silent();
                self.disk.front().inflight = None;
                self.set_up()
            }
            Way::StopRings { fresh } => {
                for queue in 0..queues {
                    self.disk.front().stop_queue(queue)?;
                }
                self.assert_silent();
                if fresh {
                    self.disk.front().inflight = None;
                }
                self.set_up()
            }
            Way::DisableRings => {
                for queue in 0..queues {
                    self.disk.front().conn.tell_queue(msg::SET_VRING_ENABLE, queue as u32, 0)?;
                }
                self.disk.front().conn.ask_u64(msg::GET_FEATURES)?;
                self.assert_silent();
                self.disk.front().queues.iter_mut().for_each(|queue| queue.renew_events());
                self.set_up()
            }
            Way::NewConnection | Way::UntrackedConnection => {
                self.assert_silent();
                let mut options = self.disk.setup.options.clone();
                if way == Way::UntrackedConnection {
                    options.without_protocol |= pf::INFLIGHT_SHMFD;
                }
                self.disk.try_reconnect(&options)
            }
            Way::NewDaemon => {
                if self.disk.daemon.is_alive() {
                    self.assert_silent();
                    assert!(self.disk.stop().success(), "the daemon's end");
                }
                self.start_again();
                Ok(())
            }
        }
    }

    /// Starts the daemon anew, after its end, and connects a new frontend.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        self.disk.start_again();
        self.silent = None;
        self.reach_control();
    }

    /// Connects to the control socket of another daemon.
    #[track_caller]
    pub(crate) fn reach_control(&mut self) {
        self.control = Control::connect(&self.disk.image.beside("control"));
    }

    /// Sets up all rings from nothing on the connection that is there.
    fn set_up(&mut self) -> Talk<()> {
        let front = self.disk.front();
        front.forget();
        front.conn.tell_u64(msg::SET_FEATURES, front.features)?;
        front.share_inflight()?;
        (0..front.queues.len()).try_for_each(|queue| front.start_queue(queue, 0))
    }

    /// What QEMU does for stop and cont: all rings stopped, and started where they were.
    pub(crate) fn stop_and_continue(&mut self) -> Talk<()> {
        let front = self.disk.front();
        let bases = (0..front.queues.len()).map(|queue| front.stop_queue(queue)).collect::<Talk<Vec<u16>>>()?;
        front.conn.tell_u64(msg::SET_FEATURES, front.features)?;
        front.share_inflight()?;
        bases.into_iter().enumerate().try_for_each(|(queue, base)| front.start_queue(queue, base))
    }

    /// The report of all zones, and the contents of those that `is_read` picks.
    #[track_caller]
    pub(crate) fn look(&mut self, is_read: impl Fn(usize) -> bool) -> Vec<Sight> {
        let shape = self.shape;
        let zones = self.disk.zones();
        assert_eq!(zones.len(), shape.zones, "zones in the report");
        let front = self.disk.front();
        let queues = front.queues.len();
        let mut tokens: Vec<Option<Token>> = Vec::new();
        for zone in 0..shape.zones {
            let req = Req::read(shape.sector(zone, 0), zone_bytes(&shape));
            tokens.push(is_read(zone).then(|| front.submit(zone % queues, &req)));
        }
        let mut sights = Vec::new();
        for (zone, token) in tokens.into_iter().enumerate() {
            let done = token.map(|token| front.wait(token));
            if let Some(done) = &done {
                assert_eq!(done.status, Status::Ok, "reading zone {zone}");
            }
            sights.push(Sight::new(&zones[zone], done.as_ref().map(|done| &done.data[..])));
        }
        sights
    }

    /// Everything.
    #[track_caller]
    pub(crate) fn look_at_all(&mut self) -> Vec<Sight> {
        self.look(|_| true)
    }

    /// Writes blocks of a request with this serial number, of life 0.
    #[track_caller]
    pub(crate) fn put(&mut self, zone: usize, blocks: Range<u32>, serial: u32) {
        let (sector, data) = self.blocks(zone, blocks, serial);
        assert_eq!(self.disk.write(sector, &data), Status::Ok, "zone {zone}, request {serial}");
    }

    /// Where such blocks go, and what they hold.
    pub(crate) fn blocks(&self, zone: usize, blocks: Range<u32>, serial: u32) -> (u64, Vec<u8>) {
        (self.shape.sector(zone, blocks.start), label(zone, serial).data(blocks.end - blocks.start))
    }

    /// A zone's state, and blocks below its pointer.
    #[track_caller]
    pub(crate) fn zone(&mut self, zone: usize) -> (State, u64) {
        let zone = self.disk.zone(zone);
        (zone.state, zone.written() / SECTORS)
    }

    /// Ends the daemon; its image has leaks at most.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        assert!(self.disk.stop().success(), "the daemon's end");
        let run = run(&["check", &self.disk.image.name()]);
        assert!(matches!(run.status.code(), Some(0 | 3)), "check: expected clean or leaks only: {run:?}");
        self.disk.image.assert_qemu_finds_at_most_leaks();
    }
}

/// A zone is in this state and holds these blocks from its first on, and behind them zeros.
#[track_caller]
pub(crate) fn assert_holds(sights: &[Sight], zone: usize, state: State, labels: &[Label]) {
    let sight = &sights[zone];
    let blocks = sight.blocks.as_ref().expect("a zone that was read");
    assert_eq!(sight.state, state, "zone {zone}, {} sectors below its pointer", sight.written);
    for (at, seen) in blocks.iter().enumerate() {
        let expected = labels.get(at).map_or(Seen::Zeros, |label| Seen::Whole(*label));
        assert_eq!(*seen, expected, "block {at} of zone {zone}");
    }
    if !matches!(state, State::Full | State::NotWp) {
        assert_eq!(sight.written, labels.len() as u64 * SECTORS, "the pointer of zone {zone}");
    }
}

/// All blocks of requests: zone, serial numbers with lengths.
pub(crate) fn rows(zone: usize, requests: &[(u32, u32)]) -> Vec<Label> {
    requests.iter().flat_map(|(serial, len)| label(zone, *serial).row(*len)).collect()
}

/// Two looks have found the same: contents, and whether a zone is full. Gives the zones that differ.
pub(crate) fn differing(one: &[Sight], other: &[Sight]) -> Vec<usize> {
    let same = |one: &Sight, other: &Sight| {
        let full = [one, other].map(|sight| sight.state == State::Full);
        one.blocks == other.blocks && full[0] == full[1] && (full[0] || one.written == other.written)
    };
    let pairs = one.iter().zip(other).enumerate();
    pairs.filter(|(_, (one, other))| !same(one, other)).map(|(zone, _)| zone).collect()
}

/// The first block of a request of life 0.
pub(crate) fn label(zone: usize, serial: u32) -> Label {
    Label { zone: zone as u32, life: 0, serial, at: 0 }
}

/// The command with these fields.
pub(crate) fn command(fields: &Value) -> Value {
    let mut command = fields.clone();
    command["cmd"] = json!("power-cut");
    command
}
