//! What kinds of request are counted apart.

use crate::store::Action;
use crate::units::{Bytes, Sector};
use crate::virtio::request::Request;

/// A kind of request. The numbers are those of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// What is no request at all.
    Other = 0,
    /// Read.
    Read = 1,
    /// Write.
    Write = 2,
    /// Zone append.
    Append = 3,
    /// Flush.
    Flush = 4,
    /// Zone report.
    Report = 5,
    /// Zone open.
    Open = 6,
    /// Zone close.
    Close = 7,
    /// Zone finish.
    Finish = 8,
    /// Zone reset.
    Reset = 9,
    /// Reset of all zones.
    ResetAll = 10,
    /// Question for the serial.
    GetId = 11,
}

impl Kind {
    /// All there are, by their numbers.
    pub const ALL: [Self; 12] = [
        Self::Other,
        Self::Read,
        Self::Write,
        Self::Append,
        Self::Flush,
        Self::Report,
        Self::Open,
        Self::Close,
        Self::Finish,
        Self::Reset,
        Self::ResetAll,
        Self::GetId,
    ];

    /// Its name, for people, filters and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Read => "read",
            Self::Write => "write",
            Self::Append => "append",
            Self::Flush => "flush",
            Self::Report => "report",
            Self::Open => "open",
            Self::Close => "close",
            Self::Finish => "finish",
            Self::Reset => "reset",
            Self::ResetAll => "reset-all",
            Self::GetId => "get-id",
        }
    }

    /// The kind of a number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// What is counted of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its kind.
    pub kind: Kind,
    /// The sector it names, if it names one.
    pub sector: Option<Sector>,
    /// Bytes of data.
    pub len: Bytes,
}

impl From<Option<Request>> for Subject {
    fn from(request: Option<Request>) -> Self {
        let (kind, sector, len) = match request {
            None => (Kind::Other, None, Bytes(0)),
            Some(Request::In { start, len }) => (Kind::Read, Some(start), len),
            Some(Request::Out { start, len }) => (Kind::Write, Some(start), len),
            Some(Request::Append { zone, len }) => (Kind::Append, Some(zone), len),
            Some(Request::Flush) => (Kind::Flush, None, Bytes(0)),
            Some(Request::GetId) => (Kind::GetId, None, Bytes(0)),
            Some(Request::Report { start, .. }) => (Kind::Report, Some(start), Bytes(0)),
            Some(Request::ResetAll) => (Kind::ResetAll, None, Bytes(0)),
            Some(Request::Manage { action, zone }) => {
                let kind = match action {
                    Action::Open => Kind::Open,
                    Action::Close => Kind::Close,
                    Action::Finish => Kind::Finish,
                    Action::Reset => Kind::Reset,
                };
                (kind, Some(zone), Bytes(0))
            }
        };
        Self { kind, sector, len }
    }
}
