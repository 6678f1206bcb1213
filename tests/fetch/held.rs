//! The guest's reads of a remote base: held until they are present, done again where they were given up, failed where the network is.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use vhost_user_zbd::fetch::path::{HeldPath, RemoteBases};
use vhost_user_zbd::fetch::presence::words_len;
use vhost_user_zbd::io::{Completion, DataPath, Transfer};
use vhost_user_zbd::units::Depth;

use super::rig::{CHUNK, Daemon, MIB, Rig};
use super::server::{Manner, Server, content};

/// Reads the base's file when it is told to, and then has `meanwhile` happen.
struct Below {
    base: File,
    done: Vec<Completion>,
    reads: Arc<AtomicUsize>,
    meanwhile: Box<dyn FnMut()>,
}

impl DataPath for Below {
    unsafe fn submit(&mut self, transfer: Transfer) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the test keeps the buffers.
        let read = unsafe {
            libc::preadv(self.base.as_raw_fd(), transfer.buffers, transfer.count as i32, transfer.offset as i64)
        };
        (self.meanwhile)();
        self.done.push(Completion { token: transfer.token, result: read as i32 });
    }

    fn sync(&mut self, token: u64) {
        self.done.push(Completion { token, result: 0 });
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        done.append(&mut self.done);
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

struct Guest {
    path: HeldPath<Below>,
    rung: Arc<AtomicUsize>,
    reads: Arc<AtomicUsize>,
}

impl Guest {
    fn of(daemon: &Daemon, meanwhile: Box<dyn FnMut()>) -> Self {
        let (rung, reads) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (bell, counted) = (Arc::clone(&rung), Arc::clone(&reads));
        let below =
            Below { base: daemon.link.data().try_clone().unwrap(), done: Vec::new(), reads: counted, meanwhile };
        let bases = RemoteBases::new(vec![Some(Arc::clone(&daemon.link))]);
        let ring = Arc::new(move || {
            bell.fetch_add(1, Ordering::Relaxed);
        });
        Self { path: HeldPath::new(bases, ring, below), rung, reads }
    }

    /// Reads, and polls only when the bell was rung.
    fn read(&mut self, at: u64, len: usize) -> (i32, Vec<u8>) {
        let mut bytes = vec![0u8; len];
        let buffer = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len };
        let mut done = Vec::new();
        // SAFETY: buffers and iovec outlive the completion, which is waited for.
        unsafe { self.path.submit(transfer(7, at, &buffer)) };
        let begun = Instant::now();
        self.path.poll(&mut done).unwrap();
        while done.is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(40), "nobody rings");
            if self.rung.swap(0, Ordering::Relaxed) > 0 {
                self.path.poll(&mut done).unwrap();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!((done.len(), done[0].token), (1, 7));
        (done[0].result, bytes)
    }
}

fn transfer(token: u64, offset: u64, buffer: &libc::iovec) -> Transfer {
    Transfer {
        token,
        write: false,
        buffered: false,
        beside: false,
        depth: Depth(1),
        offset,
        len: buffer.iov_len as u64,
        buffers: buffer,
        count: 1,
    }
}

#[test]
fn reads_are_held_until_present_fail_with_the_network_and_heal() {
    let mut server = Server::start(Manner::of(8 * MIB));
    let rig = Rig::new(1 << 40);
    let daemon = rig.open(&server.url()).unwrap();
    let mut guest = Guest::of(&daemon, Box::new(|| ()));
    for at in [3 * CHUNK - 100, 0, 5 * MIB] {
        assert_eq!(guest.read(at, 70_000), (70_000, content(1, at..at + 70_000)));
    }
    server.kill();
    assert_eq!(guest.read(7 * MIB, 4096).0, -libc::EIO);
    assert_eq!(guest.read(5 * MIB, 4096), (4096, content(1, 5 * MIB..5 * MIB + 4096)));
    server.revive();
    assert_eq!(guest.read(7 * MIB, 4096), (4096, content(1, 7 * MIB..7 * MIB + 4096)));
}

#[test]
fn a_read_whose_chunk_is_given_up_before_it_is_over_is_done_again() {
    let server = Server::start(Manner::of(MIB));
    let rig = Rig::new(1 << 40);
    let daemon = rig.open(&server.url()).unwrap();
    daemon.check(1, 0, MIB as usize);
    let entry = std::fs::read_dir(rig.cache()).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir());
    let open = |name: &str| File::options().read(true).write(true).open(entry.as_ref().unwrap().join(name)).unwrap();
    let (words, data, mut times) = (open("words"), open("data"), 3);
    // As an eviction does.
    let give_up = move || {
        if times > 0 {
            times -= 1;
            let mut word = [0; 4];
            words.read_exact_at(&mut word, words_len(2)).unwrap();
            words.write_all_at(&(u32::from_ne_bytes(word) + 1).to_ne_bytes(), words_len(2)).unwrap();
            data.write_all_at(&[0; 4096], 2 * CHUNK).unwrap();
        }
    };
    let mut guest = Guest::of(&daemon, Box::new(give_up));
    assert_eq!(guest.read(2 * CHUNK, 4096), (4096, content(1, 2 * CHUNK..2 * CHUNK + 4096)));
    assert_eq!(guest.reads.load(Ordering::Relaxed), 4);
    assert_eq!(server.counts(CHUNK)[&2], 4);
}

#[test]
fn a_guest_that_reads_on_and_on_is_fetched_ahead_of() {
    let server = Server::start(Manner { late: Duration::from_millis(10), ..Manner::of(48 * MIB) });
    let rig = Rig::new(1 << 40);
    let daemon = rig.open(&server.url()).unwrap();
    let mut guest = Guest::of(&daemon, Box::new(|| ()));
    for at in (0..48 * MIB).step_by(1 << 17) {
        assert_eq!(guest.read(at, 1 << 17).0, 1 << 17);
    }
    let counts = server.counts(CHUNK);
    assert!(counts.len() == 192 && counts.values().all(|count| *count == 1), "{counts:?}");
    assert!(server.requests() < 96, "{} requests for 192 chunks", server.requests());
}
