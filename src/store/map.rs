//! What is known of where a zone lies in the file: a window of the zone and the extents in it.
//!
//! A map is a cache of the image's L2 tables, which are always up to date; dropping one is always safe. Inside the
//! window everything is known: what no extent covers is not mapped.

use super::request::Segment;
use crate::qcow2::Extent;
use crate::units::{Bytes, Depth, FileOffset};

/// More extents than this are not kept for one zone; the window shrinks instead.
pub(super) const MAX_EXTENTS: usize = 4096;

/// Where the bytes `from..to` of the device lie in the file.
#[derive(Debug)]
pub(super) struct ZoneMap {
    from: u64,
    to: u64,
    extents: Vec<Extent>,
    /// The next writes need no look ahead before one wants to be sure of space beyond this.
    sure: u64,
}

impl ZoneMap {
    /// `extents` are all that is mapped of `from..to`, in order.
    pub(super) fn new(from: Bytes, to: Bytes, extents: Vec<Extent>) -> Self {
        Self { from: from.0, to: to.0, extents, sure: 0 }
    }

    /// Memory held, in bytes.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.extents.capacity() * size_of::<Extent>()
    }

    /// Whether all of `start..end` is inside the window.
    pub(super) fn covers(&self, start: Bytes, end: Bytes) -> bool {
        self.from <= start.0 && end.0 <= self.to
    }

    /// Where the space that is mapped from `at` on ends before `want`, said once for each newer map; none where it does
    /// not, or was said.
    pub(super) fn short_of(&mut self, at: Bytes, want: Bytes) -> Option<Bytes> {
        if want.0 <= self.sure {
            return None;
        }
        let mut until = at.0;
        let first = self.extents.partition_point(|extent| extent.guest.0 + extent.len.0 <= at.0);
        for extent in &self.extents[first..] {
            if extent.guest.0 > until || until >= want.0 || extent.depth != Depth::TOP {
                break;
            }
            until = extent.guest.0 + extent.len.0;
        }
        let short = until < want.0;
        self.sure = if short { u64::MAX } else { until };
        short.then_some(Bytes(until))
    }

    /// Appends the pieces of `start..end`, which the window covers; what is not mapped is zeros. Returns whether
    /// any of it has no space of the image's own, so that nothing can be written there.
    pub(super) fn segments(&self, start: Bytes, end: Bytes, out: &mut Vec<Segment>) -> bool {
        let mut at = start.0;
        let mut holes = false;
        let first = self.extents.partition_point(|extent| extent.guest.0 + extent.len.0 <= at);
        for extent in &self.extents[first..] {
            if at >= end.0 || extent.guest.0 >= end.0 {
                break;
            }
            if extent.guest.0 > at {
                push_zeros(out, extent.guest.0 - at);
                holes = true;
                at = extent.guest.0;
            }
            let until = end.0.min(extent.guest.0 + extent.len.0);
            push_file(out, extent.depth, FileOffset(extent.file.0 + (at - extent.guest.0)), until - at);
            holes |= extent.depth != Depth::TOP;
            at = until;
        }
        if at < end.0 {
            push_zeros(out, end.0 - at);
            holes = true;
        }
        holes
    }

    /// Takes over a newer map of a part of the zone. The windows become one where they touch and the extents are
    /// few; otherwise only the newer one is kept.
    pub(super) fn absorb(&mut self, newer: ZoneMap) {
        let touching = newer.from <= self.to && self.from <= newer.to;
        if !touching || self.extents.len() + newer.extents.len() > MAX_EXTENTS {
            *self = newer;
            return;
        }
        let mut merged: Vec<Extent> = Vec::with_capacity(self.extents.len() + newer.extents.len());
        self.extents.iter().for_each(|extent| push_part(&mut merged, extent, 0, newer.from));
        newer.extents.iter().for_each(|extent| push_part(&mut merged, extent, newer.from, newer.to));
        self.extents.iter().for_each(|extent| push_part(&mut merged, extent, newer.to, u64::MAX));
        merged.shrink_to_fit();
        *self = Self { from: self.from.min(newer.from), to: self.to.max(newer.to), extents: merged, sure: 0 };
    }
}

/// Appends the part of `extent` inside `from..to`, joined to the last extent where both are contiguous.
fn push_part(out: &mut Vec<Extent>, extent: &Extent, from: u64, to: u64) {
    let start = extent.guest.0.max(from);
    let end = (extent.guest.0 + extent.len.0).min(to);
    if start >= end {
        return;
    }
    let file = extent.file.0 + (start - extent.guest.0);
    if let Some(last) = out.last_mut()
        && last.depth == extent.depth
        && last.guest.0 + last.len.0 == start
        && last.file.0 + last.len.0 == file
    {
        last.len.0 += end - start;
        return;
    }
    out.push(Extent { guest: Bytes(start), file: FileOffset(file), len: Bytes(end - start), ..*extent });
}

/// Appends a piece of the file, joined to the last one where it goes on from it.
fn push_file(out: &mut Vec<Segment>, depth: Depth, offset: FileOffset, len: u64) {
    if let Some(Segment::File { depth: last_depth, offset: last, len: last_len }) = out.last_mut()
        && *last_depth == depth
        && last.0 + last_len.0 == offset.0
    {
        last_len.0 += len;
        return;
    }
    out.push(Segment::File { depth, offset, len: Bytes(len) });
}

/// Appends zeros, joined to zeros before them.
pub(super) fn push_zeros(out: &mut Vec<Segment>, len: u64) {
    if let Some(Segment::Zero { len: last }) = out.last_mut() {
        last.0 += len;
        return;
    }
    out.push(Segment::Zero { len: Bytes(len) });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(guest: u64, file: u64, len: u64) -> Extent {
        Extent { guest: Bytes(guest), depth: Depth::TOP, file: FileOffset(file), len: Bytes(len) }
    }

    #[test]
    fn space_of_a_base_is_read_from_and_not_written_to() {
        let of_base = |extent: Extent| Extent { depth: Depth(1), ..extent };
        let map = ZoneMap::new(Bytes(0), Bytes(100), vec![extent(0, 1000, 10), of_base(extent(10, 1010, 10))]);
        let mut out = Vec::new();
        assert!(map.segments(Bytes(5), Bytes(15), &mut out));
        let file = |depth, offset| Segment::File { depth: Depth(depth), offset: FileOffset(offset), len: Bytes(5) };
        assert_eq!(out, [file(0, 1005), file(1, 1010)]);
        assert!(!map.segments(Bytes(0), Bytes(10), &mut out));
        let mut map = map;
        assert_eq!(map.short_of(Bytes(0), Bytes(15)), Some(Bytes(10)));
    }

    #[test]
    fn segments_cover_the_range_exactly_and_name_holes() {
        let map = ZoneMap::new(Bytes(0), Bytes(100), vec![extent(10, 1000, 10), extent(30, 1020, 10)]);
        let mut out = Vec::new();
        assert!(map.segments(Bytes(5), Bytes(45), &mut out));
        let file = |offset, len| Segment::File { depth: Depth::TOP, offset: FileOffset(offset), len: Bytes(len) };
        let zero = |len| Segment::Zero { len: Bytes(len) };
        assert_eq!(out, [zero(5), file(1000, 10), zero(10), file(1020, 10), zero(5)]);
        out.clear();
        assert!(!map.segments(Bytes(12), Bytes(18), &mut out));
        assert_eq!(out, [file(1002, 6)]);
    }

    #[test]
    fn a_map_that_ends_too_soon_says_so_once() {
        let mut map = ZoneMap::new(Bytes(0), Bytes(100), vec![extent(0, 1000, 30), extent(30, 2000, 30)]);
        assert_eq!(map.short_of(Bytes(10), Bytes(60)), None);
        assert_eq!(map.short_of(Bytes(20), Bytes(61)), Some(Bytes(60)));
        assert_eq!(map.short_of(Bytes(20), Bytes(70)), None, "it was said");
        map.absorb(ZoneMap::new(Bytes(60), Bytes(80), vec![extent(60, 2030, 20)]));
        assert_eq!(map.short_of(Bytes(20), Bytes(70)), None);
        assert_eq!(map.short_of(Bytes(80), Bytes(90)), Some(Bytes(80)), "where it ends");
    }

    #[test]
    fn a_newer_map_replaces_what_it_covers_and_joins_what_it_touches() {
        let mut map = ZoneMap::new(Bytes(0), Bytes(50), vec![extent(0, 1000, 20)]);
        map.absorb(ZoneMap::new(Bytes(20), Bytes(80), vec![extent(20, 1020, 30), extent(60, 2000, 20)]));
        assert!(map.covers(Bytes(0), Bytes(80)) && !map.covers(Bytes(0), Bytes(81)));
        assert_eq!(map.extents, [extent(0, 1000, 50), extent(60, 2000, 20)]);
        map.absorb(ZoneMap::new(Bytes(200), Bytes(210), Vec::new()));
        assert!(!map.covers(Bytes(0), Bytes(80)) && map.covers(Bytes(200), Bytes(210)));
    }
}
