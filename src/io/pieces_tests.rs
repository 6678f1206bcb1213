#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::units::FileOffset;

/// Buffers at made-up addresses: nothing here touches memory.
fn guest(parts: &[(usize, usize)]) -> Vec<libc::iovec> {
    parts.iter().map(|(at, len)| libc::iovec { iov_base: *at as *mut libc::c_void, iov_len: *len }).collect()
}

fn file(offset: u64, len: u64) -> Segment {
    Segment::File { depth: Depth::TOP, offset: FileOffset(offset), len: Bytes(len) }
}

fn zero(len: u64) -> Segment {
    Segment::Zero { len: Bytes(len) }
}

fn shape(io: &Pieces, index: usize) -> (u64, Vec<(usize, usize)>) {
    let transfer = io.transfer(index, 0).unwrap();
    // SAFETY: they are those of `io`.
    let buffers = unsafe { transfer.iovecs() };
    (transfer.offset, buffers.iter().map(|buffer| (buffer.iov_base as usize, buffer.iov_len)).collect())
}

fn plan(write: bool, segments: &[Segment], parts: &[(usize, usize)]) -> (Pieces, Result<usize, Mismatch>) {
    let mut io = Pieces::default();
    let planned = io.plan(write, segments, &mut guest(parts), |_, _| {});
    (io, planned)
}

#[test]
fn one_segment_takes_the_buffers_as_they_are() {
    let (io, planned) = plan(true, &[file(7, 300)], &[(0x1000, 100), (0x9000, 200)]);
    assert_eq!(planned, Ok(1));
    assert_eq!(shape(&io, 0), (7, vec![(0x1000, 100), (0x9000, 200)]));
}

#[test]
fn buffers_are_cut_where_the_file_is_and_zeros_are_told() {
    let mut io = Pieces::default();
    let mut zeros = Vec::new();
    let segments = [zero(50), file(1000, 100), file(5000, 120), zero(30)];
    let planned =
        io.plan(false, &segments, &mut guest(&[(0x1000, 100), (0x9000, 200)]), |at, len| zeros.push((at.0, len.0)));
    assert_eq!(planned, Ok(2));
    assert_eq!(shape(&io, 0), (1000, vec![(0x1000 + 50, 50), (0x9000, 50)]));
    assert_eq!(shape(&io, 1), (5000, vec![(0x9000 + 50, 120)]));
    assert_eq!(zeros, [(0, 50), (270, 30)]);
}

#[test]
fn segments_that_do_not_add_up_are_noticed() {
    for segments in [&[file(0, 299)][..], &[file(0, 301)], &[file(0, 100), zero(100)], &[]] {
        assert_eq!(plan(false, segments, &[(0x1000, 100), (0x9000, 200)]).1, Err(Mismatch), "{segments:?}");
    }
    assert_eq!(plan(true, &[zero(300)], &[(0x1000, 300)]).1, Err(Mismatch), "a write of zeros");
}

#[test]
fn more_buffers_than_a_system_call_takes_become_several_pieces() {
    let parts: Vec<_> = (0..1500).map(|index| (0x10_0000 + index * 0x1000, 512)).collect();
    let (io, planned) = plan(true, &[file(0, 1500 * 512)], &parts);
    assert_eq!(planned, Ok(2));
    assert_eq!((shape(&io, 0).1.len(), shape(&io, 1).1.len()), (1024, 476));
    assert_eq!(shape(&io, 1).0, 1024 * 512);
}

#[test]
fn a_short_transfer_goes_on_where_it_stopped() {
    let (mut io, _) = plan(true, &[file(1000, 300)], &[(0x1000, 100), (0x9000, 200)]);
    assert_eq!(io.completed(0, 40), Progress::Again);
    assert_eq!(shape(&io, 0), (1040, vec![(0x1000 + 40, 60), (0x9000, 200)]));
    assert_eq!(io.completed(0, 60), Progress::Again);
    assert_eq!(shape(&io, 0), (1100, vec![(0x9000, 200)]));
    assert_eq!(io.completed(0, 150), Progress::Again);
    assert_eq!(shape(&io, 0), (1250, vec![(0x9000 + 150, 50)]));
    assert!(!io.is_done());
    assert_eq!(io.completed(0, 50), Progress::Over);
    assert!(io.is_done());
    assert_eq!(io.result(), IoResult::Complete);
}

#[test]
fn a_read_past_the_end_of_the_file_is_zeros() {
    let (mut io, _) = plan(false, &[file(1000, 300)], &[(0x1000, 300)]);
    assert_eq!(io.completed(0, 100), Progress::Again);
    assert_eq!(io.completed(0, 0), Progress::PastEnd { at: Bytes(100), len: Bytes(200) });
    assert!(io.is_done());
    assert_eq!(io.result(), IoResult::Complete);
}

#[test]
fn a_failure_reports_the_prefix_that_is_surely_written() {
    let three = || plan(true, &[file(0, 100), file(5000, 100), file(9000, 100)], &[(0x1000, 300)]).0;
    let mut io = three();
    assert_eq!(io.completed(2, 100), Progress::Over);
    assert_eq!(io.completed(1, 30), Progress::Again);
    assert_eq!(io.completed(1, -libc::EIO), Progress::Over);
    assert!(!io.is_done());
    assert_eq!(io.completed(0, 100), Progress::Over);
    assert!(io.is_done());
    assert_eq!(io.result(), IoResult::Failed { good: Bytes(130) });
    // The lowest failure counts, in whatever order they come.
    let mut io = three();
    io.completed(2, -libc::EIO);
    io.completed(0, -libc::ENOSPC);
    io.completed(1, 100);
    assert_eq!(io.result(), IoResult::Failed { good: Bytes(0) });
}

#[test]
fn a_write_of_nothing_is_a_failure() {
    let (mut io, _) = plan(true, &[file(0, 100)], &[(0x1000, 100)]);
    assert_eq!(io.completed(0, 0), Progress::Over);
    assert_eq!(io.result(), IoResult::Failed { good: Bytes(0) });
}

#[test]
fn what_direct_io_refuses_goes_through_the_page_cache_once() {
    let (mut io, _) = plan(true, &[file(0, 100)], &[(0x1000, 100)]);
    assert!(!io.transfer(0, 0).unwrap().buffered);
    assert_eq!(io.completed(0, -libc::EINVAL), Progress::Again);
    assert!(io.transfer(0, 0).unwrap().buffered);
    assert_eq!(io.completed(0, -libc::EINVAL), Progress::Over);
    assert_eq!(io.result(), IoResult::Failed { good: Bytes(0) }, "not for its alignment");
}

#[test]
fn an_interrupted_piece_is_tried_again_but_not_for_ever() {
    let (mut io, _) = plan(false, &[file(0, 100)], &[(0x1000, 100)]);
    let tries = (0..1000).take_while(|_| io.completed(0, -libc::EINTR) == Progress::Again).count();
    assert_eq!(tries, usize::from(MAX_RETRIES));
    assert_eq!(io.result(), IoResult::Failed { good: Bytes(0) });
}

#[test]
fn a_failed_sync_has_nothing_good() {
    let mut io = Pieces::default();
    io.plan_sync();
    assert!(!io.is_done());
    io.synced(-libc::EIO);
    assert!(io.is_done());
    assert_eq!(io.result(), IoResult::Failed { good: Bytes(0) });
}
