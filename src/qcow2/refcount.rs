//! Refcounts: the table, its blocks and the entries of 1 to 64 bits (docs/interop/qcow2, "Host cluster management").
//!
//! The table is held in memory (at most 8 MiB, QEMU's limit); blocks are read and written in pieces as needed.

use std::io;
use std::ops::Range;

use crate::storage::{FileRange, Medium};
use crate::units::{Bytes, FileOffset};

/// How much of a block is read or written at a time.
const PIECE: u64 = 64 * 1024;
/// A refcount table entry's offset bits.
const OFFSET_MASK: u64 = !0x1ff;

/// Reads entry `index` of a piece of a refcount block.
pub(super) fn get_entry(piece: &[u8], index: usize, order: u32) -> u64 {
    match order {
        0..=2 => {
            let width = 1usize << order;
            let bit = index * width;
            u64::from(piece[bit / 8] >> (bit % 8)) & ((1 << width) - 1)
        }
        _ => {
            let width = 1usize << (order - 3);
            piece[index * width..][..width].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
        }
    }
}

/// Writes entry `index` of a piece of a refcount block; the caller has made sure that the value fits its width.
pub(super) fn set_entry(piece: &mut [u8], index: usize, order: u32, value: u64) {
    match order {
        0..=2 => {
            let width = 1usize << order;
            let bit = index * width;
            let mask = ((1u16 << width) - 1) as u8;
            let byte = &mut piece[bit / 8];
            *byte = *byte & !(mask << (bit % 8)) | (value as u8 & mask) << (bit % 8);
        }
        _ => {
            let width = 1usize << (order - 3);
            piece[index * width..][..width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
        }
    }
}

/// A run of clusters whose entries stand together in one block: where their bytes are in the file.
pub(super) struct Piece {
    /// The first byte.
    pub(super) offset: FileOffset,
    /// How many bytes.
    pub(super) len: usize,
    /// The cluster whose entry is the first of the bytes.
    pub(super) first: u64,
    /// The clusters asked for; a byte of narrow entries can hold neighbours.
    pub(super) clusters: Range<u64>,
}

/// The refcount table in memory.
#[derive(Debug)]
pub(super) struct Refcounts {
    /// The entries as they stand in the file: offsets of blocks, 0 for none.
    pub(super) table: Vec<u64>,
    /// Logarithm of the width of an entry in bits.
    pub(super) order: u32,
    pub(super) cluster_bits: u32,
}

impl Refcounts {
    fn block_bits(&self) -> u32 {
        self.cluster_bits + 3 - self.order
    }

    /// How many clusters the table can count.
    pub(super) fn covered(&self) -> u64 {
        (self.table.len() as u64) << self.block_bits()
    }

    /// Which block counts a cluster.
    pub(super) fn index(&self, cluster: u64) -> u64 {
        cluster >> self.block_bits()
    }

    /// The clusters that a block counts.
    pub(super) fn counted_by(&self, index: u64) -> Range<u64> {
        index << self.block_bits()..(index + 1) << self.block_bits()
    }

    fn block(&self, index: u64) -> Option<u64> {
        let entry = usize::try_from(index).ok().and_then(|index| self.table.get(index))?;
        Some(entry & OFFSET_MASK).filter(|offset| *offset != 0)
    }

    /// Whether there is a block for a cluster.
    pub(super) fn has_block(&self, index: u64) -> bool {
        self.block(index).is_some()
    }

    /// How many blocks there are.
    pub(super) fn blocks(&self) -> u64 {
        self.table.iter().filter(|entry| **entry != 0).count() as u64
    }

    /// Where the entries from `clusters.start` on stand: as many as are in the same block, in `clusters` and in a
    /// piece. `block` is the offset of the block.
    pub(super) fn piece_in(&self, block: u64, clusters: Range<u64>) -> Piece {
        let width = 1u64 << self.order;
        let base = self.counted_by(self.index(clusters.start));
        // Entries narrower than a byte share one, so a piece begins and ends at whole bytes.
        let in_byte = (8 / width).max(1);
        let first = clusters.start / in_byte * in_byte;
        let end = clusters.end.min(base.end).min(first + PIECE * 8 / width);
        let byte = |cluster: u64| (cluster - base.start) * width;
        let (from, to) = (byte(first) / 8, byte(end).div_ceil(8));
        Piece { offset: FileOffset(block + from), len: (to - from) as usize, first, clusters: clusters.start..end }
    }

    /// The next piece of `clusters` in a block that exists, or how far there is none.
    pub(super) fn piece(&self, clusters: Range<u64>) -> Result<Piece, u64> {
        let index = self.index(clusters.start);
        match self.block(index) {
            Some(block) => Ok(self.piece_in(block, clusters)),
            None => Err(self.counted_by(index).end.min(clusters.end)),
        }
    }

    /// The first cluster of the range for which `wanted` holds of its refcount. A missing block counts zeros.
    pub(super) fn find<S: Medium>(
        &self,
        storage: &S,
        clusters: Range<u64>,
        wanted: impl Fn(u64) -> bool,
    ) -> io::Result<Option<(u64, u64)>> {
        let mut bytes = Vec::new();
        let mut at = clusters.start;
        while at < clusters.end {
            match self.piece(at..clusters.end) {
                Err(_) if wanted(0) => return Ok(Some((at, 0))),
                // Past the table there is nothing to step through block by block.
                Err(_) if at >= self.covered() => return Ok(None),
                Err(next) => at = next,
                Ok(piece) => {
                    bytes.resize(piece.len, 0);
                    storage.read_at(piece.offset, &mut bytes)?;
                    for cluster in piece.clusters.clone() {
                        let value = get_entry(&bytes, (cluster - piece.first) as usize, self.order);
                        if wanted(value) {
                            return Ok(Some((cluster, value)));
                        }
                    }
                    at = piece.clusters.end;
                }
            }
        }
        Ok(None)
    }

    /// Sets the refcounts of a range, leaving out clusters whose block does not exist. Returns what was written.
    pub(super) fn fill<S: Medium>(&self, storage: &S, clusters: Range<u64>, value: u64) -> io::Result<Vec<FileRange>> {
        let mut written = Vec::new();
        let mut at = clusters.start;
        while at < clusters.end {
            at = match self.piece(at..clusters.end) {
                Err(next) => next,
                Ok(piece) => {
                    written.push(self.fill_piece(storage, &piece, value)?);
                    piece.clusters.end
                }
            };
        }
        Ok(written)
    }

    /// Sets the refcounts of those clusters of a range that a block counts which is not in the table yet. Returns what was
    /// written.
    pub(super) fn fill_in<S: Medium>(
        &self,
        storage: &S,
        block: u64,
        clusters: Range<u64>,
        value: u64,
    ) -> io::Result<Vec<FileRange>> {
        let mut written = Vec::new();
        let mut at = clusters.start;
        while at < clusters.end {
            let piece = self.piece_in(block, at..clusters.end);
            written.push(self.fill_piece(storage, &piece, value)?);
            at = piece.clusters.end;
        }
        Ok(written)
    }

    fn fill_piece<S: Medium>(&self, storage: &S, piece: &Piece, value: u64) -> io::Result<FileRange> {
        let mut bytes = vec![0u8; piece.len];
        storage.read_at(piece.offset, &mut bytes)?;
        for cluster in piece.clusters.clone() {
            set_entry(&mut bytes, (cluster - piece.first) as usize, self.order, value);
        }
        storage.write_at(piece.offset, &bytes)?;
        Ok((piece.offset, Bytes(piece.len as u64)))
    }
}
