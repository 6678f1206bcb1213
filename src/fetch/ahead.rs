//! Reads that go on from each other, and what to fetch before they come.

use std::ops::Range;

/// Streams that are followed at a time.
const STREAMS: usize = 8;

/// How far ahead of the second read of a stream is fetched, in bytes; each time it is asked for, twice as far.
const FIRST: u64 = 1 << 20;

/// How far ahead of any read.
const FARTHEST: u64 = 16 << 20;

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    file: usize,
    /// Where its next read would begin.
    next: u64,
    window: u64,
    /// Up to where it was asked for.
    asked: u64,
}

/// The streams of one queue's reads.
#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: [Stream; STREAMS],
    /// The one that is given up for the next.
    oldest: usize,
}

impl Streams {
    /// Takes note of a read of a file. Returns what is worth fetching beyond it, in bytes.
    pub(super) fn note(&mut self, file: usize, range: &Range<u64>) -> Option<Range<u64>> {
        let goes_on = |stream: &&mut Stream| stream.file == file && stream.next == range.start && stream.next != 0;
        let Some(stream) = self.streams.iter_mut().find(goes_on) else {
            let oldest = self.oldest;
            self.oldest = (oldest + 1) % STREAMS;
            if let Some(stream) = self.streams.get_mut(oldest) {
                *stream = Stream { file, next: range.end, window: FIRST, asked: range.end };
            }
            return None;
        };
        stream.next = range.end;
        let until = range.end.saturating_add(stream.window);
        stream.asked = stream.asked.max(range.end);
        if until.saturating_sub(stream.asked) < stream.window / 2 {
            return None;
        }
        stream.window = (stream.window * 2).min(FARTHEST);
        Some(std::mem::replace(&mut stream.asked, until)..until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn only_reads_that_go_on_from_each_other_are_fetched_ahead_of_and_nothing_is_asked_twice() {
        let mut streams = Streams::default();
        assert_eq!(streams.note(1, &(MIB..2 * MIB)), None);
        assert_eq!(streams.note(2, &(2 * MIB..3 * MIB)), None, "another file");
        assert_eq!(streams.note(1, &(7 * MIB..8 * MIB)), None);
        let (mut at, mut asked) = (2 * MIB, 2 * MIB);
        for _ in 0..64 {
            let ahead = streams.note(1, &(at..at + MIB / 4));
            at += MIB / 4;
            if let Some(ahead) = ahead {
                assert_eq!(ahead.start, asked.max(at));
                assert!(ahead.end > ahead.start && ahead.end <= at + FARTHEST);
                asked = ahead.end;
            }
            assert!(asked > at, "what comes next was asked for");
        }
        assert!(asked > at + 4 * MIB, "further and further: {asked} at {at}");
    }
}
