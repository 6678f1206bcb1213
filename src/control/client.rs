//! Asking a running daemon.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::de::DeserializeOwned;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::{Answer, Command, Zones};

/// A daemon that does not answer for so long will not.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same for a flush, which takes as long as the disk takes.
const FLUSH_PATIENCE: Duration = Duration::from_secs(60);

/// How often whoever waits for what takes long is told that it still does.
const WAIT: Duration = Duration::from_millis(100);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("{}: no daemon can be reached at this control socket: {source}", .path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is there, and says nothing.
    #[error(
        "{}: the daemon has not answered within {} s: expected the socket of serve --control-path, not the vhost-user socket",
        .path.display(), .patience.as_secs_f32()
    )]
    Silent {
        /// Where.
        path: PathBuf,
        /// How long it was waited for.
        patience: Duration,
    },
    /// It went away, or cannot be asked.
    #[error("{}: the daemon does not answer: {source}", .path.display())]
    Lost {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It has hung up on the first question, as whoever expects vhost-user does.
    #[error(
        "{}: no answer: this looks like the vhost-user socket; the control socket is that of serve --control-path",
        .path.display()
    )]
    NotControl {
        /// Where.
        path: PathBuf,
    },
    /// It speaks otherwise.
    #[error("{}: not an answer of vhost-user-zbd: {reason}", .path.display())]
    Strange {
        /// Where.
        path: PathBuf,
        /// What was wrong with it.
        reason: String,
    },
    /// It said no.
    #[error("{}: {reason}", .path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A connection to a control socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    patience: Duration,
    /// It has answered before, so that it is a control socket.
    known: bool,
}

impl Client {
    /// Connects to the daemon.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Self::connect_within(path, PATIENCE)
    }

    fn connect_within(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        let stream = stream_within(path, patience).map_err(|source| match source.kind() {
            ErrorKind::WouldBlock => ClientError::Silent { path: path.into(), patience },
            _ => ClientError::Connect { path: path.into(), source },
        })?;
        Ok(Self { path: path.into(), stream: BufReader::new(stream), patience, known: false })
    }

    /// Asks, and waits for the answer.
    pub fn ask<T: DeserializeOwned>(&mut self, command: &Command) -> Result<T, ClientError> {
        let patience = if matches!(command, Command::Flush {}) { FLUSH_PATIENCE } else { self.patience };
        self.send(command, None, patience)?;
        let mut answer = Vec::new();
        self.stream.read_until(b'\n', &mut answer).map_err(|source| self.silent_or_lost(source, patience))?;
        self.understand(&answer)
    }

    /// Asks for what may take any time, with a file for it, and waits as long as the daemon is there. `wait` is called now and
    /// then meanwhile.
    pub fn ask_long<T: DeserializeOwned>(
        &mut self,
        command: &Command,
        file: &File,
        mut wait: impl FnMut(),
    ) -> Result<T, ClientError> {
        self.send(command, Some(file), WAIT)?;
        let mut answer = Vec::new();
        loop {
            match self.stream.read_until(b'\n', &mut answer) {
                Ok(_) => return self.understand(&answer),
                Err(error) if error.kind() == ErrorKind::WouldBlock => wait(),
                Err(error) => return Err(self.lost(error)),
            }
        }
    }

    fn send(&mut self, command: &Command, file: Option<&File>, patience: Duration) -> Result<(), ClientError> {
        let strange =
            |error: serde_json::Error| ClientError::Strange { path: self.path.clone(), reason: error.to_string() };
        let mut line = serde_json::to_vec(command).map_err(strange)?;
        line.push(b'\n');
        let numbers: Vec<RawFd> = file.iter().map(|file| file.as_raw_fd()).collect();
        let stream = self.stream.get_mut();
        let asked = stream.set_read_timeout(Some(patience)).and_then(|()| {
            // The file comes with the first byte.
            let sent = stream.send_with_fds(&[&line[..]], &numbers).map_err(io::Error::from)?;
            stream.write_all(line.get(sent..).unwrap_or_default())
        });
        asked.map_err(|source| self.silent_or_lost(source, patience))
    }

    fn silent_or_lost(&self, source: io::Error, patience: Duration) -> ClientError {
        match source.kind() {
            ErrorKind::WouldBlock => ClientError::Silent { path: self.path.clone(), patience },
            _ => self.lost(source),
        }
    }

    fn understand<T: DeserializeOwned>(&mut self, answer: &[u8]) -> Result<T, ClientError> {
        if answer.is_empty() {
            return Err(self.lost(io::Error::new(ErrorKind::UnexpectedEof, "the connection is closed")));
        }
        self.known = true;
        let path = self.path.clone();
        let strange = |error: serde_json::Error| ClientError::Strange { path, reason: error.to_string() };
        match serde_json::from_slice(answer) {
            Ok(Answer::Result(value)) => serde_json::from_value(value).map_err(strange),
            Ok(Answer::Error(reason)) => Err(ClientError::Refused { path: self.path.clone(), reason }),
            Err(error) => Err(strange(error)),
        }
    }

    fn lost(&self, source: io::Error) -> ClientError {
        use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        let path = self.path.clone();
        match source.kind() {
            UnexpectedEof | ConnectionReset | BrokenPipe if !self.known => ClientError::NotControl { path },
            _ => ClientError::Lost { path, source },
        }
    }

    /// Asks for zones, as often as it takes, and gives each part to `take`.
    pub fn report(&mut self, mut first: u32, mut count: u32, mut take: impl FnMut(Zones)) -> Result<(), ClientError> {
        loop {
            let part: Zones = self.ask(&Command::Report { first, count })?;
            let (next, len) = (part.next, u32::try_from(part.zones.len()).unwrap_or(u32::MAX));
            take(part);
            match next {
                None => return Ok(()),
                Some(next) => (first, count) = (next, count.saturating_sub(len)),
            }
        }
    }
}

/// Connects to a socket whose owner may have no time for that; `WouldBlock` where it takes too long.
fn stream_within(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let stream = UnixStream::from(socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?);
    // It holds for a connection that waits to be accepted, too.
    stream.set_write_timeout(Some(patience))?;
    connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(stream)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::net::UnixListener;

    use serde_json::Value;

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    #[test]
    fn a_daemon_that_says_nothing_is_not_waited_for_without_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let _listener = UnixListener::bind(&path).unwrap();
        let mut client = Client::connect_within(&path, SHORT).unwrap();
        let asked = client.ask::<Value>(&Command::Info {}).unwrap_err();
        let expected =
            format!("{}: the daemon has not answered within 0.1 s: expected the socket of serve", path.display());
        assert!(asked.to_string().starts_with(&expected), "{asked}");
        // One that accepts nobody has room for some who wait, and then for nobody.
        let mut waiting = Vec::new();
        let refused = loop {
            match Client::connect_within(&path, SHORT) {
                Ok(client) => waiting.push(client),
                Err(error) => break error,
            }
        };
        assert_eq!(refused.to_string(), asked.to_string());
    }
}
