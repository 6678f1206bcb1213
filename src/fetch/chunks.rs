//! An object as chunks: what is fetched, claimed and given up as one.

use std::ops::Range;

/// Bytes of a chunk; the last one of an object may have less.
pub const CHUNK: u64 = 256 * 1024;

/// The chunks of an object of `len` bytes.
pub fn count(len: u64) -> u64 {
    len.div_ceil(CHUNK)
}

/// The chunks that hold a range of an object of `len` bytes. What lies past its end is in none.
pub fn of(range: &Range<u64>, len: u64) -> Range<u64> {
    let end = range.end.min(len);
    if range.start >= end {
        return 0..0;
    }
    range.start / CHUNK..end.div_ceil(CHUNK)
}

/// The bytes of chunks of an object of `len` bytes.
pub fn bytes(chunks: &Range<u64>, len: u64) -> Range<u64> {
    let at = |chunk: u64| chunk.saturating_mul(CHUNK).min(len);
    at(chunks.start)..at(chunks.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_in_the_chunks_that_hold_them() {
        let len = 2 * CHUNK + 10;
        for (range, expected) in [
            (0..1, 0..1),
            (0..CHUNK, 0..1),
            (CHUNK - 1..CHUNK + 1, 0..2),
            (2 * CHUNK..u64::MAX, 2..3),
            (len..len + 5, 0..0),
            (5..5, 0..0),
        ] {
            assert_eq!(of(&range, len), expected, "{range:?}");
        }
        assert_eq!((count(0), count(1), count(len)), (0, 1, 3));
        assert_eq!(bytes(&(1..3), len), CHUNK..len);
    }
}
