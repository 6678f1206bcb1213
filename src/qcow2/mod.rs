//! The image: qcow2 version 3 with the zoned extension of the QEMU series, in each [layout](ZonedLayout) that is in use.
//!
//! Where it is specified: QEMU's docs/interop/qcow2 for everything but zones. For zones: revision v7 of the series
//! "Add full zoned storage emulation to qcow2 driver" on qemu-devel and its later layout B, here called the format
//! document, as the project's design notes have it.
//!
//! What holds at all times, also after the death of the process or of the host at any instruction:
//!
//! - No cluster has two owners. A cluster is handed out once; a zone reset keeps its mapping and only punches the
//!   file range, so nothing is ever freed while it may still be reached by an earlier entry or by I/O in flight.
//! - A mapping entry names only clusters whose refcount of 1 and whose zeros are durable already ([`alloc`]), so
//!   entries need no barrier of their own, and losing one loses only a cluster.
//! - Nothing is written before all that opening checks is right; a read-only image is never written.
//! - Nothing is allocated by a number from the image that was not bounded before.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`header`], [`extension`] | the first cluster |
//! | [`open`] | opening: everything that is checked before anything else happens |
//! | [`layout`] | what sets the layouts of the extension apart |
//! | [`entry`], [`table`] | the write-pointer table and its byte order |
//! | [`regions`] | which clusters are metadata |
//! | [`refcount`] | reading and writing refcounts |
//! | [`mapping`] | from guest offsets to the file |
//! | [`backing`], [`base`] | what an image says of the base that it builds on; the base itself |
//! | `overlay` | copying up from the base, and hiding what it has |
//! | `fork`, `rebase`, `commit` | new images that build on others; from one base to another; changes taken into the base |
//! | [`alloc`] | reservations, new mappings, growing tables |
//! | `redo` | changes of several places at once |
//! | `grow` | larger disks |
//! | [`reverting`] | the content of an image replaced by that of an earlier state |
//! | [`create`], [`check`] | making an image, checking all of one |
//! | [`repair`] | setting right what a check finds, where that is safe |
//! | [`compare`](compare_shapes) | two images, zone by zone |
//!
//! One thread owns an [`Image`] and does all metadata; guest data and write pointers ([`PointerTable`]) go past it.

mod alloc;
mod backing;
mod base;
mod check;
mod commit;
mod compare;
mod create;
mod entry;
mod error;
mod extension;
mod fork;
mod grow;
mod header;
mod layout;
mod mapping;
mod open;
mod order;
mod overlay;
mod rebase;
mod redo;
mod refcount;
mod regions;
mod repair;
pub mod reverting;
mod table;
#[cfg(test)]
mod tests;

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

pub use backing::{Backing, Identity};
pub use base::{Base, BaseMedium, MOST_BASES};
pub use check::{CheckReport, Finding, FindingKind, LeakedRange, check};
pub use commit::{Committed, commit};
pub use compare::{Comparison, DataDifference, Seen, ShapeDifference, ZoneDifference, compare_shapes};
pub use create::{CreateOptions, create};
pub use entry::PointerFault;
pub use error::{
    Changed, CheckError, CompareError, CreateError, EntryFault, GrowError, MapError, OpenError, PointerError,
    RebaseError, RepairError, Which,
};
pub use extension::ZonedExtension;
pub use fork::{ForkOptions, fork};
pub use grow::{Growth, grow};
pub use header::{Header, MAGIC};
pub use layout::ZonedLayout;
pub use mapping::Extent;
pub use order::ByteOrder;
pub use rebase::{Rebased, rebase, relink};
pub use redo::Change;
pub use regions::Kind as MetadataKind;
pub use repair::{Pointers, RepairReport, SettledPointer, Withheld, repair};
pub use table::PointerTable;

use crate::storage::Medium;
use crate::units::{Bytes, FileOffset, ZoneIndex};
use crate::zone::{Clamp, Geometry};

/// What an image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing is ever written.
    ReadOnly,
    /// Guests write.
    ReadWrite,
}

/// An open image. Opening and the checks are in [`open`], the methods beside what they work on.
#[derive(Debug)]
pub struct Image<S> {
    storage: Arc<S>,
    access: Access,
    /// What it says of the image that it builds on.
    backing: Option<Backing>,
    /// That image; none where only the image's own metadata is looked at.
    base: Option<Box<Base>>,
    header: header::Header,
    zoned: ZonedExtension,
    geometry: Geometry,
    clamps: Vec<Clamp>,
    entries: entry::Entries,
    /// The L1 table as it stands in the file (at most 32 MiB, QEMU's limit).
    l1: Vec<u64>,
    refcounts: refcount::Refcounts,
    regions: regions::Regions,
    reserve: alloc::Reserve,
    file_len: u64,
    /// The last writer ended in order.
    orderly: bool,
    /// What the last writer says that died while it changed several places at once.
    changed_by: Option<u64>,
}

impl<S: Medium> Image<S> {
    /// The header's fields.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What the image says of the one that it builds on.
    pub fn backing(&self) -> Option<&Backing> {
        self.backing.as_ref()
    }

    /// Takes the image away that this one builds on. Nothing is read of this one's disk afterwards.
    pub fn take_base(&mut self) -> Option<Base> {
        self.base.take().map(|base| *base)
    }

    /// The image that it builds on.
    pub fn base(&self) -> Option<&Base> {
        self.base.as_deref()
    }

    /// The zoned extension's fields as stored.
    pub fn zoned(&self) -> &ZonedExtension {
        &self.zoned
    }

    /// The device's shape.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Limits of the extension that were lowered to what the device can meet.
    pub fn clamps(&self) -> &[Clamp] {
        &self.clamps
    }

    /// The byte order of the write-pointer table.
    pub fn table_order(&self) -> ByteOrder {
        self.entries.order
    }

    /// The length of the file as this image knows it. It is no multiple of the cluster size where another program
    /// left it so and the image is not written.
    pub fn file_len(&self) -> Bytes {
        Bytes(self.file_len)
    }

    /// Whether the last writer of the image ended in order, so that the file reads as zeros beyond the write pointer of
    /// every zone that holds data.
    pub fn ended_orderly(&self) -> bool {
        self.orderly
    }

    /// The word of the last writer, where that died while it [changed several places at once](Image::change_at_once): the open has
    /// brought this to its end.
    pub fn changed_by(&self) -> Option<u64> {
        self.changed_by
    }

    /// What the image was opened for.
    pub fn access(&self) -> Access {
        self.access
    }

    /// The file.
    pub fn storage(&self) -> &Arc<S> {
        &self.storage
    }

    /// Calls `each` with the write pointer of each of these zones, in order, until it breaks: as stored, an absolute guest
    /// offset; the start of the zone for a conventional one. Reads as much of the table as that takes.
    pub fn each_write_pointer(
        &self,
        zones: Range<u32>,
        each: impl FnMut(ZoneIndex, Bytes) -> ControlFlow<()>,
    ) -> Result<(), OpenError> {
        let zones = zones.start..zones.end.min(self.geometry.nr_zones());
        table::read(&*self.storage, FileOffset(self.zoned.zonedmeta_offset), &self.entries, zones, each)
    }

    /// Every zone's write pointer, of an image whose zones fit in memory.
    pub fn write_pointers(&self) -> Result<Vec<Bytes>, OpenError> {
        let mut pointers = open::room(u64::from(self.geometry.nr_zones()), "hold all write pointers")?;
        self.each_write_pointer(0..u32::MAX, |_, pointer| {
            pointers.push(pointer);
            ControlFlow::Continue(())
        })?;
        Ok(pointers)
    }

    /// A handle for storing write pointers from any thread.
    pub fn pointer_table(&self) -> PointerTable<S> {
        let offset = FileOffset(self.zoned.zonedmeta_offset);
        PointerTable::new(Arc::clone(&self.storage), offset, self.entries, self.access)
    }

    /// What metadata there is in a range of the file.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn metadata_in(&self, start: FileOffset, len: Bytes) -> Option<MetadataKind> {
        let bits = self.header.cluster_bits;
        self.regions.find(start.0 >> bits..(start.0 + len.0).div_ceil(1 << bits)).map(|(_, kind)| kind)
    }

    /// What keeps an image from taking the place of this one while it is in use; none where nothing does.
    pub fn differs_from<T>(&self, other: &Image<T>) -> Option<&'static str> {
        let (ours, theirs) = (&self.entries, &other.entries);
        let identity_of = |backing: &Option<Backing>| backing.as_ref().map(|backing| backing.identity.clone());
        let same = [
            ("another geometry", self.geometry == other.geometry),
            ("another layout of the zoned extension", ours.layout == theirs.layout),
            ("write pointers of the other byte order", ours.order == theirs.order),
            ("its write pointers elsewhere", self.zoned.zonedmeta_offset == other.zoned.zonedmeta_offset),
            ("another base", identity_of(&self.backing) == identity_of(&other.backing)),
            ("another cluster size", self.header.cluster_size() == other.header.cluster_size()),
        ];
        same.into_iter().find(|(_, same)| !same).map(|(what, _)| what)
    }

    /// Where metadata is: file offset and length of each piece.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn metadata(&self) -> Vec<(u64, u64)> {
        let bits = self.header.cluster_bits;
        self.regions
            .iter()
            .map(|(clusters, _)| (clusters.start << bits, (clusters.end - clusters.start) << bits))
            .collect()
    }
}
