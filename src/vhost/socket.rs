//! Where frontends come from: a socket of our own, one that was handed over, or one of systemd.
//!
//! A path is taken over from a daemon that died and left it behind, never from one that lives, and never when it is
//! anything but a socket. Our own socket is removed at the end, if it is still ours. Conventions: QEMU's
//! docs/interop/vhost-user, "Backend program conventions"; sd_listen_fds(3).

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, fchmod};
use vmm_sys_util::eventfd::EventFd;

use super::{ServeError, Supervised};

/// The first descriptor that systemd hands over.
const SYSTEMD_FIRST_FD: RawFd = 3;

/// Frontends that may wait while another is served.
const BACKLOG: i32 = 128;

/// Where frontends come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenOn {
    /// Make a socket here.
    Path {
        /// Where.
        path: PathBuf,
        /// Who may connect.
        access: SocketAccess,
    },
    /// A socket that the parent process left open: listening, or connected to the only frontend.
    Fd(RawFd),
    /// The socket that systemd listens on for this process.
    Systemd,
}

/// Who may connect to a socket of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketAccess {
    /// Permission bits.
    pub mode: u32,
    /// The group it is given to.
    pub group: Option<u32>,
}

/// Why there is no socket to serve on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process accepts connections there.
    #[error("{}: the socket is in use by a running process", .0.display())]
    InUse(PathBuf),
    /// Something else is in the way.
    #[error("{}: exists and is not a socket; remove it or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error("{}: cannot listen: {source}", .path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No such descriptor.
    #[error("--fd {0}: no open descriptor has this number")]
    NoDescriptor(RawFd),
    /// A descriptor of the wrong kind.
    #[error("descriptor {0} is not a UNIX stream socket that is listening or connected")]
    WrongDescriptor(RawFd),
    /// Not started by systemd, or by a unit without a socket.
    #[error("no socket to serve on: give --socket-path or --fd, or start it from a systemd socket unit")]
    NotFromSystemd,
    /// Systemd hands over more than one socket.
    #[error("LISTEN_FDS is {0:?}: expected 1, one listening socket")]
    SystemdCount(String),
}

/// Takes a socket that this process was started with. Each number can be taken once.
fn inherited(number: RawFd) -> Result<OwnedFd, SocketError> {
    static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: asks only for the flags of a number, whether it is a descriptor or not.
    let open = unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
    if !open || taken.contains(&number) {
        return Err(SocketError::NoDescriptor(number));
    }
    // Anything else may be a descriptor that this program has opened itself; a UNIX stream socket it has not.
    if !is_unix_stream(number) {
        return Err(SocketError::WrongDescriptor(number));
    }
    taken.push(number);
    // SAFETY: it is open, was made by the parent process for us, and nobody has taken it before.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    // Children would have no use for it. Without effect on the socket itself.
    let _ = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC));
    Ok(fd)
}

/// The socket that systemd listens on for us. The variables stay set: changing the environment is not safe while
/// there are threads, and this program starts no other.
fn from_systemd() -> Result<OwnedFd, SocketError> {
    let pid = std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok());
    let count = std::env::var_os("LISTEN_FDS").filter(|_| pid == Some(std::process::id()));
    let count = count.ok_or(SocketError::NotFromSystemd)?;
    if count != "1" {
        return Err(SocketError::SystemdCount(count.to_string_lossy().into_owned()));
    }
    inherited(SYSTEMD_FIRST_FD)
}

/// What is served.
pub(super) struct Listening {
    socket: Socket,
    own: Option<OwnPath>,
    name: String,
}

enum Socket {
    Listener(UnixListener),
    /// Gives its one connection away.
    Connected(Mutex<Option<UnixStream>>),
}

/// A socket file that we made.
struct OwnPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Listening {
    pub(super) fn open(on: ListenOn) -> Result<Self, SocketError> {
        match on {
            ListenOn::Path { path, access } => Self::at(path, access),
            ListenOn::Fd(number) => Self::with(inherited(number)?),
            ListenOn::Systemd => Self::with(from_systemd()?),
        }
    }

    fn at(path: PathBuf, access: SocketAccess) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Listen { path: path.clone(), source };
        let listener = listen_at(&path)?;
        std::os::unix::fs::lchown(&path, None, access.group).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(access.mode)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let made = fs::symlink_metadata(&path).map_err(failed)?;
        let name = path.display().to_string();
        let own = Some(OwnPath { path, device: made.dev(), inode: made.ino() });
        Ok(Self { socket: Socket::Listener(listener), own, name })
    }

    fn with(fd: OwnedFd) -> Result<Self, SocketError> {
        let number = fd.as_raw_fd();
        let wrong = |_| SocketError::WrongDescriptor(number);
        if !is_unix_stream(number) {
            return Err(SocketError::WrongDescriptor(number));
        }
        if socket_option(number, libc::SO_ACCEPTCONN) == Some(1) {
            let listener = UnixListener::from(fd);
            listener.set_nonblocking(true).map_err(wrong)?;
            let bound = listener.local_addr().map_err(wrong)?;
            let name = bound.as_pathname().map_or(format!("descriptor {number}"), |path| path.display().to_string());
            Ok(Self { socket: Socket::Listener(listener), own: None, name })
        } else {
            let stream = UnixStream::from(fd);
            stream.peer_addr().and_then(|_| stream.set_nonblocking(false)).map_err(wrong)?;
            Ok(Self {
                socket: Socket::Connected(Mutex::new(Some(stream))),
                own: None,
                name: format!("descriptor {number}"),
            })
        }
    }

    /// What connections are accepted from; none where there is only one.
    pub(super) fn listener(&self) -> Option<&UnixListener> {
        match &self.socket {
            Socket::Listener(listener) => Some(listener),
            Socket::Connected(_) => None,
        }
    }

    /// The folder of the socket that is removed at the end.
    pub(super) fn own_folder(&self) -> Option<&Path> {
        let folder = self.own.as_ref()?.path.parent()?;
        Some(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
    }

    /// Whether only one frontend can come.
    pub(super) fn is_single(&self) -> bool {
        matches!(self.socket, Socket::Connected(_))
    }

    /// A frontend that has come, if one has, without waiting.
    pub(super) fn try_accept(&self) -> io::Result<Option<UnixStream>> {
        match self.listener().map(UnixListener::accept).transpose() {
            Ok(accepted) => Ok(accepted.map(|(stream, _)| stream)),
            // It is gone again.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR | libc::ECONNABORTED)) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The next frontend; none when it is time to stop.
    pub(super) fn accept(&self, by: Supervised<'_>) -> Result<Option<UnixStream>, ServeError> {
        let listener = match &self.socket {
            Socket::Connected(stream) => return Ok(stream.lock().unwrap_or_else(PoisonError::into_inner).take()),
            Socket::Listener(listener) => listener,
        };
        loop {
            let failed = ServeError::system("wait for a frontend");
            if let Ready::Stop = wait_supervised(Some(listener.as_raw_fd()), by).map_err(failed)? {
                return Ok(None);
            }
            match self.try_accept() {
                Ok(Some(stream)) => return Ok(Some(stream)),
                Ok(None) => {}
                Err(error) => match error.raw_os_error() {
                    // For the moment: others have used up what a connection takes.
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        log::warn!("cannot accept a frontend: {error}");
                        let failed = ServeError::system("wait for a frontend");
                        wait_readable(None, by.stop, Some(Duration::from_secs(1))).map_err(failed)?;
                    }
                    _ => return Err(ServeError::system("accept a frontend")(error)),
                },
            }
        }
    }
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let Some(own) = &self.own else { return };
        let still_ours =
            fs::symlink_metadata(&own.path).is_ok_and(|found| (found.dev(), found.ino()) == (own.device, own.inode));
        if still_ours && let Err(error) = fs::remove_file(&own.path) {
            log::warn!("{}: the socket cannot be removed: {error}", own.path.display());
        }
    }
}

/// Makes a listening socket that only its owner can connect to, from its first moment on.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let kind = (AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC);
    let socket = socket::socket(kind.0, kind.1, kind.2, None)?;
    // The mode of a socket that is not bound yet is the one that its file is made with.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(UnixListener::from(socket))
}

/// Listens at a path, in place of a socket that nobody listens on any more.
fn listen_at(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |source| SocketError::Listen { path: path.into(), source };
    match bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        result => return result.map_err(failed),
    }
    if !fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.into()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)?;
            bind(path).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => bind(path).map_err(failed),
        // Also when it is there and does not let us in, or is a datagram socket.
        Ok(_) | Err(_) => Err(SocketError::InUse(path.into())),
    }
}

/// An option of a socket that is a number; none for what is no socket.
fn socket_option(fd: RawFd, option: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` has the length that `len` says.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut len) };
    (result == 0).then_some(value)
}

fn is_unix_stream(fd: RawFd) -> bool {
    socket_option(fd, libc::SO_DOMAIN) == Some(libc::AF_UNIX)
        && socket_option(fd, libc::SO_TYPE) == Some(libc::SOCK_STREAM)
}

/// What [`wait_readable`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// It is time to stop; this goes before the other.
    Stop,
    Descriptor,
    Timeout,
}

/// Waits until a descriptor can be read, or `stop`, which is never read so that everybody sees it.
pub(super) fn wait_readable(fd: Option<RawFd>, stop: &EventFd, timeout: Option<Duration>) -> io::Result<Ready> {
    let watched = [(stop.as_raw_fd(), libc::POLLIN), (fd.unwrap_or(-1), libc::POLLIN)];
    Ok(match poll_all(watched, timeout)? {
        [true, _] => Ready::Stop,
        [_, true] => Ready::Descriptor,
        [false, false] => Ready::Timeout,
    })
}

/// Waits for any of these events of descriptors, and tells which have come: none of them when the time is over.
pub(super) fn poll_all<const N: usize>(
    watched: [(RawFd, libc::c_short); N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut fds = watched.map(|(fd, events)| libc::pollfd { fd, events, revents: 0 });
    // Rounded up, as a wait of less than a millisecond would be none.
    let millis = timeout.map_or(-1, |timeout| i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    loop {
        // SAFETY: an array of so many valid pollfds.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), N as libc::nfds_t, millis) };
        if ready >= 0 {
            return Ok(fds.map(|fd| fd.revents != 0));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Waits without an end, but for signs of life.
pub(super) fn wait_supervised(fd: Option<RawFd>, by: Supervised<'_>) -> io::Result<Ready> {
    loop {
        by.manager.alive();
        match wait_readable(fd, by.stop, by.manager.due())? {
            Ready::Timeout => {}
            ready => return Ok(ready),
        }
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
