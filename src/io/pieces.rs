//! The data of one request as file operations: cut at the segments of the file, followed until every byte is
//! transferred or an error has shown how far it got.
//!
//! A piece owns its part of the iovecs until the data path has handed back its completion. Short transfers go on where
//! they stopped; a read that meets the end of the file is finished with zeros.

use super::Transfer;
use crate::store::{IoResult, Segment};
use crate::units::{Bytes, Depth};

/// Most buffers of one system call (IOV_MAX of Linux).
const MAX_BUFFERS: usize = 1024;

/// How often an interrupted piece is started again without having got any further.
const MAX_RETRIES: u8 = 16;

/// Entries kept allocated in a recycled [`Pieces`].
const KEPT: usize = 64;

/// One file operation of a request.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where it begins in the request's data, now.
    at: u64,
    depth: Depth,
    /// Where it begins in the file, now.
    offset: u64,
    left: u64,
    /// Its buffers, in `Pieces::buffers`.
    first: usize,
    end: usize,
    retries: u8,
    /// Past the page cache was refused, or does not suit the rest.
    buffered: bool,
}

/// What a completion leaves to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The piece is to be submitted again.
    Again,
    /// The piece is finished, well or badly.
    Over,
    /// The piece met the end of the file: the rest of it, given in bytes of the request, is zeros.
    PastEnd {
        /// Where the rest begins in the request's data.
        at: Bytes,
        /// How long it is.
        len: Bytes,
    },
}

/// The segments of a request do not add up to its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch;

/// The file operations of one request.
#[derive(Debug, Default)]
pub struct Pieces {
    pieces: Vec<Piece>,
    buffers: Vec<libc::iovec>,
    outstanding: usize,
    /// The lowest byte of the request's data that is not known to be transferred.
    failed_at: Option<u64>,
    write: bool,
}

impl Pieces {
    /// Forgets the last request, and the memory of an unusually long one.
    pub fn recycle(&mut self) {
        self.pieces.clear();
        self.pieces.shrink_to(KEPT);
        self.buffers.clear();
        self.buffers.shrink_to(KEPT);
        self.outstanding = 0;
        self.failed_at = None;
    }

    /// Lays `segments` over the `guest` buffers. `zero` is told of each run of zeros in the request's data. Returns
    /// how many pieces there are to submit.
    pub fn plan(
        &mut self,
        write: bool,
        segments: &[Segment],
        guest: &mut Vec<libc::iovec>,
        mut zero: impl FnMut(Bytes, Bytes),
    ) -> Result<usize, Mismatch> {
        self.recycle();
        self.write = write;
        let total: u64 = guest.iter().map(|buffer| buffer.iov_len as u64).sum();
        if let [Segment::File { depth, offset, len }] = segments
            && (!write || *depth == Depth::TOP)
            && len.0 == total
            && total != 0
            && guest.len() <= MAX_BUFFERS
        {
            // The one that is common: the buffers are taken as they are.
            std::mem::swap(&mut self.buffers, guest);
            self.add_piece(0, *depth, offset.0, len.0, 0);
        } else {
            self.cut(segments, guest, &mut zero)?;
        }
        self.outstanding = self.pieces.len();
        Ok(self.outstanding)
    }

    fn cut(
        &mut self,
        segments: &[Segment],
        guest: &[libc::iovec],
        zero: &mut impl FnMut(Bytes, Bytes),
    ) -> Result<(), Mismatch> {
        let mut cursor = Cursor { rest: guest, skip: 0 };
        let mut at = 0;
        for segment in segments {
            match *segment {
                Segment::Zero { len } => {
                    if self.write {
                        return Err(Mismatch);
                    }
                    zero(Bytes(at), len);
                    cursor.advance(len.0, |_| {})?;
                    at += len.0;
                }
                Segment::Lost => {
                    if !self.write {
                        return Err(Mismatch);
                    }
                    cursor.rest = &[];
                }
                Segment::File { depth, .. } if self.write && depth != Depth::TOP => return Err(Mismatch),
                Segment::File { depth, offset, len } => {
                    let mut left = len.0;
                    while left > 0 {
                        let first = self.buffers.len();
                        let buffers = &mut self.buffers;
                        let taken = cursor.take(left, MAX_BUFFERS, |buffer| buffers.push(buffer))?;
                        self.add_piece(at, depth, offset.0 + (len.0 - left), taken, first);
                        at += taken;
                        left -= taken;
                    }
                }
            }
        }
        if cursor.rest.is_empty() { Ok(()) } else { Err(Mismatch) }
    }

    fn add_piece(&mut self, at: u64, depth: Depth, offset: u64, left: u64, first: usize) {
        let end = self.buffers.len();
        self.pieces.push(Piece { at, depth, offset, left, first, end, retries: 0, buffered: false });
    }

    /// Marks the only operation of a request without data: a sync.
    pub fn plan_sync(&mut self) {
        self.recycle();
        self.outstanding = 1;
    }

    /// Whether pieces are outstanding.
    pub fn is_done(&self) -> bool {
        self.outstanding == 0
    }

    /// What is left of a piece, as a transfer with this token. Its iovecs stay where they are until
    /// [`completed`](Self::completed) was called for the piece, or [`recycle`](Self::recycle).
    pub fn transfer(&self, index: usize, token: u64) -> Option<Transfer> {
        let Piece { depth, offset, left: len, first, end, buffered, .. } = *self.pieces.get(index)?;
        let buffers = self.buffers.get(first..end)?;
        let (buffers, count) = (buffers.as_ptr(), buffers.len());
        Some(Transfer { token, write: self.write, buffered, beside: false, depth, offset, len, buffers, count })
    }

    /// Takes the result of a sync.
    pub fn synced(&mut self, result: i32) {
        self.outstanding = 0;
        if result < 0 {
            self.fail(0);
        }
    }

    /// Takes the result of a piece: bytes, or a negated error number.
    pub fn completed(&mut self, index: usize, result: i32) -> Progress {
        let write = self.write;
        let Some(piece) = self.pieces.get_mut(index) else {
            return Progress::Over;
        };
        let at = piece.at;
        match u64::try_from(result) {
            Ok(0) if !write => {
                let len = Bytes(std::mem::take(&mut piece.left));
                self.outstanding -= 1;
                return Progress::PastEnd { at: Bytes(at), len };
            }
            Ok(bytes) if bytes != 0 => {
                let bytes = bytes.min(piece.left);
                piece.at += bytes;
                piece.offset += bytes;
                piece.left -= bytes;
                piece.retries = 0;
                // What is left after a short transfer may not be aligned any more.
                piece.buffered = true;
                if piece.left != 0 {
                    let piece = *piece;
                    self.consume(index, piece, bytes);
                    return Progress::Again;
                }
            }
            // A write of nothing: no more space that could be had without an error.
            Ok(_) => self.fail(at),
            Err(_) => {
                let again = match -result {
                    libc::EINTR | libc::EAGAIN => true,
                    // It may have been for the alignment alone.
                    libc::EINVAL => !std::mem::replace(&mut piece.buffered, true),
                    _ => false,
                };
                piece.retries += 1;
                if again && piece.retries <= MAX_RETRIES {
                    return Progress::Again;
                }
                self.fail(at);
            }
        }
        self.outstanding -= 1;
        Progress::Over
    }

    /// The result for the store, once nothing is outstanding.
    pub fn result(&self) -> IoResult {
        match self.failed_at {
            None => IoResult::Complete,
            // Every piece before the lowest failure is complete, so there is no gap.
            Some(at) => IoResult::Failed { good: Bytes(at) },
        }
    }

    fn fail(&mut self, at: u64) {
        self.failed_at = Some(self.failed_at.map_or(at, |lowest| lowest.min(at)));
    }

    /// Takes `bytes` off the front of a piece's buffers.
    fn consume(&mut self, index: usize, piece: Piece, mut bytes: u64) {
        let mut first = piece.first;
        while let Some(buffer) = self.buffers.get_mut(first).filter(|_| first < piece.end) {
            let len = buffer.iov_len as u64;
            if bytes < len {
                *buffer = tail(*buffer, bytes);
                break;
            }
            bytes -= len;
            first += 1;
        }
        if let Some(piece) = self.pieces.get_mut(index) {
            piece.first = first;
        }
    }
}

/// A buffer without its first `bytes` bytes (fewer than it has).
fn tail(buffer: libc::iovec, bytes: u64) -> libc::iovec {
    let skip = bytes as usize;
    libc::iovec { iov_base: buffer.iov_base.wrapping_byte_add(skip), iov_len: buffer.iov_len - skip }
}

/// A place in a list of buffers.
struct Cursor<'a> {
    rest: &'a [libc::iovec],
    /// Bytes of the first of `rest` that are behind it.
    skip: u64,
}

impl Cursor<'_> {
    /// Passes over `len` bytes, giving each buffer or part of one to `each`.
    fn advance(&mut self, len: u64, each: impl FnMut(libc::iovec)) -> Result<(), Mismatch> {
        self.take(len, usize::MAX, each).map(|_| ())
    }

    /// Passes over up to `len` bytes in at most `max` buffers; returns how many bytes that were.
    fn take(&mut self, len: u64, max: usize, mut each: impl FnMut(libc::iovec)) -> Result<u64, Mismatch> {
        let (mut taken, mut count) = (0, 0);
        while taken < len && count < max {
            let (first, rest) = self.rest.split_first().ok_or(Mismatch)?;
            let mut part = tail(*first, self.skip);
            let whole = part.iov_len as u64;
            let now = whole.min(len - taken);
            part.iov_len = now as usize;
            if now == whole {
                (self.rest, self.skip) = (rest, 0);
            } else {
                self.skip += now;
            }
            taken += now;
            count += 1;
            each(part);
        }
        Ok(taken)
    }
}

#[cfg(test)]
#[path = "pieces_tests.rs"]
mod tests;
