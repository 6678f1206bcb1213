//! One queue's thread.
//!
//! A worker owns its [`Queue`] from the moment it is started until it has stopped; the handler only sends it commands. It goes
//! round as long as there is something to do. Then it looks again for a bounded time ([`Idle`]), asks the driver for kicks,
//! and waits for one, for a completion, or for a wake-up by another thread.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::host::{Host, LooksOn};
use super::idle::{Awaited, Idle};
use super::inflight::Inflight;
use super::notify::Notifier;
use super::queue::Queue;
use super::ring::{Ring, RingError, RingSetup};
use super::texts::Beginnings;
use super::wake::{Sleeper, Waker};
use crate::device::recovery::LeftBehind;
use crate::device::router::Bell;
use crate::fetch::link;
use crate::io::{self as data, DataPath};
use crate::record::Writes;
use crate::sandbox::Role;
use crate::virtio::memory::Memory;

/// After how long it is looked whether a worker is held up by an eventfd of the frontend.
const HELD_UP: Duration = Duration::from_millis(20);

/// Why a queue could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkerError {
    #[error("queue {0} does not exist")]
    NoSuchQueue(u16),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("the data path cannot be set up: {0}")]
    DataPath(io::Error),
    #[error("the worker thread cannot be started: {0}")]
    Thread(io::Error),
    #[error("the worker thread has died")]
    Died,
}

/// What a queue is started with.
pub(super) struct QueueSetup {
    pub(super) queue: u16,
    /// Where requests in flight are tracked, if the frontend keeps a region.
    pub(super) region: Option<Arc<Inflight>>,
    pub(super) ring: RingSetup,
    pub(super) mem: Arc<Memory>,
    pub(super) kick: Arc<Notifier>,
    pub(super) call: Option<Arc<Notifier>>,
    pub(super) error: Option<Arc<Notifier>>,
}

/// What the handler may ask of a running worker.
enum Command {
    /// Finish the requests in flight and end.
    Stop,
    /// Finish the requests in flight and go on in other memory.
    SetMemory(Arc<Memory>, RingSetup),
    SetKick(Arc<Notifier>),
    SetCall(Option<Arc<Notifier>>),
    SetError(Option<Arc<Notifier>>),
}

/// Held until a command is carried out.
type Promise = mpsc::Sender<()>;

/// A running worker, as the handler has it.
pub(super) struct WorkerHandle {
    commands: mpsc::Sender<(Command, Promise)>,
    waker: Arc<Waker>,
    thread: JoinHandle<u16>,
    call: Option<Arc<Notifier>>,
    error: Option<Arc<Notifier>>,
}

impl WorkerHandle {
    /// Starts the worker of a queue. It takes over what the last process left behind of the queue, unless it fails.
    pub(super) fn start(host: &Arc<Host>, setup: QueueSetup, left: &mut LeftBehind) -> Result<Self, WorkerError> {
        let QueueSetup { queue, region, ring: ring_setup, mem, kick, call, error } = setup;
        let waker = Arc::clone(host.waker(queue).ok_or(WorkerError::NoSuchQueue(queue))?);
        let mut ring = Ring::new(&ring_setup, &mem, region.map(|region| (region, queue)))?;
        ring.error = error.clone();
        let (commands, inbox) = mpsc::channel();
        let (started, has_started) = mpsc::channel();
        let (begin, begins) = mpsc::channel();
        let (host, sleeper) = (Arc::clone(host), Sleeper::new(kick, Arc::clone(&waker)));
        let waker_of_path = Arc::clone(&waker);
        let (disk, its_call) = (Arc::clone(&host.device.disk), call.clone());
        let run = move || {
            let next = ring.next_available();
            // The data path belongs to this thread from the start: an io_uring has one thread that uses it.
            let bell = Arc::clone(&waker_of_path);
            match open_path(&host, queue, ring_setup.size, Arc::new(move || bell.ring())) {
                Err(error) => {
                    let _ = started.send(Err(error));
                    next
                }
                Ok(path) => {
                    if let Err(error) = host.sandbox.confine(Role::Queue) {
                        log::warn!("the thread of queue {queue} may do all that the process may: {error}");
                    }
                    let _ = started.send(Ok(()));
                    let Ok(left) = begins.recv() else { return next };
                    // Here, as no other thread can be helped where this holds it up.
                    ring.set_call(its_call);
                    let idle = Idle::new(host.poll);
                    let (number, queue) = (queue, Queue::new(path, &host.device, queue, mem, ring));
                    Worker { queue, number, inbox, sleeper, idle, stopping: None, new_memory: None }.run(left)
                }
            }
        };
        let thread =
            std::thread::Builder::new().name(format!("queue-{queue}")).spawn(run).map_err(WorkerError::Thread)?;
        has_started.recv().map_err(|_| WorkerError::Died)?.map_err(WorkerError::DataPath)?;
        let _ = begin.send(std::mem::replace(left, LeftBehind::none(&disk)));
        Ok(Self { commands, waker, thread, call, error })
    }

    /// Waits for the requests in flight and ends the worker. Returns the available index of the next chain.
    pub(super) fn stop(self) -> Result<u16, WorkerError> {
        self.carry_out(Command::Stop);
        self.thread.join().map_err(|_| WorkerError::Died)
    }

    /// Waits for the requests in flight and moves the queue to other memory.
    pub(super) fn set_memory(&self, mem: Arc<Memory>, ring: RingSetup) {
        self.carry_out(Command::SetMemory(mem, ring));
    }

    pub(super) fn set_kick(&self, kick: Arc<Notifier>) {
        self.carry_out(Command::SetKick(kick));
    }

    pub(super) fn set_call(&mut self, call: Option<Arc<Notifier>>) {
        self.carry_out(Command::SetCall(call.clone()));
        self.call = call;
    }

    pub(super) fn set_error(&mut self, error: Option<Arc<Notifier>>) {
        self.carry_out(Command::SetError(error.clone()));
        self.error = error;
    }

    /// Has a command carried out and waits for that. No eventfd of the frontend holds the worker up meanwhile.
    fn carry_out(&self, command: Command) {
        let (promise, kept) = mpsc::channel();
        // A worker that has ended keeps no promise, and is waited for no more.
        let _ = self.commands.send((command, promise));
        self.waker.ring();
        while let Err(RecvTimeoutError::Timeout) = kept.recv_timeout(HELD_UP) {
            [&self.call, &self.error].into_iter().flatten().for_each(|notifier| notifier.unclog());
        }
    }
}

/// Makes the data path of a queue, on the thread that will use it.
fn open_path(host: &Host, queue: u16, depth: u16, ring: link::Ring) -> io::Result<Box<dyn DataPath>> {
    let (files, reads) = (Arc::clone(&host.files), host.remote.below(host.device.faults.reads(queue), ring));
    match &host.looks_on {
        LooksOn::Nobody => data::open(host.aio, files, depth, reads),
        LooksOn::Log(log) => data::open(host.aio, files, depth, Writes::new(Arc::clone(log), queue, reads)),
        LooksOn::Marks(texts) => {
            let texts = Arc::clone(texts);
            data::open(host.aio, files, depth, Beginnings { queue, texts, above: reads })
        }
    }
}

/// The state of a queue's thread.
struct Worker {
    queue: Queue,
    number: u16,
    inbox: mpsc::Receiver<(Command, Promise)>,
    sleeper: Sleeper,
    idle: Idle,
    stopping: Option<Promise>,
    new_memory: Option<(Arc<Memory>, RingSetup, Promise)>,
}

impl Worker {
    fn run(mut self, left: LeftBehind) -> u16 {
        self.queue.take_left_behind(left);
        if let Err(error) = self.rounds() {
            log::error!("queue {} is lost: waiting for I/O failed: {error}", self.number);
            self.queue.break_off();
        }
        self.queue.next_available()
    }

    fn rounds(&mut self) -> io::Result<()> {
        loop {
            if self.round()? {
                self.idle.worked();
                continue;
            }
            if self.queue.is_quiet() {
                if let Some((mem, ring, _kept)) = self.new_memory.take() {
                    self.queue.move_to(mem, &ring);
                    if self.stopping.is_none() {
                        self.queue.release();
                    }
                    continue;
                }
                if self.stopping.is_some() {
                    return Ok(());
                }
            }
            if self.idle.may_poll(self.awaited()) {
                std::hint::spin_loop();
            } else if !self.queue.listen() && !self.queue.collect()? {
                let awaited = self.awaited();
                self.sleeper.sleep(self.queue.descriptor())?;
                self.idle.slept(awaited);
                self.queue.silence();
            }
        }
    }

    fn awaited(&self) -> Awaited {
        if self.queue.descriptor().is_some() { Awaited::Completions } else { Awaited::Requests }
    }

    /// Does what there is to do, without waiting; false when there was nothing.
    fn round(&mut self) -> io::Result<bool> {
        let woken = self.sleeper.is_woken();
        if woken {
            self.read_commands();
        }
        let round = self.queue.round(woken)?;
        if round.took {
            self.sleeper.found_work();
        }
        Ok(round.worked)
    }

    fn read_commands(&mut self) {
        while let Ok((command, promise)) = self.inbox.try_recv() {
            match command {
                Command::Stop => {
                    self.queue.hold();
                    self.stopping = Some(promise);
                }
                Command::SetMemory(mem, ring) => {
                    self.queue.hold();
                    self.new_memory = Some((mem, ring, promise));
                }
                Command::SetKick(kick) => self.sleeper.set_kick(kick),
                Command::SetCall(call) => self.queue.set_call(call),
                Command::SetError(error) => self.queue.set_error(error),
            }
        }
    }
}
