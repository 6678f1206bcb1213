//! Putting an image on another base, without a change of what its disk shows.
//!
//! Invariants:
//!
//! - A death or a loss of power at any step leaves the image on its old base or on its new one, and each time the disk shows the same:
//!   where the two bases differ the image has clusters of its own before it changes over.
//! - What a base shows beyond the image's own write pointers counts too, so that nothing new is there to be hidden.

use std::ops::Range;
use std::sync::Arc;

use super::backing::{self, Backing, Identity};
use super::base::Base;
use super::error::{MapError, OpenError, RebaseError};
use super::extension;
use super::header::BACKING_FIELDS;
use super::mapping::{Extent, Mapping};
use super::{Access, Change, Image, redo};
use crate::storage::Medium;
use crate::units::{Bytes, FileOffset};

/// How much is compared at a time.
const PIECE: u64 = 1 << 20;

/// What a rebase has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rebased {
    /// Clusters that the image has of its own since then, as the bases differ there.
    pub clusters: u64,
}

/// Puts the image in `storage`, which builds on `old`, on `new`, which is found by `name`. `reached` is told how far on the disk the
/// bases are compared.
pub fn rebase<S: Medium>(
    storage: &Arc<S>,
    old: Base,
    new: Base,
    name: &str,
    mut reached: impl FnMut(Bytes),
) -> Result<Rebased, RebaseError> {
    let mut image = Image::open_over(Arc::clone(storage), Access::ReadWrite, Some(old))?;
    new.check_shape(&image.geometry)?;
    let mut rebased = Rebased::default();
    let size = image.header.size.0;
    let piece = PIECE.max(image.header.cluster_size().0);
    for at in (0..size).step_by(piece as usize) {
        let differing = image.differing(&new, at..at.saturating_add(piece).min(size))?;
        rebased.clusters += differing.len() as u64;
        for guest in differing {
            let cluster = image.cluster_range(guest);
            image.map(Bytes(cluster.start), Bytes(cluster.end - cluster.start))?;
        }
        reached(Bytes(at));
    }
    let orderly = image.orderly;
    image.name_base(&Backing { name: name.to_owned(), identity: Some(new.identity().clone()) })?;
    image.release()?;
    if orderly {
        image.mark_orderly()?;
    }
    Ok(rebased)
}

/// Names the file of the same base anew: one with the content that the image says, wherever the file is now and whenever it was
/// copied there.
pub fn relink<S: Medium>(storage: &Arc<S>, base: &Base, name: &str) -> Result<(), RebaseError> {
    let mut image = Image::open_without_base(Arc::clone(storage), Access::ReadWrite)?;
    let meant = image.backing.as_ref().and_then(|backing| backing.identity.as_ref());
    let same = |meant: &Identity| meant.changed(&Identity { stamp: meant.stamp.clone(), ..base.identity().clone() });
    if let Some(changed) = meant.map_or(Some(super::Changed::Header), same) {
        return Err(RebaseError::Different { changed });
    }
    base.check_shape(&image.geometry)?;
    image.prepare_for_writing()?;
    let orderly = image.orderly;
    image.name_base(&Backing { name: name.to_owned(), identity: Some(base.identity().clone()) })?;
    if orderly {
        image.mark_orderly()?;
    }
    Ok(())
}

impl<S: Medium> Image<S> {
    /// The guest clusters in a range of the disk that are not the image's own and in which another base shows something else than its
    /// own one.
    fn differing(&self, other: &Base, range: Range<u64>) -> Result<Vec<u64>, MapError> {
        let mut differing = Vec::new();
        let mut clusters = self.guest_clusters(Bytes(range.start), Bytes(range.end - range.start));
        let mut bytes = Vec::new();
        while !clusters.is_empty() {
            let part = self.part(clusters.clone())?;
            clusters.start = part.clusters.end;
            bytes.clear();
            match part.entries {
                Some(entries) => self.read_entries(entries, &part.clusters, &mut bytes)?,
                None => bytes.resize((part.clusters.end - part.clusters.start) as usize * 8, 0),
            }
            for (guest, entry) in part.clusters.zip(bytes.as_chunks::<8>().0) {
                let through = self.mapping(guest, u64::from_be_bytes(*entry))? == Mapping::Unmapped;
                if through && self.differs(other, self.cluster_range(guest))? {
                    differing.push(guest);
                }
            }
        }
        Ok(differing)
    }

    fn differs(&self, other: &Base, cluster: Range<u64>) -> Result<bool, MapError> {
        let (own, others) = (self.shown(cluster.clone())?, other.shown(cluster.clone())?);
        if own.is_empty() && others.is_empty() {
            return Ok(false);
        }
        let len = (cluster.end - cluster.start) as usize;
        let own = gathered(&own, cluster.start, len, |extent, into| self.read_extent(extent, into))?;
        Ok(own != gathered(&others, cluster.start, len, |extent, into| other.read_extent(extent, into))?)
    }

    /// Has the header name another base, at once with which content of it is meant.
    pub(super) fn name_base(&mut self, backing: &Backing) -> Result<(), RebaseError> {
        let room = self.header.cluster_size().0;
        let begin = u64::from(self.header.header_length);
        let mut area = vec![0; room.min(self.file_len).saturating_sub(begin) as usize];
        let read = self.storage.read_at(FileOffset(begin), &mut area);
        read.map_err(OpenError::io("read the header extensions"))?;
        let (used, kept) = extension::without(&area, &[backing::FORMAT, backing::IDENTITY])?;
        let mut anew = kept;
        extension::push(&mut anew, backing::FORMAT, backing::QCOW2.as_bytes());
        if let Some(identity) = &backing.identity {
            extension::push(&mut anew, backing::IDENTITY, &identity.encode());
        }
        extension::push(&mut anew, extension::END, &[]);
        let name_at = begin + anew.len() as u64;
        anew.extend_from_slice(backing.name.as_bytes());
        if begin + anew.len() as u64 > room || backing.name.len() > backing::LONGEST_NAME {
            return Err(RebaseError::Name { len: backing.name.len(), cluster_size: self.header.cluster_size() });
        }
        let old_name = self.header.backing_name.map_or(0, |(at, len)| at.0.saturating_add(len.into()));
        let old_end = used.max(old_name.saturating_sub(begin) as usize).min(area.len());
        anew.resize(anew.len().max(old_end), 0);
        let fields = [&name_at.to_be_bytes()[..], &(backing.name.len() as u32).to_be_bytes()].concat();
        let changes: Vec<Change> = vec![(FileOffset(BACKING_FIELDS.start), fields), (FileOffset(begin), anew)];
        self.change_at_once(&changes, redo::NO_WORD, || ())?;
        // A file that makes nothing durable any more is not gone on with.
        self.flush()?;
        Ok(())
    }
}

/// The bytes of a range that begins at `start`, of which these extents are there.
fn gathered(
    extents: &[Extent],
    start: u64,
    len: usize,
    read: impl Fn(&Extent, &mut [u8]) -> Result<(), MapError>,
) -> Result<Vec<u8>, MapError> {
    let mut bytes = vec![0; len];
    for extent in extents {
        let first = (extent.guest.0 - start) as usize;
        if let Some(part) = bytes.get_mut(first..first + extent.len.0 as usize) {
            read(extent, part)?;
        }
    }
    Ok(bytes)
}
