//! Copies of the image into files that clients of the control socket have opened, and back.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::device::standstill::{Check, Order};
use crate::io::Files;
use crate::power::Then;
use crate::qcow2::reverting::HEAD;
use crate::storage::copy::Copying;
use crate::storage::file::FileMedium;

/// Copies the image into a file, which has to be empty.
pub(super) fn save(files: &Arc<Files>, file: Arc<File>) -> (Order, Check) {
    let (image, target) = (Arc::clone(files), Arc::clone(&file));
    let copy = move |go_on: &dyn Fn() -> bool| {
        // Whoever has opened the target makes it durable: no request is held for that.
        Copying { from: image.file(), to: &target, start: 0, keep: None }.copy(go_on)
    };
    let files = Arc::clone(files);
    let check = move || match look(&file, &files, OFlag::O_WRONLY)? {
        0 => Ok(()),
        len => Err(format!("the target holds {len} bytes: expected an empty file")),
    };
    (Order::Save { copy: Box::new(copy) }, Box::new(check))
}

/// Has the image become what a file holds.
pub(super) fn revert(files: &Arc<Files>, file: Arc<File>, name: String, then: Then) -> (Order, Check) {
    let (image, source) = (Arc::clone(files), Arc::clone(&file));
    let replace = move |keep| {
        let copying = Copying { from: &source, to: image.file(), start: HEAD.0, keep: Some(keep) };
        copying.copy(&|| true)
    };
    let saved = Arc::new(FileMedium::for_reading(Arc::clone(&file)));
    let files = Arc::clone(files);
    let check = move || look(&file, &files, OFlag::O_RDONLY).map(drop);
    (Order::Revert { saved, name, then, replace: Box::new(replace) }, Box::new(check))
}

/// The length of a file that came along: a regular one, open for what is wanted, and not the image itself.
fn look(file: &File, files: &Files, wanted: OFlag) -> Result<u64, String> {
    let unknown = |error: io::Error| format!("the file that came along cannot be looked at: {error}");
    let (seen, image) = (file.metadata().map_err(unknown)?, files.file().metadata().map_err(unknown)?);
    if !seen.is_file() {
        return Err("what came along is no regular file: expected one".to_owned());
    }
    if (seen.dev(), seen.ino()) == (image.dev(), image.ino()) {
        return Err("the file that came along is the image itself: expected another one".to_owned());
    }
    let flags = fcntl(file, FcntlArg::F_GETFL).map_err(|error| unknown(error.into()))?;
    let (mode, append) = (flags & libc::O_ACCMODE, flags & libc::O_APPEND != 0);
    if mode != libc::O_RDWR && mode != wanted.bits() || append {
        return Err("the file that came along is not open for that".to_owned());
    }
    Ok(seen.len())
}
