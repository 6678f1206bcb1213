//! A run: the threads of all queues, the clock, and what the processors did meanwhile.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::connection::{Connection, Lane};
use crate::source::Source;
use crate::worker::{Manner, Phase, PhaseCell, Stats, Worker};

/// The longest that requests in flight may take once the time is over.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a run goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Span {
    /// Until the sources end.
    Whole,
    /// For some time, after some that is not measured.
    Timed { warm_up: Duration, measured: Duration },
}

/// What a run has shown.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) stats: Stats,
    pub(crate) time: Duration,
    /// Processor time of the backend, where its process is known.
    pub(crate) backend_cpu: Option<Duration>,
    /// Processor time of this process.
    pub(crate) own_cpu: Duration,
}

type Threads = Vec<JoinHandle<(Lane, Result<Stats>)>>;

/// Runs one source on each queue, from the first one on.
pub(crate) fn run(
    connection: &mut Connection,
    sources: Vec<Box<dyn Source>>,
    manner: &Manner,
    span: Span,
    pid: Option<i32>,
) -> Result<Outcome> {
    let first = if matches!(span, Span::Whole) { Phase::Measure } else { Phase::WarmUp };
    let phase = Arc::new(PhaseCell::new(first));
    let rest = connection.lanes.split_off(sources.len());
    let lanes = std::mem::replace(&mut connection.lanes, rest);
    let mut cpu = Cpu::now(pid)?;
    let mut begin = Instant::now();
    let threads: Threads = lanes
        .into_iter()
        .zip(sources)
        .map(|(lane, source)| {
            let worker = Worker::new(lane, source, manner.clone(), Arc::clone(&phase));
            thread::spawn(move || worker.run())
        })
        .collect();
    if let Span::Timed { warm_up, measured } = span {
        watch(connection, &threads, warm_up)?;
        phase.set(Phase::Measure);
        (begin, cpu) = (Instant::now(), Cpu::now(pid)?);
        watch(connection, &threads, measured)?;
    } else {
        watch(connection, &threads, Duration::MAX)?;
    }
    let (time, spent) = (begin.elapsed(), Cpu::now(pid)?);
    phase.set(Phase::Stop);
    ensure!(watch(connection, &threads, PATIENCE)?, "requests were not answered for {PATIENCE:?}");
    let mut stats = Stats::new();
    let mut lanes = Vec::new();
    for thread in threads {
        let (lane, result) = thread.join().map_err(|_| anyhow!("a thread has panicked"))?;
        lanes.push(lane);
        stats.add(&result?);
    }
    lanes.append(&mut connection.lanes);
    connection.lanes = lanes;
    let backend_cpu = spent.backend.zip(cpu.backend).map(|(now, then)| now.saturating_sub(then));
    Ok(Outcome { stats, time, backend_cpu, own_cpu: spent.own - cpu.own })
}

/// Waits for the end of all threads, at most for `time`; says whether they have ended.
fn watch(connection: &Connection, threads: &Threads, time: Duration) -> Result<bool> {
    let begin = Instant::now();
    loop {
        if threads.iter().all(JoinHandle::is_finished) {
            return Ok(true);
        }
        let left = time.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Ok(false);
        }
        let step = left.min(Duration::from_millis(20)).as_millis().max(1) as libc::c_int;
        let mut fd = libc::pollfd { fd: connection.socket.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: one valid structure.
        let ready = unsafe { libc::poll(&mut fd, 1, step) };
        if ready > 0 && !threads.iter().any(JoinHandle::is_finished) {
            bail!("the backend has closed the connection");
        }
    }
}

/// Processor time up to now.
struct Cpu {
    backend: Option<Duration>,
    own: Duration,
}

impl Cpu {
    fn now(pid: Option<i32>) -> Result<Self> {
        let clock = |clock: libc::clockid_t| {
            // SAFETY: all zeros is a valid timespec.
            let mut time: libc::timespec = unsafe { std::mem::zeroed() };
            // SAFETY: one valid structure.
            let result = unsafe { libc::clock_gettime(clock, &mut time) };
            ensure!(result == 0, "clock_gettime: {}", io::Error::last_os_error());
            Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
        };
        let backend = pid.map(|pid| {
            let mut id = 0;
            // The clock of a process has the nanoseconds of all its threads, io_uring's workers and those that have
            // ended among them, which no sum over /proc/PID/task has.
            // SAFETY: one valid place for the result.
            let error = unsafe { libc::clock_getcpuclockid(pid, &mut id) };
            ensure!(error == 0, "process {pid}: {}", io::Error::from_raw_os_error(error));
            clock(id).with_context(|| format!("process {pid}"))
        });
        Ok(Self { backend: backend.transpose()?, own: clock(libc::CLOCK_PROCESS_CPUTIME_ID)? })
    }
}
