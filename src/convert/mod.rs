//! Disks of other forms: a disk is read from one, and written as another.
//!
//! | module | form |
//! | --- | --- |
//! | [`image`] | an image of this program |
//! | [`zloop`] | a directory of Linux's zoned loop driver: a file for each zone, as long as the zone is written |
//! | [`raw`] | one file, zone behind zone, and a [zone table](table) beside it |
//! | [`table`] | zone tables: JSON as `report --json` prints it, or the text of blkzone |
//!
//! What passes is the geometry, a write pointer for each zone, and the bytes below it; of conventional zones all bytes. Zeros are
//! left out. A source is never written. A target is whole only after [`Target::finish`]; giving it its name then is for the
//! caller.

pub mod image;
pub mod raw;
pub mod table;
pub mod zloop;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use nix::unistd::{Whence, lseek};

use crate::units::{Bytes, ZoneIndex};
use crate::zone::{Geometry, ZoneKind};

/// Bytes read at a time.
const CHUNK: u64 = 1 << 20;
/// Zeros are left out in whole pieces of so many bytes.
const PIECE: usize = 4096;

/// A disk that is read.
pub trait Source {
    /// Its shape.
    fn geometry(&self) -> &Geometry;

    /// The write pointer of each zone, an absolute byte: the end of what can be written for a full one, the start for a
    /// conventional one.
    fn pointers(&self) -> &[Bytes];

    /// The first range of the disk at or after `from`, and before `end`, that may hold anything but zeros.
    fn data(&mut self, from: u64, end: u64) -> Result<Option<Range<u64>>>;

    /// Reads a part of one zone.
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<()>;
}

/// A disk that is made. What is not written reads as zeros.
pub trait Target {
    /// Writes a part of one zone.
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()>;

    /// Sets all write pointers, and makes everything durable.
    fn finish(self, pointers: &[Bytes]) -> Result<()>;
}

/// Makes the target hold what the source does. `progress` is told how many bytes of how many have been looked at.
pub fn copy(source: &mut dyn Source, mut target: impl Target, mut progress: impl FnMut(Bytes, Bytes)) -> Result<()> {
    let geometry = *source.geometry();
    let ends: Vec<Range<u64>> = written(&geometry, source.pointers()).collect();
    let all: u64 = ends.iter().map(|zone| zone.end - zone.start).sum();
    let mut done = 0;
    let mut bytes = Vec::new();
    for zone in ends {
        let mut at = zone.start;
        while let Some(data) = source.data(at, zone.end)? {
            at = data.start;
            while at < data.end {
                let end = data.end.min((at / CHUNK + 1) * CHUNK);
                bytes.resize(usize::try_from(end - at)?, 0);
                source.read(at, &mut bytes)?;
                write_all_but_zeros(&mut target, at, &bytes)?;
                at = end;
                progress(Bytes(done + (at - zone.start)), Bytes(all));
            }
        }
        done += zone.end - zone.start;
        progress(Bytes(done), Bytes(all));
    }
    target.finish(source.pointers())
}

/// What of each zone is written.
fn written<'a>(geometry: &'a Geometry, pointers: &'a [Bytes]) -> impl Iterator<Item = Range<u64>> + 'a {
    (0..geometry.nr_zones()).map(ZoneIndex).zip(pointers).map(|(zone, pointer)| {
        let start = geometry.start(zone).0;
        match geometry.kind(zone) {
            ZoneKind::Conventional => start..start + geometry.len(zone).0,
            ZoneKind::SequentialWriteRequired => start..pointer.0.max(start),
        }
    })
}

fn write_all_but_zeros(target: &mut impl Target, at: u64, bytes: &[u8]) -> Result<()> {
    let is_zero = |piece: &[u8]| piece.iter().all(|byte| *byte == 0);
    let (mut from, mut to) = (0, 0);
    for piece in bytes.chunks(PIECE) {
        if is_zero(piece) {
            if from < to {
                target.write(at + from as u64, &bytes[from..to])?;
            }
            from = to + piece.len();
        }
        to += piece.len();
    }
    if from < to { target.write(at + from as u64, &bytes[from..to]) } else { Ok(()) }
}

/// The first range of a file at or after `from`, and before `end`, that is no hole.
pub fn data_in(file: &File, from: u64, end: u64) -> Result<Option<Range<u64>>> {
    let seek = |at: u64, whence| match lseek(file, i64::try_from(at)?, whence) {
        Ok(found) => Ok(Some(u64::try_from(found)?)),
        // No data from here on.
        Err(nix::Error::ENXIO) => Ok(None),
        Err(error) => Err(error).context("the file's holes cannot be found"),
    };
    if from >= end {
        return Ok(None);
    }
    let Some(start) = seek(from, Whence::SeekData)?.filter(|start| *start < end) else { return Ok(None) };
    let hole = seek(start, Whence::SeekHole)?.unwrap_or(end);
    Ok(Some(start..hole.min(end)))
}

/// Reads a part of a file. What lies past its end reads as zeros.
fn read_at(file: &File, at: u64, into: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    into[filled..].fill(0);
    Ok(())
}
