//! Opening image files for the commands.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::qcow2::{Access, Image};
use crate::storage::file::FileStorage;
use crate::storage::lock::{self, Purpose};
use crate::store::ZoneInfo;
use crate::units::{Bytes, ZoneIndex};
use crate::zone::{Geometry, Zone};

/// An image opened for looking at it.
pub(super) struct Opened {
    pub(super) image: Image<FileStorage>,
    pub(super) file: File,
    /// Somebody is writing to it at this moment.
    pub(super) served: bool,
}

/// Lets pass a regular file only: a device or a pipe is not an image.
pub(super) fn check_regular(file: File) -> Result<File> {
    if !file.metadata()?.file_type().is_file() {
        bail!("not a regular file: expected a qcow2 image in a file");
    }
    Ok(file)
}

/// Opens an image to look at it, also while it is being served; says so on standard error then.
pub(super) fn look(path: &Path) -> Result<Opened> {
    let opened = open(path)?;
    if opened.served {
        eprintln!(
            "vhost-user-zbd: {}: being served now: the zones change meanwhile, and open ones show as closed",
            path.display()
        );
    }
    Ok(opened)
}

/// The zones in `range` as the image's write pointers, one a zone, describe them.
pub(super) fn zones(geometry: &Geometry, pointers: &[Bytes], range: Range<u32>) -> impl Iterator<Item = ZoneInfo> {
    range.map(ZoneIndex).filter_map(|index| {
        let zone = Zone::from_pointer(geometry, index, *pointers.get(index.index())?);
        Some(ZoneInfo::of(geometry, index, &zone))
    })
}

/// The file of an image that is to be checked, which nobody else may be writing to.
pub(super) fn hold_for_reading(path: &Path) -> Result<Arc<FileStorage>> {
    hold(path, File::open(path).context("the image cannot be opened"), Purpose::Read)
}

/// The file of an image that is to be repaired, which nobody else may have open.
pub(super) fn hold_for_writing(path: &Path) -> Result<Arc<FileStorage>> {
    let file = File::options().read(true).write(true).open(path).context("the image cannot be opened for writing");
    hold(path, file, Purpose::Write)
}

fn hold(path: &Path, file: Result<File>, purpose: Purpose) -> Result<Arc<FileStorage>> {
    let name = || path.display().to_string();
    let file = file.and_then(check_regular).with_context(name)?;
    lock::lock_image(&file, purpose).with_context(name)?;
    Ok(Arc::new(FileStorage::new(file)))
}

fn open(path: &Path) -> Result<Opened> {
    let name = || path.display().to_string();
    let file = File::open(path).context("the image cannot be opened").and_then(check_regular).with_context(name)?;
    let served = lock::is_written(&file).unwrap_or(false);
    let storage = FileStorage::new(file.try_clone().with_context(name)?);
    let image = Image::open(Arc::new(storage), Access::ReadOnly).with_context(name)?;
    Ok(Opened { image, file, served })
}
