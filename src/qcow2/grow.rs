//! Growing a disk by whole zones, while nobody else has its image.
//!
//! Invariants:
//!
//! - A death or a loss of power at any step leaves the disk at its old size or at its new one, and an image that opens; clusters
//!   without an owner are left behind at worst.
//! - What guests have stays: the data of zones, and their write pointers. Nothing is written where anything of the old image is but
//!   behind the end of its tables, in clusters that are theirs, and behind the end of the disk.
//!
//! The order: what was behind the end of the disk in its last zone is cleared; tables that do not fit where they are get new
//! clusters, and are copied; the entries of the new zones are written, where no reader of the old size looks. All of that is made
//! durable. Then the header and the zoned extension change [at once](super::redo), and the clusters of the old tables are given back.

use std::ops::Range;
use std::sync::Arc;

use super::entry::Entries;
use super::error::{GrowError, MapError};
use super::header::{DISK_FIELDS, FILE_LIMIT, L1_LIMIT, REFCOUNT_TABLE_LIMIT};
use super::{Access, Change, Image, redo, table};
use crate::storage::Medium;
use crate::units::{Bytes, FileOffset, ZoneIndex};
use crate::zone::Geometry;

/// How much of a table is copied at a time.
const PIECE: u64 = 64 * 1024;

/// How many extents are cleared at a time.
const EXTENTS: usize = 1024;

/// By how much a disk is to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Whole zones behind the last one.
    pub by: Bytes,
    /// Make the last zone whole first, where it is shorter than others.
    pub fill_last_zone: bool,
    /// The most zones that the disk may have.
    pub most_zones: u32,
}

/// Grows the disk of an image that nobody else has open, and returns its new shape. What is refused changes nothing.
pub fn grow<S: Medium>(storage: &Arc<S>, growth: &Growth) -> Result<Geometry, GrowError> {
    let mut image = Image::open_without_base(Arc::clone(storage), Access::ReadWrite)?;
    let geometry = image.grown(growth)?;
    let old_tables = image.grow_to(&geometry)?;
    let orderly = image.orderly;
    // Where the change was written down and not made, this makes it.
    let mut image = Image::open_without_base(Arc::clone(storage), Access::ReadWrite)?;
    image.prepare_for_writing()?;
    // The disk has grown. What fails from here on leaves leaked clusters, and an end that was not in order.
    if let Err(error) = image.give_back(old_tables).and_then(|()| if orderly { image.mark_orderly() } else { Ok(()) }) {
        log::warn!("the clusters of the old tables are leaked: {error}");
    }
    Ok(geometry)
}

/// Where a table is to be, and which clusters it leaves for that.
struct Place {
    offset: FileOffset,
    left: Option<Range<u64>>,
}

impl<S: Medium> Image<S> {
    /// The shape that the disk is to have.
    fn grown(&self, growth: &Growth) -> Result<Geometry, GrowError> {
        let (size, zone_size) = (self.header.size.0, self.geometry.zone_size());
        let missing = size.next_multiple_of(zone_size.0) - size;
        if missing > 0 && !growth.fill_last_zone {
            let zone = ZoneIndex(self.geometry.nr_zones() - 1);
            return Err(GrowError::ShortLastZone { zone, len: self.geometry.len(zone), zone_size });
        }
        let by = growth.by;
        if !by.is_multiple_of(zone_size.0) || missing + by.0 == 0 {
            return Err(GrowError::NotWholeZones { by, zone_size });
        }
        let new = Bytes(size.saturating_add(missing).saturating_add(by.0));
        let (geometry, _) = Geometry::new(&self.zoned.geometry_request(new))?;
        let zones = geometry.nr_zones();
        if zones > growth.most_zones {
            return Err(GrowError::TooManyZones { zones, most: growth.most_zones });
        }
        let expected = u64::from(self.zoned.nr_zones) * table::ENTRY;
        if self.zoned.zonedmeta_size != expected {
            return Err(GrowError::MoreMetadata { size: self.zoned.zonedmeta_size, expected });
        }
        self.check_limits(&geometry)?;
        Ok(geometry)
    }

    /// Refuses a disk that could not be written in full for want of room in a table.
    fn check_limits(&self, geometry: &Geometry) -> Result<(), GrowError> {
        let (size, cluster_size) = (geometry.size(), self.header.cluster_size());
        let too_large = |table| Err(GrowError::TooLarge { size, cluster_size, table });
        let l1_entries = self.l1_entries(geometry);
        if l1_entries > L1_LIMIT / 8 {
            return too_large("L1 table");
        }
        let tables = l1_entries * 8 + u64::from(geometry.nr_zones()) * table::ENTRY;
        let clusters = self.header.clusters(size.0) + l1_entries + self.header.clusters(tables) + 2;
        let blocks = self.refcounts.index(clusters) + 1;
        if blocks * 8 > REFCOUNT_TABLE_LIMIT {
            return too_large("refcount table");
        }
        let file = (clusters + blocks).checked_mul(cluster_size.0);
        if file.is_none_or(|end| end > FILE_LIMIT) { too_large("file") } else { Ok(()) }
    }

    fn l1_entries(&self, geometry: &Geometry) -> u64 {
        geometry.size().0.div_ceil(self.header.bytes_per_l2()).max(self.header.l1_size.into())
    }

    /// Grows the disk and returns the clusters that tables have left. After an error it has its old size.
    fn grow_to(&mut self, geometry: &Geometry) -> Result<Vec<Range<u64>>, GrowError> {
        let extension = self.zoned_at()?;
        self.prepare_for_writing()?;
        self.clear_behind_the_end()?;
        let l1 = self.grow_l1(geometry)?;
        let pointers = self.grow_pointers(geometry)?;
        // A file that makes nothing durable any more could be left with either size by a loss of power.
        self.flush()?;
        self.header.size = geometry.size();
        self.header.l1_table_offset = l1.offset;
        self.header.l1_size = self.l1_entries(geometry) as u32;
        self.zoned.nr_zones = geometry.nr_zones();
        self.zoned.zonedmeta_size = u64::from(geometry.nr_zones()) * table::ENTRY;
        self.zoned.zonedmeta_offset = pointers.offset.0;
        let mut changes: Vec<Change> = vec![(FileOffset(DISK_FIELDS.start), self.header.disk_fields())];
        let fields = self.zoned.size_fields().into_iter();
        changes.extend(fields.map(|(place, bytes)| (FileOffset(extension + place as u64), bytes)));
        self.change_at_once(&changes, redo::NO_WORD, || ())?;
        Ok([l1.left, pointers.left].into_iter().flatten().collect())
    }

    /// Makes the file read as zeros where the last zone goes on behind the end of the disk. Another program may have left
    /// anything there, and what is full of the zone stays readable to its new end.
    fn clear_behind_the_end(&mut self) -> Result<(), MapError> {
        let size = self.header.size;
        let zone_end = size.0.next_multiple_of(self.geometry.zone_size().0);
        let mut at = size.0;
        while at < zone_end {
            let mut extents = Vec::new();
            // Behind the end of the disk nothing is looked up.
            self.header.size = Bytes(zone_end);
            let found = self.own_extents(Bytes(at), Bytes(zone_end - at), &mut extents, EXTENTS);
            self.header.size = size;
            at = found?.0;
            for extent in extents {
                let cleared = self.storage.punch(extent.file, extent.len);
                cleared.map_err(MapError::io("clear what is behind the end of the disk"))?;
            }
        }
        Ok(())
    }

    /// Has a place for a table that becomes `len` bytes long: where it is, if its clusters suffice, or else new clusters, which
    /// are counted and read as zeros.
    fn place(&mut self, offset: FileOffset, old_len: u64, len: u64) -> Result<Place, MapError> {
        let (had, needed) = (self.header.clusters(old_len).max(1), self.header.clusters(len));
        if needed <= had {
            return Ok(Place { offset, left: None });
        }
        self.reserve.step = needed;
        self.refill(Bytes(needed << self.header.cluster_bits))?;
        let taken = self.reserve.take(needed);
        if taken.end - taken.start != needed {
            return Err(MapError::InDoubt);
        }
        let first = offset.0 >> self.header.cluster_bits;
        Ok(Place { offset: self.offset(taken.start), left: Some(first..first + had) })
    }

    fn grow_l1(&mut self, geometry: &Geometry) -> Result<Place, MapError> {
        let (old_len, len) = (u64::from(self.header.l1_size) * 8, self.l1_entries(geometry) * 8);
        let old = self.header.l1_table_offset;
        let place = self.place(old, old_len, len)?;
        let (at, bytes) = if place.left.is_some() {
            (place.offset, self.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect())
        } else {
            // Another program need not have left zeros there.
            (FileOffset(old.0 + old_len), vec![0; (len - old_len) as usize])
        };
        self.storage.write_at(at, &bytes).map_err(MapError::io("write the larger L1 table"))?;
        Ok(place)
    }

    fn grow_pointers(&mut self, geometry: &Geometry) -> Result<Place, MapError> {
        let writing = || MapError::io("write the larger zonedmeta table");
        let (old_zones, zones) = (self.zoned.nr_zones, geometry.nr_zones());
        let (old_len, len) = (self.zoned.zonedmeta_size, u64::from(zones) * table::ENTRY);
        let old = FileOffset(self.zoned.zonedmeta_offset);
        let place = self.place(old, old_len, len)?;
        if place.left.is_some() {
            let mut piece = Vec::new();
            for done in (0..old_len).step_by(PIECE as usize) {
                piece.resize(PIECE.min(old_len - done) as usize, 0);
                let read = self.storage.read_at(FileOffset(old.0 + done), &mut piece);
                read.map_err(MapError::io("read the zonedmeta table"))?;
                self.storage.write_at(FileOffset(place.offset.0 + done), &piece).map_err(writing())?;
            }
        }
        let entries = Entries { geometry: *geometry, ..self.entries };
        table::write_empty(&*self.storage, place.offset, &entries, old_zones..zones).map_err(writing())?;
        Ok(place)
    }

    /// Gives back clusters that are in no use any more.
    fn give_back(&mut self, left: Vec<Range<u64>>) -> Result<(), MapError> {
        for clusters in &left {
            let filled = self.refcounts.fill(&*self.storage, clusters.clone(), 0);
            filled.map_err(MapError::io("free the old tables"))?;
        }
        self.flush()?;
        for clusters in left {
            let (start, end) = (self.offset(clusters.start), self.offset(clusters.end));
            self.storage.punch(start, Bytes(end.0 - start.0)).map_err(MapError::io("free the old tables"))?;
        }
        Ok(())
    }
}
