//! The daemon's side of the control socket: one thread, any number of questions, a bounded number of clients.
//!
//! No client can hold up another, the guest, or the daemon's end: sockets are non-blocking, a client's next line is
//! looked at only when it has taken the answer to the last one, and lines, answers and clients are bounded. A client that
//! has asked for nothing for a while gives its place to one that waits for one.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::{Answer, Command};

/// Clients at a time; others wait to be accepted.
const MAX_CLIENTS: usize = 16;

/// How long a client that neither asks nor takes its answer keeps its place while others wait.
const SILENCE: Duration = Duration::from_secs(2);

/// How long the end waits for a client that takes no more of its last answer; for all of them no longer than [`SILENCE`].
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// The longest line, or head of a scraper's question.
const MAX_LINE: usize = 1 << 20;

/// How often it is looked whether something that takes long is done.
const LOOK: Duration = Duration::from_millis(2);

/// Files that come with one command, at most.
const MAX_FILES: usize = 4;

/// The most descriptors that come with one system call; the kernel's SCM_MAX_FD.
const MAX_SENT: usize = 253;

/// An answer; `Err` is one line of what is wrong.
pub type Answering = Result<serde_json::Value, String>;

/// An answer that comes later. Who is not waiting any more drops it.
pub struct Later {
    /// Where it comes.
    pub told: Receiver<Answering>,
    /// Called when nobody waits for it any more; where it has come that means nothing.
    pub give_up: Box<dyn Fn() + Send>,
}

impl Drop for Later {
    fn drop(&mut self) {
        (self.give_up)();
    }
}

/// Who knows the answers.
pub trait Responder: Send + Sync {
    /// Does what is asked.
    fn answer(&self, command: Command) -> Answering;

    /// Begins what [takes long](Command::is_long), with the files that have come with it.
    fn begin(&self, command: Command, files: Vec<File>) -> Result<Later, String>;

    /// The text for a scraper, in Prometheus' format.
    fn metrics(&self) -> String;
}

/// The running server.
pub struct Server {
    stop: Arc<EventFd>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Starts the thread, which calls `confine` first. The listener is made non-blocking.
    pub fn start(
        listener: UnixListener,
        responder: Arc<dyn Responder>,
        confine: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        Self::start_with(listener, responder, confine, SILENCE)
    }

    fn start_with(
        listener: UnixListener,
        responder: Arc<dyn Responder>,
        confine: impl FnOnce() + Send + 'static,
        silence: Duration,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let stop = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let stopped = Arc::clone(&stop);
        let run = move || {
            confine();
            if let Err(error) = serve(&listener, responder.as_ref(), &stopped, silence) {
                log::error!("the control socket is lost: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("control".into()).spawn(run)?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread; whoever is connected is cut off.
    pub fn stop(self) {
        // A full counter needs no further count.
        let _ = self.stop.write(1);
        if self.thread.join().is_err() {
            log::error!("the control thread has panicked");
        }
    }
}

fn serve(listener: &UnixListener, responder: &dyn Responder, stop: &EventFd, silence: Duration) -> io::Result<()> {
    let mut clients: Vec<Client> = Vec::new();
    loop {
        // Somebody new is looked for where a place is free, or is one that may be given away.
        let full = clients.len() >= MAX_CLIENTS;
        let silent = clients.iter().filter(|client| client.later.is_none()).map(|client| client.heard.elapsed());
        let longest = silent.max().filter(|_| full).unwrap_or(if full { Duration::ZERO } else { silence });
        let wait = silence.checked_sub(longest).filter(|wait| !wait.is_zero());
        let mut fds = vec![watch(stop.as_raw_fd(), libc::POLLIN)];
        fds.push(watch(if wait.is_none() { listener.as_raw_fd() } else { -1 }, libc::POLLIN));
        fds.extend(clients.iter().map(|client| watch(client.stream.as_raw_fd(), client.awaits())));
        let waiting = clients.iter().any(|client| client.later.is_some()).then_some(LOOK);
        poll(&mut fds, wait.map_or(waiting, |wait| Some(waiting.map_or(wait, |look| look.min(wait)))))?;
        let ready = |at: usize| fds.get(at).is_some_and(|fd| fd.revents != 0);
        if ready(0) {
            return let_take(clients, responder);
        }
        let mut at = 1;
        clients.retain_mut(|client| {
            at += 1;
            match client.later.is_some() {
                // Nothing is awaited of it, so that it has gone.
                true => !ready(at) && client.go_on(responder),
                false => !ready(at) || client.go_on(responder),
            }
        });
        if ready(1) {
            give_place(&mut clients, silence);
            match listener.accept() {
                Ok((stream, _)) => clients.extend(Client::new(stream).ok()),
                Err(error) => match error.raw_os_error() {
                    // Gone again, or others have used up what a connection takes: the next turn will tell.
                    Some(libc::EAGAIN | libc::EINTR | libc::ECONNABORTED) => {}
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        std::thread::sleep(std::time::Duration::from_millis(100));
                    }
                    _ => return Err(error),
                },
            }
        }
    }
}

/// Waits a moment until the clients have taken the answers that they are owed: the last may be about why the program ends.
fn let_take(mut clients: Vec<Client>, responder: &dyn Responder) -> io::Result<()> {
    let end = Instant::now() + SILENCE;
    loop {
        clients.retain(|client| !client.output.is_empty() && client.heard.elapsed() < LAST_ANSWER);
        clients.iter_mut().for_each(|client| client.last = true);
        let left = end.saturating_duration_since(Instant::now());
        if clients.is_empty() || left.is_zero() {
            return Ok(());
        }
        let mut fds: Vec<_> = clients.iter().map(|client| watch(client.stream.as_raw_fd(), libc::POLLOUT)).collect();
        poll(&mut fds, Some(left.min(LAST_ANSWER)))?;
        let mut ready = fds.iter().map(|fd| fd.revents != 0);
        clients.retain_mut(|client| !ready.next().unwrap_or(false) || client.go_on(responder));
    }
}

/// Ends the client that has been silent for longest, where all places are taken.
fn give_place(clients: &mut Vec<Client>, silence: Duration) {
    let asks = |client: &Client| client.later.is_none() && client.heard.elapsed() >= silence;
    let silent = clients.iter().enumerate().filter(|(_, client)| asks(client));
    let longest = silent.min_by_key(|(_, client)| client.heard).map(|(at, _)| at);
    if let Some(at) = longest.filter(|_| clients.len() >= MAX_CLIENTS) {
        clients.swap_remove(at);
    }
}

fn watch(fd: RawFd, events: i16) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0 }
}

/// Waits for one of them, or for a while.
fn poll(fds: &mut [libc::pollfd], wait: Option<Duration>) -> io::Result<()> {
    // One millisecond more, as a wait that is cut short would only be begun again.
    let millis = wait.map_or(-1, |wait| i32::try_from(wait.as_millis()).unwrap_or(i32::MAX).saturating_add(1));
    loop {
        // SAFETY: a slice of valid pollfds.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, millis) };
        match io::Error::last_os_error() {
            _ if ready >= 0 => return Ok(()),
            error if error.kind() == ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// How much of the output was taken.
    taken: usize,
    /// When it last asked for something, or took some of an answer.
    heard: Instant,
    /// Nothing more is read: the connection ends with the output.
    last: bool,
    /// Those that have come with what is in the input.
    files: Vec<File>,
    /// The answer that it waits for.
    later: Option<Later>,
}

impl Client {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (input, output, files) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { stream, input, output, taken: 0, heard: Instant::now(), last: false, files, later: None })
    }

    /// What is awaited of it; that it has gone is always told.
    fn awaits(&self) -> i16 {
        match (&self.later, self.output.is_empty()) {
            (Some(_), _) => 0,
            (None, true) => libc::POLLIN,
            (None, false) => libc::POLLOUT,
        }
    }

    /// Reads, answers and writes as far as it goes without waiting; false when the connection is over.
    fn go_on(&mut self, responder: &dyn Responder) -> bool {
        loop {
            if let Some(later) = &self.later {
                let answer = match later.told.try_recv() {
                    Ok(answer) => answer,
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => Err("it was not done: the daemon ends".to_owned()),
                };
                self.later = None;
                self.put(&answer.map_or_else(Answer::Error, Answer::Result));
            }
            let moved = match self.output.is_empty() {
                false => self.write(),
                true if self.last => return false,
                true if self.answer(responder) => Ok(true),
                true if self.files.len() > MAX_FILES => return false,
                true => self.read(),
            };
            match moved {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return true,
                    ErrorKind::Interrupted => {}
                    _ => return false,
                },
            }
        }
    }

    fn write(&mut self) -> io::Result<bool> {
        self.taken += self.stream.write(self.output.get(self.taken..).unwrap_or_default())?;
        self.heard = Instant::now();
        if self.taken >= self.output.len() {
            self.output = Vec::new();
            self.taken = 0;
        }
        Ok(true)
    }

    fn read(&mut self) -> io::Result<bool> {
        let mut chunk = [0; MAX_LINE];
        let mut numbers: [RawFd; MAX_SENT] = [-1; MAX_SENT];
        let mut into = [libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: chunk.len() }];
        // SAFETY: the bytes are valid for writing, and any are good.
        let (got, files) = unsafe { self.stream.recv_with_fds(&mut into, &mut numbers) }.map_err(io::Error::from)?;
        // SAFETY: the kernel has just made these descriptors for us, and nobody else has them.
        self.files.extend(numbers.iter().take(files).map(|number| unsafe { File::from_raw_fd(*number) }));
        self.input.extend_from_slice(chunk.get(..got).unwrap_or_default());
        Ok(got != 0)
    }

    /// Answers the first whole question of the input, if there is one.
    fn answer(&mut self, responder: &dyn Responder) -> bool {
        if self.input.starts_with(b"GET ") {
            return self.answer_scraper(responder);
        }
        if is_vhost_user(&self.input) {
            let expected = "a vhost-user frontend at the control socket: expected it at the socket of --socket-path";
            log::warn!("{expected}");
            self.put(&Answer::Error(expected.to_owned()));
            self.last = true;
            return true;
        }
        let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
            if self.input.len() < MAX_LINE {
                return false;
            }
            self.put(&Answer::Error(format!("a line of more than {MAX_LINE} bytes: expected a command as JSON")));
            self.last = true;
            return true;
        };
        let line: Vec<u8> = self.input.drain(..=end).collect();
        if !line.trim_ascii().is_empty() {
            let files = std::mem::take(&mut self.files);
            match begin(&line, files, responder) {
                Ok(later) => self.later = Some(later),
                Err(answer) => self.put(&answer),
            }
        }
        true
    }

    fn put(&mut self, answer: &Answer) {
        self.output = serde_json::to_vec(answer).unwrap_or_default();
        self.output.push(b'\n');
    }

    fn answer_scraper(&mut self, responder: &dyn Responder) -> bool {
        let whole = self.input.windows(4).any(|bytes| bytes == b"\r\n\r\n");
        if !whole && self.input.len() < MAX_LINE {
            return false;
        }
        let path = self.input.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        let (status, text) = match path {
            b"/metrics" if whole => ("200 OK", responder.metrics()),
            _ if whole => ("404 Not Found", "expected /metrics\n".to_owned()),
            _ => ("431 Request Header Fields Too Large", String::new()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            text.len()
        );
        self.output = [head.into_bytes(), text.into_bytes()].concat();
        self.last = true;
        true
    }
}

/// Whether these are the beginning of a message of vhost-user, the first of which is a number below 256 in four bytes.
fn is_vhost_user(input: &[u8]) -> bool {
    matches!(input, [1..=u8::MAX, 0, 0, 0, ..])
}

/// Does what a line asks for, or begins it where that takes long. What has come along and is of no use is closed.
fn begin(line: &[u8], files: Vec<File>, responder: &dyn Responder) -> Result<Later, Answer> {
    let command: Command =
        serde_json::from_slice(line).map_err(|error| Answer::Error(format!("not a command: {error}")))?;
    match command.is_long() {
        true => responder.begin(command, files).map_err(Answer::Error),
        false => Err(responder.answer(command).map_or_else(Answer::Error, Answer::Result)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#[path = "server_tests.rs"]
mod tests;
