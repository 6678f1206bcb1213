//! Reading a log: record by record, up to the last whole one.

use std::io::{self, ErrorKind, Read};

use super::entry::{Ended, Entry};
use super::format::{Damage, HEAD_BYTES, HEADER_BYTES, Head, Header, HeaderError};

/// Why a log cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is none.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The file cannot be read.
    #[error("the recording cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A record is not what was written.
    #[error("record {number} of the recording, at byte {at}, is damaged: {why}")]
    Damaged {
        /// Its number.
        number: u64,
        /// Where it begins in the file.
        at: u64,
        /// What is wrong.
        why: Damage,
    },
}

/// A record with what its head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number, from 0.
    pub number: u64,
    /// When it was written: nanoseconds by the recorder's clock.
    pub time_ns: u64,
    /// What it says.
    pub entry: Entry,
}

/// A log that is read.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    header: Header,
    next: u64,
    at: u64,
    left_over: u64,
    is_over: bool,
}

impl<R: Read> Reader<R> {
    /// Begins to read a log.
    pub fn new(mut input: R) -> Result<Self, ReadError> {
        let mut header = [0; HEADER_BYTES];
        match input.read_exact(&mut header) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(HeaderError::Magic.into()),
            read => read?,
        }
        let header = Header::parse(&header)?;
        Ok(Self { input, header, next: 0, at: HEADER_BYTES as u64, left_over: 0, is_over: false })
    }

    /// Goes on with a log of this header: `input` begins with record `next`, which begins at `at` in the file.
    pub fn go_on(input: R, header: Header, next: u64, at: u64) -> Self {
        Self { input, header, next, at, left_over: 0, is_over: false }
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where the records end that were read so far, in bytes of the file.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// How many records were read so far, which is the number of the next.
    pub fn number(&self) -> u64 {
        self.next
    }

    /// Bytes of a record that was cut short, once all whole ones were read.
    pub fn left_over(&self) -> u64 {
        self.left_over
    }

    /// The next record; none behind the last whole one, or behind one that says that the log was not written any more.
    pub fn read(&mut self) -> Result<Option<Record>, ReadError> {
        if self.is_over {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(HEAD_BYTES);
        (&mut self.input).take(HEAD_BYTES as u64).read_to_end(&mut bytes)?;
        let (number, at) = (self.next, self.at);
        let damaged = |why| ReadError::Damaged { number, at, why };
        let Ok(head) = <&[u8; HEAD_BYTES]>::try_from(bytes.as_slice()) else {
            return Ok(self.cut_short(bytes.len()));
        };
        let head = Head::parse(head, number).map_err(damaged)?;
        // Grows as it is read, so that a length costs no more than the file has.
        let mut body = Vec::new();
        (&mut self.input).take(head.body_len()).read_to_end(&mut body)?;
        if (body.len() as u64) < head.body_len() {
            return Ok(self.cut_short(HEAD_BYTES + body.len()));
        }
        let entry = head.entry(&body).map_err(damaged)?;
        self.next += 1;
        self.at += (HEAD_BYTES + body.len()) as u64;
        self.is_over = entry == Entry::End(Ended::NotWritten);
        Ok(Some(Record { number, time_ns: head.time_ns(), entry }))
    }

    fn cut_short(&mut self, bytes: usize) -> Option<Record> {
        self.left_over = bytes as u64;
        self.is_over = true;
        None
    }
}
