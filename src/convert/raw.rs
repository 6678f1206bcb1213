//! One file, zone behind zone, as a source and as a target. What its zones are stands in a zone table beside it.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};

use super::{Source, Target, data_in, read_at};
use crate::units::Bytes;
use crate::zone::Geometry;

/// A file that is read. Whatever it holds beyond the write pointers is left out.
pub struct RawSource {
    file: File,
    geometry: Geometry,
    pointers: Vec<Bytes>,
}

impl RawSource {
    /// Takes a file and what its zones are.
    pub fn new(file: File, geometry: Geometry, pointers: Vec<Bytes>) -> Result<Self> {
        let len = Bytes(file.metadata()?.len());
        if len != geometry.size() {
            bail!("it has {len} bytes: expected {}, where the last zone of the zone table ends", geometry.size());
        }
        Ok(Self { file, geometry, pointers })
    }
}

impl Source for RawSource {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn pointers(&self) -> &[Bytes] {
        &self.pointers
    }

    fn data(&mut self, from: u64, end: u64) -> Result<Option<Range<u64>>> {
        data_in(&self.file, from, end)
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<()> {
        read_at(&self.file, at, into).context("the file cannot be read")
    }
}

/// A file that is filled.
pub struct RawTarget(File);

impl RawTarget {
    /// Takes an empty file.
    pub fn new(file: File, geometry: &Geometry) -> Result<Self> {
        file.set_len(geometry.size().0).context("the file cannot be made as long as the disk")?;
        Ok(Self(file))
    }
}

impl Target for RawTarget {
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.0.write_all_at(bytes, at).context("the file cannot be written")
    }

    fn finish(self, _: &[Bytes]) -> Result<()> {
        self.0.sync_all().context("the file cannot be made durable")
    }
}
