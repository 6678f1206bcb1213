//! vhost-user messages as bytes on a socket: the right ones have methods, wrong ones go through [`Conn::send`].

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::PATIENCE;
use super::inflight::Inflight;

/// Message numbers.
#[allow(missing_docs, reason = "the names are the specification's")]
pub mod msg {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const GET_CONFIG: u32 = 24;
    pub const SET_CONFIG: u32 = 25;
    pub const GET_INFLIGHT_FD: u32 = 31;
    pub const SET_INFLIGHT_FD: u32 = 32;
    pub const RESET_DEVICE: u32 = 34;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
}

/// Protocol feature bits.
#[allow(missing_docs, reason = "the names are the specification's")]
pub mod pf {
    pub const MQ: u64 = 1 << 0;
    pub const REPLY_ACK: u64 = 1 << 3;
    pub const CONFIG: u64 = 1 << 9;
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    pub const RESET_DEVICE: u64 = 1 << 13;
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
}

const VERSION: u32 = 1;
const IS_REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// Why a message got no good answer.
#[derive(Debug)]
pub enum ConnError {
    /// The daemon closed the connection.
    Gone,
    /// The daemon answered a REPLY_ACK with this number instead of 0.
    Refused(u64),
    /// Nothing came for [`PATIENCE`].
    Silent,
    /// Something else.
    Io(io::Error),
}

impl fmt::Display for ConnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the daemon closed the connection"),
            Self::Refused(code) => write!(f, "the daemon answered {code} to a message"),
            Self::Silent => write!(f, "no answer for {PATIENCE:?}"),
            Self::Io(error) => write!(f, "socket: {error}"),
        }
    }
}

impl From<io::Error> for ConnError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Gone,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Silent,
            _ => Self::Io(error),
        }
    }
}

/// A result of talking to the daemon.
pub type Talk<T> = Result<T, ConnError>;

/// A connection to the daemon.
#[derive(Debug)]
pub struct Conn {
    /// The socket.
    pub sock: UnixStream,
    /// Whether REPLY_ACK was agreed on: then every setting waits for its answer.
    pub reply_ack: bool,
}

impl Conn {
    /// Takes a connected socket.
    pub fn new(sock: UnixStream) -> Self {
        sock.set_read_timeout(Some(PATIENCE)).expect("read timeout");
        sock.set_write_timeout(Some(PATIENCE)).expect("write timeout");
        Self { sock, reply_ack: false }
    }

    /// Sends a message with any flags, payload and descriptors.
    pub fn send(&self, request: u32, flags: u32, payload: &[u8], fds: &[RawFd]) -> Talk<()> {
        let mut bytes = Vec::with_capacity(12 + payload.len());
        for word in [request, flags, payload.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(payload);
        self.send_bytes(&bytes, fds)
    }

    /// Sends any bytes.
    pub fn send_bytes(&self, bytes: &[u8], fds: &[RawFd]) -> Talk<()> {
        let sent = self.sock.send_with_fds(&[bytes], fds).map_err(io::Error::from)?;
        assert_eq!(sent, bytes.len(), "a message left only in part");
        Ok(())
    }

    /// Receives the answer to `request`.
    pub fn receive(&mut self, request: u32) -> Talk<Vec<u8>> {
        let mut header = [0; 12];
        self.sock.read_exact(&mut header)?;
        self.receive_rest(request, header)
    }

    /// Receives the answer to `request` and the descriptor that comes with it, if one does.
    pub fn receive_with_file(&mut self, request: u32) -> Talk<(Vec<u8>, Option<File>)> {
        let mut header = [0; 12];
        let (got, file) = self.sock.recv_with_fd(&mut header).map_err(io::Error::from)?;
        self.sock.read_exact(&mut header[got..])?;
        Ok((self.receive_rest(request, header)?, file))
    }

    fn receive_rest(&mut self, request: u32, header: [u8; 12]) -> Talk<Vec<u8>> {
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let mut payload = vec![0; word(8) as usize];
        self.sock.read_exact(&mut payload)?;
        assert_eq!(word(0), request, "the answer is for another message");
        assert_eq!(word(4) & !NEED_REPLY, VERSION | IS_REPLY, "the answer to message {request} has wrong flags");
        Ok(payload)
    }

    /// A message that always has an answer.
    pub fn ask(&mut self, request: u32, payload: &[u8]) -> Talk<Vec<u8>> {
        self.send(request, VERSION, payload, &[])?;
        self.receive(request)
    }

    /// A message that always has a number for an answer.
    pub fn ask_u64(&mut self, request: u32) -> Talk<u64> {
        let answer = self.ask(request, &[])?;
        let bytes = answer.try_into().unwrap_or_else(|a| panic!("message {request}: not 8 bytes: {a:?}"));
        Ok(u64::from_le_bytes(bytes))
    }

    /// A message without an answer of its own: waits for its acknowledgement where that was agreed on.
    pub fn tell(&mut self, request: u32, payload: &[u8], fds: &[RawFd]) -> Talk<()> {
        if !self.reply_ack {
            return self.send(request, VERSION, payload, fds);
        }
        self.send(request, VERSION | NEED_REPLY, payload, fds)?;
        let answer = self.receive(request)?;
        match u64::from_le_bytes(answer.try_into().expect("an acknowledgement of 8 bytes")) {
            0 => Ok(()),
            code => Err(ConnError::Refused(code)),
        }
    }

    /// A setting of one number.
    pub fn tell_u64(&mut self, request: u32, value: u64) -> Talk<()> {
        self.tell(request, &value.to_le_bytes(), &[])
    }

    /// A setting of one number for one queue.
    pub fn tell_queue(&mut self, request: u32, queue: u32, value: u32) -> Talk<()> {
        self.tell(request, &words(&[queue, value]), &[])
    }

    /// An event descriptor for one queue.
    pub fn tell_queue_fd(&mut self, request: u32, queue: u32, fd: RawFd) -> Talk<()> {
        self.tell(request, &u64::from(queue).to_le_bytes(), &[fd])
    }

    /// Stops a queue; the answer is where it stopped.
    pub fn get_vring_base(&mut self, queue: u32) -> Talk<u32> {
        let answer = self.ask(msg::GET_VRING_BASE, &words(&[queue, 0]))?;
        assert_eq!(answer[..4], queue.to_le_bytes(), "GET_VRING_BASE answers for another queue");
        Ok(u32::from_le_bytes(answer[4..8].try_into().expect("eight bytes")))
    }

    /// Reads `size` bytes of the configuration at `offset`; `None` where the daemon answers that it cannot.
    pub fn get_config(&mut self, offset: u32, size: u32) -> Talk<Option<Vec<u8>>> {
        let mut payload = words(&[offset, size, 0]);
        payload.resize(12 + size as usize, 0);
        let answer = self.ask(msg::GET_CONFIG, &payload)?;
        if answer.len() < 12 || answer[4..8] == [0; 4] {
            return Ok(None);
        }
        assert_eq!(answer[..8], payload[..8], "GET_CONFIG answers for another range");
        Ok(Some(answer[12..].to_vec()))
    }

    /// Writes `bytes` of the configuration at `offset`.
    pub fn set_config(&mut self, offset: u32, bytes: &[u8]) -> Talk<()> {
        let mut payload = words(&[offset, bytes.len() as u32, 1]);
        payload.extend(bytes);
        self.tell(msg::SET_CONFIG, &payload, &[])
    }

    /// Asks the daemon for an in-flight region.
    pub fn get_inflight(&mut self, queues: u16, size: u16) -> Talk<Inflight> {
        self.send(msg::GET_INFLIGHT_FD, VERSION, &Inflight::request(queues, size), &[])?;
        let (payload, file) = self.receive_with_file(msg::GET_INFLIGHT_FD)?;
        let region = Inflight::parse(&payload, file);
        assert_eq!((region.num_queues, region.queue_size), (queues, size), "a region for other queues");
        Ok(region)
    }

    /// Gives the daemon an in-flight region.
    pub fn set_inflight(&mut self, region: &Inflight) -> Talk<()> {
        self.tell(msg::SET_INFLIGHT_FD, &region.payload(), &[region.fd()])
    }

    /// Whether the daemon has closed the connection by now.
    pub fn hung_up(&self) -> bool {
        let mut fd = libc::pollfd { fd: self.sock.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: one valid structure.
        let ready = unsafe { libc::poll(&mut fd, 1, 0) };
        ready == 1
    }

    /// Whether the daemon closes the connection within [`PATIENCE`].
    pub fn is_closed_by_peer(&mut self) -> bool {
        let mut byte = [0];
        match self.sock.read(&mut byte) {
            Ok(got) => got == 0,
            Err(error) => matches!(ConnError::from(error), ConnError::Gone),
        }
    }
}

/// Little-endian 32-bit numbers, one after the other.
pub fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
