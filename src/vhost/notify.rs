//! What a frontend has handed over to be told through: the kick, call and error descriptors of a queue.
//!
//! The frontend shares them, so that it can fill, empty and reflag them at any moment. No use of one may wait: a signal
//! goes only to one that takes it, a read is made with RWF_NOWAIT. O_NONBLOCK is neither trusted nor set, as it belongs
//! to the open file that both sides share: a driver may well wait in a read of its call descriptor. One gap is left to
//! a frontend that means harm: it can fill a blocking eventfd between the look and the write. Whoever waits for a
//! thread that may be held up like this empties the eventfd meanwhile ([`Notifier::unclog`]).
//!
//! Only eventfds are taken, and for call and error one end of a socketpair as well, as user-mode Linux has no interrupt
//! from an eventfd; a socket is sent to with MSG_DONTWAIT. A pipe, another socket, a terminal or a file of some file
//! system could hold up a thread in ways that no flag bounds, and a signalfd would take this process's own signals.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// An eventfd of the frontend, or one end of its socketpair.
#[derive(Debug)]
pub(super) struct Notifier {
    file: File,
    is_socket: bool,
}

/// What a look at a kick has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// There were kicks.
    Some,
    /// There was none.
    Nothing,
    /// There will never be one again.
    Ended,
}

impl Notifier {
    /// Takes an eventfd, to be told something through it; of anything else it says what it is.
    pub(super) fn to_listen(file: File) -> Result<Self, &'static str> {
        match kind(&file) {
            None if would_take_a_number(&file) => Ok(Self { file, is_socket: false }),
            None => Err("a descriptor without a file"),
            Some(kind) => Err(kind),
        }
    }

    /// Takes an eventfd or one end of a socketpair, to tell the frontend something through it.
    pub(super) fn to_tell(file: File) -> Result<Self, &'static str> {
        if kind(&file) == Some(SOCKET) && is_local_stream(&file) {
            return Ok(Self { file, is_socket: true });
        }
        Self::to_listen(file)
    }

    /// Adds one. What is full is readable all the same, so that its reader misses nothing.
    pub(super) fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // An error is a full eventfd or socket, or one that nobody reads; there is nobody to tell.
        if self.is_socket {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: the bytes are valid for reading.
            unsafe { libc::send(self.as_raw_fd(), one.as_ptr().cast(), one.len(), flags) };
        } else if self.is_ready(libc::POLLOUT) {
            let _ = (&self.file).write(&one);
        }
    }

    /// Takes what was added.
    pub(super) fn drain(&self) -> Drained {
        let mut count = [0; 8];
        let part = libc::iovec { iov_base: count.as_mut_ptr().cast(), iov_len: count.len() };
        // SAFETY: one part, which is valid for writing. An offset of -1 reads like read(2).
        let read = unsafe { libc::preadv2(self.file.as_raw_fd(), &raw const part, 1, -1, libc::RWF_NOWAIT) };
        let read = if read >= 0 { Ok(read as usize) } else { Err(io::Error::last_os_error()) };
        let read = match read {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => self.drain_on_old_kernels(),
            read => read,
        };
        match read {
            Ok(8) => Drained::Some,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Drained::Nothing,
            Ok(_) | Err(_) => Drained::Ended,
        }
    }

    /// Reads where RWF_NOWAIT is not known for eventfds: before Linux 5.8.
    fn drain_on_old_kernels(&self) -> io::Result<usize> {
        let flags = OFlag::from_bits_retain(fcntl(&self.file, FcntlArg::F_GETFL)?);
        fcntl(&self.file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        (&self.file).read(&mut [0; 8])
    }

    /// Frees a thread that is held up in [`Notifier::signal`]. Changes nothing of an eventfd that takes a signal.
    pub(super) fn unclog(&self) {
        if !self.is_socket && !self.is_ready(libc::POLLOUT) {
            self.drain();
        }
    }

    fn is_ready(&self, events: libc::c_short) -> bool {
        let mut watched = libc::pollfd { fd: self.file.as_raw_fd(), events, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut watched, 1, 0) > 0 && watched.revents & events != 0 }
    }
}

impl AsRawFd for Notifier {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

const SOCKET: &str = "a socket";

/// Whether a socket is of this machine and a stream, as both ends of user-mode Linux's socketpair are. The close of
/// such a one waits for nobody.
fn is_local_stream(socket: &File) -> bool {
    let is = |option: libc::c_int, expected: libc::c_int| {
        let (mut value, mut len): (libc::c_int, _) = (0, size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: the value has the length that is given.
        let failed = unsafe {
            libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut len)
        };
        failed == 0 && value == expected
    };
    is(libc::SO_DOMAIN, libc::AF_UNIX) && is(libc::SO_TYPE, libc::SOCK_STREAM)
}

/// What a descriptor is; none for one without a file, as eventfds are. Whoever serves its file system is not asked, as
/// that could be the frontend itself.
fn kind(file: &File) -> Option<&'static str> {
    let mut about = MaybeUninit::<libc::statx>::uninit();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: the path is empty and ends; the structure has room for the answer.
    let failed = unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_TYPE, about.as_mut_ptr()) };
    if failed != 0 {
        return Some("of an unknown kind");
    }
    // SAFETY: the call has filled it in.
    let mode = u32::from(unsafe { about.assume_init() }.stx_mode);
    match mode & libc::S_IFMT {
        0 => None,
        libc::S_IFIFO => Some("a pipe"),
        libc::S_IFSOCK => Some(SOCKET),
        libc::S_IFREG => Some("a file"),
        libc::S_IFCHR => Some("a character device"),
        libc::S_IFDIR => Some("a folder"),
        _ => Some("of another kind"),
    }
}

/// Whether eight bytes could be written. An eventfd looks at them first, and says that they cannot be had, however full
/// it is; what cannot be written to at all says something else. So nothing is written, and nobody waits.
fn would_take_a_number(file: &File) -> bool {
    // SAFETY: the kernel reads from the pointer, finds nothing there and says so.
    let written = unsafe { libc::write(file.as_raw_fd(), std::ptr::null(), 8) };
    written < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
    use std::os::unix::net::UnixStream;

    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EFD_SEMAPHORE, EventFd};

    use super::*;

    const FULL: u64 = u64::MAX - 1;

    fn eventfd(flags: i32, count: u64) -> (Notifier, File) {
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { File::from_raw_fd(EventFd::new(flags).unwrap().into_raw_fd()) };
        if count != 0 {
            (&file).write_all(&count.to_ne_bytes()).unwrap();
        }
        (Notifier::to_listen(file.try_clone().unwrap()).unwrap(), file)
    }

    fn count(mut file: &File) -> u64 {
        let mut count = [0; 8];
        file.read_exact(&mut count).unwrap();
        u64::from_ne_bytes(count)
    }

    #[test]
    fn a_signal_adds_one_and_to_a_full_eventfd_nothing_without_waiting() {
        for flags in [0, EFD_NONBLOCK] {
            let (notifier, file) = eventfd(flags, 0);
            notifier.signal();
            notifier.signal();
            assert_eq!(count(&file), 2);
            let (notifier, file) = eventfd(flags, FULL);
            notifier.signal();
            assert_eq!(count(&file), FULL);
        }
    }

    #[test]
    fn taking_an_eventfd_changes_nothing_of_it() {
        for before in [0, 1, FULL] {
            let (notifier, file) = eventfd(EFD_NONBLOCK, before);
            drop(notifier);
            let mut now = [0; 8];
            let read = (&file).read(&mut now).unwrap_or(0);
            assert_eq!((read != 0, u64::from_ne_bytes(now)), (before != 0, before));
        }
    }

    #[test]
    fn draining_never_waits_and_leaves_the_flags_that_are_shared() {
        for flags in [0, EFD_NONBLOCK] {
            let (notifier, file) = eventfd(flags, 7);
            let before = fcntl(&file, FcntlArg::F_GETFL).unwrap();
            assert_eq!([notifier.drain(), notifier.drain()], [Drained::Some, Drained::Nothing]);
            assert_eq!(fcntl(&file, FcntlArg::F_GETFL).unwrap(), before);
        }
        let (notifier, _file) = eventfd(EFD_SEMAPHORE, 2);
        assert_eq!([(); 3].map(|()| notifier.drain()), [Drained::Some, Drained::Some, Drained::Nothing]);
    }

    #[test]
    fn a_thread_held_up_by_a_full_eventfd_is_freed_and_one_that_takes_signals_is_left_alone() {
        let (notifier, file) = eventfd(0, FULL);
        std::thread::scope(|scope| {
            let held_up = scope.spawn(|| (&file).write(&1u64.to_ne_bytes()).unwrap());
            while !held_up.is_finished() {
                notifier.unclog();
            }
        });
        assert_eq!(count(&file), 1);
        notifier.signal();
        notifier.unclog();
        assert_eq!(count(&file), 1);
    }

    #[test]
    fn a_socketpair_is_told_through_and_one_without_room_or_reader_holds_nobody_up() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let notifier = Notifier::to_tell(OwnedFd::from(writer).into()).unwrap();
        notifier.signal();
        let mut told = [0; 8];
        reader.read_exact(&mut told).unwrap();
        assert_eq!(u64::from_ne_bytes(told), 1);
        for _ in 0..10_000 {
            notifier.signal();
        }
        notifier.unclog();
        drop(reader);
        notifier.signal();
    }

    #[test]
    fn nothing_is_told_through_another_socket_nor_listened_to_at_any() {
        let (local, _other) = UnixStream::pair().unwrap();
        assert_eq!(Notifier::to_listen(OwnedFd::from(local).into()).err(), Some("a socket"));
        let remote = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(Notifier::to_tell(OwnedFd::from(remote).into()).err(), Some("a socket"));
        let datagram = std::os::unix::net::UnixDatagram::unbound().unwrap();
        assert_eq!(Notifier::to_tell(OwnedFd::from(datagram).into()).err(), Some("a socket"));
    }

    #[test]
    fn only_eventfds_are_listened_to() {
        let (reader, writer) = std::io::pipe().unwrap();
        let (socket, _peer) = UnixStream::pair().unwrap();
        // SAFETY: a new descriptor, which is nobody else's.
        let timer = unsafe { OwnedFd::from_raw_fd(libc::timerfd_create(libc::CLOCK_MONOTONIC, 0)) };
        // SAFETY: as above.
        let epoll = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(0)) };
        let refused = [reader.into(), writer.into(), socket.into(), timer, epoll].map(OwnedFd::from).map(File::from);
        let kinds = refused.map(|file| Notifier::to_listen(file).err().unwrap());
        let none = "a descriptor without a file";
        assert_eq!(kinds, ["a pipe", "a pipe", "a socket", none, none]);
        assert_eq!(Notifier::to_listen(File::open("/dev/zero").unwrap()).err(), Some("a character device"));
        assert_eq!(Notifier::to_listen(tempfile::tempfile().unwrap()).err(), Some("a file"));
        assert_eq!(Notifier::to_listen(File::open("/").unwrap()).err(), Some("a folder"));
    }
}
