//! Bases: images that others build on, opened read-only.
//!
//! A range that an image has no cluster for is what its base shows there: below the base's own write pointer the base's bytes,
//! else zeros. Conventional zones show all that they have. A base may have a base itself, another cluster size, byte order and
//! layout; its zones are those of the image, of which it may have fewer.
//!
//! A base never changes while it is open: whoever opens it holds its lock, and its [identity](super::Identity) stands in the
//! images that build on it.

use std::fmt;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::backing::Identity;
use super::error::{MapError, OpenError};
use super::mapping::{Extent, Sink};
use super::{Access, Header, Image, table};
use crate::storage::Medium;
use crate::units::{Bytes, Depth, FileOffset, ZoneIndex};
use crate::zone::{Geometry, Zone};

/// How many bases an image may have below it, one below the other.
pub const MOST_BASES: usize = 8;

/// The file of a base.
pub type BaseMedium = Arc<dyn Medium>;

/// An image that others build on, with what it builds on itself.
pub struct Base {
    image: Image<BaseMedium>,
    identity: Identity,
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Base").field("geometry", self.geometry()).field("identity", &self.identity).finish()
    }
}

impl Base {
    /// Opens an image as a base. `stamp` says, in words, what is known of its last change; `below` is what it builds on itself.
    pub fn open(medium: BaseMedium, stamp: String, below: Option<Base>) -> Result<Self, OpenError> {
        let image = Image::open_over(Arc::new(medium), Access::ReadOnly, below)?;
        let pointers = image.pointer_table().range();
        let identity = Identity::of(&**image.storage(), image.header.cluster_size(), pointers, stamp)?;
        Ok(Self { image, identity })
    }

    /// Which content it has.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The shape of its disk.
    pub fn geometry(&self) -> &Geometry {
        &self.image.geometry
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.image.header
    }

    /// Its image.
    pub fn image(&self) -> &Image<BaseMedium> {
        &self.image
    }

    /// How many images it is one above the other, itself among them.
    pub fn height(&self) -> usize {
        1 + self.image.base.as_ref().map_or(0, |below| below.height())
    }

    /// Its files, its own first.
    pub fn media(&self) -> Vec<BaseMedium> {
        let below = self.image.base.as_ref().map(|below| below.media()).unwrap_or_default();
        std::iter::once(Arc::clone(&**self.image.storage())).chain(below).collect()
    }

    /// Refuses zones that are not those of an image above.
    pub(super) fn check_shape(&self, above: &Geometry) -> Result<(), OpenError> {
        let own = self.geometry();
        let differs = [
            ("zone_size", above.zone_size().0, own.zone_size().0),
            ("zone_capacity", above.zone_capacity().0, own.zone_capacity().0),
            ("conventional_zones", above.conventional_zones().into(), own.conventional_zones().into()),
        ];
        for (field, value, expected) in differs {
            if value != expected {
                return Err(OpenError::field(field, value, format!("{expected}, as its base has it")));
            }
        }
        match own.size() <= above.size() {
            true => Ok(()),
            false => {
                Err(OpenError::field("size", above.size(), format!("at least {}, as its base has it", own.size())))
            }
        }
    }

    /// Gives the runs that this base shows in a range of the disk to `sink`; breaks with the place of a run that the sink has no
    /// room for. The base is at `depth` of the chain.
    pub(super) fn visit(
        &self,
        range: Range<u64>,
        depth: Depth,
        sink: &mut Sink<'_>,
    ) -> Result<ControlFlow<u64>, MapError> {
        let geometry = self.geometry();
        let mut at = range.start;
        while let Some(zone) = geometry.zone_at(Bytes(at)).filter(|_| at < range.end) {
            let until = range.end.min(self.readable_end(zone)?.0);
            if at < until {
                let met = self.image.visit(at..until, depth, true, sink)?;
                if met.is_break() {
                    return Ok(met);
                }
            }
            at = geometry.start(zone).0.saturating_add(geometry.zone_size().0);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What it shows in a range of the disk, as extents of a chain of which it is at depth 1.
    pub(super) fn shown(&self, range: Range<u64>) -> Result<Vec<Extent>, MapError> {
        let mut out = Vec::new();
        if !range.is_empty() {
            let _all = self.visit(range, Depth(1), &mut Sink { out: &mut out, room: usize::MAX })?;
        }
        Ok(out)
    }

    /// Reads what one of these extents has, from its beginning on.
    pub(super) fn read_extent(&self, extent: &Extent, into: &mut [u8]) -> Result<(), MapError> {
        let read = self.medium(extent.depth).map_or(Ok(()), |medium| medium.read_at(extent.file, into));
        read.map_err(MapError::io("read the data of a base"))
    }

    /// Where what a zone shows ends.
    fn readable_end(&self, zone: ZoneIndex) -> Result<Bytes, MapError> {
        let mut entry = [0; table::ENTRY as usize];
        let at = FileOffset(self.image.zoned.zonedmeta_offset + u64::from(zone.0) * table::ENTRY);
        let reading = || MapError::io("read a write pointer of the base");
        self.image.storage.read_at(at, &mut entry).map_err(reading())?;
        let pointer = self.image.entries.pointer(zone, entry);
        let pointer = pointer.map_err(|_| reading()(std::io::ErrorKind::InvalidData.into()))?;
        let geometry = self.geometry();
        Ok(Zone::from_pointer(geometry, zone, pointer).readable_end(geometry, zone))
    }

    /// The file at a depth of the chain, of which this base is at depth 1.
    pub(super) fn medium(&self, depth: Depth) -> Option<&BaseMedium> {
        match depth.0 {
            0 => None,
            1 => Some(&self.image.storage),
            deeper => self.image.base.as_ref()?.medium(Depth(deeper - 1)),
        }
    }
}
