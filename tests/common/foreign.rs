//! Descriptors that a frontend should not hand over, and right ones in a wrong state. Each keeps what makes it so.

use std::fs::File;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use super::rng::Rng;

/// The most that an eventfd counts.
pub const FULL: u64 = u64::MAX - 1;

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Eventfd {
        blocking: bool,
        semaphore: bool,
        full: bool,
    },
    FullPipe,
    EndedPipe,
    PipeToNobody,
    Socket,
    /// A TCP socket whose close waits for an hour.
    LingeringSocket,
    Zero,
    File,
    Folder,
    Memory,
    Timer,
    Epoll,
    /// Of SIGTERM: reading it would take the signal.
    Signals,
}

impl Kind {
    /// All that are no eventfd.
    pub const OTHERS: [Self; 12] = [
        Self::FullPipe,
        Self::EndedPipe,
        Self::PipeToNobody,
        Self::Socket,
        Self::LingeringSocket,
        Self::Zero,
        Self::File,
        Self::Folder,
        Self::Memory,
        Self::Timer,
        Self::Epoll,
        Self::Signals,
    ];

    /// Any kind; half of the time an eventfd.
    pub fn any(rng: &mut Rng) -> Self {
        if rng.below(2) == 0 {
            return *rng.pick(&Self::OTHERS);
        }
        Self::Eventfd { blocking: rng.below(3) != 0, semaphore: rng.below(3) == 0, full: rng.below(2) == 0 }
    }
}

/// A descriptor and what is at its other end.
#[derive(Debug)]
pub struct Foreign {
    fd: OwnedFd,
    _other: Option<OwnedFd>,
}

fn owned(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the caller has just made it, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn nonblocking(fd: &OwnedFd, on: bool) {
    let flags = if on { libc::O_NONBLOCK } else { 0 };
    // SAFETY: plain system call on an own descriptor.
    assert_eq!(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) }, 0);
}

/// Writes until there is no more room.
fn fill(fd: &OwnedFd) {
    nonblocking(fd, true);
    let mut file = File::from(fd.try_clone().expect("a descriptor"));
    while file.write(&[0; 65536]).is_ok() {}
    nonblocking(fd, false);
}

fn eventfd(blocking: bool, semaphore: bool, full: bool) -> OwnedFd {
    let flags = if blocking { 0 } else { libc::EFD_NONBLOCK } | if semaphore { libc::EFD_SEMAPHORE } else { 0 };
    // SAFETY: takes numbers only.
    let fd = owned(unsafe { libc::eventfd(0, flags | libc::EFD_CLOEXEC) });
    if full {
        File::from(fd.try_clone().expect("a descriptor")).write_all(&FULL.to_ne_bytes()).expect("filling an eventfd");
    }
    fd
}

/// Has the close of a socket wait; false for what is no socket.
fn linger(socket: &OwnedFd, seconds: i32) -> bool {
    let time = libc::linger { l_onoff: i32::from(seconds != 0), l_linger: seconds };
    let (option, len) = ((&raw const time).cast(), size_of_val(&time) as libc::socklen_t);
    // SAFETY: the option has the length that is given.
    unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, option, len) == 0 }
}

fn lingering() -> (OwnedFd, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("its address")).expect("connecting to oneself");
    let far = listener.accept().expect("accepting oneself").0;
    let near = OwnedFd::from(near);
    assert!(linger(&near, 3600));
    fill(&near);
    (near, far.into())
}

impl Foreign {
    /// Makes one.
    pub fn new(kind: Kind) -> Self {
        let open = |path: &str| OwnedFd::from(File::open(path).expect("a file that is there"));
        let alone = |fd| (fd, None);
        let (fd, _other) = match kind {
            Kind::Eventfd { blocking, semaphore, full } => alone(eventfd(blocking, semaphore, full)),
            Kind::FullPipe => {
                let (reader, writer) = io::pipe().expect("a pipe");
                let writer = OwnedFd::from(writer);
                fill(&writer);
                (writer, Some(reader.into()))
            }
            Kind::EndedPipe => alone(io::pipe().expect("a pipe").0.into()),
            Kind::PipeToNobody => alone(io::pipe().expect("a pipe").1.into()),
            Kind::Socket => {
                let (near, far) = UnixStream::pair().expect("a pair of sockets");
                (near.into(), Some(far.into()))
            }
            Kind::LingeringSocket => {
                let (near, far) = lingering();
                (near, Some(far))
            }
            Kind::Zero => alone(open("/dev/zero")),
            Kind::File => alone(open("/proc/self/exe")),
            Kind::Folder => alone(open("/")),
            // SAFETY: the name ends.
            Kind::Memory => alone(owned(unsafe { libc::memfd_create(c"foreign".as_ptr(), libc::MFD_CLOEXEC) })),
            Kind::Timer => alone(timer()),
            // SAFETY: takes a number only.
            Kind::Epoll => alone(owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })),
            Kind::Signals => alone(signals()),
        };
        Self { fd, _other }
    }
}

impl AsRawFd for Foreign {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // Not in the tests' own process.
        linger(&self.fd, 0);
    }
}

/// A timer that is always due.
fn timer() -> OwnedFd {
    // SAFETY: takes numbers only.
    let fd = owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) });
    let moment = libc::timespec { tv_sec: 0, tv_nsec: 1 };
    let spec = libc::itimerspec { it_interval: moment, it_value: moment };
    // SAFETY: a valid structure, and no place for the old one.
    assert_eq!(unsafe { libc::timerfd_settime(fd.as_raw_fd(), 0, &spec, std::ptr::null_mut()) }, 0);
    fd
}

fn signals() -> OwnedFd {
    // SAFETY: the set is made by the first call, and is valid for the others.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        owned(libc::signalfd(-1, &set, libc::SFD_CLOEXEC))
    }
}
