//! Standard error, such that writing to it holds up no thread: what its reader has no room for is left out, and counted.
//!
//! A pipe or terminal is opened a second time, so that it can be non-blocking for this process and stays as it is for
//! whoever shares it. The new descriptor takes the number of standard error, so that the C library and a panic write
//! there as well. Where that is not allowed (a terminal of another user's), room is asked for before each piece. A
//! socket, as the journal has it, takes a flag with each message. A regular file takes as long as its disk takes.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::{dup2_stderr, write};

/// Where standard error is, by this process.
const PATH: &str = "/proc/self/fd/2";

/// What a pipe that has any room takes without waiting (PIPE_BUF of Linux).
const PIECE: usize = 4096;

/// How standard error is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It never waits, or no longer than a disk.
    Plain,
    /// It may wait where there is no room.
    Asking,
    Socket,
}

/// Standard error, once it holds up nobody.
#[derive(Debug)]
pub(super) struct Stderr {
    way: Way,
    /// What begins a line of this module's own.
    prefix: &'static str,
    /// Messages that were not written, since one was.
    lost: u64,
    /// Why the last one was not.
    why: ErrorKind,
    /// The last line stands there without its end.
    torn: bool,
}

impl Stderr {
    pub(super) fn new(prefix: &'static str) -> Self {
        Self { way: make_ready().unwrap_or(Way::Asking), prefix, lost: 0, why: ErrorKind::WouldBlock, torn: false }
    }

    /// Writes a message of whole lines, or counts it.
    pub(super) fn put(&mut self, message: &[u8]) {
        if self.put_notice().and_then(|()| self.write_all(message)).is_err() {
            self.lost += 1;
        }
    }

    /// The same for the last message, which is worth a moment's wait.
    pub(super) fn put_last(&mut self, message: &[u8], patience: Duration) {
        // A reader that is there makes room meanwhile.
        let _ = room_within(patience);
        self.put(message);
    }

    /// Says how many messages were left out, if any were.
    pub(super) fn put_notice(&mut self) -> io::Result<()> {
        if self.lost == 0 {
            return Ok(());
        }
        let why = match self.why {
            ErrorKind::WouldBlock => "as nobody reads standard error".to_owned(),
            why => format!("as standard error cannot be written: {why}"),
        };
        let end = if self.torn { "\n" } else { "" };
        self.write_all(format!("{end}{}{} messages were not written, {why}\n", self.prefix, self.lost).as_bytes())?;
        self.lost = 0;
        Ok(())
    }

    fn write_all(&mut self, message: &[u8]) -> io::Result<()> {
        let mut rest = message;
        while !rest.is_empty() {
            match self.write(rest) {
                Ok(0) => return self.failed(ErrorKind::WriteZero, rest.len() != message.len()),
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.failed(error.kind(), rest.len() != message.len()),
            }
        }
        self.torn = false;
        Ok(())
    }

    fn failed(&mut self, why: ErrorKind, in_part: bool) -> io::Result<()> {
        self.why = why;
        self.torn |= in_part;
        Err(why.into())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        Ok(match self.way {
            Way::Socket => send(stderr.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?,
            Way::Plain => write(stderr.as_fd(), bytes)?,
            Way::Asking if !room_within(Duration::ZERO)? => return Err(ErrorKind::WouldBlock.into()),
            Way::Asking => write(stderr.as_fd(), bytes.get(..PIECE).unwrap_or(bytes))?,
        })
    }
}

/// Whether standard error can be written within a while.
fn room_within(patience: Duration) -> io::Result<bool> {
    let stderr = io::stderr();
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
    Ok(poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], timeout)? != 0)
}

/// Makes standard error non-blocking for this process alone, where it could wait.
fn make_ready() -> io::Result<Way> {
    let kind = File::from(io::stderr().as_fd().try_clone_to_owned()?).metadata()?.file_type();
    if kind.is_socket() {
        return Ok(Way::Socket);
    }
    if kind.is_fifo() || kind.is_char_device() {
        let again = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(PATH)?;
        dup2_stderr(again)?;
    }
    Ok(Way::Plain)
}
