//! Frontends that mean harm: whatever descriptors they hand over, in whatever messages or pieces of messages, read or
//! unread, gone or silent, the next frontend is served and SIGTERM ends the daemon in order.
//!
//! Each case is a seed and has a daemon of its own. `HOSTILE_CASES` says how many (20,000 in the long form), from
//! `HOSTILE_SEED` on, and `HOSTILE_MS` within how many milliseconds the next frontend has to be served and SIGTERM has
//! to end the daemon; a loaded machine needs more than the second of the long form.

use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::common::Rng;
use crate::common::cli::{Image, SMALL};
use crate::common::daemon::Daemon;
use crate::common::foreign::{Foreign, Kind};
use crate::common::frontend::{Frontend, Options};
use crate::common::proto::{msg, words};
use crate::common::request::{Req, Status};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// What is asked of each case.
#[derive(Debug)]
struct Within {
    bound: Duration,
    served: Duration,
    ended: Duration,
}

/// A frontend and what it holds on to.
struct Hostile {
    rng: Rng,
    stream: UnixStream,
    /// Queues that are set up, if it has got that far.
    front: Option<Frontend>,
    held: Vec<Foreign>,
}

/// Messages that descriptors come with, the likeliest to do harm more often than the others, and some that they do not.
const WITH_FILES: [u32; 16] = [
    msg::SET_VRING_CALL,
    msg::SET_VRING_CALL,
    msg::SET_VRING_CALL,
    msg::SET_VRING_CALL,
    msg::SET_VRING_ERR,
    msg::SET_VRING_ERR,
    msg::SET_VRING_ERR,
    msg::SET_VRING_KICK,
    msg::SET_VRING_KICK,
    msg::SET_MEM_TABLE,
    msg::ADD_MEM_REG,
    msg::REM_MEM_REG,
    msg::SET_INFLIGHT_FD,
    msg::GET_VRING_BASE,
    msg::RESET_DEVICE,
    21,
];

impl Hostile {
    /// Connects and gets as far as it likes to.
    fn connect(seed: u64, socket: &Path) -> Self {
        let mut rng = Rng::new(seed);
        let stream = UnixStream::connect(socket).expect("connecting to the daemon");
        let own = stream.try_clone().expect("a socket");
        let options = Options { memory: 1 << 20, queue_size: 8, ..Options::default() };
        let front = match rng.below(6) {
            0 => None,
            1 => Frontend::negotiate(own, &options).ok(),
            _ => Frontend::connect(own, &options).ok(),
        };
        stream.set_nonblocking(true).expect("a socket that does not wait");
        Self { rng, stream, front, held: Vec::new() }
    }

    /// Sends what there is room for, and a daemon that has hung up may hear it or not.
    fn send(&self, bytes: &[u8], fds: &[RawFd]) {
        let _ = self.stream.send_with_fds(&[bytes], fds);
    }

    /// As many descriptors, of up to four kinds.
    fn files(&mut self, count: u64) -> Vec<RawFd> {
        let made = count.min(4);
        let new: Vec<Foreign> = (0..made).map(|_| Foreign::new(Kind::any(&mut self.rng))).collect();
        let fds = (0..count).map(|at| new[(at % made) as usize].as_raw_fd()).collect();
        self.held.extend(new);
        fds
    }

    /// A message that descriptors come with; what it says is mostly right.
    fn message(&mut self) -> Vec<u8> {
        let request = *self.rng.pick(&WITH_FILES);
        let (queue, size) = (self.rng.below(8) / 6, 1 << (12 + self.rng.below(10)));
        let region = [1 << 40, size, 1 << 41, 0];
        let numbers = |values: &[u64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let payload = match request {
            msg::SET_VRING_KICK | msg::SET_VRING_CALL | msg::SET_VRING_ERR | msg::GET_VRING_BASE => numbers(&[queue]),
            msg::SET_MEM_TABLE => numbers(&[&[1][..], &region].concat()),
            msg::ADD_MEM_REG | msg::REM_MEM_REG => numbers(&[&[0][..], &region].concat()),
            msg::SET_INFLIGHT_FD => numbers(&[size, 0, 1 | 8 << 16]),
            _ => Vec::new(),
        };
        let asks = if self.rng.below(2) == 0 { 1 | 8 } else { 1 };
        [words(&[request, asks, payload.len() as u32]), payload].concat()
    }

    /// A bad deed after which the connection may go on.
    fn act(&mut self) {
        match self.rng.below(8) {
            0..=3 => {
                let message = self.message();
                let files = self.files(1);
                self.send(&message, &files);
            }
            4 => self.break_ring(),
            _ => self.ask(),
        }
    }

    /// A last deed.
    fn end(&mut self) {
        match self.rng.below(6) {
            0 => {}
            // More descriptors than a message has, with the whole of it or a part.
            1 => {
                let count = *self.rng.pick(&[0, 2, 32, 33, 64, 252, 253]);
                let (message, files) = (self.message(), self.files(count));
                let cut = if self.rng.below(2) == 0 { message.len() as u64 } else { 1 + self.rng.below(12) };
                self.send(&message[..cut as usize], &files);
            }
            // A message in pieces, the descriptors with its first bytes or its last, its end mostly missing.
            2 | 3 => {
                let (message, files) = (self.message(), self.files(1));
                let cut = 1 + self.rng.below(message.len() as u64 - 1) as usize;
                let (early, late): (&[RawFd], &[RawFd]) =
                    if self.rng.below(2) == 0 { (&files, &[]) } else { (&[], &files) };
                self.send(&message[..cut], early);
                let more = cut + self.rng.below((message.len() - cut + 1) as u64) as usize;
                self.send(&message[cut..more], late);
            }
            4 => {
                let (len, count) = (1 + self.rng.below(64), self.rng.below(2));
                let noise: Vec<u8> = (0..len).map(|_| self.rng.next() as u8).collect();
                let files = self.files(count);
                self.send(&noise, &files);
            }
            _ => self.never_read(),
        }
    }

    /// Asks until there is no more room, neither for answers nor for questions.
    fn never_read(&mut self) {
        let asked = words(&[msg::GET_FEATURES, 1, 0]).repeat(64);
        for _ in 0..50 {
            while (&self.stream).write(&asked).is_ok() {}
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn break_ring(&mut self) {
        if let Some(front) = &mut self.front {
            let head = self.rng.below(20) as u16;
            front.queues[0].offer(&front.mem, head);
            front.queues[0].publish(&front.mem);
            front.queues[0].force_kick();
        }
    }

    /// Requests whose answers are called through whatever the queue was given.
    fn ask(&mut self) {
        let Some(front) = &mut self.front else { return };
        if front.queues[0].room() >= 3 {
            front.submit(0, &Req::flush());
        }
        front.queues[0].force_kick();
    }

    /// Misbehaves, until the daemon has had the time to fall for it.
    fn misbehave(seed: u64, socket: &Path) -> Self {
        let mut hostile = Self::connect(seed, socket);
        for _ in 0..hostile.rng.below(10) {
            hostile.act();
        }
        hostile.end();
        let unread = || {
            let mut bytes: libc::c_int = 0;
            // SAFETY: writes one number.
            let asked = unsafe { libc::ioctl(hostile.stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
            asked == 0 && bytes != 0
        };
        let began = Instant::now();
        while unread() && began.elapsed() < Duration::from_millis(10) {
            std::thread::sleep(Duration::from_micros(100));
        }
        std::thread::sleep(Duration::from_micros(500));
        hostile
    }

    /// Hangs up and keeps all descriptors, as another process of the same owner could.
    fn hang_up(self) -> (Option<Frontend>, Vec<Foreign>) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        (self.front, self.held)
    }
}

/// A frontend as it should be is served.
fn assert_served(socket: &Path, case: &str) {
    let stream = UnixStream::connect(socket).expect("connecting to the daemon");
    let options = Options { memory: 1 << 20, queue_size: 8, ..Options::default() };
    let mut front = Frontend::connect(stream, &options).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(front.call(0, &Req::flush()).status, Status::Ok, "{case}");
}

fn run_case(seed: u64, image: &Image, within: &mut Within) {
    let case = format!("seed {seed}");
    let socket = image.beside("socket");
    let mut daemon = Daemon::start(image.path(), &socket, &[]);
    drop(daemon.connect());
    // It goes, and the next frontend is served.
    let held = Hostile::misbehave(seed, &socket).hang_up();
    let began = Instant::now();
    assert_served(&socket, &case);
    let took = began.elapsed();
    assert!(took <= within.bound, "{case}: the next frontend was served after {took:?}");
    within.served = within.served.max(took);
    // It does the same again and stays.
    let stays = Hostile::misbehave(seed, &socket);
    let began = Instant::now();
    let status = daemon.terminate();
    let took = began.elapsed();
    assert!(status.success(), "{case}: the daemon ended with {status}");
    assert!(took <= within.bound, "{case}: SIGTERM took {took:?}");
    within.ended = within.ended.max(took);
    drop((held, stays));
}

#[test]
fn whatever_a_frontend_does_the_next_one_is_served_and_sigterm_ends_the_daemon() {
    let (cases, first) = (setting("HOSTILE_CASES", 60), setting("HOSTILE_SEED", 0));
    let bound = Duration::from_millis(setting("HOSTILE_MS", 20_000));
    let mut within = Within { bound, served: Duration::ZERO, ended: Duration::ZERO };
    for seed in first..first + cases {
        // The log of each case is its own.
        let image = Image::create(&SMALL);
        run_case(seed, &image, &mut within);
        if seed % 1000 == 999 {
            eprintln!("{} cases: {within:?}", seed + 1 - first);
        }
    }
    eprintln!("{cases} cases, each with SIGTERM and exit status 0: {within:?}");
}
