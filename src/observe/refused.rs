//! A refused request in words: what came, the status it got, the rule it broke, and what was expected instead.
//!
//! The store answers with the few codes that the specification has; which of a code's rules it was is found here, from
//! the zone as it is right after. Where another queue has changed the zone in between, the words are of that later
//! state. Positions and lengths are in sectors of 512 bytes, as in a guest's messages and blkzone's.

use std::fmt;

use crate::store::{Action, Refusal, Usage, ZoneNow};
use crate::units::{Bytes, Sector};
use crate::virtio::request::Request;
use crate::virtio::status::RequestError;
use crate::zone::{Refusal as ZoneRefusal, State, ZoneKind};

/// The rules that a request can break, finer than the status codes. The numbers are those of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rule {
    /// The descriptors make no request.
    Malformed = 1,
    /// No request of this device.
    UnknownType = 2,
    /// The driver does not know that the disk is zoned.
    NotNegotiated = 3,
    /// A report needs room for its header.
    ReportBuffer = 4,
    /// A range lies on the disk and has whole sectors.
    Range = 5,
    /// A read-only disk is not changed.
    ReadOnlyDisk = 6,
    /// The file below works.
    HostIo = 7,
    /// A write begins at the write pointer.
    WritePointer = 8,
    /// A write is a multiple of the block size.
    BlockSize = 9,
    /// A write ends within the capacity of its zone.
    Capacity = 10,
    /// A full zone takes no write.
    ZoneFull = 11,
    /// Other states allow only some requests.
    ZoneState = 12,
    /// A request stays within its zone.
    ZoneBorder = 13,
    /// Appends and zone management name a zone by its first sector.
    ZoneStart = 14,
    /// A conventional zone has no write pointer.
    Conventional = 15,
    /// An append is no longer than the limit.
    AppendLength = 16,
    /// So many zones can be open.
    OpenLimit = 17,
    /// So many zones can be active.
    ActiveLimit = 18,
    /// There is power.
    Power = 19,
    /// No rule for faults fails it.
    Fault = 20,
}

impl Rule {
    /// All there are.
    pub const ALL: [Self; 20] = [
        Self::Malformed,
        Self::UnknownType,
        Self::NotNegotiated,
        Self::ReportBuffer,
        Self::Range,
        Self::ReadOnlyDisk,
        Self::HostIo,
        Self::WritePointer,
        Self::BlockSize,
        Self::Capacity,
        Self::ZoneFull,
        Self::ZoneState,
        Self::ZoneBorder,
        Self::ZoneStart,
        Self::Conventional,
        Self::AppendLength,
        Self::OpenLimit,
        Self::ActiveLimit,
        Self::Power,
        Self::Fault,
    ];

    /// Its name, for people and filters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownType => "unknown-type",
            Self::NotNegotiated => "not-negotiated",
            Self::ReportBuffer => "report-buffer",
            Self::Range => "range",
            Self::ReadOnlyDisk => "read-only-disk",
            Self::HostIo => "host-io",
            Self::WritePointer => "write-pointer",
            Self::BlockSize => "block-size",
            Self::Capacity => "capacity",
            Self::ZoneFull => "zone-full",
            Self::ZoneState => "zone-state",
            Self::ZoneBorder => "zone-border",
            Self::ZoneStart => "zone-start",
            Self::Conventional => "conventional",
            Self::AppendLength => "append-length",
            Self::OpenLimit => "open-limit",
            Self::ActiveLimit => "active-limit",
            Self::Power => "power",
            Self::Fault => "fault",
        }
    }

    /// The rule of a number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| *rule as u8 == number)
    }
}

/// A request that was refused, with what explains it.
#[derive(Clone, Debug)]
pub struct Refused {
    /// What was asked for; none where the descriptors did not say.
    pub request: Option<Request>,
    /// Why it was refused.
    pub error: RequestError,
    /// The zone that the request begins in.
    pub zone: Option<ZoneNow>,
    /// The zones in use, and the limits.
    pub usage: Usage,
    /// The unit of writes.
    pub block: Bytes,
    /// The longest append.
    pub max_append: Bytes,
    /// The size of the disk.
    pub disk: Bytes,
    /// What the rule for faults is called that refused it.
    pub fault: Option<String>,
}

impl Refused {
    /// The number of the rule for faults that refused it.
    pub fn fault_number(&self) -> Option<u16> {
        match self.error {
            RequestError::Refused(Refusal::Injected { rule, .. }) => Some(rule),
            _ => None,
        }
    }

    /// Which rule was broken.
    pub fn rule(&self) -> Rule {
        match self.error {
            RequestError::Malformed(_) => Rule::Malformed,
            RequestError::Unknown(_) => Rule::UnknownType,
            RequestError::ZoneRequestNotNegotiated | RequestError::NotNegotiated => Rule::NotNegotiated,
            RequestError::ReportTooShort(_) => Rule::ReportBuffer,
            RequestError::ReportBeyondEnd | RequestError::Refused(Refusal::BadRange) => Rule::Range,
            RequestError::AppendTooLong(_) => Rule::AppendLength,
            RequestError::Refused(Refusal::ReadOnly) => Rule::ReadOnlyDisk,
            RequestError::Refused(Refusal::Io) => Rule::HostIo,
            RequestError::Refused(Refusal::NoPower) => Rule::Power,
            RequestError::Refused(Refusal::Injected { .. }) => Rule::Fault,
            RequestError::Refused(Refusal::Zone(refusal)) => self.zone_rule(refusal),
        }
    }

    fn zone_rule(&self, refusal: ZoneRefusal) -> Rule {
        match refusal {
            ZoneRefusal::OpenResource => Rule::OpenLimit,
            ZoneRefusal::ActiveResource => Rule::ActiveLimit,
            ZoneRefusal::UnalignedWrite => self.alignment_rule(),
            ZoneRefusal::InvalidCommand => self.command_rule(),
        }
    }

    fn alignment_rule(&self) -> Rule {
        match (self.request, &self.zone) {
            (Some(Request::Out { start, .. }), Some(zone)) if Some(zone.next_write) != start.to_bytes() => {
                Rule::WritePointer
            }
            (Some(Request::Out { len, .. } | Request::Append { len, .. }), _) if !len.is_multiple_of(self.block.0) => {
                Rule::BlockSize
            }
            _ => Rule::WritePointer,
        }
    }

    fn command_rule(&self) -> Rule {
        let Some(request) = self.request else { return Rule::ZoneState };
        let Some(ZoneNow { info: zone, .. }) = &self.zone else { return Rule::ZoneStart };
        let starts_zone = |at: Sector| at.to_bytes() == Some(zone.start);
        let conventional = zone.kind == ZoneKind::Conventional;
        match request {
            Request::Append { zone: at, .. } | Request::Manage { zone: at, .. } if !starts_zone(at) => Rule::ZoneStart,
            Request::Append { .. } | Request::Manage { .. } if conventional => Rule::Conventional,
            Request::Append { len, .. } if len > self.max_append => Rule::AppendLength,
            Request::Out { start, len } if start.0.saturating_add(len.to_sector().0) > zone.end().to_sector().0 => {
                Rule::ZoneBorder
            }
            Request::Out { .. } | Request::Append { .. } => match zone.state {
                State::Full => Rule::ZoneFull,
                State::ReadOnly | State::Offline => Rule::ZoneState,
                _ => Rule::Capacity,
            },
            Request::In { .. } if zone.state != State::Offline => Rule::ZoneBorder,
            Request::Report { .. } => Rule::Range,
            _ => Rule::ZoneState,
        }
    }

    /// Where the request should have begun, where that is what was wrong.
    pub fn expected(&self) -> Option<Sector> {
        let zone = self.zone.as_ref()?;
        match self.rule() {
            Rule::WritePointer => Some(zone.next_write.to_sector()),
            Rule::ZoneStart => Some(zone.info.start.to_sector()),
            _ => None,
        }
    }

    fn explain(&self, f: &mut fmt::Formatter<'_>, rule: Rule) -> fmt::Result {
        let Usage { open, max_open, active, max_active } = self.usage;
        let sectors = |bytes: Bytes| bytes.to_sector().0;
        match rule {
            Rule::Range => write!(f, "expected whole sectors below {}, the end of the disk", sectors(self.disk)),
            Rule::ReadOnlyDisk => write!(f, "the disk is read-only"),
            Rule::BlockSize => {
                write!(
                    f,
                    "expected a multiple of {} sectors, the block size of {} bytes",
                    sectors(self.block),
                    self.block
                )
            }
            Rule::AppendLength => write!(f, "expected at most {} sectors in an append", sectors(self.max_append)),
            Rule::Fault => match &self.fault {
                Some(name) => write!(f, "the rule '{name}' for faults fails it"),
                None => write!(f, "a rule for faults that is gone by now has failed it"),
            },
            Rule::OpenLimit => write!(
                f,
                "{open} zones are open, none of them implicitly, and {max_open} may be: close, finish or reset one first"
            ),
            Rule::ActiveLimit => {
                write!(f, "{active} zones are active, and {max_active} may be: finish or reset one first")
            }
            Rule::WritePointer
            | Rule::Capacity
            | Rule::ZoneFull
            | Rule::ZoneState
            | Rule::ZoneBorder
            | Rule::ZoneStart
            | Rule::Conventional => match &self.zone {
                Some(now) => self.explain_zone(f, rule, now),
                None => write!(f, "{}", self.error),
            },
            Rule::Malformed
            | Rule::UnknownType
            | Rule::NotNegotiated
            | Rule::ReportBuffer
            | Rule::HostIo
            | Rule::Power => write!(f, "{}", self.error),
        }
    }

    fn explain_zone(&self, f: &mut fmt::Formatter<'_>, rule: Rule, now: &ZoneNow) -> fmt::Result {
        let ZoneNow { info: zone, next_write } = now;
        let (index, state) = (zone.index, zone.state.name());
        let sectors = |bytes: Bytes| bytes.to_sector().0;
        let (pointer, next) = (sectors(zone.write_pointer), sectors(*next_write));
        match rule {
            Rule::WritePointer => {
                write!(f, "zone {index} is {state}, its write pointer is {pointer}")?;
                if next != pointer {
                    write!(f, ", writes in flight end at {next}")?;
                }
                write!(f, ": expected a write at {next}")
            }
            Rule::Capacity => {
                let end = sectors(zone.start) + sectors(zone.capacity);
                let left = end.saturating_sub(next);
                write!(f, "zone {index} is {state}, its write pointer is {pointer}, and it can be written up to ")?;
                write!(f, "{end}: expected at most {left} sectors")
            }
            Rule::ZoneFull => write!(f, "zone {index} is full: expected it to be reset first"),
            Rule::ZoneBorder => {
                write!(f, "zone {index} ends at {}: expected a request within one zone", sectors(zone.end()))
            }
            Rule::ZoneStart => {
                write!(f, "expected the first sector of a zone: zone {index} begins at {}", sectors(zone.start))
            }
            Rule::Conventional => write!(f, "zone {index} is conventional and has no write pointer"),
            _ => {
                write!(f, "zone {index} is {state}")?;
                match self.request {
                    Some(Request::Manage { action: Action::Open, .. }) => {
                        write!(f, ": expected an empty, open or closed one")
                    }
                    Some(Request::Manage { action: Action::Close, .. }) => {
                        write!(f, ": expected an open or closed one")
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.request {
            Some(request) => describe(f, &request)?,
            None => write!(f, "a request")?,
        }
        write!(f, ": {}: ", self.error.status().name())?;
        self.explain(f, self.rule())
    }
}

fn describe(f: &mut fmt::Formatter<'_>, request: &Request) -> fmt::Result {
    let range = |f: &mut fmt::Formatter<'_>, what, start: Sector, len: Bytes| match len.is_multiple_of(512) {
        true => write!(f, "{what} {} of {} sectors", start.0, len.to_sector().0),
        false => write!(f, "{what} {} of {len} bytes", start.0),
    };
    match *request {
        Request::In { start, len } => range(f, "read at", start, len),
        Request::Out { start, len } => range(f, "write at", start, len),
        Request::Append { zone, len } => range(f, "append to", zone, len),
        Request::Flush => write!(f, "flush"),
        Request::GetId => write!(f, "question for the serial"),
        Request::Report { start, .. } => write!(f, "report from {}", start.0),
        Request::Manage { action: Action::Open, zone } => write!(f, "open of {}", zone.0),
        Request::Manage { action: Action::Close, zone } => write!(f, "close of {}", zone.0),
        Request::Manage { action: Action::Finish, zone } => write!(f, "finish of {}", zone.0),
        Request::Manage { action: Action::Reset, zone } => write!(f, "reset of {}", zone.0),
        Request::ResetAll => write!(f, "reset of all zones"),
    }
}

#[cfg(test)]
#[path = "refused_tests.rs"]
mod tests;
