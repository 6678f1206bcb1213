//! The guest's memory: one memfd, shared with the backend, given out once and never taken back.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use anyhow::{Context, Result, ensure};

/// The guest address of the first byte: not 0, so that a forgotten translation does not work by chance.
const FIRST_ADDRESS: u64 = 1 << 32;

/// One region of guest memory.
#[derive(Debug)]
pub(crate) struct GuestMemory {
    file: OwnedFd,
    base: *mut u8,
    size: u64,
    used: u64,
}

/// A range of it: where the guest and where this process sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area {
    pub(crate) guest: u64,
    pub(crate) here: *mut u8,
    pub(crate) len: u64,
}

// SAFETY: an area is an address in a mapping that lives until the process ends; each area has one owner.
unsafe impl Send for Area {}

impl GuestMemory {
    pub(crate) fn new(size: u64) -> Result<Self> {
        // SAFETY: the name is NUL-terminated; the result is checked.
        let raw = unsafe { libc::memfd_create(c"guest-memory".as_ptr(), libc::MFD_CLOEXEC) };
        ensure!(raw >= 0, "memfd_create: {}", io::Error::last_os_error());
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let file = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: a plain system call on an own descriptor.
        let cut = unsafe { libc::ftruncate(file.as_raw_fd(), size as libc::off_t) };
        ensure!(cut == 0, "ftruncate: {}", io::Error::last_os_error());
        let base = map(size, libc::MAP_SHARED | libc::MAP_POPULATE, file.as_raw_fd(), 0).context("guest memory")?;
        Ok(Self { file, base, size, used: 0 })
    }

    /// The next `len` bytes, on a page of their own, all zeros.
    pub(crate) fn alloc(&mut self, len: u64) -> Result<Area> {
        let at = self.used;
        self.used += len.next_multiple_of(4096);
        ensure!(self.used <= self.size, "the guest's memory has no room for {len} bytes");
        // SAFETY: the range was just found to lie inside the mapping.
        let here = unsafe { self.base.add(at as usize) };
        Ok(Area { guest: FIRST_ADDRESS + at, here, len })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn guest_address(&self) -> u64 {
        FIRST_ADDRESS
    }

    pub(crate) fn user_address(&self) -> u64 {
        self.base as u64
    }
}

impl Area {
    /// A part of the area.
    pub(crate) fn part(&self, at: u64, len: u64) -> Self {
        assert!(at + len <= self.len, "a part reaches beyond its area");
        // SAFETY: checked above.
        Self { guest: self.guest + at, here: unsafe { self.here.add(at as usize) }, len }
    }

    /// Its bytes. The backend may write them meanwhile only as far as a request in flight says so.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the range is inside a mapping that is never unmapped, and `self` is its one owner.
        unsafe { std::slice::from_raw_parts_mut(self.here, self.len as usize) }
    }
}

/// Maps `size` bytes, readable and writable; they stay mapped until the process ends.
pub(crate) fn map(size: u64, flags: libc::c_int, fd: RawFd, offset: u64) -> io::Result<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses; the result is checked.
    let base = unsafe { libc::mmap(ptr::null_mut(), size as usize, protection, flags, fd, offset as libc::off_t) };
    if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(base.cast()) }
}
