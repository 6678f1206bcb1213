//! The service manager that may have started this process: told when it serves, what it does, and that it lives.
//!
//! The socket is connected before the process is confined; from then on each message is one send on a descriptor that
//! is there, which needs no path and no system call that a frontend does not need too. (The `sd-notify` crate makes and
//! connects a socket for each message, so it could say nothing once the process is confined.) Where no manager listens,
//! nothing is sent. Protocol: sd_notify(3), sd_watchdog_enabled(3).

use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// How long a manager that takes no messages may hold up the thread that tells it, once.
const SEND_TIMEOUT: Duration = Duration::from_millis(300);

/// The manager, or nobody.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// It did not take the last message in time, so the next ones wait for nothing.
    deaf: Cell<bool>,
    watchdog: Option<Watchdog>,
}

/// The manager expects a sign of life from time to time.
#[derive(Debug)]
struct Watchdog {
    /// From one sign to the next: half of what the manager allows, as it asks for.
    interval: Duration,
    due: Cell<Instant>,
}

impl ServiceManager {
    /// The manager that the environment names. One that cannot be reached is worth a warning and no more: it has its
    /// own limit for how long it waits.
    pub fn from_environment() -> Self {
        let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        match connect(&address) {
            Ok(socket) => Self { socket: Some(socket), deaf: Cell::new(false), watchdog: Watchdog::from_environment() },
            Err(error) => {
                log::warn!("NOTIFY_SOCKET={}: the service manager cannot be told anything: {error}", address.display());
                Self::default()
            }
        }
    }

    /// Frontends can connect from now on.
    pub fn ready(&self, status: &str) {
        self.send("READY=1\n", status);
    }

    /// What the process does now, for people.
    pub fn status(&self, status: &str) {
        self.send("", status);
    }

    /// The process is about to end. The manager expects no signs of life any more.
    pub fn stopping(&self, status: &str) {
        self.send("STOPPING=1\n", status);
    }

    /// A sign of life, where one is due. To be called by the thread that frontends depend on, each time it has come back
    /// to where it waits for them.
    pub fn alive(&self) {
        let Some(watchdog) = &self.watchdog else { return };
        let now = Instant::now();
        if now >= watchdog.due.get() {
            watchdog.due.set(now + watchdog.interval);
            self.tell("WATCHDOG=1");
        }
    }

    /// How long that thread may wait until then; for ever where nobody expects it.
    pub fn due(&self) -> Option<Duration> {
        let watchdog = self.watchdog.as_ref()?;
        // Waits are in whole milliseconds, and one that is cut short would only be begun again.
        Some(watchdog.due.get().saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    fn send(&self, state: &str, status: &str) {
        // A line is an assignment, and a path in the status may have any character.
        let status: String = status.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        self.tell(&format!("{state}STATUS={status}"));
    }

    fn tell(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        let sent = socket.send(message.as_bytes());
        let deaf = sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        if self.deaf.replace(deaf) != deaf {
            // Cannot fail on a socket that is open; it would only wait once more.
            let _ = socket.set_nonblocking(deaf);
        } else if deaf {
            return;
        }
        if let Err(error) = sent {
            let reason = if deaf { "it takes no messages".to_owned() } else { error.to_string() };
            log::warn!("the service manager cannot be told {message:?}: {reason}");
        }
    }
}

impl Watchdog {
    fn from_environment() -> Option<Self> {
        let text = std::env::var_os("WATCHDOG_USEC")?;
        if std::env::var_os("WATCHDOG_PID").is_some_and(|pid| pid != *std::process::id().to_string()) {
            return None;
        }
        match text.to_str().and_then(|text| text.parse().ok()) {
            Some(0) => None,
            Some(micros) => Some(Self { interval: Duration::from_micros(micros) / 2, due: Cell::new(Instant::now()) }),
            None => {
                log::warn!("WATCHDOG_USEC={}: expected microseconds; no signs of life are sent", text.display());
                None
            }
        }
    }
}

fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(address)?,
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "expected an absolute path or @ and a name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok(socket)
}
