#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::units::Depth;

const BLOCK: u64 = 4096;

/// Buffers at made-up addresses: nothing here touches the memory they name.
fn buffers(first: usize, count: usize) -> Vec<libc::iovec> {
    (first..first + count).map(|at| libc::iovec { iov_base: (at << 12) as *mut _, iov_len: BLOCK as usize }).collect()
}

fn transfer(token: u64, offset: u64, buffers: &[libc::iovec]) -> Transfer {
    let len = buffers.len() as u64 * BLOCK;
    Transfer {
        token,
        write: true,
        buffered: false,
        beside: false,
        depth: Depth::TOP,
        offset,
        len,
        buffers: buffers.as_ptr(),
        count: buffers.len(),
    }
}

fn close(merger: &mut Merger) -> Option<Transfer> {
    // SAFETY: the buffers of all members are in scope wherever this is called.
    unsafe { merger.close() }
}

/// Whether a transfer was taken without another one having to be started for it.
fn add(merger: &mut Merger, transfer: Transfer) -> bool {
    // SAFETY: as above.
    unsafe { merger.add(&transfer) }.is_none()
}

/// One block for each token from `first` on, the first of them at `offset`; all go on from each other.
fn run(merger: &mut Merger, first: u64, count: u64, offset: u64, buffers: &[libc::iovec]) -> Transfer {
    for (token, buffer) in (first..first + count).zip(buffers.chunks(1)) {
        assert!(add(merger, transfer(token, offset + (token - first) * BLOCK, buffer)));
    }
    close(merger).unwrap()
}

fn done(merger: &mut Merger, token: u64, result: i64) -> (Vec<(u64, i64)>, Vec<u64>) {
    let mut done = Vec::new();
    merger.over(token, result as i32, &mut done);
    let rest = std::iter::from_fn(|| merger.rest()).map(|transfer| transfer.token).collect();
    assert!(!merger.has_rest());
    (done.iter().map(|completion| (completion.token, completion.result.into())).collect(), rest)
}

#[test]
fn only_what_goes_on_from_the_last_is_joined() {
    let two = buffers(1, 2);
    let first = transfer(1, 8 * BLOCK, &two);
    let next = transfer(2, 10 * BLOCK, &two);
    let joins = |next: Transfer| {
        let mut merger = Merger::default();
        add(&mut merger, first) && add(&mut merger, next)
    };
    assert!(joins(next));
    let others = [
        ("a gap", Transfer { offset: 11 * BLOCK, ..next }),
        ("an overlap", Transfer { offset: 9 * BLOCK, ..next }),
        ("the same again", Transfer { offset: 8 * BLOCK, ..next }),
        ("what comes before it", Transfer { offset: 6 * BLOCK, ..next }),
        ("the other direction", Transfer { write: false, ..next }),
        ("through the page cache", Transfer { buffered: true, ..next }),
        ("of another file", Transfer { depth: Depth(1), ..next }),
        ("a large one", Transfer { len: LARGE, ..next }),
        ("more buffers than a call takes", Transfer { count: MAX_BUFFERS, ..next }),
    ];
    for (what, other) in others {
        assert!(!joins(other), "{what}");
    }
    let mut merger = Merger::default();
    let large = Transfer { len: LARGE, ..first };
    assert!(
        add(&mut merger, large) && !add(&mut merger, Transfer { offset: large.offset + LARGE, ..next }),
        "behind a large one"
    );
    let mut merger = Merger::default();
    let half = |at: u64| Transfer { offset: at * LARGE / 2, len: LARGE / 2, ..first };
    let joined = (0..).take_while(|at| add(&mut merger, half(*at))).count();
    assert_eq!(joined as u64 * LARGE / 2, MAX_BYTES, "no more bytes than that");
    let mut merger = Merger::default();
    let last = Transfer { offset: u64::MAX - BLOCK, ..first };
    assert!(add(&mut merger, last) && !add(&mut merger, Transfer { offset: BLOCK, ..next }), "it wraps");
}

#[test]
fn what_does_not_go_on_from_a_run_has_it_started_and_begins_another() {
    let (mut merger, blocks) = (Merger::default(), buffers(1, 4));
    let block = |token: u64, at: u64| transfer(token, at * BLOCK, &blocks[token as usize..=token as usize]);
    // SAFETY: the buffers are in scope.
    let mut next =
        |token, at| unsafe { merger.add(&block(token, at)) }.map(|before| (before.offset / BLOCK, before.count));
    assert_eq!([next(0, 9), next(1, 5), next(2, 6), next(3, 1)], [None, Some((9, 1)), None, Some((5, 2))]);
    assert_eq!(close(&mut merger).unwrap().token, 3);
    assert!(close(&mut merger).is_none());
}

#[test]
fn one_alone_stays_as_it_is_however_large() {
    let mut merger = Merger::default();
    assert!(close(&mut merger).is_none());
    let two = buffers(1, 2);
    let large = Transfer { len: 8 * MAX_BYTES, ..transfer(7, 0, &two) };
    assert!(add(&mut merger, large));
    let alone = close(&mut merger).unwrap();
    assert_eq!((alone.token, alone.len, alone.buffers), (7, 8 * MAX_BYTES, two.as_ptr()));
    for result in [8 << 20, 5, 0, -5] {
        assert_eq!(done(&mut merger, 7, result), (vec![(7, result)], vec![]));
    }
}

#[test]
fn all_buffers_are_joined_in_order_and_each_member_has_its_own_completion() {
    let mut merger = Merger::default();
    let (first, second, third) = (buffers(1, 2), buffers(9, 1), buffers(5, 3));
    for (token, offset, buffers) in [(11, 0, &first), (12, 2, &second), (13, 3, &third)] {
        assert!(add(&mut merger, transfer(token, offset * BLOCK, buffers)));
    }
    let joined = close(&mut merger).unwrap();
    assert_eq!((joined.write, joined.buffered, joined.offset, joined.len), (true, false, 0, 6 * BLOCK));
    // SAFETY: the run is under way, and owns its buffers.
    let seen = unsafe { std::slice::from_raw_parts(joined.buffers, joined.count) };
    assert_eq!(seen.iter().map(|buffer| buffer.iov_base as usize >> 12).collect::<Vec<_>>(), [1, 2, 9, 5, 6, 7]);
    let expected = [(11, 2), (12, 1), (13, 3)].map(|(token, blocks)| (token, blocks * BLOCK as i64));
    assert_eq!(done(&mut merger, joined.token, 6 * BLOCK as i64), (expected.to_vec(), vec![]));
}

#[test]
fn what_was_not_carried_to_its_end_is_done_again_by_itself() {
    let block = BLOCK as i64;
    let table = [
        (4 * block, 4),
        (4 * block - 1, 3),
        (3 * block, 3),
        (2 * block + 512, 2),
        (block - 512, 0),
        (1, 0),
        (0, 0),
        (i64::from(-libc::EIO), 0),
        (i64::from(-libc::EINVAL), 0),
        (i64::from(-libc::EAGAIN), 0),
    ];
    for (result, carried) in table {
        let (mut merger, four) = (Merger::default(), buffers(1, 4));
        let joined = run(&mut merger, 20, 4, BLOCK, &four);
        let expected = (20..20 + carried).map(|token| (token, block)).collect();
        assert_eq!(done(&mut merger, joined.token, result), (expected, (20 + carried..24).collect()), "{result}");
    }
}

#[test]
fn runs_end_in_any_order_and_their_places_are_used_again() {
    let (mut merger, four) = (Merger::default(), buffers(1, 4));
    for _ in 0..100 {
        let joined: Vec<Transfer> = (0..3).map(|at| run(&mut merger, 10 * at, 4, at << 20, &four)).collect();
        for at in [1, 2, 0] {
            let expected = (0..4).map(|member| (10 * at + member, BLOCK as i64)).collect();
            assert_eq!(done(&mut merger, joined[at as usize].token, 4 * BLOCK as i64), (expected, vec![]));
        }
    }
    assert_eq!(merger.under_way.len(), 3);
    assert!(merger.under_way.iter().all(|run| run.members.is_empty() && run.buffers.capacity() < 64));
}
