//! The files of a backing chain: found by the names that images give, locked for reading, opened as bases.
//!
//! A relative name begins in the folder of the image that gives it. Each base is locked as qemu-img does for reading, so that
//! nobody writes to it while an image that builds on it is open.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::qcow2::{Base, Image, MOST_BASES, OpenError};
use crate::storage::Medium;
use crate::storage::file::{FileMedium, open_regular};
use crate::storage::lock::{self, LockError, Purpose};

/// Why an image was not opened as a base. The message names it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", .name.display())]
pub struct ChainError {
    name: PathBuf,
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("it cannot be opened: {0}")]
    File(#[from] io::Error),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{0}: expected the name of a file")]
    Name(&'static str),
}

/// An image that others build on, with its files.
pub struct Chain {
    /// The image.
    pub base: Base,
    /// Its file and those of the bases below it, for reading data.
    pub files: Vec<File>,
    /// The names of the files.
    pub names: Vec<PathBuf>,
}

/// Opens the bases of the image in `storage`, which is the file at `image`; none where it builds on nothing.
pub fn bases_of(image: &Path, storage: &impl Medium) -> Result<Option<Chain>, ChainError> {
    below(image, storage, 0)
}

/// Opens an image as a base, with those that it builds on.
pub fn open(path: &Path) -> Result<Chain, ChainError> {
    open_at(path, 1)
}

/// The files that the image in `storage`, which is the file at `image`, builds on, as far as they can be found; locks nothing.
pub fn names(image: &Path, storage: &impl Medium) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = Vec::new();
    let mut backing = Image::backing_of(storage).ok().flatten();
    while let Some(said) = backing.take().filter(|_| names.len() <= MOST_BASES) {
        let above = names.last().map_or(image, PathBuf::as_path);
        let Ok(name) = resolved(above, &said.name) else { break };
        let file = open_regular(&name, File::options().read(true), "a qcow2 image in a file");
        names.push(name);
        backing = file.ok().and_then(|file| Image::backing_of(&FileMedium::new(file)).ok().flatten());
    }
    names
}

/// Opens what an image at this depth of a chain builds on.
fn below(image: &Path, storage: &impl Medium, depth: usize) -> Result<Option<Chain>, ChainError> {
    let failed = |why: Why| ChainError { name: image.to_owned(), why };
    // What is wrong with the image is for opening it to tell.
    let Ok(Some(backing)) = Image::backing_of(storage) else { return Ok(None) };
    if depth == MOST_BASES {
        return Err(failed(OpenError::TooManyBases { most: MOST_BASES }.into()));
    }
    let name = resolved(image, &backing.name).map_err(|why| ChainError { name: backing.name.into(), why })?;
    open_at(&name, depth + 1).map(Some)
}

fn open_at(path: &Path, depth: usize) -> Result<Chain, ChainError> {
    let failed = |why: Why| ChainError { name: path.to_owned(), why };
    let file =
        open_regular(path, File::options().read(true), "a qcow2 image in a file").map_err(|why| failed(why.into()))?;
    lock::lock_image(&file, Purpose::Read).map_err(|why| failed(why.into()))?;
    let stamp = stamp_of(&file).map_err(|why| failed(why.into()))?;
    // Metadata is read here and there and data in order: each has a descriptor, and readahead, of its own.
    let for_data = reopened(&file).map_err(|why| failed(why.into()))?;
    let medium = Arc::new(FileMedium::new(file));
    let below = below(path, &medium, depth)?;
    let (base, mut files, mut names) = match below {
        Some(Chain { base, files, names }) => (Some(base), files, names),
        None => (None, Vec::new(), Vec::new()),
    };
    let base = Base::open(medium, stamp, base).map_err(|why| failed(why.into()))?;
    files.insert(0, for_data);
    names.insert(0, path.to_owned());
    Ok(Chain { base, files, names })
}

/// The file that a name in an image means.
fn resolved(image: &Path, name: &str) -> Result<PathBuf, Why> {
    if name.starts_with("json:") {
        return Err(Why::Name("a description in JSON is not taken"));
    }
    let name = Path::new(name.strip_prefix("file:").unwrap_or(name));
    Ok(image.parent().unwrap_or(Path::new("")).join(name))
}

/// What is known of the last change of an image's file, in words.
pub fn stamp(path: &Path) -> io::Result<String> {
    stamp_of(&File::open(path)?)
}

/// What is known of the last change of a file.
fn stamp_of(file: &File) -> io::Result<String> {
    let about = file.metadata()?;
    Ok(format!("{}.{:09}", about.mtime(), about.mtime_nsec()))
}

/// Opens the same file again, whatever its name leads to by now.
fn reopened(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
