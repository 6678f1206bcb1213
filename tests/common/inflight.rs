//! The in-flight region: shared memory that the daemon makes and the frontend keeps for the daemon after it.
//!
//! Of its contents only what the vhost-user specification says of split rings is known here: a block for each queue,
//! of a header and one entry for each descriptor.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;

/// Bytes of a message about the region: the C structure of the frontends, padding included.
const PAYLOAD: usize = 24;

/// The region and what the messages say of it.
#[derive(Debug)]
pub struct Inflight {
    /// The file behind it.
    pub file: File,
    /// Bytes of it that are mapped.
    pub mmap_size: u64,
    /// Where in the file these begin.
    pub mmap_offset: u64,
    /// Queues it is for.
    pub num_queues: u16,
    /// Descriptors in each.
    pub queue_size: u16,
}

/// One queue's block of the region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The layout's version.
    pub version: u16,
    /// Entries.
    pub desc_num: u16,
    /// The head of the last batch.
    pub last_batch_head: u16,
    /// The used index up to which entries are settled.
    pub used_idx: u16,
    /// For each head whether it is in flight, and the number it was counted with.
    pub entries: Vec<(bool, u64)>,
}

impl Inflight {
    /// Asks for a region for `queues` queues of `size` descriptors.
    pub fn request(queues: u16, size: u16) -> [u8; PAYLOAD] {
        Self::payload_of(0, 0, queues, size)
    }

    /// The message about any region.
    pub fn payload_of(mmap_size: u64, mmap_offset: u64, queues: u16, size: u16) -> [u8; PAYLOAD] {
        let mut out = [0; PAYLOAD];
        out[..8].copy_from_slice(&mmap_size.to_le_bytes());
        out[8..16].copy_from_slice(&mmap_offset.to_le_bytes());
        out[16..18].copy_from_slice(&queues.to_le_bytes());
        out[18..20].copy_from_slice(&size.to_le_bytes());
        out
    }

    /// The region of an answer.
    pub fn parse(payload: &[u8], file: Option<File>) -> Self {
        assert!(payload.len() >= 20, "a message about the in-flight region of {} bytes", payload.len());
        let u64_at = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().expect("eight bytes"));
        let u16_at = |at: usize| u16::from_le_bytes(payload[at..at + 2].try_into().expect("two bytes"));
        let region = Self {
            file: file.expect("the in-flight region comes with a descriptor"),
            mmap_size: u64_at(0),
            mmap_offset: u64_at(8),
            num_queues: u16_at(16),
            queue_size: u16_at(18),
        };
        let len = region.file.metadata().expect("the region's file").len();
        assert!(region.mmap_offset + region.mmap_size <= len, "a region longer than its file of {len}: {region:?}");
        let blocks = region.block_start(usize::from(region.num_queues));
        assert!(region.mmap_size >= blocks, "a region too short for its queues: {region:?}");
        region
    }

    /// The message that gives the region to a daemon.
    pub fn payload(&self) -> [u8; PAYLOAD] {
        Self::payload_of(self.mmap_size, self.mmap_offset, self.num_queues, self.queue_size)
    }

    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn u16_at(&self, offset: u64) -> u16 {
        let mut out = [0; 2];
        self.file.read_exact_at(&mut out, self.mmap_offset + offset).expect("reading the region");
        u16::from_le_bytes(out)
    }

    /// How many entries a block has: at least what was asked for.
    pub fn entries(&self) -> u16 {
        let entries = self.u16_at(10);
        assert!(entries >= self.queue_size, "{entries} entries for queues of {}", self.queue_size);
        entries
    }

    /// Where a queue's block begins; for the number of queues, where the last one ends.
    pub fn block_start(&self, queue: usize) -> u64 {
        (16 + 16 * u64::from(self.entries())).next_multiple_of(64) * queue as u64
    }

    /// What stands in a queue's block.
    pub fn block(&self, queue: usize) -> Block {
        let start = self.block_start(queue);
        let mut bytes = vec![0; 16 * usize::from(self.entries())];
        self.file.read_exact_at(&mut bytes, self.mmap_offset + start + 16).expect("reading the region");
        let entry = |entry: &[u8]| {
            let counter = u64::from_le_bytes(entry[8..].try_into().expect("eight bytes"));
            (entry[0] != 0, counter)
        };
        Block {
            version: self.u16_at(start + 8),
            desc_num: self.u16_at(start + 10),
            last_batch_head: self.u16_at(start + 12),
            used_idx: self.u16_at(start + 14),
            entries: bytes.chunks(16).map(entry).collect(),
        }
    }

    /// Overwrites bytes of the region.
    pub fn patch(&self, offset: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, self.mmap_offset + offset).expect("patching the region");
    }
}
