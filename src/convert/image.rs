//! An image of this program, as a source and as a target.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};

use super::{Source, Target};
use crate::qcow2::{Access, Extent, Image, PointerTable};
use crate::storage::Medium;
use crate::store::ZoneInfo;
use crate::units::{Bytes, FileOffset, ZoneIndex};
use crate::zone::{Geometry, Zone};

/// Space reserved at a time: each reservation waits for the disk.
const AHEAD: Bytes = Bytes(64 << 20);

/// An image that is read. Nobody else writes to it.
pub struct ImageSource<M> {
    image: Image<M>,
    pointers: Vec<Bytes>,
}

impl<M: Medium> ImageSource<M> {
    /// Takes an open image.
    pub fn new(image: Image<M>) -> Result<Self> {
        let geometry = *image.geometry();
        let mut pointers = Vec::new();
        image.each_write_pointer(0..geometry.nr_zones(), |index, pointer| {
            let zone = Zone::from_pointer(&geometry, index, pointer);
            pointers.push(ZoneInfo::of(&geometry, index, &zone).write_pointer);
            ControlFlow::Continue(())
        })?;
        Ok(Self { image, pointers })
    }
}

impl<M: Medium> Source for ImageSource<M> {
    fn geometry(&self) -> &Geometry {
        self.image.geometry()
    }

    fn pointers(&self) -> &[Bytes] {
        &self.pointers
    }

    fn data(&mut self, from: u64, end: u64) -> Result<Option<Range<u64>>> {
        let extent = first(&mut self.image, from, end.saturating_sub(from))?;
        Ok(extent.map(|extent| extent.guest.0..extent.guest.0 + extent.len.0))
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<()> {
        let mut rest = into;
        let mut at = at;
        while !rest.is_empty() {
            let extent = first(&mut self.image, at, rest.len() as u64)?;
            let (hole, data) = match &extent {
                Some(extent) => (extent.guest.0 - at, extent.len.0),
                None => (rest.len() as u64, 0),
            };
            let (zeros, later) = rest.split_at_mut(usize::try_from(hole)?);
            zeros.fill(0);
            let (now, later) = later.split_at_mut(usize::try_from(data)?);
            if let Some(extent) = extent {
                self.image.read_extent(&extent, now).context("the image cannot be read")?;
            }
            rest = later;
            at += hole + data;
        }
        Ok(())
    }
}

/// The first mapped run in a range of the disk.
fn first<M: Medium>(image: &mut Image<M>, at: u64, len: u64) -> Result<Option<Extent>> {
    let mut found = Vec::with_capacity(1);
    image.extents(Bytes(at), Bytes(len), &mut found, 1)?;
    Ok(found.pop())
}

/// A new image that is filled.
pub struct ImageTarget<M> {
    image: Image<M>,
    table: PointerTable<M>,
}

impl<M: Medium> ImageTarget<M> {
    /// Takes an image that was just made.
    pub fn new(storage: Arc<M>) -> Result<Self> {
        let mut image = Image::open(storage, Access::ReadWrite)?;
        image.keep_ahead(AHEAD);
        let table = image.pointer_table();
        Ok(Self { image, table })
    }
}

impl<M: Medium> Target for ImageTarget<M> {
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let (mut at, mut rest) = (at, bytes);
        self.image.map(Bytes(at), Bytes(rest.len() as u64))?;
        while !rest.is_empty() {
            let place = first(&mut self.image, at, rest.len() as u64)?.filter(|extent| extent.guest.0 == at);
            let place = place.ok_or_else(|| anyhow!("byte {at} of the disk has no place in the image"))?;
            let (now, later) = rest.split_at(usize::try_from(place.len.0)?.min(rest.len()));
            self.image.storage().write_at(FileOffset(place.file.0), now).context("the image cannot be written")?;
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn finish(mut self, pointers: &[Bytes]) -> Result<()> {
        let geometry = *self.image.geometry();
        for zone in geometry.sequential_zones() {
            let zone = ZoneIndex(zone);
            let pointer = pointers.get(zone.index()).copied().unwrap_or_default();
            if pointer.0 <= geometry.start(zone).0 {
                continue;
            }
            let is_full = pointer.0 >= geometry.writable_end(zone).0;
            let pointer = if is_full { self.table.full_pointer(zone) } else { pointer };
            self.table.store(zone, pointer).context("the write pointers cannot be written")?;
        }
        let storage = Arc::clone(self.image.storage());
        storage.flush().context("the image cannot be made durable")?;
        self.image.release()?;
        self.image.mark_orderly()?;
        drop(self);
        // What opening refuses would be of no use to anybody.
        Image::open(storage, Access::ReadOnly)?;
        Ok(())
    }
}
