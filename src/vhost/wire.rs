//! Whole messages off a frontend's socket, and replies onto it, without ever waiting inside of a call.
//!
//! The reader of the `vhost` crate is not used: it waits for what is missing of a message, and where descriptors had to
//! be left out it goes on with the bytes that follow, as if those that it has taken were still to come. Here a message
//! is put together from what there is ([`Wire::receive`]), no byte beyond it is touched, and one whose descriptors did
//! not all arrive ends the connection.
//!
//! Every descriptor that arrives is the frontend's. A TCP socket of its own may linger, which holds up whoever closes
//! it, so that is turned off in each, also in those that nobody has looked at when the connection ends.

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{setsockopt, sockopt};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Request, flags, size of the payload.
const HEADER_BYTES: usize = 12;

/// The longest payload: a configuration space, or the regions of a memory table.
const MAX_PAYLOAD: usize = 4096;

/// The most descriptors that come with one system call; the kernel's SCM_MAX_FD.
const MAX_SENT: usize = 253;

/// The most descriptors of a message: one for each region of a memory table.
pub(super) const MAX_FILES: usize = 32;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("a message with {0} descriptors: expected at most {MAX_FILES}")]
    Files(usize),
    #[error(
        "the descriptors of a message did not all arrive: too many are open in this process, or it may not have them"
    )]
    FilesLost,
    #[error("a message with a payload of {0} bytes: expected at most {MAX_PAYLOAD}")]
    Payload(u32),
    #[error("its socket fails: {0}")]
    Socket(io::Error),
}

/// A whole message.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) request: u32,
    pub(super) flags: u32,
    pub(super) payload: Vec<u8>,
    pub(super) files: Vec<File>,
}

/// What there is to be had of the next message.
#[derive(Debug)]
pub(super) enum Received {
    Whole(Frame),
    /// The rest has not come yet.
    Part,
    /// Nothing has come.
    Nothing,
    /// Nothing will come any more.
    HungUp,
}

/// A frontend's socket, and the message that is coming.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    bytes: Vec<u8>,
    files: Vec<File>,
}

impl Wire {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, bytes: Vec::new(), files: Vec::new() })
    }

    /// Takes what has come of the next message.
    pub(super) fn receive(&mut self) -> Result<Received, WireError> {
        loop {
            let missing = self.length()?.saturating_sub(self.bytes.len());
            if missing == 0 {
                return Ok(Received::Whole(self.take()));
            }
            let mut part = [0; MAX_PAYLOAD];
            let part = part.get_mut(..missing).ok_or(WireError::Payload(u32::MAX))?;
            match self.read(part) {
                Ok(0) => return Ok(Received::HungUp),
                Ok(count) => self.bytes.extend(part.iter().take(count)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) if self.bytes.is_empty() => return Ok(Received::Nothing),
                    Some(libc::EAGAIN) => return Ok(Received::Part),
                    Some(libc::ECONNRESET) => return Ok(Received::HungUp),
                    Some(libc::ENOBUFS) => return Err(WireError::FilesLost),
                    _ => return Err(WireError::Socket(error)),
                },
            }
            if self.files.len() > MAX_FILES {
                return Err(WireError::Files(self.files.len()));
            }
        }
    }

    /// How long the message is, as far as that is known.
    fn length(&self) -> Result<usize, WireError> {
        let Some([_, _, _, _, _, _, _, _, s0, s1, s2, s3]) = self.bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(HEADER_BYTES);
        };
        let payload = u32::from_ne_bytes([*s0, *s1, *s2, *s3]);
        let fits = usize::try_from(payload).ok().filter(|payload| *payload <= MAX_PAYLOAD);
        fits.map(|payload| HEADER_BYTES + payload).ok_or(WireError::Payload(payload))
    }

    fn take(&mut self) -> Frame {
        let word = |at: usize| {
            let bytes = self.bytes.get(at..).and_then(|bytes| bytes.first_chunk());
            u32::from_ne_bytes(bytes.copied().unwrap_or_default())
        };
        let (request, flags) = (word(0), word(4));
        let payload = self.bytes.split_off(HEADER_BYTES);
        self.bytes.clear();
        Frame { request, flags, payload, files: std::mem::take(&mut self.files) }
    }

    /// Reads bytes and the descriptors that come with them.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut numbers: [RawFd; MAX_SENT] = [-1; MAX_SENT];
        let mut into = [libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }];
        // SAFETY: the bytes are valid for writing, and any are good.
        let (count, files) = unsafe { self.stream.recv_with_fds(&mut into, &mut numbers) }?;
        for number in numbers.iter().take(files) {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
            let file = unsafe { File::from_raw_fd(*number) };
            never_linger(&file);
            self.files.push(file);
        }
        Ok(count)
    }

    /// Sends a reply, which has to be short enough for a socket that is writable. An error is a peer that has gone, or
    /// has no room.
    pub(super) fn send(&mut self, reply: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let numbers: Vec<RawFd> = file.iter().map(AsRawFd::as_raw_fd).collect();
        let (mut rest, mut numbers) = (reply, &numbers[..]);
        while !rest.is_empty() {
            match self.stream.send_with_fds(&[rest], numbers).map_err(io::Error::from) {
                Ok(sent) => (rest, numbers) = (rest.get(sent..).unwrap_or_default(), &[]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Nothing more comes, and what has come is taken, as the kernel would close it in our name.
        if self.stream.shutdown(Shutdown::Read).is_err() {
            return;
        }
        loop {
            self.files.clear();
            match self.read(&mut [0; MAX_PAYLOAD]).map_err(|error| error.raw_os_error()) {
                Ok(1..) | Err(Some(libc::EINTR | libc::ENOBUFS)) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }
}

/// Has a descriptor closed without waiting for what is not sent yet, where it is a socket.
fn never_linger(file: &File) {
    // Fails on what is no socket, which is well.
    let _ = setsockopt(file, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 });
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::time::{Duration, Instant};

    use super::*;

    fn pair() -> (UnixStream, Wire) {
        let (frontend, backend) = UnixStream::pair().unwrap();
        (frontend, Wire::new(backend).unwrap())
    }

    fn message(payload: &[u8]) -> Vec<u8> {
        let header = [7, 1, payload.len() as u32].map(u32::to_ne_bytes).concat();
        [&header, payload].concat()
    }

    fn whole(wire: &mut Wire) -> Frame {
        match wire.receive().unwrap() {
            Received::Whole(frame) => frame,
            other => panic!("{other:?}"),
        }
    }

    fn zeros(count: usize) -> Vec<File> {
        (0..count).map(|_| File::open("/dev/zero").unwrap()).collect()
    }

    fn send(frontend: &UnixStream, bytes: &[u8], files: &[File]) {
        let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        assert_eq!(frontend.send_with_fds(&[bytes], &numbers).unwrap(), bytes.len());
    }

    #[test]
    fn a_message_is_whole_when_its_last_byte_is_there_and_the_next_one_is_left_where_it_is() {
        let (mut frontend, mut wire) = pair();
        assert!(matches!(wire.receive().unwrap(), Received::Nothing));
        let bytes = message(&[9; 8]);
        for byte in &bytes[..19] {
            frontend.write_all(&[*byte]).unwrap();
            assert!(matches!(wire.receive().unwrap(), Received::Part));
        }
        frontend.write_all(&[&bytes[19..], &message(&[]), &bytes[..5]].concat()).unwrap();
        let frame = whole(&mut wire);
        assert_eq!((frame.request, frame.flags, &frame.payload[..]), (7, 1, &[9; 8][..]));
        assert!(whole(&mut wire).payload.is_empty());
        assert!(matches!(wire.receive().unwrap(), Received::Part));
    }

    #[test]
    fn what_was_sent_before_a_hang_up_is_still_there_and_half_a_message_is_a_hang_up() {
        for sent in [0, 1, 11, 12, 19, 20] {
            let (mut frontend, mut wire) = pair();
            frontend.write_all(&message(&[9; 8])[..sent]).unwrap();
            drop(frontend);
            if sent == 20 {
                assert_eq!(whole(&mut wire).payload, [9; 8]);
            }
            assert!(matches!(wire.receive().unwrap(), Received::HungUp), "{sent} bytes of a message");
        }
    }

    #[test]
    fn the_descriptors_of_a_message_are_those_that_came_with_any_of_its_bytes() {
        let (frontend, mut wire) = pair();
        let bytes = message(&[9; 8]);
        send(&frontend, &bytes[..5], &zeros(2));
        send(&frontend, &bytes[5..], &zeros(1));
        send(&frontend, &message(&[]), &zeros(MAX_FILES));
        assert_eq!(whole(&mut wire).files.len(), 3);
        assert_eq!(whole(&mut wire).files.len(), MAX_FILES);
    }

    #[test]
    fn more_descriptors_or_bytes_than_a_message_can_have_are_an_error_at_once() {
        for count in [MAX_FILES + 1, MAX_SENT] {
            let (frontend, mut wire) = pair();
            send(&frontend, &message(&[9; 8])[..5], &zeros(count));
            assert!(matches!(wire.receive(), Err(WireError::Files(found)) if found == count), "{count}");
        }
        let (mut frontend, mut wire) = pair();
        frontend.write_all(&[1, 1, MAX_PAYLOAD as u32 + 1].map(u32::to_ne_bytes).concat()).unwrap();
        assert!(matches!(wire.receive(), Err(WireError::Payload(4097))));
    }

    #[test]
    fn a_reply_that_nobody_reads_is_an_error_and_no_wait() {
        let (mut frontend, mut wire) = pair();
        let file = zeros(1);
        wire.send(&[5; 20], Some(file[0].as_fd())).unwrap();
        let error = std::iter::repeat_with(|| wire.send(&[0; 4108], None)).find_map(Result::err).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let mut first = [0; 20];
        frontend.read_exact(&mut first).unwrap();
        assert_eq!(first, [5; 20]);
    }

    /// A socket whose close waits for an hour, as its peer reads nothing.
    fn lingering(listener: &TcpListener) -> (File, TcpStream) {
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        setsockopt(&near, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 3600 }).unwrap();
        near.set_nonblocking(true).unwrap();
        while (&near).write(&[0; 65536]).is_ok() {}
        (File::from(OwnedFd::from(near)), peer)
    }

    #[test]
    fn sockets_that_linger_hold_up_nobody_whether_their_message_was_looked_at_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (frontend, mut wire) = pair();
        let mut peers = Vec::new();
        for bytes in [&message(&[])[..], &message(&[])[..5], &[0]] {
            let (file, peer) = lingering(&listener);
            send(&frontend, bytes, &[file]);
            peers.push(peer);
        }
        let began = Instant::now();
        drop(whole(&mut wire));
        drop(wire);
        assert!(began.elapsed() < Duration::from_secs(600), "{:?}", began.elapsed());
    }
}
