//! The image file as data paths see it: through the page cache, and past it where a request allows.
//!
//! With `--cache none` the data file is open with O_DIRECT. The kernel then wants memory, position and length
//! aligned; a request that is not goes through the page cache instead, which is slower and just as right. Both
//! descriptors are of the same file, and the kernel keeps them coherent.
//!
//! Bases of the image are read through the page cache always: the same base is read for many images.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use super::Transfer;
use crate::units::Depth;

/// The image file, opened twice.
#[derive(Debug)]
pub struct DataFiles {
    /// For the guest's data; may be open with O_DIRECT.
    pub data: File,
    /// For what O_DIRECT does not take, and for fdatasync; never open with O_DIRECT.
    pub buffered: File,
    /// The bases that the image builds on, each above the one that it builds on itself.
    pub bases: Vec<File>,
}

impl DataFiles {
    /// The file of an image without bases.
    pub fn new(data: File, buffered: File) -> Self {
        Self { data, buffered, bases: Vec::new() }
    }
}

/// What a file system that does not say asks for at most.
const DEFAULT_ALIGNMENT: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Alignment {
    memory: u64,
    file: u64,
}

/// The descriptors with what is known of them.
#[derive(Debug)]
pub struct Files {
    files: DataFiles,
    /// Set when `data` is in O_DIRECT mode.
    direct: Option<Alignment>,
}

impl Files {
    /// Finds out what the descriptors take.
    pub fn new(files: DataFiles) -> Self {
        let direct = is_direct(&files.data).then(|| alignment(&files.data));
        Self { files, direct }
    }

    /// The image file through the page cache.
    pub fn file(&self) -> &File {
        &self.files.buffered
    }

    /// The descriptor to use for a transfer, and whether it goes past the page cache.
    ///
    /// # Safety
    ///
    /// The iovecs of the transfer are valid.
    pub(super) unsafe fn choose(&self, transfer: &Transfer) -> (RawFd, bool) {
        if let Some(base) = self.base(transfer.depth) {
            return (base.as_raw_fd(), false);
        }
        // SAFETY: the caller promises the same.
        self.choose_for(transfer.offset, unsafe { transfer.iovecs() }, !transfer.buffered)
    }

    fn choose_for(&self, offset: u64, buffers: &[libc::iovec], direct_allowed: bool) -> (RawFd, bool) {
        let suits = |alignment: Alignment| {
            offset.is_multiple_of(alignment.file)
                && buffers.iter().all(|buffer| {
                    (buffer.iov_base as u64).is_multiple_of(alignment.memory)
                        && (buffer.iov_len as u64).is_multiple_of(alignment.file)
                })
        };
        match self.direct {
            None => (self.files.data.as_raw_fd(), false),
            Some(alignment) if direct_allowed && suits(alignment) => (self.files.data.as_raw_fd(), true),
            Some(_) => (self.buffered(), false),
        }
    }

    fn base(&self, depth: Depth) -> Option<&File> {
        self.files.bases.get(usize::from(depth.0).checked_sub(1)?)
    }

    /// The files of the chain through the page cache, the image first.
    pub(super) fn buffered_files(&self) -> impl Iterator<Item = &File> {
        std::iter::once(&self.files.buffered).chain(&self.files.bases)
    }

    /// The descriptor that goes through the page cache.
    pub(super) fn buffered(&self) -> RawFd {
        self.files.buffered.as_raw_fd()
    }
}

fn is_direct(file: &File) -> bool {
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GETFL).is_ok_and(|flags| flags & libc::O_DIRECT != 0)
}

/// What statx(2) says O_DIRECT needs on this file, since Linux 6.1.
fn alignment(file: &File) -> Alignment {
    let default = Alignment { memory: DEFAULT_ALIGNMENT, file: DEFAULT_ALIGNMENT };
    let mut buffer = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, as AT_EMPTY_PATH wants it, and the buffer has the size of the struct.
    let result = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, buffer.as_mut_ptr())
    };
    // SAFETY: all fields are integers, for which the zeros it was filled with are a value.
    let told = unsafe { buffer.assume_init() };
    let known = result == 0 && told.stx_mask & libc::STATX_DIOALIGN != 0;
    let (memory, file) = (u64::from(told.stx_dio_mem_align), u64::from(told.stx_dio_offset_align));
    // Zero says that this file takes no O_DIRECT at all: what it does take is found out by EINVAL.
    if known && memory.is_power_of_two() && file.is_power_of_two() { Alignment { memory, file } } else { default }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn buffer(address: usize, len: usize) -> libc::iovec {
        libc::iovec { iov_base: address as *mut libc::c_void, iov_len: len }
    }

    #[test]
    fn only_an_aligned_transfer_goes_past_the_page_cache() {
        let file = tempfile::tempfile().unwrap();
        let files = DataFiles::new(file.try_clone().unwrap(), file);
        let mut files = Files::new(files);
        assert!(files.direct.is_none());
        assert_eq!(files.choose_for(1, &[buffer(3, 5)], true), (files.files.data.as_raw_fd(), false));
        files.direct = Some(Alignment { memory: 512, file: 4096 });
        let direct = |offset, buffers: &[libc::iovec], allowed| {
            files.choose_for(offset, buffers, allowed) == (files.files.data.as_raw_fd(), true)
        };
        assert!(direct(8192, &[buffer(512, 4096), buffer(4096, 8192)], true));
        assert!(!direct(512, &[buffer(512, 4096)], true), "position");
        assert!(!direct(0, &[buffer(512, 4096), buffer(100, 4096)], true), "memory");
        assert!(!direct(0, &[buffer(512, 512)], true), "length");
        assert!(!direct(0, &[buffer(512, 4096)], false), "it was refused before");
    }
}
