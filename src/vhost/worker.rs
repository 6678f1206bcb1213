//! One queue's thread.
//!
//! A worker owns its ring, the guest memory, its data path and its requests from the moment it is started until it has
//! stopped; the handler only sends it commands. Its round:
//!
//! 1. take completions to the store, then mail and commands, then chains from the ring (a bounded number), each to
//!    the store; hand all new I/O to the kernel at once and take what is done already, without waiting;
//! 2. have the store commit the whole batch, and pass on its events;
//! 3. give back the answered chains, with one interrupt for all of them;
//! 4. when there was nothing to do: look again for a bounded time ([`Idle`]), then ask the driver for kicks and wait
//!    for one, for a completion, or for a wake-up by another thread.
//!
//! Kicks are asked for only before waiting. What the guest does wrong stops at most this queue. The guest memory is
//! replaced only while no request is in flight.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::host::Host;
use super::idle::{Awaited, Idle};
use super::inflight::Inflight;
use super::notify::Notifier;
use super::ring::{Ring, RingError, RingSetup};
use super::wake::{Sleeper, Waker};
use crate::device::Device;
use crate::device::memory::Memory;
use crate::device::recovery::LeftBehind;
use crate::device::requests::Requests;
use crate::device::router::Bell;
use crate::io::{self as data, DataPath};
use crate::sandbox::Role;

/// Most chains taken from the ring before what is done is given back: the driver then fills the ring again while the
/// worker goes on.
const CHAINS_PER_ROUND: usize = 16;

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
        let (disk, its_call) = (Arc::clone(&host.device.disk), call.clone());
        let run = move || {
            let next = ring.next_available();
            // The data path belongs to this thread from the start: an io_uring has one thread that uses it.
            match data::open(host.aio, Arc::clone(&host.files), ring_setup.size) {
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
                    Worker::new(path, &host, queue, mem, ring, inbox, sleeper).run(left)
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

/// The state of a queue's thread.
pub(super) struct Worker<I: ?Sized = dyn DataPath> {
    /// The first field: it is dropped first, and with it the kernel is done with the memory.
    requests: Requests<I>,
    /// That of the requests, for the ring.
    mem: Arc<Memory>,
    device: Arc<Device>,
    queue: u16,
    ring: Ring,
    inbox: mpsc::Receiver<(Command, Promise)>,
    sleeper: Sleeper,
    idle: Idle,
    stopping: Option<Promise>,
    new_memory: Option<(Arc<Memory>, RingSetup, Promise)>,
}

impl<I: DataPath + ?Sized> Worker<I> {
    fn new(
        path: Box<I>,
        host: &Host,
        queue: u16,
        mem: Arc<Memory>,
        ring: Ring,
        inbox: mpsc::Receiver<(Command, Promise)>,
        sleeper: Sleeper,
    ) -> Self {
        let device = &host.device;
        Self {
            requests: Requests::new(path, Arc::clone(device), queue, Arc::clone(&mem), ring.size()),
            mem,
            device: Arc::clone(device),
            queue,
            ring,
            inbox,
            sleeper,
            idle: Idle::new(host.poll),
            stopping: None,
            new_memory: None,
        }
    }

    fn run(mut self, left: LeftBehind) -> u16 {
        self.take_left_behind(left);
        if let Err(error) = self.rounds() {
            log::error!("queue {} is lost: waiting for I/O failed: {error}", self.queue);
            self.ring.break_off();
        }
        self.ring.next_available()
    }

    fn rounds(&mut self) -> io::Result<()> {
        loop {
            if self.round()? {
                self.idle.worked();
                continue;
            }
            if self.requests.is_quiet() {
                if let Some((mem, ring, _kept)) = self.new_memory.take() {
                    self.move_to(mem, &ring);
                    continue;
                }
                if self.stopping.is_some() {
                    return Ok(());
                }
            }
            if self.idle.may_poll(self.awaited()) {
                std::hint::spin_loop();
            } else if !self.listen() && !self.requests.collect()? {
                let awaited = self.awaited();
                self.sleeper.sleep(self.requests.descriptor())?;
                self.idle.slept(awaited);
                let silenced = self.ring.silence(&self.mem);
                self.note_ring(silenced);
            }
        }
    }

    fn awaited(&self) -> Awaited {
        if self.requests.descriptor().is_some() { Awaited::Completions } else { Awaited::Requests }
    }

    /// Does what there is to do, without waiting; false when there was nothing.
    fn round(&mut self) -> io::Result<bool> {
        let mut worked = self.requests.collect()?;
        if self.sleeper.is_woken() {
            worked = true;
            self.read_mail();
        }
        // Requests that waited go before those that come now.
        self.requests.settle();
        if self.accepting() {
            let taken = self.take_chains();
            if !matches!(taken, Ok(0)) {
                worked = true;
                self.sleeper.found_work();
            }
            self.note_ring(taken.map(|_| ()));
        }
        worked |= self.requests.collect()?;
        worked |= self.requests.settle();
        self.publish();
        Ok(worked)
    }

    /// Asks the driver to kick when it has filled its ring. True when it has done so meanwhile.
    fn listen(&mut self) -> bool {
        if !self.accepting() {
            return false;
        }
        let come = self.ring.listen(&self.mem);
        let more = !matches!(come, Ok(false));
        self.note_ring(come.map(|_| ()));
        more
    }

    /// Whether chains may be taken from the ring.
    fn accepting(&self) -> bool {
        self.stopping.is_none() && self.new_memory.is_none() && !self.ring.is_broken()
    }

    fn read_mail(&mut self) {
        self.requests.read_mail();
        while let Ok((command, promise)) = self.inbox.try_recv() {
            match command {
                Command::Stop => self.stopping = Some(promise),
                Command::SetMemory(mem, ring) => self.new_memory = Some((mem, ring, promise)),
                Command::SetKick(kick) => self.sleeper.set_kick(kick),
                Command::SetCall(call) => self.ring.set_call(call),
                Command::SetError(error) => self.ring.error = error,
            }
        }
    }

    /// Takes chains from the ring until it is empty or the round is over; returns how many.
    fn take_chains(&mut self) -> Result<usize, RingError> {
        let mut now = None;
        for taken in 0..CHAINS_PER_ROUND {
            let Some(chain) = self.ring.pop(&self.mem)? else {
                return Ok(taken);
            };
            let head = chain.head_index();
            if !self.requests.take(chain, &mut now, |head| self.ring.mark(head)) {
                return Err(RingError::Head(head));
            }
        }
        Ok(CHAINS_PER_ROUND)
    }

    /// Stops taking chains from a ring that breaks the rules.
    fn note_ring(&mut self, result: Result<(), RingError>) {
        if let Err(error) = result
            && self.ring.break_off()
            && self.device.lines.of_queue(self.queue).allow()
        {
            log::error!("queue {} is stopped, its ring is broken: {error}", self.queue);
        }
    }

    /// Goes on with what the last process left behind.
    fn take_left_behind(&mut self, left: LeftBehind) {
        let (requests, mut parsed) = (&mut self.requests, Vec::new());
        let walked = self.ring.for_left_behind(&self.mem, |chain| requests.take_left_behind(chain, &mut parsed));
        self.note_ring(walked);
        if !parsed.is_empty() && self.device.lines.of_queue(self.queue).allow() {
            log::info!("queue {}: goes on with {} requests that were in flight", self.queue, parsed.len());
        }
        self.requests.resume(parsed, left);
    }

    /// Gives all answered chains back to the driver.
    fn publish(&mut self) {
        let (ring, mem, mut pushed) = (&mut self.ring, &self.mem, Ok(()));
        self.requests.give_back(|head, written| {
            let this = ring.push(mem, head, written);
            if pushed.is_ok() {
                pushed = this;
            }
        });
        self.note_ring(pushed);
        let announced = self.ring.announce(&self.mem);
        self.note_ring(announced);
    }

    fn move_to(&mut self, mem: Arc<Memory>, ring: &RingSetup) {
        let moved = self.ring.relocate(ring, &mem);
        self.requests.set_memory(Arc::clone(&mem));
        self.mem = mem;
        self.note_ring(moved);
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
