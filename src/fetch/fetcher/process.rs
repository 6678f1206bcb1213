//! How the fetcher's process is started, started again when it dies, and confined.
//!
//! The daemon starts a *keeper* before it confines itself, with one end of a socket as standard input. The keeper starts the
//! fetcher, with the same, and another one when that dies; so the socket stays, and the daemon asks again for what was not
//! answered. The fetcher ends when the daemon's end of the socket does, and the keeper after it.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::work;
use crate::fetch::cache::Cache;
use crate::fetch::link::{Link, LinkError};
use crate::fetch::message::Socket;
use crate::sandbox;

/// The first argument of the keeper, and of the fetcher.
pub const KEEPER: &str = "fetch-keeper";
/// See [`KEEPER`].
pub const FETCHER: &str = "fetcher";

/// A fetcher that lives no longer than this has not been of use.
const SHORT: Duration = Duration::from_secs(5);

/// How many of those on end are too many, and how long is waited between two.
const MOST: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// This program, whatever its name leads to by now.
pub const THIS: &str = "/proc/self/exe";

/// Starts a fetcher for an object, which keeps it in a cache, and has it open the object. `program` is [`THIS`], or another copy
/// of it.
pub fn start(program: &Path, url: &str, cache: &Path, size: u64) -> Result<Arc<Link>, LinkError> {
    let (own, other) = Socket::pair()?;
    let mut keeper = command(program, KEEPER, url, cache, size);
    // What a terminal sends to the daemon is for the daemon to see.
    std::os::unix::process::CommandExt::process_group(&mut keeper, 0);
    keeper.stdin(other.into_fd()).stdout(Stdio::null()).spawn()?;
    Link::open(own)
}

fn command(program: &Path, name: &str, url: &str, cache: &Path, size: u64) -> Command {
    let mut command = Command::new(program);
    command.args([name, url]).arg(cache).arg(size.to_string());
    command
}

/// The keeper: has a fetcher running until one ends in order.
pub fn keep(url: &str, cache: &Path, size: u64) -> io::Result<()> {
    ignore_stops();
    let mut short = 0;
    loop {
        let begun = Instant::now();
        let status = command(Path::new(THIS), FETCHER, url, cache, size).status()?;
        if status.success() {
            return Ok(());
        }
        short = if begun.elapsed() < SHORT { short + 1 } else { 1 };
        if short > MOST {
            return Err(io::Error::other(format!("the fetcher has died {MOST} times, at last with {status}")));
        }
        log::warn!("{url}: the fetcher has died ({status}) and is started again");
        sleep(PAUSE * short);
    }
}

/// The fetcher, with the socket as its standard input.
pub fn fetch(url: &str, cache: &Path, size: u64) -> io::Result<()> {
    ignore_stops();
    die_with_parent();
    let socket = Socket::from(io::stdin().as_fd().try_clone_to_owned()?);
    let cache_of = Cache::open(cache, size)?;
    sandbox::confine_fetcher(cache).map_err(io::Error::other)?;
    work::work(url, &cache_of, socket)
}

/// Leaves it to the daemon to say when it is over: a service manager tells all processes of a service at once.
fn ignore_stops() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for number in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: no handler is set that could run anything.
        let ignored = unsafe { signal(number, SigHandler::SigIgn) };
        // The call fails only for a signal that does not exist.
        let _ = ignored;
    }
}

/// Ends this process when its parent does, so that no fetcher is left whom nobody would start again.
fn die_with_parent() {
    // SAFETY: takes no memory and changes nothing but what is said.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}
