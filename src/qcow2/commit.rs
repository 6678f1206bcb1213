//! Taking the changes of an image into the base that it builds on.
//!
//! Invariants:
//!
//! - The image is not changed but for what it says of its base, so that a commit that was ended in the midst is done again by another
//!   one. Until then the image is marked, and refused for anything else.
//! - Each sequential zone of the base stands, whenever the process dies or the power goes, as it did, or empty where the image has
//!   reset it, or as the image has it. Conventional zones are overwritten in place.
//!
//! The order: the mark; the write pointers of zones that the image has reset, durable; data, durable; the write pointers, durable; what the
//! image says of its base.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::backing::{Backing, Identity};
use super::base::Base;
use super::error::{MapError, OpenError, RebaseError};
use super::mapping::{Extent, Mapping};
use super::{Access, Image, PointerTable};
use crate::storage::{FileRange, Medium};
use crate::units::{Bytes, ZoneIndex};
use crate::zone::{State, Zone, ZoneKind};

/// How much is copied at a time.
const PIECE: u64 = 1 << 20;
/// Space reserved at a time: each reservation waits for the disk.
const AHEAD: Bytes = Bytes(64 << 20);

/// What a commit has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Zones of the base that have changed.
    pub zones: u32,
}

/// A zone that is to be changed.
struct Wanted {
    zone: ZoneIndex,
    /// How the image has it.
    pointer: Bytes,
    /// The image has reset it since the fork.
    anew: bool,
}

/// Takes the changes of the image in `top` into its base in `base`, which builds on `below`. `stamp` says what is known
/// of the last change of the base's file; `reached` is told how far on the disk the data is copied, and how large that is.
pub fn commit<S: Medium, B: Medium>(
    top: &Arc<S>,
    base: &Arc<B>,
    below: Option<Base>,
    stamp: impl Fn() -> Result<String, OpenError>,
    mut reached: impl FnMut(Bytes, Bytes),
) -> Result<Committed, RebaseError> {
    let mut image = Image::open_without_base(Arc::clone(top), Access::ReadWrite)?;
    let backing = image.backing.clone().ok_or(RebaseError::NoBase)?;
    let before = Image::open_without_base(Arc::clone(base), Access::ReadOnly)?;
    let found = identity_of(&before, stamp()?)?;
    if let Some(meant) = backing.identity.as_ref().filter(|meant| !meant.committing)
        && let Some(changed) = meant.changed(&found)
    {
        return Err(RebaseError::Different { changed });
    }
    if image.header.size != before.header.size {
        return Err(RebaseError::Larger { size: image.header.size, base: before.header.size });
    }
    let top_orderly = image.orderly;
    image.prepare_for_writing()?;
    let marked = Identity { committing: true, ..found };
    image.name_base(&Backing { identity: Some(marked), ..backing.clone() })?;
    // To open the base for writing changes it already.
    let mut target = Image::open_over(Arc::clone(base), Access::ReadWrite, below)?;
    let base_orderly = target.orderly;
    let wanted = Committer { image: &image, target: &mut target }.run(&mut reached)?;
    target.release()?;
    if base_orderly {
        target.mark_orderly()?;
    }
    target.flush()?;
    let identity = identity_of(&target, stamp()?)?;
    drop(target);
    image.name_base(&Backing { identity: Some(identity), ..backing })?;
    if top_orderly {
        image.mark_orderly()?;
    }
    Ok(Committed { zones: wanted })
}

fn identity_of<S: Medium>(image: &Image<S>, stamp: String) -> Result<Identity, OpenError> {
    Identity::of(&*image.storage, image.header.cluster_size(), image.pointer_table().range(), stamp)
}

/// A part of the disk that is the image's own: where its bytes are, or zeros.
type Own = (Range<u64>, Option<Extent>);

struct Committer<'a, S, B> {
    image: &'a Image<S>,
    target: &'a mut Image<B>,
}

impl<S: Medium, B: Medium> Committer<'_, S, B> {
    /// Takes over all that differs, and returns how many zones that are.
    fn run(&mut self, reached: &mut impl FnMut(Bytes, Bytes)) -> Result<u32, RebaseError> {
        self.target.keep_ahead(AHEAD);
        let table = self.target.pointer_table();
        let wanted = self.wanted()?;
        for one in wanted.iter().filter(|one| one.anew) {
            store(&table, one.zone, self.target.geometry.start(one.zone))?;
        }
        self.target.flush()?;
        for one in &wanted {
            self.take_zone(one)?;
            reached(self.target.geometry.start(one.zone), self.target.header.size);
        }
        self.target.flush()?;
        for one in &wanted {
            store(&table, one.zone, one.pointer)?;
        }
        self.target.flush()?;
        Ok(wanted.len() as u32)
    }

    /// The zones that differ.
    fn wanted(&self) -> Result<Vec<Wanted>, RebaseError> {
        let geometry = self.target.geometry;
        let (new, old) = (self.image.write_pointers()?, self.target.write_pointers()?);
        let mut wanted = Vec::new();
        for (index, (new, old)) in (0..).zip(new.into_iter().zip(old)) {
            let zone = ZoneIndex(index);
            let seen = |pointer| Zone::from_pointer(&geometry, zone, pointer);
            let range = geometry.start(zone).0..geometry.writable_end(zone).0;
            let own = self.own(range.clone())?;
            if geometry.kind(zone) == ZoneKind::Conventional {
                if !own.is_empty() {
                    wanted.push(Wanted { zone, pointer: new, anew: false });
                }
                continue;
            }
            let is_empty = seen(new).state() == State::Empty;
            let anew = match is_empty {
                true => seen(old).state() != State::Empty,
                false => self.was_reset(&own, seen(old).readable_end(&geometry, zone).0)?,
            };
            if anew || !same_pointer(&seen(new), &seen(old)) {
                let is_full = seen(new).state() == State::Full;
                let pointer = if is_full { self.target.pointer_table().full_pointer(zone) } else { new };
                wanted.push(Wanted { zone, pointer, anew });
            }
        }
        Ok(wanted)
    }

    /// The image's own parts of a range of the disk, zeros among them.
    fn own(&self, range: Range<u64>) -> Result<Vec<Own>, MapError> {
        let bits = self.image.header.cluster_bits;
        let mut parts: Vec<Own> = Vec::new();
        let mut clusters = self.image.guest_clusters(Bytes(range.start), Bytes(range.end - range.start));
        let mut bytes = Vec::new();
        while !clusters.is_empty() {
            let part = self.image.part(clusters.clone())?;
            clusters.start = part.clusters.end;
            let Some(entries) = part.entries else { continue };
            self.image.read_entries(entries, &part.clusters, &mut bytes)?;
            for (guest, entry) in part.clusters.zip(bytes.as_chunks::<8>().0) {
                let here = (guest << bits).max(range.start)..((guest + 1) << bits).min(range.end);
                match self.image.mapping(guest, u64::from_be_bytes(*entry))? {
                    Mapping::Unmapped => {}
                    Mapping::Zero | Mapping::Zeroed(_) => parts.push((here, None)),
                    Mapping::Mapped(_) => {
                        let mut extents = Vec::new();
                        let len = Bytes(here.end - here.start);
                        self.image.own_extents(Bytes(here.start), len, &mut extents, 1)?;
                        parts.push((here, extents.pop()));
                    }
                }
            }
        }
        Ok(parts)
    }

    /// Whether what the image has of its own is something else than what the base has, up to `end`: only a reset leads to that.
    fn was_reset(&self, own: &[Own], end: u64) -> Result<bool, RebaseError> {
        for (part, extent) in own {
            let part = part.start..part.end.min(end);
            if part.start < part.end && self.bytes_of(extent.as_ref(), &part)? != self.target_bytes(&part)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn bytes_of(&self, extent: Option<&Extent>, part: &Range<u64>) -> Result<Vec<u8>, MapError> {
        let mut bytes = vec![0; (part.end - part.start) as usize];
        if let Some(extent) = extent {
            self.image.read_extent(extent, &mut bytes)?;
        }
        Ok(bytes)
    }

    fn target_bytes(&self, part: &Range<u64>) -> Result<Vec<u8>, MapError> {
        let mut bytes = vec![0; (part.end - part.start) as usize];
        let mut extents = Vec::new();
        self.target.extents(Bytes(part.start), Bytes(part.end - part.start), &mut extents, usize::MAX)?;
        for extent in extents {
            let first = (extent.guest.0 - part.start) as usize;
            if let Some(into) = bytes.get_mut(first..first + extent.len.0 as usize) {
                self.target.read_extent(&extent, into)?;
            }
        }
        Ok(bytes)
    }

    /// Brings the data of a zone over. Its write pointer in the base stands before all that is written here, but in a conventional
    /// zone.
    fn take_zone(&mut self, wanted: &Wanted) -> Result<(), RebaseError> {
        let (geometry, zone) = (self.target.geometry, wanted.zone);
        let range = geometry.start(zone)..geometry.writable_end(zone);
        let conventional = geometry.kind(zone) == ZoneKind::Conventional;
        let from = match (conventional, wanted.anew) {
            (true, _) | (_, true) => range.start,
            (false, false) => {
                let mut old = range.start;
                self.target.each_write_pointer(zone.0..zone.0 + 1, |_, pointer| {
                    old = Zone::from_pointer(&geometry, zone, pointer).readable_end(&geometry, zone);
                    ControlFlow::Break(())
                })?;
                old
            }
        };
        if !conventional {
            // Whatever is in the file there nobody could read; what is read of it from now on is the image's.
            self.clear(from.0..range.end.0)?;
        }
        let to = if conventional { range.end } else { wanted.pointer.min(range.end) };
        for (part, extent) in self.own(from.0..to.0)? {
            match extent {
                Some(extent) => self.copy(&extent, &part)?,
                None if conventional => self.clear(part)?,
                None => {}
            }
        }
        Ok(())
    }

    fn copy(&mut self, extent: &Extent, part: &Range<u64>) -> Result<(), RebaseError> {
        for at in (part.start..part.end).step_by(PIECE as usize) {
            let here = at..part.end.min(at.saturating_add(PIECE));
            let skip = at - part.start;
            let piece = Extent { guest: Bytes(at), file: super::FileOffset(extent.file.0 + skip), ..*extent };
            let bytes = self.bytes_of(Some(&piece), &here)?;
            self.target.map(Bytes(here.start), Bytes(here.end - here.start))?;
            let mut places = Vec::new();
            self.target.own_extents(Bytes(here.start), Bytes(here.end - here.start), &mut places, usize::MAX)?;
            for place in places {
                let first = (place.guest.0 - here.start) as usize;
                let Some(bytes) = bytes.get(first..first + place.len.0 as usize) else { continue };
                let written = self.target.storage.write_at(place.file, bytes);
                written.map_err(|source| RebaseError::Io { doing: "write to the base", source })?;
            }
        }
        Ok(())
    }

    /// Makes a range read as zeros.
    fn clear(&mut self, range: Range<u64>) -> Result<(), RebaseError> {
        let mut hidden: Vec<FileRange> = Vec::new();
        self.target.hide(Bytes(range.start), Bytes(range.end), &mut hidden)?;
        let mut extents = Vec::new();
        self.target.own_extents(
            Bytes(range.start),
            Bytes(range.end.saturating_sub(range.start)),
            &mut extents,
            usize::MAX,
        )?;
        for extent in extents {
            let punched = self.target.storage.punch(extent.file, extent.len);
            punched.map_err(|source| RebaseError::Io { doing: "clear a zone of the base", source })?;
        }
        Ok(())
    }
}

fn same_pointer(new: &Zone, old: &Zone) -> bool {
    new.state() == old.state() && (new.state() == State::Full || new.write_pointer() == old.write_pointer())
}

fn store<B: Medium>(table: &PointerTable<B>, zone: ZoneIndex, pointer: Bytes) -> Result<(), RebaseError> {
    table
        .store(zone, pointer)
        .map_err(|source| RebaseError::Io { doing: "write the write pointers of the base", source })
}
