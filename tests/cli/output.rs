//! Where output goes that cannot be written: no command panics, whatever standard output and standard error are.

use std::fs::File;
use std::io::pipe;
use std::process::{Child, Command, Stdio};

use vhost_user_zbd::cli;

use crate::common::cli::{Image, SMALL, program};
use crate::common::disk::{Disk, Setup};

/// What prints to standard output, and its exit status with a reader that takes all of it.
const PRINTING: &[(&str, i32)] = &[
    ("--version", 0),
    ("-V", 0),
    ("--print-capabilities", 0),
    ("convert FILE RAW --to raw --zones TABLE", 0),
    ("create --list-presets", 0),
    ("create -o help", 0),
    ("create NEW 64M --zone-size 4M", 0),
    ("info FILE", 0),
    ("info FILE --json", 0),
    ("report FILE", 0),
    ("report FILE --json", 0),
    ("map FILE", 0),
    ("map FILE --json", 0),
    ("map FILE --svg -", 0),
    ("map FILE --html -", 0),
    ("map --socket CONTROL", 0),
    ("top CONTROL --once --interval 0.1", 0),
    ("ctl CONTROL info", 0),
    ("ctl CONTROL info --json", 0),
    ("ctl CONTROL report", 0),
    ("ctl CONTROL stats", 0),
    ("ctl CONTROL map", 0),
    ("ctl CONTROL log-level", 0),
    ("ctl CONTROL metrics", 0),
    ("ctl CONTROL flush --json", 0),
    ("trace TRACE", 0),
    ("trace TRACE --json", 0),
    ("replay RECORD --list", 0),
    ("replay RECORD --list --json", 0),
    ("explore RECORD --base BASE --check true", 0),
    ("workload --fs btrfs --ops 1", 0),
    ("workload --fs zonefs --lister", 0),
    ("workload --fs xfs --script sync", 0),
    ("explore RECORD --base BASE --check true --json", 0),
    ("explore RECORD --base BASE --check false", 1),
    ("ctl CONTROL power-cut at=mark:never", 0),
    ("ctl CONTROL mark other --json", 0),
    ("ctl CONTROL fault list", 0),
    ("ctl CONTROL fault list --json", 0),
    ("ctl CONTROL fault clear --all --json", 0),
    ("ctl CONTROL snapshot list", 0),
    ("ctl CONTROL snapshot list --json", 0),
    ("check FILE", 3),
    ("check FILE --json", 3),
    ("check FILE --repair", 0),
    ("check FILE --repair --json", 0),
    ("diff FILE SECOND", 1),
    ("diff FILE SECOND --json", 1),
    ("diff FILE FILE", 0),
    ("resize SECOND +1M", 0),
];

/// What says something on standard error, and its exit status.
const COMPLAINING: &[(&str, i32)] = &[
    ("", 1),
    ("frobnicate", 1),
    ("info MISSING", 1),
    ("report MISSING", 1),
    ("map MISSING", 1),
    ("trace MISSING", 1),
    ("replay MISSING --list", 1),
    ("explore MISSING --base FILE --check true", 2),
    ("workload --fs btrfs --script nothing", 2),
    ("check MISSING", 1),
    ("diff FILE MISSING", 2),
    ("fork MISSING FORK", 1),
    ("rebase MISSING FILE", 1),
    ("commit MISSING", 1),
    ("resize MISSING +1M", 1),
    ("top MISSING", 1),
    ("ctl MISSING stats", 1),
    ("serve MISSING --socket-path SOCKET", 1),
    ("create OTHER 64M --zone-size 4M --for xfs", 0),
    ("report SERVED", 0),
];

/// A command's standard output or standard error that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    /// A pipe whose reader has gone.
    Closed,
    /// A device without space.
    Full,
}

impl Sink {
    fn open(self) -> Stdio {
        match self {
            Self::Closed => pipe().expect("a pipe").1.into(),
            Self::Full => File::options().write(true).open("/dev/full").expect("/dev/full").into(),
        }
    }
}

/// An image with a leak, another one, and a served disk with a control socket, a trace and a recording.
struct Stage {
    leaky: Image,
    second: Image,
    served: Disk,
}

impl Stage {
    fn new() -> Self {
        let mut killed = Setup::new(SMALL).start();
        killed.fill(2, 4096);
        killed.daemon.kill9();
        let image = Image::create(&SMALL);
        let [control, trace, record] = ["control", "trace", "record"].map(|name| image.beside_name(name));
        std::fs::copy(image.path(), image.beside_name("base")).expect("a copy of the image");
        let args = ["--control-path", &control, "--trace", &trace, "--volatile-cache", "--record", &record];
        let mut served = Setup::new(SMALL).args(&args).start_on(image);
        served.fill(2, 4096);
        Self { leaky: killed.image, second: Image::create(&SMALL), served }
    }

    /// The command of a line in which names of files stand for those of this stage.
    fn command(&self, line: &str) -> Command {
        let image = &self.served.image;
        let mut command = Command::new(program());
        command.args(line.split_whitespace().map(|word| match word {
            "FILE" => self.leaky.name(),
            "SECOND" => self.second.name(),
            "SERVED" => image.name(),
            word if word.chars().all(|letter| letter.is_ascii_uppercase()) => image.beside_name(&word.to_lowercase()),
            word => word.to_owned(),
        }));
        command.env_remove("RUST_LOG");
        command
    }
}

/// The command lines that ask for the help of a command and of all below it.
fn helps(command: &clap::Command, path: &str) -> Vec<String> {
    let below = command.get_subcommands().flat_map(|sub| helps(sub, &format!("{path} {}", sub.get_name())));
    [format!("{path} -h"), format!("{path} --help")].into_iter().chain(below).collect()
}

#[test]
fn a_reader_that_has_gone_is_no_error_and_a_full_device_is_one_line_for_every_command() {
    let helps = helps(&cli::command(), "");
    let helps = helps.iter().map(|help| (help.as_str(), 0));
    for sink in [Sink::Closed, Sink::Full] {
        let stage = Stage::new();
        for (line, status) in PRINTING.iter().copied().chain(helps.clone()) {
            let mut command = stage.command(line);
            let child = command.stdin(Stdio::null()).stdout(sink.open()).stderr(Stdio::piped()).spawn();
            let done = child.and_then(Child::wait_with_output).expect("the program");
            let said = String::from_utf8_lossy(&done.stderr);
            let expected = match sink {
                Sink::Closed => (Some(status), ""),
                Sink::Full => (
                    Some(if ["diff", "explore", "workload"].iter().any(|name| line.trim_start().starts_with(name)) {
                        2
                    } else {
                        1
                    }),
                    "vhost-user-zbd: standard output cannot be written: No space left on device (os error 28)\n",
                ),
            };
            assert_eq!((done.status.code(), said.as_ref()), expected, "{line}: {sink:?}, {}", done.status);
        }
    }
}

#[test]
fn where_complaints_cannot_be_written_a_command_ends_as_it_would() {
    for sink in [Sink::Closed, Sink::Full] {
        let stage = Stage::new();
        for (line, status) in COMPLAINING {
            let done = stage.command(line).stdin(Stdio::null()).stdout(Stdio::null()).stderr(sink.open()).status();
            assert_eq!(done.expect("the program").code(), Some(*status), "{line}: {sink:?}");
        }
    }
}

#[test]
fn every_command_is_among_those_whose_output_cannot_be_written() {
    let program = cli::command();
    // An order that the daemon ends by, and what prints nothing.
    let silent = ["ctl quit"];
    let tried: Vec<String> = PRINTING.iter().chain(COMPLAINING).map(|(line, _)| line.to_lowercase()).collect();
    for command in program.get_subcommands() {
        let name = command.get_name();
        assert!(tried.iter().any(|line| line.split(' ').next() == Some(name)), "{name}");
        for order in command.get_subcommands().map(clap::Command::get_name) {
            let known = tried.iter().any(|line| line.starts_with(&format!("{name} control {order}")));
            assert!(known || silent.contains(&format!("{name} {order}").as_str()), "{name} {order}");
        }
    }
}
