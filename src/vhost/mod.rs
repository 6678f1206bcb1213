//! The transport: sockets, connections, guest memory, rings and the threads of a device's queues.
//!
//! ```text
//!  main ── stop ──► accept loop ──► connection ──► handler        one thread: messages of one frontend at a time
//!                                                    │ commands
//!                                                    ▼
//!                                          worker per running queue   owns ring, guest memory, requests
//!                                                    │ events ▲
//!                                                    ▼        │
//!                                               mailboxes ◄── housekeeper   blocking metadata work of the store
//! ```
//!
//! | module | subject |
//! | --- | --- |
//! | [`socket`] | where frontends come from: a path, a descriptor, systemd |
//! | `reception` | frontends that come, wait and go |
//! | `connection` | one frontend after another, their messages |
//! | `wire` | whole messages off a socket, replies onto it |
//! | `message` | the bytes of a message understood |
//! | `handler` | the vhost-user protocol: features, memory, rings started and stopped |
//! | `memory` | the frontend's memory table |
//! | `queue` | one queue without its thread: a ring and its requests, a round at a time |
//! | `worker` | one queue's thread: its loop and its commands |
//! | `wake` | how a queue's thread sleeps and is woken |
//! | `idle` | how long a queue's thread looks for work before it sleeps |
//! | `ring` | the split virtqueue |
//! | `notify` | the eventfds that a frontend hands over |
//! | `inflight` | the memory that says which requests were in flight when a process died |
//! | `journal` | what the store notes there about them, and what the next process makes of it |
//! | `taken` | what is said when shared memory is taken away |
//! | `marks`, `texts` | a disk whose writes are marks; what these say |
//! | `responder` | what clients of the control socket are told of a device |
//! | `snapshot` | what copies the image into a file of a client's, and a file over the image |
//! | `housekeeper` | the store's thread for blocking work |
//! | `options`, `host` | what a device is served with, and what its threads share |
//!
//! A queue belongs to its worker while it runs and to the handler while it is stopped; nothing is shared but the
//! store, the mailboxes and three flags. Rules: the vhost-user protocol of QEMU's docs/interop, and virtio 1.3, 2.7.

mod connection;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod handler;
mod host;
mod housekeeper;
mod idle;
mod inflight;
mod journal;
mod marks;
mod memory;
mod message;
mod notify;
mod options;
mod queue;
mod reception;
mod responder;
mod ring;
#[cfg(test)]
mod simulation;
mod snapshot;
pub mod socket;
mod taken;
mod texts;
mod wake;
mod wire;
mod worker;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

pub use options::{CacheMode, ServeOptions};
pub use socket::{ListenOn, SocketAccess, SocketError};

use crate::control::server::Server;
use crate::fault::{Keep, Saved};
use crate::fetch::link::Link;
use crate::fetch::path::RemoteBases;
pub use crate::io::{AioMode, DataFiles};
use crate::observe::versioned;
use crate::power::{Then, VolatileCache};
use crate::record::Log;
use crate::sandbox::{Role, Sandbox, SandboxError};
use crate::service::ServiceManager;
use crate::store::ZonedDevice;
use crate::virtio::config::ConfigError;
use crate::zone::Geometry;

/// Why serving could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The image and the options make no device.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The serial number does not fit.
    #[error("--serial has {0} bytes: expected at most 20")]
    Serial(usize),
    /// The process cannot be confined.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The rules for faults make no sense for this disk.
    #[error("{name}: {reason}")]
    Rules {
        /// What they are called.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A system call that never fails did.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl ServeError {
    fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// What the main thread does while it ends.
const CLOSING: &str = "closing the image";

/// What stands in the log before the JSON of a cut that ends the program.
const LEFT: &str = "what the power cut has left: ";

/// Who the main thread looks to while it waits: whoever may stop it, and whoever wants to know that it lives.
#[derive(Clone, Copy, Debug)]
pub struct Supervised<'a> {
    /// Becomes readable when it is time to stop; never read.
    pub stop: &'a EventFd,
    /// Whoever has started the process.
    pub manager: &'a ServiceManager,
}

/// Who may look on while a disk is served.
#[derive(Debug, Default)]
pub struct Observers {
    /// What the image is called.
    pub image: String,
    /// What the images are called that it builds on, each above the one that it builds on itself.
    pub bases: Vec<String>,
    /// Where each request is noted; begins with its header, and is written at its end.
    pub trace: Option<File>,
    /// Where the control socket is made.
    pub control_path: Option<PathBuf>,
    /// Where frontends of the mark disk come from.
    pub marks: Option<ListenOn>,
}

/// The disk that is served.
pub enum Disk {
    /// As it is.
    Plain(Arc<dyn ZonedDevice>),
    /// Behind a volatile cache with [`SWITCHED`] queues.
    Cached(Arc<VolatileCache>),
}

impl Disk {
    fn geometry(&self) -> &Geometry {
        match self {
            Self::Plain(disk) => disk.geometry(),
            Self::Cached(cache) => cache.geometry(),
        }
    }
}

/// How many queues the switch of a cache is for.
pub const SWITCHED: usize = options::MAX_QUEUES as usize;

/// What is served.
pub struct Served {
    /// The disk.
    pub disk: Disk,
    /// Its image, for the guest's data.
    pub files: DataFiles,
    /// The last process died in a power cut; if so, whether requests fail until the device is reset.
    pub power_lost: Option<bool>,
    /// Bases of the image that are reached by network.
    pub remote: RemoteBases,
    /// Rules for faults that are kept.
    pub rules: Option<Rules>,
    /// Where the disk is recorded: a layer of the disk writes to it already.
    pub log: Option<Arc<Log>>,
}

/// Rules for faults that outlive the process.
pub struct Rules {
    /// What they are called.
    pub name: String,
    /// What there is.
    pub saved: Saved,
    /// Writes them down.
    pub keep: Keep,
}

/// Serves the disk to one frontend after another until it is to stop. A socket that came already connected is served
/// once. When this returns nothing is in flight any more; the caller closes the disk.
pub fn serve(
    served: Served,
    listen: ListenOn,
    options: ServeOptions,
    observers: Observers,
    by: Supervised<'_>,
) -> Result<(), ServeError> {
    let config = options.config_space(served.disk.geometry())?;
    let listening = socket::Listening::open(listen)?;
    // Made by nobody but its owner, and for nobody else.
    let access = SocketAccess { mode: 0o600, group: None };
    let Observers { image, bases, trace, control_path, marks } = observers;
    let control = control_path.map(|path| socket::Listening::open(ListenOn::Path { path, access })).transpose()?;
    let marks = marks.map(marks::Prepared::new).transpose()?;
    let folders: Vec<_> = std::iter::once(&listening)
        .chain(&control)
        .chain(marks.as_ref().map(|marks| &marks.listening))
        .filter_map(socket::Listening::own_folder)
        .collect();
    taken::say_when_memory_is_taken().map_err(ServeError::system("handle SIGBUS"))?;
    let sandbox = Sandbox::enter(options.sandbox, &folders)?;
    served.remote.links().try_for_each(|link| start_link(link, sandbox))?;
    let host = Arc::new(host::Host::new(served, &options, config.max_append(), trace, sandbox, None)?);
    let housekeeper = housekeeper::Housekeeper::start(Arc::clone(&host))?;
    follow_cuts(&host, by.stop).map_err(ServeError::system("duplicate a descriptor"))?;
    log::info!("serving on {listening}");
    let make = || responder::DeviceResponder::new(&host, by.stop, (image, bases), &options);
    let control = control.as_ref().map(|listening| answer_clients(listening, make(), sandbox)).transpose()?;
    let start = |prepared| marks::MarkDisk::start(prepared, &options, &host.device, sandbox);
    let marks = marks.map(start).transpose()?;
    by.manager.ready(&connection::waiting(&listening));
    let result = connection::accept_loop(&listening, &host, &config, &options, by);
    by.manager.stopping(CLOSING);
    if let Some(marks) = marks {
        marks.stop();
    }
    if let Some(control) = control {
        control.stop();
    }
    housekeeper.stop();
    result
}

/// Has the queues see that the power is off, and the program end where that is to follow. Then what the cut has left is logged
/// as well, since there is nobody any more who could be asked for it.
fn follow_cuts(host: &host::Host, stop: &EventFd) -> io::Result<()> {
    let Some(cache) = &host.device.cache else { return Ok(()) };
    let (device, stop) = (Arc::downgrade(&host.device), stop.try_clone()?);
    cache.set_after_cut(Box::new(move |outcome| {
        if let Some(device) = device.upgrade() {
            device.power_is_cut(outcome);
        }
        let Some(outcome) = outcome.filter(|outcome| outcome.then == Then::Exit) else { return };
        match serde_json::to_string(&versioned(outcome)) {
            Ok(json) => log::info!("{LEFT}{json}"),
            Err(error) => log::error!("what the power cut has left cannot be told: {error}"),
        }
        if let Err(error) = stop.write(1) {
            log::error!("the program does not end after the power cut: {error}");
        }
    }));
    Ok(())
}

/// Starts the thread that talks to the fetcher of a base. It ends with the process: the image may be read until then.
fn start_link(link: &Arc<Link>, sandbox: Sandbox) -> Result<(), ServeError> {
    let link = Arc::clone(link);
    link.will_run();
    let run = move || {
        if let Err(error) = sandbox.confine(Role::Link) {
            log::warn!("the thread of a fetcher may do all that the process may: {error}");
        }
        link.run();
    };
    let started = std::thread::Builder::new().name("link".into()).spawn(run);
    started.map(drop).map_err(ServeError::system("start the thread of a fetcher"))
}

/// Starts the thread of the control socket.
fn answer_clients(
    listening: &socket::Listening,
    responder: io::Result<responder::DeviceResponder>,
    sandbox: Sandbox,
) -> Result<Server, ServeError> {
    let start = || {
        let listener = listening.listener().ok_or(io::ErrorKind::InvalidInput)?.try_clone()?;
        Server::start(listener, Arc::new(responder?), move || {
            if let Err(error) = sandbox.confine(Role::Control) {
                log::warn!("the thread of the control socket may do all that the process may: {error}");
            }
        })
    };
    let server = start().map_err(ServeError::system("start the thread of the control socket"))?;
    log::info!("answering on {listening}");
    Ok(server)
}
