//! What waits for the housekeeper waits alone: the whole of the serving over a file whose slow operations last until
//! the test lets them end. Who waits for whom inside one queue is tested in src/vhost/queue_tests.rs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]

mod common;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use common::frontend::{Frontend, Options, Token};
use common::model::pattern;
use common::request::{Req, Status, kind};
use common::{KIB, MIB};
use nix::fcntl::{FcntlArg, fcntl};
use vhost_user_zbd::qcow2::{self, ByteOrder, CreateOptions};
use vhost_user_zbd::sandbox::Mode;
use vhost_user_zbd::service::ServiceManager;
use vhost_user_zbd::storage::memory::MemoryMedium;
use vhost_user_zbd::storage::{FileRange, Layer, Layered, Medium};
use vhost_user_zbd::store::{OpenOptions, ZonedStore};
use vhost_user_zbd::units::{Bytes, FileOffset};
use vhost_user_zbd::vhost::{self, AioMode, CacheMode, DataFiles, Disk, ListenOn, Observers, ServeOptions, Supervised};
use vhost_user_zbd::zone::GeometryRequest;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const ZONES: u64 = 128;
const ZONE: u64 = MIB;

/// What the housekeeper has done by the file system, and may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slow {
    Allocate,
    SyncPointers,
    Punch,
    SyncHoles,
}

#[derive(Default)]
struct State {
    held: Option<Slow>,
    /// How many of the held kind may end all the same.
    let_through: usize,
    waiting: bool,
    punched: bool,
}

/// A file whose operations of one kind do not end while they are held.
#[derive(Default)]
struct Gate {
    file: MemoryMedium,
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    fn hold(&self, held: Option<Slow>) {
        self.state.lock().unwrap().held = held;
        self.changed.notify_all();
    }

    fn let_one_through(&self) {
        self.state.lock().unwrap().let_through += 1;
        self.changed.notify_all();
    }

    fn pass(&self, operation: Slow) {
        let mut state = self.state.lock().unwrap();
        while state.held == Some(operation) && state.let_through == 0 {
            state.waiting = true;
            state = self.changed.wait(state).unwrap();
        }
        state.waiting = false;
        if state.held == Some(operation) {
            state.let_through -= 1;
        }
    }

    fn is_waiting(&self) -> bool {
        self.state.lock().unwrap().waiting
    }
}

impl Layer for Gate {
    type Below = MemoryMedium;

    fn below(&self) -> &MemoryMedium {
        &self.file
    }

    fn punch(&self, offset: FileOffset, len: Bytes) -> io::Result<()> {
        self.pass(Slow::Punch);
        self.state.lock().unwrap().punched = true;
        self.file.punch(offset, len)
    }

    fn sync_ranges(&self, ranges: &[FileRange]) -> io::Result<()> {
        // What is punched and not durable yet is what the next sync is for.
        let punched = std::mem::take(&mut self.state.lock().unwrap().punched);
        self.pass(if punched { Slow::SyncHoles } else { Slow::SyncPointers });
        self.file.sync_ranges(ranges)
    }
}

/// A disk that is served by this process.
struct Served {
    gate: Arc<Layered<Gate>>,
    front: Frontend,
    _server: JoinHandle<()>,
}

fn serve(aio: AioMode) -> Served {
    let gate = Arc::new(Layered(Gate::default()));
    let geometry = GeometryRequest {
        size: Bytes(ZONES * ZONE),
        zone_size: Bytes(ZONE),
        zone_capacity: Bytes(ZONE),
        conventional_zones: 1,
        max_open_zones: 0,
        max_active_zones: 0,
        max_append_bytes: Bytes(64 * KIB),
    };
    let create = CreateOptions { geometry, cluster_size: Bytes(64 * KIB), table_order: ByteOrder::Big };
    qcow2::create(&*gate, &create).unwrap();
    let open = OpenOptions { read_only: false, write_granularity: Bytes(512), hold_resets: false };
    let store = Arc::new(ZonedStore::open(Arc::clone(&gate), open).unwrap());
    let slow = Arc::clone(&gate);
    store.set_allocator(Box::new(move |_| slow.0.pass(Slow::Allocate)));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let options = ServeOptions {
        block_size: 512,
        num_queues: 2,
        queue_size: 128,
        cache: CacheMode::Writeback,
        read_only: false,
        serial: "fairness".into(),
        aio,
        poll: Duration::ZERO,
        sandbox: Mode::Off,
    };
    let server = std::thread::spawn(move || {
        let data = tempfile::tempfile().unwrap();
        let files = DataFiles::new(data.try_clone().unwrap(), data);
        let (stop, manager) = (EventFd::new(EFD_NONBLOCK).unwrap(), ServiceManager::default());
        let by = Supervised { stop: &stop, manager: &manager };
        let listen = ListenOn::Fd(number_of_its_own(&theirs));
        vhost::serve(
            vhost::Served {
                disk: Disk::Plain(store),
                files,
                power_lost: None,
                remote: Default::default(),
                rules: None,
                log: None,
            },
            listen,
            options,
            Observers::default(),
            by,
        )
        .unwrap();
    });
    let front = Frontend::connect(ours, &Options { queues: 2, ..Options::default() }).unwrap();
    Served { gate, front, _server: server }
}

fn sector(zone: u64, block: u64) -> u64 {
    (zone * ZONE + block * 4096) / 512
}

/// The daemon takes a descriptor of one number once in its life, and here it has several.
fn number_of_its_own(stream: &UnixStream) -> i32 {
    static NEXT: AtomicI32 = AtomicI32::new(200);
    fcntl(stream, FcntlArg::F_DUPFD_CLOEXEC(NEXT.fetch_add(1, Ordering::Relaxed))).unwrap()
}

impl Served {
    fn ask(&mut self, queue: usize, reqs: &[Req]) -> Vec<Token> {
        reqs.iter().map(|req| self.front.submit(queue, req)).collect()
    }

    fn await_waiting(&self) {
        common::eventually("the housekeeper to wait", || self.gate.0.is_waiting().then_some(()));
    }

    #[track_caller]
    fn assert_ok(&mut self, tokens: &[Token]) {
        let done = self.front.wait_all(tokens);
        assert!(done.iter().all(|done| done.status == Status::Ok), "{done:?}");
    }

    /// Has the housekeeper wait in one operation, and what it is to do for some requests with it, while others go on.
    fn hold_up(&mut self, slow: Slow, waits: &[Req], round: u64) {
        self.gate.0.hold(Some(slow));
        let waits = self.ask(0, waits);
        self.await_waiting();
        for queue in [0, 1] {
            let zone = 1 + queue as u64;
            let go_on = [
                Req::write(sector(zone, round), pattern(round, 0, 4096)),
                Req::append(sector(zone, 0), pattern(round, 1, 4096)),
                Req::read(sector(zone, 0), 4096),
                Req::read(sector(12, 0), 4096),
                Req::write(sector(0, 0), pattern(round, 2, 4096)),
                Req::bare(kind::ZONE_OPEN, sector(11, 0)),
                Req::bare(kind::ZONE_CLOSE, sector(11, 0)),
                Req::bare(kind::ZONE_RESET, sector(4 + queue as u64, 0)),
                Req::report(0, 64 + 64 * ZONES as usize),
                Req::flush(),
            ];
            let go_on = self.ask(queue, &go_on);
            self.assert_ok(&go_on);
        }
        assert!(waits.iter().all(|token| self.front.poll(*token).is_none()), "{slow:?} was not waited for");
        self.gate.0.hold(None);
        self.assert_ok(&waits);
    }
}

#[test]
fn while_the_housekeeper_waits_for_the_file_system_only_those_wait_that_need_what_it_does() {
    for aio in [AioMode::Auto, AioMode::Sync] {
        let mut disk = serve(aio);
        // What is written to later is mapped, and the first of all writes has had its space reserved.
        let zones = [0, 1, 2, 4, 5, 6, 7, 8].map(|zone| Req::write(sector(zone, 0), pattern(zone, 0, 4096)));
        let tokens = disk.ask(0, &zones);
        disk.assert_ok(&tokens);
        let first_write = [Req::write(sector(9, 0), pattern(9, 0, 4096))];
        disk.hold_up(Slow::Allocate, &first_write, 1);
        for (zone, round, slow) in [(6, 3, Slow::SyncPointers), (7, 5, Slow::Punch), (8, 7, Slow::SyncHoles)] {
            disk.gate.0.hold(Some(slow));
            let reset = disk.front.call(1, &Req::bare(kind::ZONE_RESET, sector(zone, 0)));
            assert_eq!(reset.status, Status::Ok, "a reset is answered before its zone is cleared");
            let written = Req::write(sector(zone, 0), pattern(zone, 0, 4096));
            disk.hold_up(slow, &[written, Req::bare(kind::ZONE_FINISH, sector(zone, 0))], round);
        }
    }
}

#[test]
fn while_many_zones_are_cleared_a_write_that_needs_space_is_not_the_last() {
    let mut disk = serve(AioMode::Auto);
    // Not one after the other, so that each is cleared by itself.
    let zones = || (1..80).step_by(2);
    for half in [zones().take(20).collect::<Vec<u64>>(), zones().skip(20).collect()] {
        let writes: Vec<Req> = half.iter().map(|zone| Req::write(sector(*zone, 0), vec![1; 4096])).collect();
        let tokens = disk.ask(0, &writes);
        disk.assert_ok(&tokens);
    }
    disk.gate.0.hold(Some(Slow::Punch));
    let resets: Vec<Req> = zones().map(|zone| Req::bare(kind::ZONE_RESET, sector(zone, 0))).collect();
    for resets in resets.chunks(20) {
        let tokens = disk.ask(0, resets);
        disk.assert_ok(&tokens);
    }
    disk.await_waiting();
    // The second is answered when the first has been begun.
    let tokens = disk.ask(0, &[Req::write(sector(0, 0), vec![2; 4096]), Req::get_id()]);
    disk.assert_ok(&tokens[1..]);
    disk.gate.0.let_one_through();
    disk.assert_ok(&tokens[..1]);
    disk.gate.0.hold(None);
    let again = disk.ask(1, &[Req::write(sector(79, 0), vec![3; 4096])]);
    disk.assert_ok(&again);
}
