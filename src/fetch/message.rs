//! What daemon and fetcher say to each other: JSON, one message a packet of their socket.
//!
//! ```text
//!  fetcher  Ready                        it has started, or was started again after it had died
//!  daemon   Open | Resume(identity)      what is not answered yet is asked again after this
//!  fetcher  Opened(identity) + files     to Open: the cache's files as descriptors
//!  daemon   Want(id, chunks), Ahead(chunks)
//!  fetcher  Done(id) | Failed(id, why)   to each Want
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// The longest message.
const LONGEST: usize = 16 * 1024;

/// The longest text inside one.
pub const LONGEST_TEXT: usize = 1024;

/// Which content of which object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Where the object is.
    pub url: String,
    /// Which content of it.
    pub tag: Tag,
    /// Its length in bytes.
    pub len: u64,
}

/// What a server says that changes with an object's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tag {
    /// Its ETag, with quotes and all.
    Etag(String),
    /// Where it has none: the time of its last change, in seconds since 1970.
    LastModified(i64),
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Etag(etag) => write!(f, "etag {etag}"),
            Self::LastModified(seconds) => write!(f, "last-modified {seconds}"),
        }
    }
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Look for the object and make its entry.
    Open,
    /// Go on with an entry that a fetcher before has made.
    Resume(Identity),
    /// Have these chunks present.
    Want {
        /// Comes back with the answer.
        id: u64,
        /// The first chunk.
        first: u64,
        /// The one after the last.
        end: u64,
    },
    /// These are likely to be wanted next.
    Ahead {
        /// The first chunk.
        first: u64,
        /// The one after the last.
        end: u64,
    },
}

/// What the fetcher says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It listens.
    Ready,
    /// The object is there; its [`Files`] come along.
    Opened(Identity),
    /// The object cannot be had.
    Refused(String),
    /// The chunks were present a moment ago.
    Done(u64),
    /// They could not be fetched.
    Failed(u64, String),
}

/// The cache's files of an object, in the order they are handed over.
#[derive(Debug)]
pub struct Files {
    /// The object's bytes, as far as they are present; for reading.
    pub data: File,
    /// The words of its chunks; for reading.
    pub words: File,
    /// The marks of what was read.
    pub read: File,
    /// Keeps the entry from being removed as long as it is open.
    pub held: File,
}

/// One end of the socket between daemon and fetcher.
#[derive(Debug)]
pub struct Socket(UnixDatagram);

impl Socket {
    /// Both ends.
    pub fn pair() -> io::Result<(Self, Self)> {
        // Packets, and an end that is seen.
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self::from(pair.0), Self::from(pair.1)))
    }

    /// The socket as a descriptor, for the other process.
    pub fn into_fd(self) -> OwnedFd {
        self.0.into()
    }

    /// How long [`receive`](Self::receive) waits.
    pub fn set_limit(&self, limit: Option<std::time::Duration>) -> io::Result<()> {
        self.0.set_read_timeout(limit)
    }

    /// Sends without waiting: an error of the kind `WouldBlock` where there is no room.
    pub fn try_send(&self, message: &impl Serialize) -> io::Result<()> {
        self.send_with(message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    }

    /// Sends, and waits for room.
    pub fn send(&self, message: &impl Serialize) -> io::Result<()> {
        self.send_with(message, libc::MSG_NOSIGNAL)
    }

    fn send_with(&self, message: &impl Serialize, flags: i32) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        // SAFETY: the buffer is valid for its length, and the descriptor is open as long as self. (UnixDatagram::send would
        // end a process that ignores no SIGPIPE.)
        let sent = unsafe { libc::send(self.0.as_raw_fd(), text.as_ptr().cast(), text.len(), flags) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends with files.
    pub fn send_files(&self, message: &impl Serialize, files: &Files) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let fds = [&files.data, &files.words, &files.read, &files.held].map(|file| file.as_raw_fd());
        self.0.send_with_fds(&[&text[..]], &fds).map_err(io::Error::from)?;
        Ok(())
    }

    /// The next message, with its files; none at the end of the other side.
    pub fn receive<M: for<'a> Deserialize<'a>>(&self) -> io::Result<Option<(M, Option<Files>)>> {
        let mut text = vec![0; LONGEST];
        let mut fds: [RawFd; 4] = [-1; 4];
        let mut buffers = [libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() }];
        // SAFETY: the buffer is valid for its length.
        let (len, count) = unsafe { self.0.recv_with_fds(&mut buffers, &mut fds) }.map_err(io::Error::from)?;
        let taken = fds.iter().take(count).filter(|fd| **fd >= 0);
        // SAFETY: they have just come, and nobody else owns them.
        let mut files: Vec<File> = taken.map(|fd| unsafe { File::from_raw_fd(*fd) }).collect();
        if len == 0 {
            return Ok(None);
        }
        let message = parse(text.get(..len).unwrap_or_default())?;
        let files = match (files.pop(), files.pop(), files.pop(), files.pop()) {
            (Some(held), Some(read), Some(words), Some(data)) => Some(Files { data, words, read, held }),
            _ => None,
        };
        Ok(Some((message, files)))
    }

    /// The next message, by read(2) alone, which a confined thread may do; none at the end of the other side.
    pub fn read<M: for<'a> Deserialize<'a>>(&self) -> io::Result<Option<M>> {
        let mut text = vec![0; LONGEST];
        let len = nix::unistd::read(&self.0, &mut text)?;
        if len == 0 { Ok(None) } else { parse(text.get(..len).unwrap_or_default()).map(Some) }
    }
}

fn parse<M: for<'a> Deserialize<'a>>(text: &[u8]) -> io::Result<M> {
    serde_json::from_slice(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

impl From<OwnedFd> for Socket {
    /// Takes a socket of packets.
    fn from(fd: OwnedFd) -> Self {
        Self(UnixDatagram::from(fd))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn messages_and_files_come_as_they_were_sent_and_the_end_is_seen() {
        let (daemon, fetcher) = Socket::pair().unwrap();
        let identity = Identity { url: "http://a/b".into(), tag: Tag::Etag("\"x\"".into()), len: 7 };
        for ask in [Ask::Open, Ask::Resume(identity.clone()), Ask::Want { id: u64::MAX, first: 1, end: 2 }] {
            daemon.try_send(&ask).unwrap();
            let (came, files) = fetcher.receive::<Ask>().unwrap().unwrap();
            assert_eq!((came, files.is_none()), (ask, true));
        }
        let file = || tempfile::tempfile().unwrap();
        let files = Files { data: file(), words: file(), read: file(), held: file() };
        files.data.set_len(7).unwrap();
        fetcher.send_files(&Answer::Opened(identity.clone()), &files).unwrap();
        let (answer, came) = daemon.receive::<Answer>().unwrap().unwrap();
        assert_eq!(answer, Answer::Opened(identity));
        assert_eq!(came.unwrap().data.metadata().unwrap().len(), 7);
        drop(fetcher);
        assert!(daemon.read::<Answer>().unwrap().is_none());
        assert!(daemon.try_send(&Ask::Open).is_err());
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let (daemon, fetcher) = Socket::pair().unwrap();
        daemon.send(&"nonsense").unwrap();
        assert!(fetcher.receive::<Ask>().is_err());
    }
}
