//! Opening: everything is read and checked here before anything is written or believed.
//!
//! What is not checked here, as it would take reading gigabytes: L2 entries (checked one by one as they are used,
//! and all of them by [`check`](super::check)) and the refcounts of clusters other than the write-pointer table's.

use std::io;
use std::sync::Arc;

use zerocopy::{FromZeros, IntoBytes};

use super::backing::{self, Backing, Identity};
use super::base::{Base, MOST_BASES};
use super::error::{Changed as BaseChanged, OpenError};
use super::extension::{self, ZonedExtension};
use super::header::{self, FILE_LIMIT, Header, RawHeader};
use super::redo::Changed;
use super::refcount::Refcounts;
use super::regions::{Kind, Regions};
use super::{Access, Image, alloc, entry, mapping, redo, reverting, table};
use crate::storage::{Layered, Medium};
use crate::units::{Bytes, FileOffset};
use crate::zone::{Clamp, Geometry};

/// How many words of a table are read at a time.
const READ_WORDS: u64 = 8192;

/// What an image is opened to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aim {
    Use,
    Look,
    Check,
    Repair,
}

impl<S: Medium> Image<S> {
    /// Opens an image after checking its header, its zoned extension, the place of every table and of every entry of
    /// the L1 and refcount tables, and every write pointer. Writes nothing.
    pub fn open(storage: Arc<S>, access: Access) -> Result<Self, OpenError> {
        Self::open_over(storage, access, None)
    }

    /// The same of an image with the base that it builds on, which has to be what the image says.
    pub fn open_over(storage: Arc<S>, access: Access, base: Option<Base>) -> Result<Self, OpenError> {
        let mut image = Self::open_as(storage, access, Aim::Use)?;
        image.put_on(base)?;
        if access == Access::ReadWrite {
            image.prepare_for_writing()?;
        }
        Ok(image)
    }

    /// Opens an image for reading, and judges no more of its write pointers than takes a moment: whoever needs one judges it
    /// then. However large the image says it is, this takes little memory and time.
    pub fn open_to_look(storage: Arc<S>) -> Result<Self, OpenError> {
        Self::open_as(storage, Access::ReadOnly, Aim::Look)
    }

    /// Opens an image as for reading, but lets pass wrong write pointers, for a [`check`](super::check()) to list. Such an
    /// image must not get out of the check.
    pub(super) fn open_for_check(storage: Arc<S>) -> Result<Self, OpenError> {
        Self::open_as(storage, Access::ReadOnly, Aim::Check)
    }

    /// Opens an image as for writing, but lets pass what a [`repair`](super::repair) is there for: wrong write
    /// pointers, the dirty bit, and wrong refcounts of a table whose pointers are right. Such an image must not get
    /// out of the repair. Writes nothing; the repair calls [`prepare_for_writing`](Self::prepare_for_writing).
    pub(super) fn open_for_repair(storage: Arc<S>) -> Result<Self, OpenError> {
        Self::open_as(storage, Access::ReadWrite, Aim::Repair)
    }

    /// Opens an image of whose disk nothing is read that is not its own. Writes nothing unless an earlier process has died in the
    /// midst of a change.
    pub fn open_without_base(storage: Arc<S>, access: Access) -> Result<Self, OpenError> {
        Self::open_as(storage, access, Aim::Use)
    }

    /// Reads what the image in `storage` says of the one that it builds on, and nothing else.
    pub fn backing_of(storage: &S) -> Result<Option<Backing>, OpenError> {
        let file_len = storage.len().map_err(OpenError::io("read the length of the file"))?.0;
        let redo = begun_changes(storage, file_len)?;
        let changes = redo.as_ref().map_or(&[][..], |redo| &redo.changes);
        let changed = Layered(Changed { storage, changes });
        let (_, header) = read_header(&changed, file_len)?;
        let area = read_area(&changed, file_len, &header)?;
        read_backing(&changed, &header, &extension::walk(&area)?)
    }

    /// Puts the image on its base.
    fn put_on(&mut self, base: Option<Base>) -> Result<(), OpenError> {
        let (backing, base) = match (&self.backing, base) {
            (None, None) => return Ok(()),
            (Some(backing), Some(base)) => (backing, base),
            (Some(backing), None) => return Err(OpenError::BaseMissing { name: backing.name.clone() }),
            (None, Some(_)) => {
                return Err(OpenError::field("the backing file", "none", "one, for the base that was given"));
            }
        };
        if base.height() > MOST_BASES {
            return Err(OpenError::TooManyBases { most: MOST_BASES });
        }
        if backing.identity.as_ref().is_some_and(|identity| identity.committing) {
            return Err(OpenError::HalfCommitted { name: backing.name.clone() });
        }
        let changed = backing.identity.as_ref().and_then(|meant| Some((meant, meant.changed(base.identity())?)));
        if let Some((meant, changed)) = changed {
            let show = |identity: &Identity| match changed {
                BaseChanged::Length => format!("{} bytes", identity.len),
                BaseChanged::Header => digest_in_short(&identity.header),
                BaseChanged::Pointers => digest_in_short(&identity.pointers),
                BaseChanged::Stamp => identity.stamp.clone(),
            };
            let (name, meant, found) = (backing.name.clone(), show(meant), show(base.identity()));
            return Err(OpenError::BaseChanged { name, changed, meant, found });
        }
        base.check_shape(&self.geometry)?;
        self.base = Some(Box::new(base));
        Ok(())
    }

    fn open_as(storage: Arc<S>, access: Access, aim: Aim) -> Result<Self, OpenError> {
        let mut file_len = storage.len().map_err(OpenError::io("read the length of the file"))?.0;
        let redo = begun_changes(&*storage, file_len)?;
        let changes = redo.as_ref().map_or(&[][..], |redo| &redo.changes);
        let changed = Layered(Changed { storage: &*storage, changes });
        let (raw, mut header) = read_header(&changed, file_len)?;
        let (zoned, backing) = read_extensions(&changed, file_len, &raw, &header)?;
        header.check_marks(access, aim == Aim::Repair)?;
        if file_len > FILE_LIMIT && aim != Aim::Repair {
            let expected = format!("at most {FILE_LIMIT}, as far as offsets of qcow2 reach; check --repair cuts it");
            return Err(OpenError::field("the length of the file", file_len, expected));
        }
        let (geometry, clamps) = check_geometry(&zoned, &header)?;
        let regions = place_tables(&zoned, &header, redo.as_ref().map_or(file_len, |redo| redo.end))?;
        let mut changed_by = None;
        if let Some(redo) = redo {
            if access == Access::ReadOnly {
                return Err(OpenError::HalfChanged);
            }
            let (end, word) = redo::make_again(&*storage, &redo)?;
            (header.autoclear_features, file_len) = (0, end);
            changed_by = Some(word).filter(|word| *word != redo::NO_WORD);
        }
        let orderly = header.autoclear_features & header::ORDERLY != 0;
        let (entries, pointers_right) = find_order(&*storage, &zoned, &geometry, aim)?;
        let mut image = Self {
            refcounts: Refcounts {
                table: read_words(
                    &*storage,
                    header.refcount_table_offset,
                    refcount_entries(&header),
                    "read the refcount table",
                )?,
                order: header.refcount_order,
                cluster_bits: header.cluster_bits,
            },
            l1: read_words(&*storage, header.l1_table_offset, u64::from(header.l1_size), "read the L1 table")?,
            entries,
            reserve: alloc::Reserve::new(header.cluster_bits),
            storage,
            access,
            backing,
            base: None,
            header,
            zoned,
            geometry,
            clamps,
            regions,
            file_len,
            orderly,
            changed_by,
        };
        // Another process may be serving the image that is only looked at here. It lengthens the file before it writes
        // an entry that needs that, so the length that was read after the entries goes with them.
        image.file_len = image.storage.len().map_err(OpenError::io("read the length of the file"))?.0;
        image.check_refcount_table()?;
        image.check_l1()?;
        match image.check_table_refcounts() {
            Err(OpenError::TableRefcount { .. })
                if aim == Aim::Repair && pointers_right && image.table_is_bounded() => {}
            checked => checked?,
        }
        Ok(image)
    }

    /// Where in the file the zoned extension's data is.
    pub(super) fn zoned_at(&self) -> Result<u64, OpenError> {
        let area = read_area(&*self.storage, self.file_len, &self.header)?;
        Ok(u64::from(self.header.header_length) + extension::walk(&area)?.zoned_at as u64)
    }

    /// Whether zonedmeta_size is no more than the zones need: the other bound of it is the refcounts.
    fn table_is_bounded(&self) -> bool {
        let needed = u64::from(self.zoned.nr_zones) * table::ENTRY;
        self.header.clusters(self.zoned.zonedmeta_size) == self.header.clusters(needed)
    }

    /// What the format asks of a writer before its first change. All checks are done.
    pub(super) fn prepare_for_writing(&mut self) -> Result<(), OpenError> {
        if self.header.autoclear_features != 0 {
            // These mark what a change makes stale, so the marks must be gone for good before the first one. That of an
            // orderly end is set again by the next; no other is known here.
            let field = FileOffset(header::AUTOCLEAR_FIELD);
            let cleared = self.storage.write_at(field, &[0; 8]);
            let synced = cleared.and_then(|()| self.storage.sync_ranges(&[(field, Bytes(8))]));
            synced.map_err(OpenError::io("clear autoclear_features"))?;
            self.header.autoclear_features = 0;
        }
        // A last cluster that the file holds in part would make every reader treat its end specially.
        let whole = self.file_len.next_multiple_of(self.header.cluster_size().0);
        // A file that is too long for any use of its end is only opened to be cut.
        if whole != self.file_len && whole <= FILE_LIMIT {
            self.storage.set_len(Bytes(whole)).map_err(OpenError::io("extend the file to whole clusters"))?;
            self.file_len = whole;
        }
        Ok(())
    }

    fn check_refcount_table(&mut self) -> Result<(), OpenError> {
        for (index, entry) in (0u64..).zip(&self.refcounts.table) {
            if *entry != 0 {
                let place = EntryPlace { table: "refcount table", index, entry: *entry, reserved: 0x1ff };
                place.enter(&mut self.regions, &self.header, self.file_len, Kind::RefcountBlock)?;
            }
        }
        Ok(())
    }

    fn check_l1(&mut self) -> Result<(), OpenError> {
        for (index, entry) in (0u64..).zip(&self.l1) {
            if *entry != 0 {
                let place = EntryPlace { table: "L1 table", index, entry: *entry, reserved: mapping::L1_RESERVED };
                place.enter(&mut self.regions, &self.header, self.file_len, Kind::L2)?;
            }
        }
        Ok(())
    }

    /// The table's clusters must be counted as its own, or a later allocation lands in them. This also bounds
    /// zonedmeta_size: so many refcounts of 1 take that much of a real file.
    fn check_table_refcounts(&self) -> Result<(), OpenError> {
        let first = self.zoned.zonedmeta_offset >> self.header.cluster_bits;
        let clusters = first..first + self.header.clusters(self.zoned.zonedmeta_size);
        let found = self.refcounts.find(&*self.storage, clusters, |refcount| refcount != 1);
        match found.map_err(OpenError::io("read the refcounts of the zonedmeta table"))? {
            None => Ok(()),
            Some((cluster, refcount)) => {
                Err(OpenError::TableRefcount { offset: FileOffset(cluster << self.header.cluster_bits), refcount })
            }
        }
    }
}

fn refcount_entries(header: &Header) -> u64 {
    u64::from(header.refcount_table_clusters) * header.cluster_size().0 / 8
}

/// What the last writer has begun to change, where that has not come to its end.
fn begun_changes<S: Medium>(storage: &S, file_len: u64) -> Result<Option<redo::Redo>, OpenError> {
    let marks = read_raw_header(storage)?.autoclear_features.get();
    if marks & header::CHANGING == 0 { Ok(None) } else { redo::find(storage, file_len) }
}

fn read_raw_header<S: Medium>(storage: &S) -> Result<RawHeader, OpenError> {
    let mut raw = RawHeader::new_zeroed();
    storage.read_at(FileOffset(0), raw.as_mut_bytes()).map_err(OpenError::io("read the header"))?;
    if raw.magic.get() != header::MAGIC {
        reverting::check(storage)?;
        return Err(OpenError::NotQcow2 { found: raw.magic.get() });
    }
    Ok(raw)
}

fn read_header<S: Medium>(storage: &S, file_len: u64) -> Result<(RawHeader, Header), OpenError> {
    let raw = read_raw_header(storage)?;
    let header = Header::parse(&raw)?;
    let needed = u64::from(header.header_length);
    if file_len < needed {
        return Err(OpenError::Truncated { what: "the header", needed, len: file_len });
    }
    Ok((raw, header))
}

/// Reads what is behind the header in its cluster.
fn read_area<S: Medium>(storage: &S, file_len: u64, header: &Header) -> Result<Vec<u8>, OpenError> {
    let begin = u64::from(header.header_length);
    // A file cut inside the first cluster must not show extensions of zeros, which would end the walk early.
    let end = header.cluster_size().0.min(file_len);
    let mut area = vec![0u8; end.saturating_sub(begin) as usize];
    storage.read_at(FileOffset(begin), &mut area).map_err(OpenError::io("read the header extensions"))?;
    Ok(area)
}

/// Reads the extensions and judges the features, in the order that gives the most useful message: what nobody knows,
/// whether there are zones at all, then what is known and not supported.
fn read_extensions<S: Medium>(
    storage: &S,
    file_len: u64,
    raw: &RawHeader,
    header: &Header,
) -> Result<(ZonedExtension, Option<Backing>), OpenError> {
    let area = read_area(storage, file_len, header)?;
    let extensions = extension::walk(&area)?;
    header.check_unknown(&extensions.names)?;
    let zoned = extensions.zoned.map(|data| ZonedExtension::parse(data, header.size, header.cluster_size(), file_len));
    let zoned = match (header.incompatible_features & header::ZONED != 0, zoned) {
        (false, None) => return Err(OpenError::NotZoned),
        (true, None) => return Err(OpenError::ExtensionMissing),
        (_, Some(Err(other @ OpenError::OtherLayout { .. }))) => return Err(other),
        (false, Some(_)) => return Err(OpenError::FeatureBitMissing),
        (true, Some(zoned)) => zoned?,
    };
    header.check_features(raw)?;
    let backing = read_backing(storage, header, &extensions)?;
    Ok((zoned, backing))
}

/// Reads what an image says of the one that it builds on.
fn read_backing<S: Medium>(
    storage: &S,
    header: &Header,
    extensions: &extension::Extensions<'_>,
) -> Result<Option<Backing>, OpenError> {
    let Some((at, len)) = header.backing_name else { return Ok(None) };
    let longest = backing::LONGEST_NAME;
    if !(1..=longest).contains(&(len as usize)) {
        return Err(OpenError::field("backing_file_size", len, format!("1 to {longest}")));
    }
    if at.0 == 0 || at.checked_add(Bytes(len.into())).is_none_or(|end| end.0 > header.cluster_size().0) {
        return Err(OpenError::hex("backing_file_offset", at.0, "a place inside the first cluster"));
    }
    if let Some(format) = extensions.base_format.filter(|format| *format != backing::QCOW2.as_bytes()) {
        let format: String = String::from_utf8_lossy(format).chars().filter(|c| !c.is_control()).collect();
        return Err(OpenError::field("the format of the backing file", format, backing::QCOW2));
    }
    let mut name = vec![0; len as usize];
    storage.read_at(at, &mut name).map_err(OpenError::io("read the name of the base"))?;
    let name = String::from_utf8(name).ok().filter(|name| !name.contains(char::is_control));
    let name = name.ok_or_else(|| {
        OpenError::field("the name of the backing file", "no text", "UTF-8 without control characters")
    })?;
    Ok(Some(Backing { name, identity: extensions.base_identity.clone() }))
}

/// The beginning of a digest, for people.
fn digest_in_short(digest: &[u8; 32]) -> String {
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}...")
}

/// How the table is read, and whether every pointer in it is right.
fn find_order<S: Medium>(
    storage: &S,
    zoned: &ZonedExtension,
    geometry: &Geometry,
    aim: Aim,
) -> Result<(entry::Entries, bool), OpenError> {
    let offset = FileOffset(zoned.zonedmeta_offset);
    let refuses = matches!(aim, Aim::Use | Aim::Look);
    let zones = geometry.nr_zones().min(if aim == Aim::Look { table::SAMPLE } else { u32::MAX });
    match table::find_order(storage, offset, geometry, zoned.layout, zones, !refuses)? {
        (_, Some(wrong)) if refuses => Err(OpenError::Pointer(wrong)),
        (entries, wrong) => Ok((entries, wrong.is_none())),
    }
}

fn check_geometry(zoned: &ZonedExtension, header: &Header) -> Result<(Geometry, Vec<Clamp>), OpenError> {
    let (geometry, clamps) = Geometry::new(&zoned.geometry_request(header.size))?;
    if zoned.nr_zones != geometry.nr_zones() {
        let (expected, size) = (geometry.nr_zones(), header.size);
        let expected = format!("{expected}, the zones of {} bytes on a device of {size} bytes", zoned.zone_size);
        return Err(OpenError::field("nr_zones", zoned.nr_zones, expected));
    }
    let cluster_size = header.cluster_size().0;
    if zoned.layout.has_whole_clusters() && !zoned.zone_size.is_multiple_of(cluster_size) {
        let expected = format!("a multiple of the cluster size, {cluster_size}, in {}", zoned.layout.title());
        return Err(OpenError::field("zone_size", zoned.zone_size, expected));
    }
    let needed = u64::from(zoned.nr_zones) * table::ENTRY;
    if zoned.zonedmeta_size < needed {
        let expected = format!("at least {needed}, 8 bytes for each of {} zones", zoned.nr_zones);
        return Err(OpenError::field("zonedmeta_size", zoned.zonedmeta_size, expected));
    }
    let offset = zoned.zonedmeta_offset;
    if offset == 0 || !offset.is_multiple_of(cluster_size) {
        let expected = format!("a multiple of the cluster size, {cluster_size}, and not 0");
        return Err(OpenError::hex("zonedmeta_offset", offset, expected));
    }
    Ok((geometry, clamps))
}

/// Checks that the tables of a fixed place are inside the file and apart from each other.
fn place_tables(zoned: &ZonedExtension, header: &Header, file_len: u64) -> Result<Regions, OpenError> {
    let bits = header.cluster_bits;
    let mut regions = Regions::default();
    let tables = [
        (Kind::Header, "header", 0, u64::from(header.header_length)),
        (
            Kind::RefcountTable,
            "refcount_table_offset",
            header.refcount_table_offset.0,
            u64::from(header.refcount_table_clusters) << bits,
        ),
        (Kind::L1, "l1_table_offset", header.l1_table_offset.0, u64::from(header.l1_size) * 8),
        (Kind::Zonedmeta, "zonedmeta_offset", zoned.zonedmeta_offset, zoned.zonedmeta_size),
    ];
    for (kind, field, offset, len) in tables {
        // What follows the zones' entries in the last cluster is padding, which the file need not hold.
        let needed = if kind == Kind::Zonedmeta { u64::from(zoned.nr_zones) * table::ENTRY } else { len };
        let end = offset.checked_add(needed).filter(|end| *end <= file_len);
        let clusters_end = offset.checked_add(len).map(|end| end.div_ceil(1 << bits));
        let (Some(_), Some(clusters_end)) = (end, clusters_end.filter(|end| *end <= file_len.div_ceil(1 << bits)))
        else {
            let expected =
                format!("{kind} of {len} bytes to end inside the file of {file_len} bytes (is it truncated?)");
            return Err(OpenError::hex(field, offset, expected));
        };
        // A table without entries still must not share its cluster.
        let clusters = offset >> bits..clusters_end.max((offset >> bits) + 1);
        regions.insert(clusters, kind).map_err(|(cluster, first)| OpenError::Overlap {
            first,
            second: kind,
            offset: FileOffset(cluster << bits),
        })?;
    }
    Ok(regions)
}

/// Room for as many values as an image says that there are.
pub(super) fn room<T>(count: u64, doing: &'static str) -> Result<Vec<T>, OpenError> {
    let mut room = Vec::new();
    let had = usize::try_from(count).map(|count| room.try_reserve_exact(count));
    match had {
        Ok(Ok(())) => Ok(room),
        _ => Err(OpenError::io(doing)(io::ErrorKind::OutOfMemory.into())),
    }
}

fn read_words<S: Medium>(
    storage: &S,
    offset: FileOffset,
    count: u64,
    doing: &'static str,
) -> Result<Vec<u64>, OpenError> {
    let mut words = room(count, doing)?;
    let mut piece = room(count.min(READ_WORDS) * 8, doing)?;
    let mut at = offset;
    while (words.len() as u64) < count {
        piece.resize((count - words.len() as u64).min(READ_WORDS) as usize * 8, 0u8);
        storage.read_at(at, &mut piece).map_err(OpenError::io(doing))?;
        words.extend(piece.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)));
        at.0 += piece.len() as u64;
    }
    Ok(words)
}

/// An entry of the L1 or refcount table, to be judged.
struct EntryPlace {
    table: &'static str,
    index: u64,
    entry: u64,
    reserved: u64,
}

impl EntryPlace {
    fn enter(&self, regions: &mut Regions, header: &Header, file_len: u64, kind: Kind) -> Result<(), OpenError> {
        let Self { table, index, entry, reserved } = *self;
        let wrong = |expected| Err(OpenError::Entry { table, index, value: entry, expected });
        if entry & reserved != 0 {
            return wrong("its reserved bits to be 0");
        }
        let offset = entry & if kind == Kind::L2 { mapping::OFFSET_MASK } else { u64::MAX };
        let cluster_size = Bytes(header.cluster_size().0).0;
        if !offset.is_multiple_of(cluster_size) {
            return wrong("an offset that is a multiple of the cluster size");
        }
        if offset == 0 {
            return wrong("an offset other than 0, or 0 as a whole");
        }
        if offset.checked_add(cluster_size).is_none_or(|end| end > file_len) {
            return wrong("a cluster that is inside the file (is it truncated?)");
        }
        let cluster = offset >> header.cluster_bits;
        regions.insert(cluster..cluster + 1, kind).map_err(|(_, first)| OpenError::Overlap {
            first,
            second: kind,
            offset: FileOffset(offset),
        })
    }
}
