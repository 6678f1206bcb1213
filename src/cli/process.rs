//! What the process arranges for itself, whoever has started it: signals and limits that it cannot do without.

use std::io;

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The signals that end a daemon in good order. A terminal that is closed sends the last one.
const STOPPING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Lets a write past the limit of a file's size fail, as one on a full file system does, instead of ending the process.
pub(super) fn survive_file_limit() {
    // SAFETY: no handler is set that could run anything.
    let ignored = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    // The call fails only for a signal that does not exist.
    let _ = ignored;
}

/// Raises the limits of open files and of locked memory, which io_uring counts against on older kernels, as far as this
/// process may: each frontend and each queue takes some.
pub(super) fn raise_limits() {
    for (resource, name) in [(Resource::RLIMIT_NOFILE, "open files"), (Resource::RLIMIT_MEMLOCK, "locked memory")] {
        let raised = getrlimit(resource).and_then(|(soft, hard)| match soft < hard {
            true => setrlimit(resource, hard, hard),
            false => Ok(()),
        });
        if let Err(error) = raised {
            log::info!("the limit of {name} stays as it is: {error}");
        }
    }
}

/// An event that fires on each signal that stops a daemon, also where whoever has started it has blocked them.
pub(super) fn stop_on_signals() -> Result<EventFd> {
    let stop = EventFd::new(EFD_NONBLOCK)?;
    let mut awaited = SigSet::empty();
    for number in STOPPING {
        // nohup(1) has it ignored, so that the daemon outlives its terminal.
        if number == Signal::SIGHUP && is_ignored(number)? {
            continue;
        }
        let event = stop.try_clone()?;
        // A full counter needs no further count, so a failed write is nothing to report.
        let fire = move || drop(event.write(1));
        // SAFETY: the handler only calls write(2) on a descriptor it owns, which is async-signal-safe.
        unsafe { signal_hook::low_level::register(number as i32, fire) }?;
        awaited.add(number);
    }
    awaited.thread_unblock()?;
    Ok(stop)
}

/// Whether a signal is ignored since the process was started.
fn is_ignored(number: Signal) -> io::Result<bool> {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: nothing is changed, and `now` has room for what is written.
    if unsafe { libc::sigaction(number as i32, std::ptr::null(), now.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded, so it was written.
    Ok(unsafe { now.assume_init() }.sa_sigaction == libc::SIG_IGN)
}
