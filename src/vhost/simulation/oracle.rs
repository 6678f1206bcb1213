//! What a guest may see: what each zone holds by the requests that it has issued and that were answered.
//!
//! Every block of 512 bytes that is written has a number of its own, so that each block that is read tells where it comes
//! from. Rules of the guest: a zone's writes and appends come from one queue, in order; whatever else changes it is asked for
//! only while nothing of the zone is in flight. So the outcome of each request is known before its answer, but for failures,
//! after which a zone is *doubtful* until nothing of it is in flight, and is looked at anew: an append behind a write that
//! has failed lands where that should have, and may fail in part itself.

use crate::units::Bytes;
use crate::zone::State;

/// Bytes of a block.
pub(super) const BLOCK: u64 = 512;

/// The bytes of a block with this number; zeros for 0.
pub(super) fn fill(number: u64, out: &mut Vec<u8>) {
    for word in 0..BLOCK / 8 {
        let value = if number == 0 { 0 } else { number ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// The numbers of the blocks in these bytes; a block that is no block that was ever written is a fault.
pub(super) fn numbers(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks(BLOCK as usize)
        .map(|block| {
            let number = u64::from_le_bytes(block[..8].try_into().unwrap());
            let mut expected = Vec::new();
            fill(number, &mut expected);
            assert_eq!(block, expected, "a block that is torn, or was never written");
            number
        })
        .collect()
}

/// In the place of a block's number: one of those issued in the zone's life.
const ANY: u64 = u64::MAX;

/// A zone from one reset to the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Life {
    /// The blocks that were issued, where each has to be.
    pub(super) blocks: Vec<u64>,
    /// All that were issued, wherever they are.
    pub(super) issued: Vec<u64>,
    /// A finish was issued.
    pub(super) finished: bool,
}

impl Life {
    /// Takes blocks in behind those that were issued.
    pub(super) fn issue(&mut self, blocks: &[u64]) {
        self.blocks.extend(blocks);
        self.issued.extend(blocks);
    }

    /// Whether a block may have this number; where `unsure`, one that was issued anywhere in the zone.
    fn may_hold(&self, at: usize, number: u64, unsure: bool) -> bool {
        match self.blocks.get(at).copied().unwrap_or(0) {
            issued if issued == number => true,
            issued => (issued == ANY || unsure) && self.issued.contains(&number),
        }
    }
}

/// How far a zone has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) life: usize,
    pub(super) blocks: usize,
    pub(super) finished: bool,
}

/// A sequential zone.
#[derive(Clone, Debug)]
pub(super) struct Zone {
    pub(super) start: u64,
    /// Blocks that can be written.
    pub(super) capacity: usize,
    /// All since the last loss of power, the present one last.
    pub(super) lives: Vec<Life>,
    /// What was answered.
    pub(super) answered: Mark,
    /// What outlives a loss of power.
    pub(super) stable: Mark,
    pub(super) in_flight: usize,
    /// Something that is no read or write is in flight.
    pub(super) alone: bool,
    pub(super) doubtful: bool,
}

impl Zone {
    pub(super) fn new(start: u64, capacity: usize) -> Self {
        Self {
            start,
            capacity,
            lives: vec![Life::default()],
            answered: Mark::default(),
            stable: Mark::default(),
            in_flight: 0,
            alone: false,
            doubtful: false,
        }
    }

    pub(super) fn life(&mut self) -> &mut Life {
        self.lives.last_mut().unwrap()
    }

    /// How many blocks of its present life were answered.
    pub(super) fn answered_blocks(&self) -> usize {
        if self.answered.life + 1 == self.lives.len() { self.answered.blocks } else { 0 }
    }

    /// Blocks that can still be issued.
    pub(super) fn left(&self) -> usize {
        let life = self.lives.last().unwrap();
        if life.finished { 0 } else { self.capacity - life.blocks.len() }
    }

    /// A write or append of these blocks was answered with OK, and begins at `first`.
    pub(super) fn written(&mut self, first: usize, blocks: &[u64]) {
        let life = self.lives.len() - 1;
        assert_eq!(self.answered.life, life, "a write before its reset was answered");
        let (known, end) = (&mut self.life().blocks, first + blocks.len());
        known.resize(known.len().max(end), 0);
        known[first..end].copy_from_slice(blocks);
        self.answered.blocks = self.answered.blocks.max(end);
    }

    /// Checks what was read from block `first` on. `answered` is how much was when the read was issued.
    pub(super) fn check_read(&self, first: usize, answered: usize, seen: &[u64]) {
        let life = self.lives.last().unwrap();
        for (at, number) in (first..).zip(seen) {
            let unsure = self.doubtful && at >= answered;
            let right = life.may_hold(at, *number, unsure) || (*number == 0 && at >= answered);
            assert!(right, "block {at} of the zone at {:#x} is {number}: {self:?}", self.start);
        }
    }

    /// Takes the zone as it is said to be, with nothing in flight; the blocks that were written must be there.
    pub(super) fn look_anew(&mut self, state: State, pointer: Bytes) {
        let blocks = ((pointer.0 - self.start) / BLOCK) as usize;
        let full = state == State::Full;
        let unwritten = self.lives.last().unwrap().blocks.is_empty() && self.answered.life + 1 < self.lives.len();
        if unwritten && (blocks != 0 || full) {
            // A reset that has failed.
            self.lives.pop();
        }
        let (life, low) = (self.lives.len() - 1, self.answered_blocks());
        let issued = self.lives.last().unwrap();
        let fits =
            if full { issued.finished || issued.blocks.len() == self.capacity } else { blocks <= issued.blocks.len() };
        assert!(fits && blocks >= low, "the zone at {:#x} is {state:?} with {blocks} blocks: {self:?}", self.start);
        let finished = full && issued.finished;
        // What a finish has left unwritten is not said, so that all that was issued may be there.
        let kept = if finished { issued.blocks.len() } else { blocks };
        let present = self.life();
        present.blocks.resize(kept, 0);
        // Of a write that has failed a part may be there.
        present.blocks.iter_mut().skip(low).for_each(|block| *block = ANY);
        present.finished = finished;
        let low = if finished { low } else { kept };
        self.answered = Mark { life, blocks: low, finished };
        self.doubtful = false;
    }

    /// Checks a zone after a loss of power, and goes on from there. `seen` are all its blocks. On `command` a prefix is left, and
    /// none of it is lost.
    pub(super) fn after_power_loss(&mut self, state: State, pointer: Bytes, seen: &[u64], unsure: bool, command: bool) {
        let full = state == State::Full;
        let blocks = ((pointer.0 - self.start) / BLOCK) as usize;
        let fits = |number: usize, life: &Life| {
            let (low, stable) = match number == self.stable.life {
                true => (self.stable.blocks, self.stable.finished),
                false => (0, false),
            };
            let up_to = if full { self.capacity } else { blocks };
            let reached =
                if full { life.finished || life.blocks.len() == self.capacity } else { blocks <= life.blocks.len() };
            let contents = seen.iter().enumerate().all(|(at, number)| {
                let lost = *number == 0 && at >= low && !(command && at < blocks.min(life.blocks.len()) && !full);
                lost || at < up_to && life.may_hold(at, *number, unsure && at >= low)
            });
            reached && blocks >= low && (full || !stable) && contents
        };
        let found = (self.stable.life..self.lives.len()).rev().find(|life| fits(*life, &self.lives[*life]));
        assert!(
            found.is_some(),
            "the zone at {:#x} is {state:?} with {blocks} blocks {seen:?} after a loss of power: {self:?}",
            self.start
        );
        let blocks = seen[..blocks.min(self.capacity)].to_vec();
        let mut life = Life { issued: blocks.clone(), blocks, finished: full };
        if full {
            life.blocks.truncate(seen.iter().rposition(|number| *number != 0).map_or(0, |last| last + 1));
        }
        let mark = Mark { life: 0, blocks: life.blocks.len(), finished: full };
        *self = Self { lives: vec![life], answered: mark, stable: mark, ..Self::new(self.start, self.capacity) };
    }
}

/// The conventional zone: every version of every block.
#[derive(Clone, Debug)]
pub(super) struct Conventional {
    /// By block: its versions, which of them the last answer was for, and which is stable.
    pub(super) blocks: Vec<Versions>,
}

#[derive(Clone, Debug)]
pub(super) struct Versions {
    pub(super) numbers: Vec<u64>,
    pub(super) answered: usize,
    pub(super) stable: usize,
    pub(super) writing: bool,
}

impl Conventional {
    pub(super) fn new(blocks: &[u64]) -> Self {
        let block = |number: &u64| Versions { numbers: vec![*number], answered: 0, stable: 0, writing: false };
        Self { blocks: blocks.iter().map(block).collect() }
    }

    /// Checks blocks from `first` on, of which the versions before those in `from` may not show any more.
    pub(super) fn check(&self, first: usize, from: &[usize], seen: &[u64]) {
        for ((at, number), from) in (first..).zip(seen).zip(from) {
            let versions = &self.blocks[at];
            let right = versions.numbers[*from..].contains(number);
            assert!(right, "conventional block {at} is {number}: {versions:?}, from version {from} on");
        }
    }
}
