//! What a block of a disk holds: every sector of it says of which zone, life and request it is, and where in the
//! request. So bytes of two lives, parts of two versions and blocks of requests that were never kept are all told
//! apart.

use crate::common::SECTOR;

/// Bytes in a block: what a cut never tears. `serve --block-size` has it as its default.
pub(crate) const BLOCK: usize = 4096;

/// Sectors in a block.
pub(crate) const SECTORS: u64 = BLOCK as u64 / SECTOR;

const MARK: u64 = 0x5a6f_6e65_4c69_6665;

/// Where a block's contents come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Label {
    /// The zone it was written for.
    pub(crate) zone: u32,
    /// The zone's life at that time, as the test counts.
    pub(crate) life: u32,
    /// The request, of all of this disk.
    pub(crate) serial: u32,
    /// Which block of the request.
    pub(crate) at: u32,
}

impl Label {
    /// The block that is `by` behind this one in its request.
    pub(crate) fn plus(self, by: u32) -> Self {
        Self { at: self.at + by, ..self }
    }

    /// All `count` blocks of a request that begins with this one.
    pub(crate) fn row(self, count: u32) -> impl Iterator<Item = Self> {
        (0..count).map(move |by| self.plus(by))
    }

    /// Their contents.
    pub(crate) fn data(self, count: u32) -> Vec<u8> {
        self.row(count).flat_map(|label| contents(Some(label))).collect()
    }

    fn words(self, sector: u64) -> [u64; 3] {
        let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        [MARK ^ sector, pair(self.zone, self.life), pair(self.serial, self.at)]
    }

    fn of_words(words: [u64; 3]) -> Self {
        let half = |word: u64, shift: u32| (word >> shift) as u32;
        Self { zone: half(words[1], 32), life: half(words[1], 0), serial: half(words[2], 32), at: half(words[2], 0) }
    }
}

/// What is in a place that holds a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing but zeros.
    Zeros,
    /// A whole block.
    Whole(Label),
    /// Neither: what its sectors say.
    Torn(String),
}

/// The bytes of a block.
pub(crate) fn contents(label: Option<Label>) -> Vec<u8> {
    let Some(label) = label else { return vec![0; BLOCK] };
    let mut out = Vec::with_capacity(BLOCK);
    for sector in 0..SECTORS {
        let head = label.words(sector);
        head.iter().for_each(|word| out.extend(word.to_le_bytes()));
        // The rest of a sector depends on all that its head says.
        let mut word = head.iter().fold(0, |sum: u64, word| (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for _ in 3..SECTOR / 8 {
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            out.extend(word.to_le_bytes());
        }
    }
    out
}

/// Looks at the bytes of a block.
pub(crate) fn look(bytes: &[u8]) -> Seen {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    if bytes == ZEROS {
        return Seen::Zeros;
    }
    let label = label(bytes);
    if contents(Some(label)) == bytes { Seen::Whole(label) } else { Seen::Torn(by_sectors(bytes)) }
}

/// Looks at all blocks of `bytes`.
pub(crate) fn look_at_all(bytes: &[u8]) -> Vec<Seen> {
    bytes.chunks(BLOCK).map(look).collect()
}

fn label(sector: &[u8]) -> Label {
    let word = |at: usize| u64::from_le_bytes(sector[8 * at..8 * at + 8].try_into().expect("eight bytes"));
    Label::of_words([word(0), word(1), word(2)])
}

fn by_sectors(bytes: &[u8]) -> String {
    let sectors = bytes.chunks(SECTOR as usize).enumerate().map(|(at, sector)| {
        let label = label(sector);
        let size = SECTOR as usize;
        if sector.iter().all(|byte| *byte == 0) {
            "zeros".to_owned()
        } else if contents(Some(label))[at * size..(at + 1) * size] == *sector {
            format!("{label:?}")
        } else {
            format!("{:02x?}...", &sector[..16])
        }
    });
    sectors.collect::<Vec<_>>().join(", ")
}
