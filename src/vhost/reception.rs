//! One frontend is served at a time. The next one is let in meanwhile, to be told of in the log and to be missed when
//! it goes; further ones stay in the queue of the socket. Whoever is served and has said nothing yet gives way to it.
//!
//! Every wait of the thread of the connections is in here, so that each sees that it is time to stop, shows the service
//! manager that the thread lives, and sees who comes.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};

use super::socket::{Listening, poll_all};
use super::{ServeError, Supervised};
use crate::device::limiter::Lines;

/// How long the socket is left alone when a frontend could not be let in.
const PAUSE: Duration = Duration::from_secs(1);

/// The process at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    process: i32,
    user: u32,
}

impl Peer {
    fn of(stream: &UnixStream) -> Option<Self> {
        let credentials = getsockopt(stream, sockopt::PeerCredentials).ok()?;
        Some(Self { process: credentials.pid(), user: credentials.uid() })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.process {
            // It has no number here.
            0 => write!(f, "a process of another namespace, user {}", self.user),
            process => write!(f, "process {process}, user {}", self.user),
        }
    }
}

/// A frontend that has connected.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) stream: UnixStream,
    name: String,
    pub(super) since: Instant,
}

impl Caller {
    pub(super) fn new(stream: UnixStream) -> Self {
        let name = Peer::of(&stream).map_or("a process that cannot be seen".into(), |peer| peer.to_string());
        Self { stream, name, since: Instant::now() }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Until when something is waited for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience {
    pub(super) until: Option<Instant>,
    /// The same, when another frontend waits.
    pub(super) if_others_wait: Option<Instant>,
}

/// How a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// It is time to stop; this goes before the others.
    Stop,
    Ready,
    Late,
}

/// Where frontends come in.
pub(super) struct Reception<'a> {
    /// None where only one can come.
    listening: Option<&'a Listening>,
    lines: &'a Lines,
    pub(super) by: Supervised<'a>,
    served: String,
    waiting: Option<Caller>,
    /// Nobody is let in before.
    closed_until: Option<Instant>,
}

impl<'a> Reception<'a> {
    pub(super) fn new(listening: Option<&'a Listening>, lines: &'a Lines, by: Supervised<'a>) -> Self {
        Self { listening, lines, by, served: String::new(), waiting: None, closed_until: None }
    }

    /// The next frontend; none when it is time to stop.
    pub(super) fn next(&mut self) -> Result<Option<Caller>, ServeError> {
        let caller = match (self.waiting.take(), self.listening) {
            (Some(caller), _) => Some(caller),
            (None, Some(listening)) => listening.accept(self.by)?.map(Caller::new),
            (None, None) => None,
        };
        // Only now is it served, and has to say something.
        let caller = caller.map(|caller| Caller { since: Instant::now(), ..caller });
        if let Some(caller) = &caller {
            self.served.clone_from(&caller.name);
            self.tell(format_args!("a frontend is connected: {caller}"));
        }
        Ok(caller)
    }

    /// Who waits, if somebody does.
    pub(super) fn waiting(&self) -> Option<&Caller> {
        self.waiting.as_ref()
    }

    /// Logs something about those who come and go.
    pub(super) fn tell(&self, line: fmt::Arguments<'_>) {
        if self.lines.visits.allow() {
            log::info!("{line}");
        }
    }

    /// Waits until a descriptor of the frontend that is served is ready.
    pub(super) fn attend(
        &mut self,
        fd: BorrowedFd<'_>,
        events: libc::c_short,
        patience: Patience,
    ) -> Result<Met, ServeError> {
        loop {
            self.by.manager.alive();
            let if_others_wait = patience.if_others_wait.filter(|_| self.waiting.is_some());
            let deadline = [patience.until, if_others_wait].into_iter().flatten().min();
            let now = Instant::now();
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
            let timeout = [left, self.by.manager.due(), self.closed_until.map(|_| PAUSE)].into_iter().flatten().min();
            let door = self.door(now);
            let [stop, ready, others] = poll_all(
                [(self.by.stop.as_raw_fd(), libc::POLLIN), (fd.as_raw_fd(), events), door.unwrap_or((-1, 0))],
                timeout,
            )
            .map_err(ServeError::system("wait for a frontend"))?;
            if stop {
                return Ok(Met::Stop);
            }
            if others {
                self.look_at_others();
            }
            if ready {
                return Ok(Met::Ready);
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Met::Late);
            }
        }
    }

    /// What is watched for others: whoever waits, lest it goes, or the socket that they come from.
    fn door(&mut self, now: Instant) -> Option<(RawFd, libc::c_short)> {
        if let Some(caller) = &self.waiting {
            return Some((caller.stream.as_fd().as_raw_fd(), libc::POLLRDHUP));
        }
        self.closed_until = self.closed_until.filter(|until| *until > now);
        let listener = self.listening?.listener().filter(|_| self.closed_until.is_none())?;
        Some((listener.as_raw_fd(), libc::POLLIN))
    }

    fn look_at_others(&mut self) {
        if let Some(caller) = self.waiting.take() {
            self.tell(format_args!("a frontend waits no more: {caller}"));
            return;
        }
        match self.listening.map(Listening::try_accept) {
            Some(Ok(Some(stream))) => {
                let caller = Caller::new(stream);
                let served = &self.served;
                self.tell(format_args!(
                    "a frontend waits, because the disk is in use by another one ({served}): {caller}"
                ));
                self.waiting = Some(caller);
            }
            Some(Ok(None)) | None => {}
            // Whoever is served is not to suffer from it; the next accept says what is wrong, if it still is.
            Some(Err(_)) => self.closed_until = Some(Instant::now() + PAUSE),
        }
    }
}
