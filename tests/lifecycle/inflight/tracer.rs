//! Kills a daemon at its n-th storage call, by ptrace and without a change to the daemon.
//!
//! The tracer is a process of its own, forked and never a Rust program again: it makes system calls only. A thread of
//! the test would not do: a tracer in the parent's own process takes the child's end from whoever waits for it.

use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, RawFd};
use std::ptr;

/// What changes the image or tells the driver, by both engines.
const CALLS: [libc::c_long; 9] = [
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_write,
    libc::SYS_io_uring_enter,
];

/// Most threads of a daemon that are traced.
const THREADS: usize = 128;

/// From /usr/include/linux/ptrace.h: the tracee is killed when the tracer ends.
const PTRACE_O_EXITKILL: libc::c_int = 1 << 20;

/// When in the n-th call the daemon dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// Before it.
    Entry,
    /// After it.
    Exit,
    /// So many instructions of its thread later.
    After(u32),
}

/// What a tracer has seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// It has killed the daemon, and not seen it end otherwise.
    pub(super) killed: bool,
    /// Medium calls that were begun.
    pub(super) calls: u32,
}

/// A process that follows all threads of a daemon.
#[derive(Debug)]
pub(super) struct Tracer {
    pid: libc::pid_t,
    reports: File,
}

impl Tracer {
    /// Follows a daemon and kills it at its `nth` storage call from now on, which are counted from 1.
    pub(super) fn attach(daemon: libc::pid_t, nth: u32, point: Point) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{daemon}/task")).expect("the daemon's threads");
        let mut threads = [0; THREADS];
        for (to, task) in threads.iter_mut().zip(tasks) {
            *to = task.expect("a thread").file_name().to_str().and_then(|name| name.parse().ok()).expect("a number");
        }
        let mut pipe = [0; 2];
        // SAFETY: an array for two descriptors.
        assert_eq!(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) }, 0, "pipe");
        // SAFETY: the child makes only async-signal-safe calls, allocates nothing and leaves by _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            Trace::new(daemon, nth, point).run(&threads, pipe[1]);
        }
        assert!(pid > 0, "fork");
        // SAFETY: both were just made; each gets one owner, and the child has its own copy of the second.
        let (mut reports, writer) = unsafe { (File::from_raw_fd(pipe[0]), File::from_raw_fd(pipe[1])) };
        drop(writer);
        reports.read_exact(&mut [0]).expect("the tracer could not attach: ptrace is not allowed here");
        Self { pid, reports }
    }

    /// What was seen until the daemon's end, which has come.
    pub(super) fn seen(mut self) -> Seen {
        let mut report = [0; 5];
        self.reports.read_exact(&mut report).expect("the tracer's report");
        let [killed, calls @ ..] = report;
        Seen { killed: killed != 0, calls: u32::from_le_bytes(calls) }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // SAFETY: the child is ours and not waited for yet, so the number is its own.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, ptr::null_mut(), 0);
        }
    }
}

/// The state of the tracer's process.
struct Trace {
    daemon: libc::pid_t,
    nth: u32,
    point: Point,
    /// All threads are followed; calls count from now on.
    ready: bool,
    calls: u32,
    /// The thread that is in, or behind, the n-th call.
    chosen: libc::pid_t,
    /// Instructions it has still to go, once it is stepped.
    left: Option<u32>,
}

/// How a stopped thread goes on.
enum Next {
    ToCall,
    ToInstruction,
    WithSignal(libc::c_int),
    Kill,
}

impl Trace {
    fn new(daemon: libc::pid_t, nth: u32, point: Point) -> Self {
        Self { daemon, nth, point, ready: false, calls: 0, chosen: 0, left: None }
    }

    fn run(mut self, threads: &[libc::pid_t], report: RawFd) -> ! {
        // Nothing else is kept open: a copy of a test's socket would keep its peer from seeing it closed.
        // SAFETY: plain system calls on this process's own descriptors.
        unsafe {
            libc::dup2(report, 0);
            libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0);
        }
        let mut attached = 0;
        for thread in threads.iter().filter(|thread| **thread != 0) {
            let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL;
            if ptrace(libc::PTRACE_SEIZE, *thread, options) && ptrace(libc::PTRACE_INTERRUPT, *thread, 0) {
                attached += 1;
            }
        }
        let killed = loop {
            if attached == 0 && !self.ready {
                self.ready = true;
                tell(&[0]);
            }
            let mut status = 0;
            // SAFETY: a place for the status.
            let thread = unsafe { libc::waitpid(-1, &mut status, libc::__WALL) };
            if thread < 0 {
                break false;
            }
            if !libc::WIFSTOPPED(status) {
                continue;
            }
            attached -= i32::from(!self.ready && status >> 16 == libc::PTRACE_EVENT_STOP);
            match self.stopped(thread, libc::WSTOPSIG(status), status >> 16) {
                Next::ToCall => ptrace(libc::PTRACE_SYSCALL, thread, 0),
                Next::ToInstruction => ptrace(libc::PTRACE_SINGLESTEP, thread, 0),
                Next::WithSignal(signal) => ptrace(libc::PTRACE_SYSCALL, thread, signal),
                Next::Kill => break true,
            };
        };
        if killed {
            // SAFETY: a plain system call; the daemon is stopped and traced, so the number is its own.
            unsafe { libc::kill(self.daemon, libc::SIGKILL) };
        }
        let [a, b, c, d] = self.calls.to_le_bytes();
        tell(&[u8::from(killed), a, b, c, d]);
        // SAFETY: ends this process without anything of the parent's.
        unsafe { libc::_exit(0) }
    }

    fn stopped(&mut self, thread: libc::pid_t, signal: libc::c_int, event: libc::c_int) -> Next {
        if signal == libc::SIGTRAP | 0x80 {
            return self.at_call(thread);
        }
        match (event, signal, self.left) {
            (0, libc::SIGTRAP, Some(0)) if thread == self.chosen => Next::Kill,
            (0, libc::SIGTRAP, Some(left)) if thread == self.chosen => {
                self.left = Some(left - 1);
                Next::ToInstruction
            }
            (0, _, _) => Next::WithSignal(signal),
            _ => Next::ToCall,
        }
    }

    /// A thread is at the entry or the exit of a system call.
    fn at_call(&mut self, thread: libc::pid_t) -> Next {
        let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
        let len = size_of::<libc::ptrace_syscall_info>();
        // SAFETY: the buffer has the length that is given.
        unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, len, info.as_mut_ptr()) };
        // SAFETY: it was zeroed, which is a value of this plain structure, or filled by the kernel.
        let info = unsafe { info.assume_init() };
        if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            return match self.point {
                Point::Exit if thread == self.chosen => Next::Kill,
                Point::After(steps) if thread == self.chosen => {
                    self.left = Some(steps);
                    Next::ToInstruction
                }
                _ => Next::ToCall,
            };
        }
        // SAFETY: all fields of the union are numbers, and the operation says that this one is meant.
        let entry = unsafe { info.u.entry };
        // A line of the log is none.
        let counted = CALLS.contains(&(entry.nr as libc::c_long)) && entry.args[0] > 2;
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY || !counted || !self.ready || self.chosen != 0 {
            return Next::ToCall;
        }
        self.calls += 1;
        if self.calls < self.nth {
            return Next::ToCall;
        }
        self.chosen = thread;
        if self.point == Point::Entry { Next::Kill } else { Next::ToCall }
    }
}

fn ptrace(request: libc::c_uint, thread: libc::pid_t, data: libc::c_int) -> bool {
    // SAFETY: none of the requests made here takes an address.
    unsafe { libc::ptrace(request, thread, 0_usize, data as usize) == 0 }
}

fn tell(bytes: &[u8]) {
    // SAFETY: the slice is valid; descriptor 0 is the pipe.
    unsafe { libc::write(0, bytes.as_ptr().cast(), bytes.len()) };
}
