//! Guest memory: memfd regions that the daemon maps too, and an allocator for rings and buffers.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering};

/// The guest address of the first region: not 0, so that a forgotten translation does not work by chance.
const FIRST_GPA: u64 = 0x4000_0000;

/// Free guest addresses between two regions: never part of any region.
const HOLE: u64 = 0x1000_0000;

/// One region of guest memory.
#[derive(Debug)]
pub struct Region {
    /// Its first guest address.
    pub gpa: u64,
    /// Its length in bytes.
    pub size: u64,
    fd: OwnedFd,
    base: *mut u8,
    free: BTreeMap<u64, u64>,
    used: BTreeMap<u64, u64>,
}

impl Region {
    fn new(gpa: u64, size: u64) -> Self {
        // SAFETY: the name is a NUL-terminated literal; the result is checked.
        let raw = unsafe { libc::memfd_create(c"guest-memory".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(raw >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: plain system call on an own descriptor.
        let cut = unsafe { libc::ftruncate(fd.as_raw_fd(), size as libc::off_t) };
        assert_eq!(cut, 0, "ftruncate: {}", std::io::Error::last_os_error());
        // SAFETY: a fresh shared mapping of an own file at an address the kernel chooses; the result is checked.
        let base = unsafe {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(ptr::null_mut(), size as usize, prot, libc::MAP_SHARED, fd.as_raw_fd(), 0)
        };
        assert_ne!(base, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Self { gpa, size, fd, base: base.cast(), free: BTreeMap::from([(gpa, size)]), used: BTreeMap::new() }
    }

    /// The file behind the region.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The region's address in this process: what vhost-user calls the user address.
    pub fn user_addr(&self) -> u64 {
        self.base as u64
    }

    /// The 32 bytes that describe the region in vhost-user messages.
    pub fn describe(&self) -> [u8; 32] {
        let mut out = [0; 32];
        for (at, value) in [self.gpa, self.size, self.user_addr(), 0].into_iter().enumerate() {
            out[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes());
        }
        out
    }

    fn alloc(&mut self, len: u64, align: u64) -> Option<u64> {
        let len = len.max(1).next_multiple_of(16);
        let (start, size, at) = self.free.iter().find_map(|(start, size)| {
            let at = start.next_multiple_of(align);
            (at + len <= start + size).then_some((*start, *size, at))
        })?;
        self.free.remove(&start);
        if at > start {
            self.free.insert(start, at - start);
        }
        if at + len < start + size {
            self.free.insert(at + len, start + size - at - len);
        }
        self.used.insert(at, len);
        Some(at)
    }

    fn release(&mut self, gpa: u64) {
        let mut len = self.used.remove(&gpa).expect("released memory that was not allocated");
        let mut start = gpa;
        if let Some(next) = self.free.remove(&(gpa + len)) {
            len += next;
        }
        if let Some((before, size)) = self.free.range(..gpa).next_back().map(|(at, size)| (*at, *size))
            && before + size == gpa
        {
            start = before;
            len += size;
        }
        self.free.insert(start, len);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this address and length and nothing points into it any more.
        unsafe { libc::munmap(self.base.cast(), self.size as usize) };
    }
}

/// All of a guest's memory.
#[derive(Debug)]
pub struct GuestMem {
    regions: Vec<Region>,
    next_gpa: u64,
}

impl GuestMem {
    /// Memory of one region.
    pub fn new(size: u64) -> Self {
        let mut mem = Self { regions: Vec::new(), next_gpa: FIRST_GPA };
        mem.add_region(size);
        mem
    }

    /// Adds a region behind a hole; the daemon does not know of it until it is told. Returns its number.
    pub fn add_region(&mut self, size: u64) -> usize {
        self.regions.push(Region::new(self.next_gpa, size));
        self.next_gpa += size.next_multiple_of(4096) + HOLE;
        self.regions.len() - 1
    }

    /// The regions.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// A guest address that no region has.
    pub fn nowhere(&self) -> u64 {
        self.next_gpa - HOLE / 2
    }

    /// Room for `len` bytes in any region.
    pub fn alloc(&mut self, len: u64, align: u64) -> u64 {
        let found = self.regions.iter_mut().find_map(|region| region.alloc(len, align));
        found.unwrap_or_else(|| panic!("the guest's memory has no room for {len} bytes"))
    }

    /// Room for `len` bytes in one region.
    pub fn alloc_in(&mut self, region: usize, len: u64, align: u64) -> u64 {
        self.regions[region].alloc(len, align).expect("the region has no room")
    }

    /// Gives back what `alloc` gave.
    pub fn release(&mut self, gpa: u64) {
        let region = self.regions.iter_mut().find(|r| (r.gpa..r.gpa + r.size).contains(&gpa));
        region.expect("address outside memory").release(gpa);
    }

    /// The user address for a guest address.
    pub fn to_user(&self, gpa: u64) -> u64 {
        self.ptr(gpa, 1) as u64
    }

    fn ptr(&self, gpa: u64, len: u64) -> *mut u8 {
        let inside = |r: &&Region| gpa >= r.gpa && gpa + len <= r.gpa + r.size;
        let region = self.regions.iter().find(inside).expect("range outside the guest's memory");
        // SAFETY: the range was just found to lie inside the region's mapping.
        unsafe { region.base.add((gpa - region.gpa) as usize) }
    }

    /// Copies `data` to a guest address.
    pub fn write(&self, gpa: u64, data: &[u8]) {
        let to = self.ptr(gpa, data.len() as u64);
        // SAFETY: `ptr` has checked the range; the mapping and the slice cannot overlap.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
    }

    /// Copies `out.len()` bytes from a guest address.
    pub fn read_into(&self, gpa: u64, out: &mut [u8]) {
        let from = self.ptr(gpa, out.len() as u64);
        // SAFETY: `ptr` has checked the range; the mapping and the slice cannot overlap.
        unsafe { ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) };
    }

    /// A copy of `len` bytes at a guest address.
    pub fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.read_into(gpa, &mut out);
        out
    }

    /// A little-endian 32-bit number at a guest address.
    pub fn read_u32(&self, gpa: u64) -> u32 {
        let mut out = [0; 4];
        self.read_into(gpa, &mut out);
        u32::from_le_bytes(out)
    }

    fn atomic(&self, gpa: u64) -> &AtomicU16 {
        let at = self.ptr(gpa, 2);
        assert_eq!(at as usize % 2, 0, "ring index at an odd address");
        // SAFETY: the range lies in the mapping, which lives as long as self, and is aligned.
        unsafe { AtomicU16::from_ptr(at.cast()) }
    }

    /// Reads a ring index, ordered before all that is read afterwards.
    pub fn load_index(&self, gpa: u64) -> u16 {
        u16::from_le(self.atomic(gpa).load(Ordering::Acquire))
    }

    /// Writes a ring index, ordered after all that was written before.
    pub fn store_index(&self, gpa: u64, value: u16) {
        self.atomic(gpa).store(value.to_le(), Ordering::Release);
    }
}
