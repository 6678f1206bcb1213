//! Opening image files for the commands.

use std::fs::{File, OpenOptions};
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::chain;
use crate::logging;
use crate::qcow2::{Access, Image, OpenError};
use crate::storage::file::{self, FileMedium};
use crate::storage::lock::{self, Purpose};
use crate::store::ZoneInfo;
use crate::zone::Zone;

/// What the file of an image is expected to be.
const IMAGE: &str = "a qcow2 image in a file";

/// Zones that are read at a time.
const CHUNK: u32 = 4096;

/// An image opened for looking at it.
pub(super) struct Opened {
    pub(super) image: Image<FileMedium>,
    pub(super) file: File,
    /// Somebody is writing to it at this moment.
    pub(super) served: bool,
}

/// Opens a regular file. A device or a pipe is refused at once, whoever has its other end.
pub(super) fn open_regular(path: &Path, options: &mut OpenOptions, expected: &str) -> Result<File> {
    Ok(file::open_regular(path, options, expected)?)
}

/// Opens the file of an image.
pub(super) fn open_file(path: &Path, options: &mut OpenOptions) -> Result<File> {
    open_regular(path, options, IMAGE).context("the image cannot be opened")
}

/// Opens an image to look at it, also while it is being served; says so on standard error then.
pub(super) fn look(path: &Path) -> Result<Opened> {
    let opened = open(path)?;
    if opened.served {
        let path = path.display();
        logging::warning(format_args!(
            "{path}: being served now: the zones change meanwhile, and open ones show as closed"
        ));
    }
    Ok(opened)
}

impl Opened {
    /// Gives these zones, as their write pointers describe them, to `with`, and its result unless one cannot be read.
    pub(super) fn with_zones<R>(
        &self,
        zones: Range<u32>,
        with: impl FnOnce(&mut dyn Iterator<Item = ZoneInfo>) -> R,
    ) -> Result<R, OpenError> {
        let mut read = Ok(());
        let chunk = |first: u32| self.chunk(first..zones.end.min(first.saturating_add(CHUNK)));
        let all = zones.clone().step_by(CHUNK as usize).map_while(|first| chunk(first).map_err(|e| read = Err(e)).ok());
        let result = with(&mut all.flatten());
        read.map(|()| result)
    }

    fn chunk(&self, zones: Range<u32>) -> Result<Vec<ZoneInfo>, OpenError> {
        let geometry = self.image.geometry();
        let mut chunk = Vec::with_capacity(CHUNK as usize);
        self.image.each_write_pointer(zones, |index, pointer| {
            chunk.push(ZoneInfo::of(geometry, index, &Zone::from_pointer(geometry, index, pointer)));
            ControlFlow::Continue(())
        })?;
        Ok(chunk)
    }
}

/// An image whose data is read, which nobody else may be writing to, nor to the bases that it builds on. All its write pointers are
/// right.
pub(super) fn open_to_read(path: &Path) -> Result<Image<FileMedium>> {
    let storage = hold_for_reading(path)?;
    let open = || {
        let base = chain::bases_of(path, &*storage)?.map(|chain| chain.base);
        anyhow::Ok(Image::open_over(Arc::clone(&storage), Access::ReadOnly, base)?)
    };
    open().with_context(|| path.display().to_string())
}

/// The file of an image that is to be checked, which nobody else may be writing to.
pub(super) fn hold_for_reading(path: &Path) -> Result<Arc<FileMedium>> {
    hold(path, open_file(path, File::options().read(true)), Purpose::Read)
}

/// The file of an image that is to be repaired, which nobody else may have open.
pub(super) fn hold_for_writing(path: &Path) -> Result<Arc<FileMedium>> {
    let file = open_regular(path, File::options().read(true).write(true), IMAGE);
    hold(path, file.context("the image cannot be opened for writing"), Purpose::Write)
}

fn hold(path: &Path, file: Result<File>, purpose: Purpose) -> Result<Arc<FileMedium>> {
    let name = || path.display().to_string();
    let file = file.with_context(name)?;
    lock::lock_image(&file, purpose).with_context(name)?;
    Ok(Arc::new(FileMedium::new(file)))
}

fn open(path: &Path) -> Result<Opened> {
    let name = || path.display().to_string();
    let file = open_file(path, File::options().read(true)).with_context(name)?;
    let served = lock::is_written(&file).unwrap_or(false);
    let storage = FileMedium::new(file.try_clone().with_context(name)?);
    let image = Image::open_to_look(Arc::new(storage)).with_context(name)?;
    Ok(Opened { image, file, served })
}
