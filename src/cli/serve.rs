//! `serve`: opens an image and serves it until it is told to stop.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::named::Wanted;
use super::remote::Network;
use super::verbosity::Verbosity;
use super::{cut, fault, image, make, process, record, size, trace};
use crate::chain::{self, Chain};
use crate::fetch::path::RemoteBases;
use crate::logging;
use crate::power::{self, Switch, VolatileCache, Words};
use crate::qcow2::{self, ByteOrder, ForkOptions};
use crate::record::Recorder;
use crate::sandbox;
use crate::service::ServiceManager;
use crate::storage::file::FileMedium;
use crate::storage::lock::{self, Purpose};
use crate::store::device::Layered;
use crate::store::{self, ZonedDevice, ZonedStore};
use crate::units::Bytes;
use crate::vhost::{
    self, AioMode, CacheMode, DataFiles, Disk, ListenOn, Observers, ServeOptions, Served, SocketAccess, Supervised,
};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Cache {
    Writeback,
    None,
    Writethrough,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Aio {
    Auto,
    #[value(name = "io_uring")]
    IoUring,
    Sync,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image file.
    #[arg(required_unless_present = "blk_file")]
    file: Option<PathBuf>,
    /// The image file, by the name QEMU's backend programs use.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    blk_file: Option<PathBuf>,
    /// Listen on this unix socket; a stale one is replaced.
    #[arg(long, value_name = "PATH", conflicts_with = "fd")]
    socket_path: Option<PathBuf>,
    /// Use this open socket: one that listens, or one that is connected. Without --socket-path and --fd the
    /// listening socket comes from systemd.
    #[arg(long, value_name = "N")]
    fd: Option<i32>,
    /// Logical block size of the disk, and the unit of writes to sequential zones.
    #[arg(long, value_name = "BYTES", default_value = "4096", value_parser = block_size())]
    block_size: u32,
    /// Request queues shown to the guest.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    num_queues: u16,
    /// Largest queue accepted: a power of two from 4 to 32768.
    #[arg(long, value_name = "N", default_value = "32768", value_parser = parse_queue_size)]
    queue_size: u16,
    /// writeback: writes become stable with a flush; none: the same, past the page cache; writethrough: each write
    /// is stable when it is answered.
    #[arg(long, value_name = "MODE", value_enum, default_value = "writeback")]
    cache: Cache,
    /// Keep what was not flushed volatile, as a drive with a write cache does: "ctl power-cut" loses it. SIZE bounds the old
    /// versions kept of blocks of conventional zones; when not given it is 64M.
    #[arg(long, value_name = "SIZE", num_args = 0..=1, default_missing_value = "64M", value_parser = size::parse)]
    #[arg(conflicts_with = "read_only")]
    volatile_cache: Option<Bytes>,
    /// Cut the power as "ctl power-cut" does, at the moment that at= says; with --volatile-cache. Words are separated by spaces.
    #[arg(long, value_name = "WORDS", conflicts_with = "read_only")]
    power_cut: Option<String>,
    /// Keep the rules of "ctl fault" in this file, and begin with those that are there; made where there is none.
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// Make the image first where there is none: a size, and options by the names that "create -o" takes, "preset" among
    /// them.
    #[arg(long, value_name = "SIZE,NAME=VALUE,...", conflicts_with = "read_only")]
    create: Option<String>,
    /// Keep what is written in a file without a name, which is gone when this process ends; the image is never written, and others
    /// may serve it so at the same time. The file is made in $TMPDIR, or else in /var/tmp.
    #[arg(long, conflicts_with_all = ["read_only", "create"])]
    snapshot: bool,
    /// Where chunks of bases that are reached by network are kept for all daemons of this user: else in
    /// $CACHE_DIRECTORY, $XDG_CACHE_HOME/vhost-user-zbd, ~/.cache/vhost-user-zbd or /var/cache/vhost-user-zbd.
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// The most that all of them together take on disk; at least 64M.
    #[arg(long, value_name = "SIZE", default_value = "10G", value_parser = size::parse)]
    cache_size: Bytes,
    /// Serve a read-only disk; the image is never written.
    #[arg(long)]
    read_only: bool,
    /// The serial number the guest sees, up to 20 bytes.
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = parse_serial)]
    serial: String,
    /// How data is read and written: io_uring where the kernel allows it, or plain system calls.
    #[arg(long, value_name = "ENGINE", value_enum, default_value = "auto")]
    aio: Aio,
    /// For how many microseconds, at most, a queue's thread looks for further requests before it sleeps, as long as that
    /// finds some. 0: never. The default is 50, and 0 with --cache none, where requests wait for the disk anyway.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1000))]
    poll_us: Option<u16>,
    /// Who may connect to --socket-path and --mark-socket: the permission bits of its file, in octal.
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = parse_mode)]
    socket_mode: u32,
    /// Give the files of --socket-path and --mark-socket to this group, by name or number.
    #[arg(long, value_name = "GROUP", value_parser = parse_group)]
    socket_group: Option<u32>,
    /// Answer questions on this unix socket, which is its owner's alone: see "ctl", "top", "map" and "report". Scrapers get
    /// /metrics there.
    #[arg(long, value_name = "PATH")]
    control_path: Option<PathBuf>,
    /// Note each request and its result in this file, for "trace"; goes on with one that is there.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Record what the disk is asked and answers in this file, for "replay"; goes on with one whose image has not been written
    /// otherwise since.
    #[arg(long, value_name = "FILE", conflicts_with = "read_only")]
    record: Option<PathBuf>,
    /// Serve the mark disk on this unix socket, to whom --socket-path is open: an ordinary disk of 1 MiB. The first line of what is
    /// written to it is a mark, as "ctl mark" sets it, when the write is answered.
    #[arg(long, value_name = "PATH")]
    mark_socket: Option<PathBuf>,
    /// enforce: once it serves, the process can open no file and make few system calls, and a wrong one ends it; log:
    /// the kernel logs wrong ones; off: no restrictions.
    #[arg(long, value_name = "MODE", value_enum, default_value = "enforce")]
    sandbox: Confinement,
    #[command(flatten)]
    verbosity: Verbosity,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Confinement {
    Enforce,
    Log,
    Off,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    logging::start(args.verbosity.level());
    process::raise_limits();
    let path = args.file.as_ref().or(args.blk_file.as_ref()).ok_or_else(|| anyhow!("no image given"))?;
    let name = || path.display().to_string();
    let stop = process::stop_on_signals().context("signals cannot be handled")?;
    let manager = ServiceManager::from_environment();
    manager.status(&format!("opening {}", name()));
    let options = ServeOptions {
        block_size: args.block_size,
        num_queues: args.num_queues,
        queue_size: args.queue_size,
        cache: match args.cache {
            Cache::Writeback => CacheMode::Writeback,
            Cache::None => CacheMode::None,
            Cache::Writethrough => CacheMode::Writethrough,
        },
        read_only: args.read_only,
        serial: args.serial.clone(),
        aio: match args.aio {
            Aio::Auto => AioMode::Auto,
            Aio::IoUring => AioMode::IoUring,
            Aio::Sync => AioMode::Sync,
        },
        poll: poll(args),
        sandbox: match args.sandbox {
            Confinement::Enforce => sandbox::Mode::Enforce,
            Confinement::Log => sandbox::Mode::Log,
            Confinement::Off => sandbox::Mode::Off,
        },
    };
    create_absent(path, args)?;
    let cut = args.power_cut.as_deref().map(planned_cut).transpose()?;
    let Opened { store, files, bases, remote } = open(path, args).with_context(name)?;
    for clamp in store.clamps() {
        log::warn!("{}: {} {} cannot be reached: {} is in force", name(), clamp.field, clamp.from, clamp.to);
    }
    let observers = Observers {
        // From other folders and beside other daemons a relative name says nothing.
        image: absolute(path)?,
        bases: bases.iter().map(|base| absolute(base)).collect::<Result<_>>()?,
        trace: args.trace.as_ref().map(|path| trace::open(path, store.geometry())).transpose()?,
        control_path: args.control_path.clone(),
        marks: args.mark_socket.as_ref().map(|path| on_path(path, args)),
    };
    let by = Supervised { stop: &stop, manager: &manager };
    let power_lost = store.power_was_lost();
    let rules = args.faults.as_deref().map(fault::open).transpose()?;
    let bottom = Arc::clone(&store) as Arc<dyn ZonedDevice>;
    let block = Bytes(args.block_size.into());
    let log = args.record.as_ref().map(|path| record::begin(path, &*bottom, block)).transpose()?;
    let bottom = match &log {
        Some(log) => Arc::new(Layered(Recorder::over(bottom, Arc::clone(log)))),
        None => bottom,
    };
    let disk = disk(bottom, args, cut)?;
    let served = Served { disk, files, power_lost, remote, rules, log: log.clone() };
    let served = vhost::serve(served, listen_on(args), options, observers, by);
    let closed = store.close().with_context(|| format!("{}: the image could not be closed well", name()));
    if let Some(log) = log.filter(|_| closed.is_ok()) {
        log.end();
    }
    served?;
    closed?;
    Ok(ExitCode::SUCCESS)
}

fn absolute(path: &Path) -> Result<String> {
    if chain::is_url(path) {
        return Ok(path.display().to_string());
    }
    Ok(std::path::absolute(path)?.display().to_string())
}

fn is_volatile(args: &Args) -> bool {
    args.volatile_cache.is_some() || args.power_cut.is_some()
}

/// The words of --power-cut, which has to say when.
fn planned_cut(text: &str) -> Result<Words> {
    let words = cut::words(text.split_whitespace()).with_context(|| format!("--power-cut '{text}'"))?;
    if words.at.is_none() || words.call_off() != Ok(false) {
        bail!("--power-cut '{text}': expected at=, the moment of the cut; ctl power-cut cuts at once");
    }
    Ok(words)
}

/// The store, behind a volatile cache where one is asked for.
fn disk(store: Arc<dyn ZonedDevice>, args: &Args, cut: Option<Words>) -> Result<Disk> {
    if !is_volatile(args) {
        return Ok(Disk::Plain(store));
    }
    let switch = Arc::new(Switch::new(vhost::SWITCHED));
    let size = args.volatile_cache.unwrap_or(power::cache::DEFAULT_SIZE);
    let cache = Arc::new(VolatileCache::new(store, switch, Bytes(args.block_size.into()), size));
    if let Some(words) = cut {
        cache.command(words, Box::new(|_| {})).map_err(|error| anyhow!("--power-cut: {error}"))?;
    }
    Ok(Disk::Cached(cache))
}

fn poll(args: &Args) -> Duration {
    let default = match args.cache {
        Cache::Writeback | Cache::Writethrough => 50,
        Cache::None => 0,
    };
    Duration::from_micros(args.poll_us.unwrap_or(default).into())
}

/// Makes the image that `--create` describes. A wrong description is refused also where there is an image.
fn create_absent(path: &Path, args: &Args) -> Result<()> {
    let Some(description) = &args.create else { return Ok(()) };
    let wanted = || Wanted::parse(description)?.complete(ByteOrder::Big);
    let options = wanted().with_context(|| format!("--create {description}"))?;
    // Whatever else is in the way, opening it tells.
    if std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        for warning in make::make_whole(path, &options)? {
            log::warn!("{}: {warning}", path.display());
        }
        log::info!("{}: made, as there was no image", path.display());
    }
    Ok(())
}

/// A socket that frontends may connect to.
fn on_path(path: &Path, args: &Args) -> ListenOn {
    let access = SocketAccess { mode: args.socket_mode, group: args.socket_group };
    ListenOn::Path { path: path.to_owned(), access }
}

fn listen_on(args: &Args) -> ListenOn {
    match (&args.socket_path, args.fd) {
        (Some(path), _) => on_path(path, args),
        (None, Some(fd)) => ListenOn::Fd(fd),
        (None, None) => ListenOn::Systemd,
    }
}

/// An image that is open to be served.
struct Opened {
    store: Arc<ZonedStore<FileMedium>>,
    files: DataFiles,
    /// The files of its bases.
    bases: Vec<PathBuf>,
    /// Those of them that are reached by network.
    remote: RemoteBases,
}

fn open(path: &Path, args: &Args) -> Result<Opened> {
    let (file, chain) = if args.snapshot { throw_away(path, args)? } else { image_with_bases(path, args)? };
    let purpose = if args.read_only { Purpose::Read } else { Purpose::Write };
    lock::lock_image(&file, purpose)?;
    let remote = chain.as_ref().map(Chain::remote).unwrap_or_default();
    let (base, bases, names) = match chain {
        Some(Chain { base, files, names, .. }) => (Some(base), files, names),
        None => (None, Vec::new(), Vec::new()),
    };
    let files = DataFiles { data: data_file(&file, args)?, buffered: reopen(&file, args, 0)?, bases };
    lock::hold(&files.data, purpose)?;
    lock::hold(&files.buffered, purpose)?;
    let storage = Arc::new(FileMedium::new(file));
    let options = store::OpenOptions {
        read_only: args.read_only,
        write_granularity: Bytes(u64::from(args.block_size)),
        hold_resets: is_volatile(args),
    };
    let store = ZonedStore::open_over(Arc::clone(&storage), base, options)?;
    if !args.read_only {
        storage.expect_words(store.pointer_table());
        if matches!(args.cache, Cache::None) {
            // Each write past the page cache would else wait for blocks of its own; the page cache collects them.
            store.set_allocator(Box::new(move |range| storage.allocate(range)));
        }
    }
    Ok(Opened { store: Arc::new(store), files, bases: names, remote })
}

/// The file of the image, and the bases that it builds on.
fn image_with_bases(path: &Path, args: &Args) -> Result<(File, Option<Chain>)> {
    if chain::is_url(path) {
        bail!("an image by network is a base: expected --snapshot, which keeps what is written elsewhere");
    }
    let path = &chain::local(path);
    let file = image::open_file(path, OpenOptions::new().read(true).write(!args.read_only))?;
    // The lock of the image comes first: whoever is refused learns who has it.
    lock::lock_image(&file, if args.read_only { Purpose::Read } else { Purpose::Write })?;
    let chain = chain::bases_by(&network(args)?, path, &FileMedium::new(reopen(&file, args, 0)?))?;
    Ok((file, chain))
}

fn network(args: &Args) -> Result<Network> {
    Network::new(args.cache_dir.as_deref(), args.cache_size)
}

/// A new image on the one at `path`, in a file that has no name and is gone with this process.
fn throw_away(path: &Path, args: &Args) -> Result<(File, Option<Chain>)> {
    let chain = chain::open_by(&network(args)?, path)?;
    let folder = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let file = tempfile::tempfile_in(&folder);
    let file = file.with_context(|| format!("--snapshot: no file can be made in {} (TMPDIR)", folder.display()))?;
    let options = ForkOptions::of(&chain.base, path.display().to_string());
    qcow2::fork(&FileMedium::new(file.try_clone()?), &chain.base, &options)?;
    Ok((file, Some(chain)))
}

/// The descriptor for the guest's data: past the page cache where that is asked for.
fn data_file(file: &File, args: &Args) -> Result<File> {
    match args.cache {
        Cache::Writeback | Cache::Writethrough => reopen(file, args, 0),
        Cache::None => reopen(file, args, libc::O_DIRECT)
            .context("--cache none: the file system does not open the image past the page cache (O_DIRECT)"),
    }
}

/// Opens the same file again, whatever its name leads to by now: with its own flags and readahead.
fn reopen(file: &File, args: &Args, flags: i32) -> Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(OpenOptions::new().read(true).write(!args.read_only).custom_flags(flags).open(path)?)
}

fn block_size() -> impl TypedValueParser<Value = u32> {
    let sizes = [PossibleValue::new("512"), PossibleValue::new("4096").aliases(["4k", "4K"])];
    PossibleValuesParser::new(sizes).map(|size| if size == "512" { 512 } else { 4096 })
}

fn parse_queue_size(text: &str) -> Result<u16, String> {
    let wrong = || format!("'{text}' is not a queue size: expected a power of two from 4 to 32768");
    text.parse::<u16>().ok().filter(|size| size.is_power_of_two() && *size >= 4).ok_or_else(wrong)
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| format!("'{text}' is not a mode: expected permission bits in octal, like 660"))
}

fn parse_group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let found = nix::unistd::Group::from_name(text).map_err(|error| format!("'{text}': {error}"))?;
    found.map(|group| group.gid.as_raw()).ok_or_else(|| format!("'{text}' is not a group of this host"))
}

fn parse_serial(text: &str) -> Result<String, String> {
    if text.len() > 20 || CString::new(text).is_err() {
        return Err(format!("'{text}' is not a serial number: expected at most 20 bytes"));
    }
    Ok(text.to_owned())
}
