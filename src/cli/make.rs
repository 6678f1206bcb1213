//! Making the file of a new image, or another one.
//!
//! The file has no name until it is whole, so whatever ends this program meanwhile leaves nothing behind. Where the file
//! system has no files without a name, one is removed again when making it fails.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;

use crate::qcow2::{self, CreateOptions};
use crate::storage::file::FileMedium;
use crate::store::{self, MAX_ZONES};
use crate::zone::{Clamp, Geometry};

/// Where a file without a name can be found.
const DESCRIPTORS: &str = "/proc/self/fd";

/// A file that is whole.
struct Made {
    /// What is worth a warning.
    warnings: Vec<String>,
    /// Whether it has got its name.
    named: io::Result<()>,
}

/// Fills a new file, and returns what is worth a warning.
type Fill<'a> = &'a mut dyn FnMut(File) -> Result<Vec<String>>;

/// Makes an image where there is none. Returns what is worth a warning.
pub(super) fn make(path: &Path, options: &CreateOptions) -> Result<Vec<String>> {
    make_filled(path, &mut |file| fill(&FileMedium::new(file), options))
}

/// Makes a file where there is none. Returns what is worth a warning.
pub(super) fn make_filled(path: &Path, fill: Fill<'_>) -> Result<Vec<String>> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(failed(path, io::ErrorKind::AlreadyExists.into()));
    }
    match make_unnamed(path, fill)? {
        Some(made) => made.named.map(|()| made.warnings).map_err(|error| failed(path, error)),
        None => make_named(path, fill),
    }
}

/// Makes an image such that whoever looks finds a whole one or none; one that has come to be there meanwhile stays.
pub(super) fn make_whole(path: &Path, options: &CreateOptions) -> Result<Vec<String>> {
    let made = make_aside(path, &mut |file| fill(&FileMedium::new(file), options))?;
    match made.named {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(path, error)),
        _ => Ok(made.warnings),
    }
}

/// Makes a file where there is none, such that whoever looks finds all of it or nothing, though this program is killed.
pub(super) fn make_at_last(path: &Path, fill: Fill<'_>) -> Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(failed(path, io::ErrorKind::AlreadyExists.into()));
    }
    make_aside(path, fill)?.named.map_err(|error| failed(path, error))
}

/// Makes a file that gets its name when it is whole.
fn make_aside(path: &Path, fill: Fill<'_>) -> Result<Made> {
    let made = match make_unnamed(path, fill)? {
        Some(made) => made,
        None => {
            let unfinished = unfinished(path);
            let warnings = make_named(&unfinished, fill)?;
            let named = fs::hard_link(&unfinished, path);
            // Of no use now, whether the image has got its name or not.
            let _ = fs::remove_file(&unfinished);
            Made { warnings, named }
        }
    };
    Ok(made)
}

/// A name beside this one, for what is not whole yet.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    PathBuf::from(name)
}

/// Makes a file that has no name before it is whole; none where there are no such files.
fn make_unnamed(path: &Path, fill: Fill<'_>) -> Result<Option<Made>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !Path::new(DESCRIPTORS).is_dir() {
        return Ok(None);
    }
    let file = match OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).open(folder) {
        Ok(file) => file,
        // What file systems and kernels without them say.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(path, error)),
    };
    let its_name = format!("{DESCRIPTORS}/{}", file.as_raw_fd());
    let filled = file.try_clone().map_err(anyhow::Error::from).and_then(fill);
    let warnings = filled.with_context(|| path.display().to_string())?;
    let named = linkat(AT_FDCWD, its_name.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW);
    Ok(Some(Made { warnings, named: named.map_err(io::Error::from) }))
}

/// Makes a file that has its name from the beginning.
fn make_named(path: &Path, fill: Fill<'_>) -> Result<Vec<String>> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    let file = file.map_err(|error| failed(path, error))?;
    fill(file).with_context(|| path.display().to_string()).inspect_err(|_| {
        // What was begun is worth nothing; the first error is the one to tell.
        let _ = fs::remove_file(path);
    })
}

/// Makes an image in an empty file. Returns what is worth a warning.
pub(super) fn fill(file: &FileMedium, options: &CreateOptions) -> Result<Vec<String>> {
    let (geometry, _) = Geometry::new(&options.geometry)?;
    let (zones, zone) = (geometry.nr_zones(), geometry.zone_size());
    if zones > MAX_ZONES {
        bail!(
            "zone_size is {zone}, which makes {zones} zones: expected at most {MAX_ZONES}, as serving takes {} bytes of \
             memory for each",
            store::zone_memory()
        );
    }
    let lowered =
        |clamp: Clamp| format!("{} {} cannot be reached: {} will be in force", clamp.field, clamp.from, clamp.to);
    let mut warnings: Vec<_> = qcow2::create(file, options)?.into_iter().map(lowered).collect();
    let cluster = options.cluster_size;
    if zone < cluster {
        warnings.push(format!(
            "zone_size {zone} is less than a cluster of {cluster} bytes, so {} zones share each: expected larger zones or \
             --cluster-size {zone}",
            cluster.0 / zone.0
        ));
    }
    Ok(warnings)
}

fn failed(path: &Path, error: io::Error) -> anyhow::Error {
    let name = path.display();
    match error.kind() {
        io::ErrorKind::AlreadyExists => anyhow!("{name}: the file exists: remove it first, or choose another name"),
        _ => anyhow!("{name}: the file cannot be made: {error}"),
    }
}
