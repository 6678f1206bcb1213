//! The commands. Each returns an exit status or one error, which is printed as one line.
//!
//! Conventions: those of qemu-img for images and those of QEMU's vhost-user backend programs for serving
//! (docs/interop/vhost-user, "Backend program conventions"): `--socket-path` or `--fd`, `--print-capabilities`,
//! `--blk-file`, no fork, exit on SIGTERM.

mod check;
mod convert;
mod create;
mod ctl;
mod cut;
mod diff;
mod disk;
mod explore;
mod fault;
#[cfg(feature = "network")]
mod fetch;
mod fork;
mod image;
mod info;
mod make;
mod map;
mod named;
mod output;
mod preset;
mod process;
mod progress;
mod rebase;
mod record;
mod remote;
mod replay;
mod report;
mod resize;
mod screen;
mod serve;
mod size;
mod snapshot;
mod top;
mod trace;
mod verbosity;
mod workload;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

use crate::logging;
use crate::units::Bytes;

/// A zoned disk for any virtual machine, kept in one qcow2 image.
#[derive(Debug, Parser)]
#[command(name = "vhost-user-zbd", version, long_version = LONG_VERSION, arg_required_else_help = true)]
struct Cli {
    /// Print what this backend can do as one JSON object, and exit.
    #[arg(long)]
    print_capabilities: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an image.
    Create(create::Args),
    /// Serve an image to one virtual machine after another.
    Serve(serve::Args),
    /// Show the geometry of an image.
    Info(ImageArgs),
    /// List the zones of an image, as blkzone report prints them.
    Report(report::Args),
    /// Draw the zones of an image, on the terminal or as a picture.
    Map(map::Args),
    /// Watch a running daemon: what it does, and its zones.
    Top(top::Args),
    /// Ask a running daemon, or tell it, through its control socket.
    Ctl(ctl::Args),
    /// Print the requests of a trace that "serve --trace" has made.
    Trace(trace::Args),
    /// List what "serve --record" has recorded, or make the image as it was at a moment of that.
    Replay(replay::Args),
    /// Make each state that a loss of power may have left of a recorded disk, and check it: exit status 0 all good, 1 some failed,
    /// 2 could not explore.
    Explore(explore::Args),
    /// Print small workloads on a file system, or judge what a crash has left of one. Exit status: 0 it may be, 1 it may not, 2 could
    /// not say.
    Workload(workload::Args),
    /// Make an image of a zloop directory or a raw file with a zone table, or the other way round.
    Convert(convert::Args),
    /// Make an image that is as another one, without copying its data.
    Fork(fork::Args),
    /// Have an image build on another base, without a change of what its disk shows.
    Rebase(rebase::Args),
    /// Take the changes of an image into the base that it builds on.
    Commit(rebase::CommitArgs),
    /// Check an image: exit status 0 clean, 2 errors, 3 leaks only, 1 could not check.
    Check(check::Args),
    /// Compare two images: exit status 0 equal, 1 different, 2 could not compare.
    Diff(diff::Args),
    /// Grow the disk of an image by whole zones.
    Resize(resize::Args),
}

/// The arguments of a command that reads an image.
#[derive(Debug, clap::Args)]
struct ImageArgs {
    /// The image file.
    file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What `--version` says: what this binary can work with. `-V` is the number alone.
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\nimages:  qcow2 version 3 with the zoned extension, pointer tables of either byte order",
    "\ndisks:   virtio-blk with VIRTIO_BLK_F_ZONED, host-managed, 512 or 4096 byte blocks, read-only, up to 64 queues",
    "\nsockets: a path, a descriptor, systemd; vhost-user with in-flight tracking, so that frontends can connect again",
    "\nI/O:     io_uring, or plain system calls",
    "\nsandbox: Landlock, seccomp, no capabilities",
    "\nwatch:   a control socket with JSON and Prometheus' metrics, traces",
    "\nservice: sd_notify with status and watchdog, journal priorities",
);

/// The definition of the command line, for manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The presets of `create`, as `--list-presets` lists them.
pub fn presets() -> String {
    preset::list()
}

/// The options of `create -o`, as `-o help` lists them.
pub fn create_options() -> String {
    named::help()
}

/// What QEMU's schema of backend programs wants to know.
const CAPABILITIES: &str = "{\"type\":\"block\",\"features\":[\"read-only\",\"blk-file\"]}\n";

/// Runs the program with these arguments, the first being its name.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    process::survive_file_limit();
    let arguments = with_command(arguments.collect());
    #[cfg(feature = "network")]
    if let Some(done) = fetch::as_part_of_serve(&arguments) {
        return done.unwrap_or_else(|error| fail(&error, &arguments));
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse_usage(&error, &arguments),
    };
    let done = match cli.command {
        _ if cli.print_capabilities => output::print(CAPABILITIES).map(|()| ExitCode::SUCCESS),
        Some(Command::Create(args)) => create::run(&args),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Info(args)) => info::run(&args.file, args.json),
        Some(Command::Report(args)) => report::run(&args),
        Some(Command::Map(args)) => map::run(&args),
        Some(Command::Top(args)) => top::run(&args),
        Some(Command::Ctl(args)) => ctl::run(&args),
        Some(Command::Trace(args)) => trace::run(&args),
        Some(Command::Replay(args)) => replay::run(&args),
        Some(Command::Explore(args)) => explore::run(&args),
        Some(Command::Workload(args)) => workload::run(&args),
        Some(Command::Convert(args)) => convert::run(&args),
        Some(Command::Fork(args)) => fork::run(&args),
        Some(Command::Rebase(args)) => rebase::run(&args),
        Some(Command::Commit(args)) => rebase::commit(&args),
        Some(Command::Check(args)) => check::run(&args),
        Some(Command::Diff(args)) => diff::run(&args),
        Some(Command::Resize(args)) => resize::run(&args),
        None => Err(anyhow::anyhow!("no command given: see --help")),
    };
    let status = done.unwrap_or_else(|error| fail(&error, &arguments));
    logging::end();
    status
}

/// The end of a command that has failed.
fn fail(error: &anyhow::Error, arguments: &[OsString]) -> ExitCode {
    logging::failure(in_one_line(error));
    failure(arguments)
}

/// The exit status of a command that has failed: 1, but for one whose 1 is an answer, as it is for diff(1).
fn failure(arguments: &[OsString]) -> ExitCode {
    if arguments.get(1).is_some_and(|name| ["diff", "explore", "workload"].iter().any(|other| name == other)) {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// An error and its causes. Some errors name their cause themselves, as logs show them without it: it is not told again.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.ends_with(&cause) {
            line.push_str(": ");
            line.push_str(&cause);
        }
    }
    line
}

/// Programs that start backends give options only (`--socket-path=... --blk-file=...`): that means `serve`.
fn with_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    const SERVE_OPTIONS: [&str; 4] = ["--socket-path", "--fd", "--blk-file", "--read-only"];
    let first = arguments.get(1).and_then(|argument| argument.to_str()).unwrap_or_default();
    if SERVE_OPTIONS.contains(&first.split('=').next().unwrap_or_default()) {
        arguments.insert(1, "serve".into());
    }
    arguments
}

/// Help, version and what is wrong with a command line go out as clap lays them out, whose tips and usage need more than
/// a line; a journal gets one line with its priority. A wrong command line has the status of any other bad input.
fn refuse_usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if !error.use_stderr() {
        let printed = output::finish(io::stdout(), error.print());
        return printed.map_or_else(|error| fail(&error, arguments), |()| ExitCode::SUCCESS);
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Where standard error cannot be written there is no way left to say so.
        let _ = error.print();
        return failure(arguments);
    }
    let unknown = error.get(ContextKind::InvalidArg).filter(|_| error.kind() == ErrorKind::UnknownArgument);
    if let (Some(ContextValue::String(option)), true) = (unknown, arguments.get(1).is_some_and(|name| name == "create"))
        && let Some(why) = create::why_not(option)
    {
        logging::failure(format_args!("{option}: not supported: {why}"));
        return ExitCode::FAILURE;
    }
    if logging::is_journal() {
        let text = error.to_string();
        let message = text.split("\n\nUsage:").next().unwrap_or_default();
        let message: Vec<&str> = message.split_whitespace().collect();
        logging::failure(message.join(" ").trim_start_matches("error: "));
    } else {
        // As above.
        let _ = error.print();
    }
    failure(arguments)
}

fn parse_size(text: &str) -> Result<Bytes, String> {
    size::parse(text)
}
