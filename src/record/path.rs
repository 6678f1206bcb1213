//! The layer over a data path: copies what writes carry to the image, as it is handed over.
//!
//! A guest that changes a buffer while its write is in flight may have other bytes in the image than in the log, as it may have
//! others on any disk than it thinks.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::format::Packed;
use super::writer::Log;
use crate::io::{Completion, Cover, DataPath, Transfer};
use crate::store::Tag;

/// Bytes kept allocated from one write to the next.
const KEPT: usize = 1 << 20;

/// The writes of a queue, which are recorded, below whatever else covers its data path.
pub struct Writes<C> {
    queue: u16,
    log: Arc<Log>,
    above: C,
}

impl<C> Writes<C> {
    /// The writes of a queue.
    pub fn new(log: Arc<Log>, queue: u16, above: C) -> Self {
        Self { queue, log, above }
    }
}

impl<C: Cover> Cover for Writes<C> {
    fn over(self, below: impl DataPath + 'static) -> Box<dyn DataPath> {
        self.above.over(RecordedPath::new(self.log, self.queue, below))
    }
}

/// The layer over a data path.
pub struct RecordedPath<P> {
    queue: u16,
    log: Arc<Log>,
    packed: Packed,
    below: P,
}

impl<P: DataPath> RecordedPath<P> {
    /// The layer over the data path of a queue.
    pub fn new(log: Arc<Log>, queue: u16, below: P) -> Self {
        Self { queue, log, packed: Packed::default(), below }
    }

    /// Puts the bytes of a write into the log.
    ///
    /// # Safety
    ///
    /// The iovecs of the transfer and the memory that they name are valid.
    unsafe fn record(&mut self, transfer: &Transfer) {
        self.packed.pack(|bytes| {
            // SAFETY: the caller promises that the iovecs are valid.
            for buffer in unsafe { transfer.iovecs() } {
                bytes.reserve(buffer.iov_len);
                let room = bytes.spare_capacity_mut().as_mut_ptr().cast::<u8>();
                // SAFETY: the caller promises that the memory is valid; there is as much room, which is none of it.
                unsafe { std::ptr::copy_nonoverlapping(buffer.iov_base.cast::<u8>(), room, buffer.iov_len) };
                // SAFETY: so much was reserved and has been written.
                unsafe { bytes.set_len(bytes.len() + buffer.iov_len) };
            }
        });
        self.log.data(Tag { queue: self.queue, slot: transfer.slot() }, transfer.offset, &self.packed);
        self.packed.shrink_to(KEPT);
    }
}

impl<P: DataPath> DataPath for RecordedPath<P> {
    unsafe fn submit(&mut self, transfer: Transfer) {
        if transfer.write && !self.log.is_over() {
            // SAFETY: the caller promises that the iovecs and their memory are valid until the completion is handed out.
            unsafe { self.record(&transfer) };
        }
        // SAFETY: the caller promises the same.
        unsafe { self.below.submit(transfer) }
    }

    fn sync(&mut self, token: u64) {
        self.below.sync(token);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        let before = done.len();
        let polled = self.below.poll(done);
        if done.len() > before {
            // What has landed may have its pointer stored at once, by any thread; that is not to run ahead of the log, so that
            // what a killed daemon leaves can be told from it.
            self.log.write_out();
        }
        polled
    }

    fn descriptor(&self) -> Option<RawFd> {
        self.below.descriptor()
    }
}
