//! What can be wrong with an image, in words for its owner: the field, its value, what was expected.

use std::fmt;
use std::io;

use super::layout::ZonedLayout;
use super::order::ByteOrder;
use super::regions::Kind;
use crate::units::{Bytes, FileOffset, ZoneIndex};
use crate::zone::GeometryError;

/// What has changed of a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The length of the file.
    Length,
    /// The header.
    Header,
    /// The write pointers.
    Pointers,
    /// The file, without a trace in the others.
    Stamp,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "the length of its file",
            Self::Header => "its header",
            Self::Pointers => "its write pointers",
            Self::Stamp => "the time of its last change",
        })
    }
}

/// Why an image was not opened. The message is one line and does not name the file.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Changes were begun that belong together, and not all were made.
    #[error(
        "the image was being changed (a power cut, or its size) when its process died: to look at it, have that brought to its end first, \
         by serving it or by check --repair"
    )]
    HalfChanged,
    /// The image cannot be used without the one that it builds on.
    #[error("the image builds on '{name}', which is not there to be read")]
    BaseMissing {
        /// The file of the base.
        name: String,
    },
    /// The image's changes are being taken into its base.
    #[error("a commit of the image into its base '{name}' has not come to its end: run commit again")]
    HalfCommitted {
        /// The file of the base.
        name: String,
    },
    /// The base is not what the image was made on.
    #[error("its base '{name}' has changed since the image was made on it: {changed} was {meant}, and is {found}")]
    BaseChanged {
        /// The file of the base.
        name: String,
        /// What has changed.
        changed: Changed,
        /// What that was.
        meant: String,
        /// What that is.
        found: String,
    },
    /// Too many images one on another.
    #[error(
        "the image has more than {most} bases one below the other: expected fewer, as commit and convert make them"
    )]
    TooManyBases {
        /// How many it may have.
        most: usize,
    },
    /// Its content was being replaced by that of a snapshot.
    #[error(
        "the image was being reverted to the snapshot {to:?} when its process ended, and is no image any more: copy that file over it \
         (cp --sparse=always)"
    )]
    Reverting {
        /// What the snapshot is called.
        to: String,
    },
    /// The storage failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file does not begin as a qcow2 image does.
    #[error("not a qcow2 image: it begins with {found:#010x}, expected 0x514649fb")]
    NotQcow2 {
        /// The first four bytes.
        found: u32,
    },
    /// The file ends inside something it must hold.
    #[error("the file is truncated: {what} needs {needed} bytes, the file has {len}")]
    Truncated {
        /// What does not fit.
        what: &'static str,
        /// Where it ends.
        needed: u64,
        /// The length of the file.
        len: u64,
    },
    /// A format version other than 3.
    #[error("version is {version}: expected 3{hint}")]
    Version {
        /// The version found.
        version: u32,
        /// More for versions that are known.
        hint: &'static str,
    },
    /// A qcow2 image without zones.
    #[error(
        "not a zoned image: it is plain qcow2, without the zoned extension (0x007a6264) and incompatible feature bit 5"
    )]
    NotZoned,
    /// The extension says that the device has no zones.
    #[error("not a zoned image: zoned is 0 (none), expected 1 (host-managed)")]
    ZonedNone,
    /// The feature bit without the extension.
    #[error("incompatible feature bit 5 (zoned format) is set, but the zoned extension (0x007a6264) is missing")]
    ExtensionMissing,
    /// The extension without the feature bit.
    #[error("the zoned extension (0x007a6264) is present, but incompatible feature bit 5 (zoned format) is not set")]
    FeatureBitMissing,
    /// Another layout of the zoned extension.
    #[error(
        "the zoned extension has the layout of {revision}, which this program does not read: expected that of \
         {}",
        known_layouts()
    )]
    OtherLayout {
        /// The revision recognised.
        revision: &'static str,
    },
    /// A layout of the zoned extension that nobody here knows.
    #[error(
        "the zoned extension, {len} bytes long, has no layout that this program knows: expected that of {}; either the \
         image is damaged or a newer program has made it",
        known_layouts()
    )]
    UnknownLayout {
        /// How long its data is.
        len: usize,
    },
    /// A feature of qcow2 that this project does not support.
    #[error("{feature} is not supported{hint}")]
    Unsupported {
        /// Its name.
        feature: &'static str,
        /// What can be done.
        hint: &'static str,
    },
    /// An incompatible feature nobody here knows.
    #[error("incompatible feature bit {bit} ({name}) is set: expected only known features")]
    UnknownFeature {
        /// The bit.
        bit: u32,
        /// Its name from the image's own table.
        name: String,
    },
    /// The dirty bit.
    #[error(
        "incompatible feature bit 0 (dirty bit) is set: the refcounts are marked inexact and the image must be checked \
         before it is written (check --repair); it can be opened read-only"
    )]
    Dirty,
    /// The corrupt bit.
    #[error("incompatible feature bit 1 (corrupt bit) is set: the image can be opened read-only, never for writing")]
    Corrupt,
    /// A field with a value it must not have.
    #[error("{field} is {value}: expected {expected}")]
    Field {
        /// The field by its name in the format's document.
        field: &'static str,
        /// Its value.
        value: String,
        /// What would have been right.
        expected: String,
    },
    /// An entry of a table of the image with a value it must not have.
    #[error("{table} entry {index} is {value:#x}: expected {expected}")]
    Entry {
        /// The table.
        table: &'static str,
        /// Which entry.
        index: u64,
        /// Its value.
        value: u64,
        /// What would have been right.
        expected: &'static str,
    },
    /// Two things of the image in the same place.
    #[error("{first} and {second} overlap in the cluster at {offset}")]
    Overlap {
        /// One of them.
        first: Kind,
        /// The other.
        second: Kind,
        /// The cluster they share.
        offset: FileOffset,
    },
    /// A rule of the geometry.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The clusters of the write-pointer table are not its own.
    #[error(
        "the zonedmeta cluster at {offset} has refcount {refcount}: expected 1; a check by qemu-img with bit 5 cleared, \
         or by a v7 binary, frees the clusters of the table, and later data may have landed in them; check --repair counts \
         them again where all write pointers are right"
    )]
    TableRefcount {
        /// The cluster.
        offset: FileOffset,
        /// Its refcount.
        refcount: u64,
    },
    /// A write pointer that cannot be.
    #[error("{0}; check lists every such pointer, and check --repair=pointers settles them")]
    Pointer(PointerError),
}

/// What is wrong with the entry of one zone in the write-pointer table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// A write pointer where it cannot be.
    #[error("the write pointer of zone {zone} is {value:#x}: expected {expected}")]
    Wrong {
        /// The zone.
        zone: ZoneIndex,
        /// The entry of the table as it stands there.
        value: u64,
        /// What would have been right.
        expected: String,
    },
    /// The 32-bit bug of the v7 binaries.
    #[error(
        "the write pointer of zone {zone} is {value:#x}: expected {expected}; the entry was cut to 32 bits by the \
         truncation bug of the v7 binaries"
    )]
    Truncated32 {
        /// The zone.
        zone: ZoneIndex,
        /// The entry of the table.
        value: u64,
        /// What would have been right.
        expected: String,
    },
    /// An entry of a v7 binary in a table of the other byte order.
    #[error(
        "the write pointer of zone {zone} is {value:#x} read {order}-endian, as the table is, and {other:#x} read \
         {other_order}-endian: expected {expected}; the second reading fits, as where a v7 binary has written into a \
         table of the other byte order"
    )]
    OtherOrder {
        /// The zone.
        zone: ZoneIndex,
        /// The entry as the table is read.
        value: u64,
        /// The byte order in which the table is read.
        order: ByteOrder,
        /// The entry in the other byte order.
        other: u64,
        /// That byte order.
        other_order: ByteOrder,
        /// What would have been right.
        expected: String,
    },
}

/// Why an image was not put on another base, or its changes not taken into its base.
#[derive(Debug, thiserror::Error)]
pub enum RebaseError {
    /// An image is not good.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A mapping cannot be read or changed.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A file cannot be written.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A new file was to be taken for the same base.
    #[error("it is not a copy of the base that the image was made on: {changed} is another one")]
    Different {
        /// What is.
        changed: Changed,
    },
    /// The first cluster has no room for what an image says of its base.
    #[error(
        "the name of the base has {len} bytes: expected at most 1023, and fewer with clusters of {cluster_size} bytes, the first of \
         which holds the name"
    )]
    Name {
        /// The length of the name.
        len: usize,
        /// The cluster size.
        cluster_size: Bytes,
    },
    /// The image builds on nothing.
    #[error("the image builds on no other: expected one that fork has made")]
    NoBase,
    /// The disk of the image is larger than that of its base.
    #[error(
        "the disk has {size} bytes, and that of its base {base}: expected one size; convert makes an image of its own"
    )]
    Larger {
        /// The size of the disk.
        size: Bytes,
        /// That of the base's.
        base: Bytes,
    },
}

/// Why an image was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The storage failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// There is something in the file already.
    #[error("the file is not empty: it has {len} bytes")]
    NotEmpty {
        /// Its length.
        len: Bytes,
    },
    /// A rule of the geometry.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// A cluster size that qcow2 does not have.
    #[error("cluster_size is {value}: expected a power of two from 512 bytes to 2 MiB")]
    ClusterSize {
        /// What was asked for.
        value: Bytes,
    },
    /// The first cluster has no room for what an image says of its base.
    #[error(
        "the name of the base has {len} bytes: expected at most 1023, and fewer with clusters of {cluster_size} bytes, the first of \
         which holds the name"
    )]
    BaseName {
        /// The length of the name.
        len: usize,
        /// The cluster size.
        cluster_size: Bytes,
    },
    /// The image would need a table larger than qcow2 allows.
    #[error(
        "size is {size}: with clusters of {cluster_size} bytes the {table} would exceed its limit of {limit} bytes; \
         expected a smaller size or a larger cluster size"
    )]
    TooLarge {
        /// The virtual size.
        size: Bytes,
        /// The cluster size.
        cluster_size: Bytes,
        /// The table that grows too large.
        table: &'static str,
        /// Its limit.
        limit: u64,
    },
}

/// What is wrong with one mapping entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// Bits that must be zero are not.
    #[error("its reserved bits must be 0")]
    Reserved,
    /// An offset inside a cluster.
    #[error("its offset must be a multiple of the cluster size")]
    Unaligned,
    /// An offset past the end of the file.
    #[error("its offset must be inside the file of {file_len} bytes")]
    OutsideFile {
        /// The length of the file.
        file_len: Bytes,
    },
    /// An offset of metadata.
    #[error("it points at {kind}, expected a cluster of its own")]
    Metadata {
        /// What is there.
        kind: Kind,
    },
    /// An offset of a cluster that nobody was given.
    #[error("it points at a cluster that is not allocated")]
    Unallocated,
    /// The flag that the cluster has one owner is missing.
    #[error("its COPIED flag (bit 63) must be set, as images with internal snapshots are not supported")]
    NotCopied,
    /// A compressed cluster.
    #[error("compressed clusters (bit 62) are not supported")]
    Compressed,
}

/// Why a guest range could not be looked up or mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The storage failed; nothing was lost and the call can be repeated.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A flush failed: what was durable before is, of all later writes nothing is known.
    #[error("cannot flush the image: {0}")]
    Flush(#[source] io::Error),
    /// The image was opened read-only.
    #[error("the image is open read-only")]
    ReadOnly,
    /// An L2 entry that breaks a rule.
    #[error("the L2 entry for guest offset {guest:#x} is {entry:#x}: {fault}", guest = guest.0)]
    L2 {
        /// The guest offset it maps.
        guest: Bytes,
        /// The entry.
        entry: u64,
        /// What is wrong.
        fault: EntryFault,
    },
    /// An L1 entry that breaks a rule.
    #[error("the L1 entry for guest offset {guest:#x} is {entry:#x}: {fault}", guest = guest.0)]
    L1 {
        /// The first guest offset it maps.
        guest: Bytes,
        /// The entry.
        entry: u64,
        /// What is wrong.
        fault: EntryFault,
    },
    /// No further cluster can be counted.
    #[error(
        "the image file cannot grow: a refcount table for {clusters} clusters would exceed its limit of {limit} bytes"
    )]
    FileLimit {
        /// How many clusters the file would have.
        clusters: u64,
        /// The limit of the table.
        limit: u64,
    },
    /// An earlier failure left it unknown which refcount table is in force.
    #[error("an earlier failure left the refcount table in doubt: the image must be opened anew before it can grow")]
    InDoubt,
}

impl MapError {
    pub(super) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

/// Why an image could not be checked to the end.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The image cannot be opened even for a check.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The storage failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Why an image has not grown. Its size is what it was, unless the image could not be opened afterwards.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// The image cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The storage failed.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A rule of the geometry.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The last zone is short, and nobody asked to fill it.
    #[error(
        "the last zone, {zone}, is {len} bytes long: expected it to be whole, {zone_size} bytes, or to be asked to make it so \
         first (--fill-last-zone)"
    )]
    ShortLastZone {
        /// The zone.
        zone: ZoneIndex,
        /// Its length.
        len: Bytes,
        /// That of others.
        zone_size: Bytes,
    },
    /// No multiple of the zone size, or nothing.
    #[error(
        "the disk is to grow by {by} bytes: expected whole zones, a multiple of {zone_size} bytes, and at least one"
    )]
    NotWholeZones {
        /// By how much it is to grow.
        by: Bytes,
        /// What it can grow by.
        zone_size: Bytes,
    },
    /// More zones than are served.
    #[error("the disk would have {zones} zones: expected at most {most}")]
    TooManyZones {
        /// How many.
        zones: u32,
        /// The most.
        most: u32,
    },
    /// The image would need a table larger than qcow2 allows.
    #[error(
        "the disk would have {size} bytes: with clusters of {cluster_size} bytes the {table} would exceed its limit"
    )]
    TooLarge {
        /// Its size.
        size: Bytes,
        /// The cluster size.
        cluster_size: Bytes,
        /// The table.
        table: &'static str,
    },
    /// Something stands behind the pointers.
    #[error(
        "zonedmeta_size is {size}: expected {expected}, 8 bytes a zone; what stands behind the write pointers is not known \
         here, and would not grow with them"
    )]
    MoreMetadata {
        /// What it is.
        size: u64,
        /// What the pointers take.
        expected: u64,
    },
}

/// One of two images that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one named first.
    First,
    /// The other one.
    Second,
}

/// Why two images could not be compared to the end.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A write pointer of one is wrong, or could not be read.
    #[error("{source}")]
    Pointers {
        /// The image.
        which: Which,
        /// What is wrong.
        source: OpenError,
    },
    /// The data of one could not be read.
    #[error("{source}")]
    Data {
        /// The image.
        which: Which,
        /// What is wrong.
        source: MapError,
    },
}

/// Why an image was not repaired, or not to the end. Whatever was done until then has made nothing worse.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The image cannot be opened even for a repair: nothing was written.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The image could not be read, or a refcount not written.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// Refcount blocks could not be added, or the storage failed.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// The layouts that are read, in words.
fn known_layouts() -> String {
    ZonedLayout::ALL.map(ZonedLayout::title).join(" or ")
}

impl CompareError {
    /// The image that could not be read.
    pub fn which(&self) -> Which {
        match self {
            Self::Pointers { which, .. } | Self::Data { which, .. } => *which,
        }
    }
}

impl OpenError {
    pub(super) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    pub(super) fn field(field: &'static str, value: impl ToString, expected: impl Into<String>) -> Self {
        Self::Field { field, value: value.to_string(), expected: expected.into() }
    }

    /// A field whose value is a file offset or a set of bits, shown in hexadecimal.
    pub(super) fn hex(field: &'static str, value: u64, expected: impl Into<String>) -> Self {
        Self::Field { field, value: format!("{value:#x}"), expected: expected.into() }
    }
}
