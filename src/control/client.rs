//! Asking a running daemon.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Answer, Command, Zones};

/// A daemon that does not answer for so long will not: what takes longest is a flush.
const PATIENCE: Duration = Duration::from_secs(60);

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
    /// It went away, or does not answer.
    #[error("{}: the daemon does not answer: {source}", .path.display())]
    Lost {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
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
}

impl Client {
    /// Connects to the daemon.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let connected = UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        let stream = connected.map_err(|source| ClientError::Connect { path: path.into(), source })?;
        Ok(Self { path: path.into(), stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer.
    pub fn ask<T: DeserializeOwned>(&mut self, command: &Command) -> Result<T, ClientError> {
        let path = self.path.clone();
        let strange = |error: serde_json::Error| ClientError::Strange { path, reason: error.to_string() };
        let mut line = match serde_json::to_vec(command) {
            Ok(line) => line,
            Err(error) => return Err(strange(error)),
        };
        line.push(b'\n');
        let mut answer = String::new();
        let asked = self.stream.get_mut().write_all(&line).and_then(|()| self.stream.read_line(&mut answer));
        match asked {
            Ok(0) => {
                let source = io::Error::new(io::ErrorKind::UnexpectedEof, "the connection is closed");
                return Err(ClientError::Lost { path: self.path.clone(), source });
            }
            Ok(_) => {}
            Err(source) => return Err(ClientError::Lost { path: self.path.clone(), source }),
        }
        match serde_json::from_str(&answer) {
            Ok(Answer::Result(value)) => serde_json::from_value(value).map_err(strange),
            Ok(Answer::Error(reason)) => Err(ClientError::Refused { path: self.path.clone(), reason }),
            Err(error) => Err(strange(error)),
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
