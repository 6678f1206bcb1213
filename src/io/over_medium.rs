//! The bottom of a data path over any [`Medium`]: the calling thread copies between guest memory and the medium. It is
//! for disks without a file, and where one copy more does not count.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::{Completion, DataPath, Transfer};
use crate::qcow2::BaseMedium;
use crate::storage::Medium;
use crate::units::FileOffset;

/// Bytes kept allocated from one transfer to the next.
const KEPT: usize = 1 << 20;

/// Does each transfer and sync when it is taken.
pub struct OverMedium<M> {
    medium: Arc<M>,
    /// The bases that the image builds on, each above the one that it builds on itself.
    bases: Vec<BaseMedium>,
    bytes: Vec<u8>,
    done: Vec<Completion>,
}

impl<M: Medium> OverMedium<M> {
    /// A path to this medium.
    pub fn new(medium: Arc<M>) -> Self {
        Self::over(medium, Vec::new())
    }

    /// The same, with the bases of the image in it.
    pub fn over(medium: Arc<M>, bases: Vec<BaseMedium>) -> Self {
        Self { medium, bases, bytes: Vec::new(), done: Vec::new() }
    }
}

impl<M: Medium> DataPath for OverMedium<M> {
    unsafe fn submit(&mut self, transfer: Transfer) {
        let base = usize::from(transfer.depth.0).checked_sub(1).and_then(|at| self.bases.get(at));
        // SAFETY: the caller promises that the buffers are valid.
        let carried = unsafe {
            match base {
                Some(base) => carry(base, &transfer, transfer.len, &mut self.bytes),
                None => carry(&*self.medium, &transfer, transfer.len, &mut self.bytes),
            }
        };
        let done = || i32::try_from(transfer.len).unwrap_or(i32::MAX);
        let result = carried.map_or_else(|error| code_of(&error), |()| done());
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.done.push(Completion { token: transfer.token, result });
    }

    fn sync(&mut self, token: u64) {
        let result = self.medium.flush().map_or_else(|error| code_of(&error), |()| 0);
        self.done.push(Completion { token, result });
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        done.append(&mut self.done);
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

/// As a completion of io_uring has it.
fn code_of(error: &io::Error) -> i32 {
    error.raw_os_error().filter(|code| *code > 0).unwrap_or(libc::EIO).saturating_neg()
}

/// Carries the first `len` bytes of a transfer between its buffers and the medium, by way of `bytes`. A write reaches
/// the medium in one operation, so that no sector is torn by where the guest's buffers were cut.
///
/// # Safety
///
/// The iovecs of the transfer and the memory that they name are valid, and no Rust reference leads into that memory.
pub(crate) unsafe fn carry(medium: &impl Medium, transfer: &Transfer, len: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    bytes.clear();
    bytes.resize(len, 0);
    let place = FileOffset(transfer.offset);
    if !transfer.write {
        medium.read_at(place, bytes)?;
    }
    let mut rest = bytes.as_mut_slice();
    // SAFETY: the caller promises that the iovecs are valid.
    for buffer in unsafe { transfer.iovecs() } {
        let (part, later) = rest.split_at_mut(buffer.iov_len.min(rest.len()));
        let memory = buffer.iov_base.cast::<u8>();
        // SAFETY: the caller promises that the memory is valid; the part is no longer than the buffer, and is none of
        // it, as it belongs to `bytes`.
        unsafe {
            match transfer.write {
                true => std::ptr::copy_nonoverlapping(memory, part.as_mut_ptr(), part.len()),
                false => std::ptr::copy_nonoverlapping(part.as_ptr(), memory, part.len()),
            }
        }
        rest = later;
    }
    if transfer.write && len != 0 {
        medium.write_at(place, bytes)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryMedium;
    use crate::storage::{Layer, Layered};
    use crate::units::Depth;

    /// A medium that takes no write and no flush, and says why not.
    struct Refusing {
        below: MemoryMedium,
        code: i32,
    }

    impl Layer for Refusing {
        type Below = MemoryMedium;

        fn below(&self) -> &MemoryMedium {
            &self.below
        }

        fn write_at(&self, _: FileOffset, _: &[u8]) -> io::Result<()> {
            Err(io::Error::from_raw_os_error(self.code))
        }

        fn flush(&self) -> io::Result<()> {
            // An error without a number.
            Err(io::ErrorKind::Other.into())
        }
    }

    fn results<M: Medium>(medium: &Arc<M>, write: bool, offset: u64, parts: &mut [Vec<u8>]) -> Vec<Completion> {
        let buffers: Vec<libc::iovec> = parts
            .iter_mut()
            .map(|part| libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() })
            .collect();
        let len = buffers.iter().map(|buffer| buffer.iov_len as u64).sum();
        let (buffers, count) = (buffers.as_slice(), buffers.len());
        let mut path = OverMedium::new(Arc::clone(medium));
        let transfer = Transfer {
            token: 7,
            write,
            buffered: false,
            beside: false,
            depth: Depth::TOP,
            offset,
            len,
            buffers: buffers.as_ptr(),
            count,
        };
        // SAFETY: the buffers and what they name outlive the path, and nobody uses them meanwhile.
        unsafe { path.submit(transfer) };
        path.sync(8);
        let mut done = Vec::new();
        path.poll(&mut done).unwrap();
        done
    }

    #[test]
    fn a_transfer_is_carried_over_all_its_buffers_and_zeros_come_from_beyond_the_end() {
        let medium = Arc::new(MemoryMedium::default());
        let done = |len| [Completion { token: 7, result: len }, Completion { token: 8, result: 0 }];
        let mut written = [vec![1; 300], vec![2; 212], vec![3; 512]];
        assert_eq!(results(&medium, true, 512, &mut written), done(1024));
        let mut read = [vec![9; 1000], vec![9; 1000]];
        assert_eq!(results(&medium, false, 512, &mut read), done(2000));
        assert_eq!(read.concat(), [written.concat(), vec![0; 976]].concat());
    }

    #[test]
    fn what_the_medium_refuses_comes_back_as_its_error_number() {
        for (code, result) in [(libc::ENOSPC, -libc::ENOSPC), (0, -libc::EIO)] {
            let medium = Arc::new(Layered(Refusing { below: MemoryMedium::default(), code }));
            let done = results(&medium, true, 0, &mut [vec![1; 512]]);
            let expected = [Completion { token: 7, result }, Completion { token: 8, result: -libc::EIO }];
            assert_eq!(done, expected);
        }
    }
}
