//! Requests: what a job asks for, and the place in guest memory that each one in flight has. Header, status and
//! descriptors are built once; a request of the same kind and length as the last one only changes its sector.

use anyhow::{Result, ensure};
use virtio_bindings::virtio_blk as blk;

use crate::memory::{Area, GuestMemory};
use crate::ring::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Descriptor, Ring};

/// Bytes in a virtio sector.
pub(crate) const SECTOR: u64 = 512;

const CONTROL_LEN: u64 = 128;
/// An append's answer, its sector, with the status behind it; other requests have only the status.
const ANSWER_AT: u64 = 64;
const STATUS_AT: u64 = ANSWER_AT + 8;
const UNTOUCHED: u8 = 0xee;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Read,
    Write,
    Append,
    Report,
    Flush,
    Reset,
}

impl Op {
    fn number(self) -> u32 {
        match self {
            Self::Read => blk::VIRTIO_BLK_T_IN,
            Self::Write => blk::VIRTIO_BLK_T_OUT,
            Self::Append => blk::VIRTIO_BLK_T_ZONE_APPEND,
            Self::Report => blk::VIRTIO_BLK_T_ZONE_REPORT,
            Self::Flush => blk::VIRTIO_BLK_T_FLUSH,
            Self::Reset => blk::VIRTIO_BLK_T_ZONE_RESET,
        }
    }

    /// Flags of the data's descriptors.
    fn data_flags(self) -> u16 {
        match self {
            Self::Read | Self::Report => DESC_WRITE,
            _ => 0,
        }
    }
}

/// A request as a job asks for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) op: Op,
    pub(crate) sector: u64,
    /// Bytes of data.
    pub(crate) len: u32,
    /// The job's own mark.
    pub(crate) stream: u32,
}

impl Request {
    pub(crate) fn describe(&self) -> String {
        format!("{:?} of {} bytes at sector {}", self.op, self.len, self.sector)
    }
}

/// The name of a status byte.
pub(crate) fn status_name(status: u8) -> &'static str {
    match u32::from(status) {
        blk::VIRTIO_BLK_S_OK => "OK",
        blk::VIRTIO_BLK_S_IOERR => "IOERR",
        blk::VIRTIO_BLK_S_UNSUPP => "UNSUPP",
        blk::VIRTIO_BLK_S_ZONE_INVALID_CMD => "ZONE_INVALID_CMD",
        blk::VIRTIO_BLK_S_ZONE_UNALIGNED_WP => "ZONE_UNALIGNED_WP",
        blk::VIRTIO_BLK_S_ZONE_OPEN_RESOURCE => "ZONE_OPEN_RESOURCE",
        blk::VIRTIO_BLK_S_ZONE_ACTIVE_RESOURCE => "ZONE_ACTIVE_RESOURCE",
        _ if status == UNTOUCHED => "not written",
        _ => "unknown",
    }
}

/// How requests are laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Whether each request has its descriptors in a table of its own.
    pub(crate) indirect: bool,
    /// Most bytes in a descriptor of data.
    pub(crate) segment: u32,
    /// Most bytes of data in a request.
    pub(crate) data: u32,
}

impl Layout {
    /// Descriptors in the longest chain.
    pub(crate) fn chain(&self) -> u16 {
        2 + self.data.div_ceil(self.segment) as u16
    }

    /// Bytes of guest memory for each request.
    pub(crate) fn slot_memory(&self) -> u64 {
        let table = 16 * u64::from(self.chain());
        [CONTROL_LEN, table, u64::from(self.data)].iter().map(|len| len.next_multiple_of(4096)).sum()
    }
}

/// One request's place in guest memory.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The number of its first descriptor.
    pub(crate) head: u16,
    control: Area,
    table: Area,
    data: Area,
    layout: Layout,
    shape: Option<(Op, u32)>,
}

impl Slot {
    pub(crate) fn new(memory: &mut GuestMemory, at: u16, layout: Layout) -> Result<Self> {
        let chain = layout.chain();
        let head = if layout.indirect { at } else { at * chain };
        let (control, table) = (memory.alloc(CONTROL_LEN)?, memory.alloc(16 * u64::from(chain))?);
        let mut data = memory.alloc(u64::from(layout.data))?;
        // Neither zeros nor the same in all slots, which a file system below could save itself.
        fill(data.bytes(), u64::from(at) + 1);
        Ok(Self { head, control, table, data, layout, shape: None })
    }

    /// Forms `request` here.
    pub(crate) fn prepare(&mut self, ring: &mut Ring, request: &Request) -> Result<()> {
        if self.shape != Some((request.op, request.len)) {
            self.build(ring, request)?;
        }
        let control = self.control.here;
        // SAFETY: both are inside the area of CONTROL_LEN bytes, the sector aligned; the request is not yet offered.
        unsafe {
            control.add(8).cast::<u64>().write(request.sector);
            control.add(STATUS_AT as usize).write(UNTOUCHED);
        }
        Ok(())
    }

    fn build(&mut self, ring: &mut Ring, request: &Request) -> Result<()> {
        ensure!(u64::from(request.len) <= self.data.len, "no slot has {} bytes", request.len);
        let answer = if request.op == Op::Append { ANSWER_AT } else { STATUS_AT };
        let answer_len = (STATUS_AT + 1 - answer) as u32;
        let mut chain = vec![Descriptor { addr: self.control.guest, len: 16, flags: 0, next: 0 }];
        let mut at = 0;
        while at < request.len {
            let len = self.layout.segment.min(request.len - at);
            let addr = self.data.guest + u64::from(at);
            chain.push(Descriptor { addr, len, flags: request.op.data_flags(), next: 0 });
            at += len;
        }
        chain.push(Descriptor { addr: self.control.guest + answer, len: answer_len, flags: DESC_WRITE, next: 0 });
        self.place(ring, &mut chain);
        self.control.bytes()[..4].copy_from_slice(&request.op.number().to_le_bytes());
        self.shape = Some((request.op, request.len));
        Ok(())
    }

    fn place(&mut self, ring: &mut Ring, chain: &mut [Descriptor]) {
        let first = if self.layout.indirect { 0 } else { self.head };
        let last = chain.len() - 1;
        for (at, descriptor) in chain.iter_mut().enumerate().take(last) {
            descriptor.flags |= DESC_NEXT;
            descriptor.next = first + at as u16 + 1;
        }
        if !self.layout.indirect {
            chain.iter().zip(first..).for_each(|(descriptor, at)| ring.set_descriptor(at, *descriptor));
            return;
        }
        for (at, descriptor) in chain.iter().enumerate() {
            let place = self.table.part(16 * at as u64, 16).here;
            // SAFETY: inside the area and aligned; no request in flight uses this table.
            unsafe { place.cast::<Descriptor>().write(*descriptor) };
        }
        let len = 16 * chain.len() as u32;
        ring.set_descriptor(self.head, Descriptor { addr: self.table.guest, len, flags: DESC_INDIRECT, next: 0 });
    }

    /// The status of the request that came back.
    pub(crate) fn status(&mut self) -> u8 {
        self.control.bytes()[STATUS_AT as usize]
    }

    /// The sector that an append was given.
    pub(crate) fn answer(&mut self) -> u64 {
        // SAFETY: inside the area and aligned.
        unsafe { self.control.part(ANSWER_AT, 8).here.cast::<u64>().read() }
    }

    /// Most bytes of data.
    pub(crate) fn capacity(&self) -> u32 {
        self.layout.data
    }

    /// The first `len` bytes of data.
    pub(crate) fn data(&mut self, len: u32) -> &mut [u8] {
        &mut self.data.bytes()[..len as usize]
    }
}

/// Writes words that follow from `tag` and from their place.
pub(crate) fn fill(data: &mut [u8], tag: u64) {
    for (at, word) in data.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&word_of(tag, at).to_le_bytes());
    }
}

/// Where `data` is not what [`fill`] writes for `tag`.
pub(crate) fn mismatch(data: &[u8], tag: u64) -> Option<usize> {
    let wrong = |(at, word): (usize, &[u8])| (word != word_of(tag, at).to_le_bytes()).then_some(at * 8);
    data.chunks_exact(8).enumerate().find_map(wrong)
}

fn word_of(tag: u64, at: usize) -> u64 {
    (tag ^ (at as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
