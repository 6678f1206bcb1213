//! From a chain of descriptors to a request.
//!
//! A request is framed as virtio 1.3, 5.2.6 has it: 16 device-readable bytes of header, then data in one direction,
//! and the status in the last device-writable byte; how many descriptors that is cut into, and where, is the
//! driver's choice (2.7.4). [`Buffers::parse`] walks the chain once, reads the header once into locals and keeps the
//! rest as spans of guest addresses; nothing else of the chain is ever read again.
//!
//! Spans own nothing. Small answers are written through `vm-memory`, which checks each access; bulk data is resolved
//! to `iovec`s, which stay valid as long as the memory they were resolved in.

use virtio_bindings::bindings::virtio_blk as wire;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes as _, GuestAddress};

use super::memory::Memory;
use super::status::{Malformed, RequestError, Status};
use crate::store::Action;
use crate::units::{Bytes, Sector};

/// Most descriptors of a chain. Bounds the memory of a request; Linux uses `seg_max` + 2.
pub const MAX_DESCRIPTORS: usize = 1024;

/// Most bytes of data in one request. No limit of the device says so to the driver: it is far above what drivers
/// send and only bounds the work of one request.
pub const MAX_DATA: Bytes = Bytes(256 << 20);

/// Bytes of `append_sector`, at the start of the device-writable part of an append.
const APPEND_SECTOR_BYTES: u64 = 8;

const HEADER_BYTES: usize = 16;

/// Spans kept allocated in a recycled [`Buffers`].
const KEPT_SPANS: usize = 64;

/// What the driver asks for. Lengths are those of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read.
    In {
        /// The first sector.
        start: Sector,
        /// Length of the device-writable data.
        len: Bytes,
    },
    /// Write.
    Out {
        /// The first sector.
        start: Sector,
        /// Length of the device-readable data.
        len: Bytes,
    },
    /// Make durable.
    Flush,
    /// Tell the serial.
    GetId,
    /// Write at the write pointer.
    Append {
        /// The first sector of the zone.
        zone: Sector,
        /// Length of the device-readable data.
        len: Bytes,
    },
    /// Report zones.
    Report {
        /// A sector of the first zone.
        start: Sector,
        /// Length of the device-writable buffer.
        len: Bytes,
    },
    /// Open, close, finish or reset a zone.
    Manage {
        /// What to do.
        action: Action,
        /// The first sector of the zone.
        zone: Sector,
    },
    /// Reset every sequential zone.
    ResetAll,
}

impl Request {
    /// Whether only a zoned device knows this request.
    pub fn is_zone_request(&self) -> bool {
        match self {
            Self::In { .. } | Self::Out { .. } | Self::Flush | Self::GetId => false,
            Self::Append { .. } | Self::Report { .. } | Self::Manage { .. } | Self::ResetAll => true,
        }
    }
}

/// A run of guest-physical addresses.
#[derive(Clone, Copy, Debug)]
struct Span {
    addr: GuestAddress,
    len: u32,
}

/// The direction of a request's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the guest to the device.
    Readable,
    /// From the device to the guest.
    Writable,
}

/// The buffers of one request, without header and status byte. Reused from request to request.
#[derive(Debug, Default)]
pub struct Buffers {
    readable: Vec<Span>,
    writable: Vec<Span>,
    status: Option<GuestAddress>,
}

impl Buffers {
    /// Takes a chain apart. Whatever the result, [`can_answer`](Self::can_answer) tells whether a status can be
    /// written.
    pub fn parse(&mut self, mem: &Memory, chain: impl Iterator<Item = Descriptor>) -> Result<Request, RequestError> {
        self.recycle();
        let in_order = self.walk(chain)?;
        self.status = Some(self.take_status(mem)?);
        if !in_order {
            return Err(Malformed::Direction.into());
        }
        let header = self.take_header(mem)?;
        self.interpret(header)
    }

    /// Whether there is a place for the status.
    pub fn can_answer(&self) -> bool {
        self.status.is_some()
    }

    /// Forgets the request, and the memory of an unusually long one.
    pub fn recycle(&mut self) {
        for spans in [&mut self.readable, &mut self.writable] {
            spans.clear();
            spans.shrink_to(KEPT_SPANS);
        }
        self.status = None;
    }

    /// Writes the status byte; false where there is no place for it.
    pub fn put_status(&self, mem: &Memory, status: Status) -> bool {
        self.status.is_some_and(|addr| mem.write_obj(status as u8, addr).is_ok())
    }

    /// Where the data lies in this process. `out` is cleared first; its entries are valid as long as `mem` is mapped.
    pub fn resolve(&self, mem: &Memory, direction: Direction, out: &mut Vec<libc::iovec>) -> Result<(), Malformed> {
        out.clear();
        let spans = match direction {
            Direction::Readable => &self.readable,
            Direction::Writable => &self.writable,
        };
        for span in spans {
            for slice in mem.slices(span.addr, span.len as usize) {
                let slice = slice.map_err(|_| Malformed::OutsideMemory)?;
                out.push(libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() });
            }
        }
        Ok(())
    }

    /// Writes `bytes` at `offset` of the device-writable data. What does not fit any more is left out; returns how
    /// much was written.
    pub fn write(&self, mem: &Memory, offset: Bytes, mut bytes: &[u8]) -> Result<usize, Malformed> {
        let mut skip = offset.0;
        let mut written = 0;
        for span in &self.writable {
            let len = u64::from(span.len);
            if skip >= len {
                skip -= len;
                continue;
            }
            let part = bytes.len().min(usize::try_from(len - skip).unwrap_or(usize::MAX));
            let (now, later) = bytes.split_at(part);
            let addr = span.addr.0.checked_add(skip).ok_or(Malformed::OutsideMemory)?;
            mem.write_slice(now, GuestAddress(addr)).map_err(|_| Malformed::OutsideMemory)?;
            written += part;
            bytes = later;
            skip = 0;
            if bytes.is_empty() {
                break;
            }
        }
        Ok(written)
    }

    /// Collects the spans; true where all readable ones come before all writable ones (2.7.4.2).
    fn walk(&mut self, chain: impl Iterator<Item = Descriptor>) -> Result<bool, Malformed> {
        let (mut in_order, mut count, mut ended) = (true, 0, false);
        for descriptor in chain {
            count += 1;
            if count > MAX_DESCRIPTORS {
                return Err(Malformed::TooMany(MAX_DESCRIPTORS));
            }
            // The iterator ends silently where a chain is broken; then the last descriptor still points on.
            ended = !descriptor.has_next();
            let span = Span { addr: descriptor.addr(), len: descriptor.len() };
            if span.len == 0 {
                continue;
            }
            if descriptor.is_write_only() {
                self.writable.push(span);
            } else {
                in_order &= self.writable.is_empty();
                self.readable.push(span);
            }
        }
        if ended { Ok(in_order) } else { Err(Malformed::NoEnd) }
    }

    /// Cuts the last byte off the writable part.
    fn take_status(&mut self, mem: &Memory) -> Result<GuestAddress, Malformed> {
        let last = self.writable.last_mut().ok_or(Malformed::NoStatus)?;
        last.len -= 1;
        let addr = last.addr.0.checked_add(u64::from(last.len)).map(GuestAddress).ok_or(Malformed::OutsideMemory)?;
        if last.len == 0 {
            self.writable.pop();
        }
        if mem.holds(addr, 1) { Ok(addr) } else { Err(Malformed::OutsideMemory) }
    }

    /// Cuts the header off the readable part.
    fn take_header(&mut self, mem: &Memory) -> Result<[u8; HEADER_BYTES], Malformed> {
        let mut header = [0; HEADER_BYTES];
        let mut rest = &mut header[..];
        let mut used_up = 0;
        for span in &mut self.readable {
            let part = rest.len().min(span.len as usize);
            let (now, later) = rest.split_at_mut(part);
            mem.read_slice(now, span.addr).map_err(|_| Malformed::OutsideMemory)?;
            rest = later;
            if part < span.len as usize {
                span.addr = GuestAddress(span.addr.0.checked_add(part as u64).ok_or(Malformed::OutsideMemory)?);
                span.len -= part as u32;
                break;
            }
            used_up += 1;
            if rest.is_empty() {
                break;
            }
        }
        if !rest.is_empty() {
            return Err(Malformed::ShortHeader);
        }
        self.readable.drain(..used_up);
        Ok(header)
    }

    fn interpret(&self, header: [u8; HEADER_BYTES]) -> Result<Request, RequestError> {
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let kind = u32::from_le_bytes([k0, k1, k2, k3]);
        let sector = Sector(u64::from_le_bytes(sector));
        let manage = |action| Ok(Request::Manage { action, zone: sector });
        match kind {
            wire::VIRTIO_BLK_T_IN => self.read_request(sector),
            wire::VIRTIO_BLK_T_OUT => {
                self.expect_empty(&self.writable)?;
                Ok(Request::Out { start: sector, len: data_len(&self.readable)? })
            }
            wire::VIRTIO_BLK_T_FLUSH => Ok(Request::Flush),
            wire::VIRTIO_BLK_T_GET_ID => Ok(Request::GetId),
            wire::VIRTIO_BLK_T_ZONE_APPEND => {
                if total(&self.writable) < APPEND_SECTOR_BYTES {
                    return Err(Malformed::NoAppendSector.into());
                }
                Ok(Request::Append { zone: sector, len: data_len(&self.readable)? })
            }
            wire::VIRTIO_BLK_T_ZONE_REPORT => Ok(Request::Report { start: sector, len: Bytes(total(&self.writable)) }),
            wire::VIRTIO_BLK_T_ZONE_OPEN => manage(Action::Open),
            wire::VIRTIO_BLK_T_ZONE_CLOSE => manage(Action::Close),
            wire::VIRTIO_BLK_T_ZONE_FINISH => manage(Action::Finish),
            wire::VIRTIO_BLK_T_ZONE_RESET => manage(Action::Reset),
            wire::VIRTIO_BLK_T_ZONE_RESET_ALL => Ok(Request::ResetAll),
            unknown => Err(RequestError::Unknown(unknown)),
        }
    }

    fn read_request(&self, start: Sector) -> Result<Request, RequestError> {
        self.expect_empty(&self.readable)?;
        Ok(Request::In { start, len: data_len(&self.writable)? })
    }

    fn expect_empty(&self, spans: &[Span]) -> Result<(), Malformed> {
        if spans.is_empty() { Ok(()) } else { Err(Malformed::Direction) }
    }
}

/// The sum cannot overflow: at most [`MAX_DESCRIPTORS`] 32-bit lengths.
fn total(spans: &[Span]) -> u64 {
    spans.iter().map(|span| u64::from(span.len)).sum()
}

fn data_len(spans: &[Span]) -> Result<Bytes, Malformed> {
    let len = Bytes(total(spans));
    if len > MAX_DATA { Err(Malformed::TooLong(MAX_DATA)) } else { Ok(len) }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
