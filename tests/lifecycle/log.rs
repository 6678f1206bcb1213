//! The log: how much it says, and that whoever reads it, or does not, holds up nobody.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::common::cli::{Image, SMALL, fails, ok, program, run};
use crate::common::daemon::Daemon;
use crate::common::eventually;
use crate::common::frontend::{Frontend, Options};
use crate::common::request::{Req, Status};

/// The options of a daemon without which the log says `info`.
fn serve(image: &Image, args: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("serve").arg(image.path()).arg("--socket-path").arg(image.beside("zbd.sock")).args(args);
    command.env_remove("RUST_LOG");
    command
}

fn frontend(daemon: &mut Daemon) -> Frontend {
    Frontend::connect(daemon.connect(), &Options::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn flag(fd: &impl AsRawFd, set: Option<bool>) -> bool {
    // SAFETY: plain system calls on a descriptor that is open.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    if let Some(set) = set {
        let wanted = if set { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
        // SAFETY: as above.
        assert_eq!(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, wanted) }, 0);
    }
    flags & libc::O_NONBLOCK != 0
}

/// A way to read, and what is written to be read there.
fn pipe() -> (File, File) {
    let (reader, writer) = std::io::pipe().unwrap();
    (File::from(OwnedFd::from(reader)), File::from(OwnedFd::from(writer)))
}

fn socket() -> (File, File) {
    let (reader, writer) = UnixStream::pair().unwrap();
    (File::from(OwnedFd::from(reader)), File::from(OwnedFd::from(writer)))
}

fn terminal() -> (File, File) {
    let (mut master, mut slave) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: both numbers are written; nothing else is asked for.
    assert_eq!(unsafe { libc::openpty(&mut master, &mut slave, none, none.cast(), none.cast()) }, 0);
    // SAFETY: both were just opened and belong to nobody else.
    unsafe { (File::from_raw_fd(master), File::from_raw_fd(slave)) }
}

/// What a process without rights may write to and not open.
const OF_ANOTHER_USER: &str = "pipe of another user";
const NOBODY: u32 = 65534;

/// Gives an image and its folder to a user without rights.
fn give_away(image: &Image) {
    [image.path().parent().unwrap(), image.path()].into_iter().for_each(|path| {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    });
}

fn fill(mut writer: &File) {
    flag(writer, Some(true));
    // A terminal takes on what was written a moment later, and has room once more.
    for _ in 0..10 {
        for piece in [vec![b'.'; 4096], vec![b'.']] {
            while writer.write(&piece).is_ok() {}
        }
        sleep(Duration::from_millis(5));
    }
    flag(writer, Some(false));
}

/// Reads what is there.
fn drain(mut reader: &File, text: &mut String) {
    flag(reader, Some(true));
    let mut bytes = vec![0; 1 << 16];
    loop {
        match reader.read(&mut bytes) {
            Ok(0) => return,
            Ok(got) => text.push_str(std::str::from_utf8(&bytes[..got]).unwrap()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_standard_error_that_nobody_reads_holds_up_nobody_and_is_told_so_once_it_is_read() {
    // SAFETY: asks for a number.
    let root = unsafe { libc::geteuid() } == 0;
    let mut table = vec![("pipe", pipe()), ("socket", socket()), ("terminal", terminal())];
    table.extend(root.then(|| (OF_ANOTHER_USER, pipe())));
    for (what, (reader, writer)) in table {
        fill(&writer);
        let image = Image::create(&SMALL);
        let control = image.beside_name("control");
        let stderr = writer.try_clone().unwrap();
        let mut command = serve(&image, &["-v", "--control-path", &control]);
        if what == OF_ANOTHER_USER {
            give_away(&image);
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut daemon = Daemon::spawn_logging_to(&mut command, &image.beside("zbd.sock"), stderr.into());
        daemon.await_socket();
        let mut front = frontend(&mut daemon);
        for _ in 0..8 {
            assert_eq!(front.call(0, &Req::write(SMALL.start(2) + 8, [0; 4096])).status, Status::UnalignedWp, "{what}");
        }
        assert_eq!(front.call(0, &Req::flush()).status, Status::Ok, "{what}");
        ok(&["ctl", &control, "log-level", "trace"]);
        let mut text = String::new();
        drain(&reader, &mut text);
        assert!(text.bytes().all(|byte| byte == b'.'), "{what}: {text}");
        assert!(!flag(&writer, None), "{what}: it has become non-blocking for whoever shares it");
        drop(front);
        drop(frontend(&mut daemon));
        text.clear();
        eventually("the log to go on", || {
            drain(&reader, &mut text);
            text.contains("frontend is gone").then_some(())
        });
        let told = " messages were not written, as nobody reads standard error";
        assert!(
            text.lines().any(|line| line.starts_with("vhost-user-zbd: ") && line.ends_with(told)),
            "{what}: {text}"
        );
        fill(&writer);
        assert!(daemon.terminate().success(), "{what}");
    }
}

#[test]
fn an_end_that_nobody_reads_about_is_an_end() {
    let (_reader, writer) = pipe();
    fill(&writer);
    let image = Image::absent();
    let stderr = writer.try_clone().unwrap();
    let mut daemon = Daemon::spawn_logging_to(&mut serve(&image, &[]), &image.beside("zbd.sock"), stderr.into());
    assert_eq!(daemon.wait().code(), Some(1));
}

/// What a daemon says of a frontend whose driver knows no zones, started like this.
fn said(variable: Option<&str>, args: &[&str]) -> String {
    let image = Image::create(&SMALL);
    let mut command = serve(&image, args);
    if let Some(value) = variable {
        command.env("RUST_LOG", value);
    }
    let mut daemon = Daemon::spawn_program(&mut command, &image.beside("zbd.sock"));
    daemon.await_socket();
    let front = frontend(&mut daemon);
    drop(front);
    assert!(daemon.terminate().success());
    daemon.log()
}

#[test]
fn what_is_logged_is_what_was_asked_for_and_errors_are_whatever_was_asked_for_otherwise() {
    const DEBUG: &str = "queue 0 runs";
    const INFO: &str = "serving on";
    for (variable, args, heard, unheard) in [
        (None, &[][..], &[INFO][..], &[DEBUG][..]),
        (Some(""), &[], &[INFO], &[DEBUG]),
        (Some("debug"), &[], &[INFO, DEBUG], &[]),
        (Some("warn"), &[], &[], &[INFO, DEBUG]),
        (Some("verbose"), &[], &[INFO, "RUST_LOG: 'verbose' is no level: expected error, warn, info"], &[DEBUG]),
        (Some("some_other_program=debug"), &[], &[INFO], &[DEBUG, "no level"]),
        (Some("vhost_user_zbd::vhost::handler=debug"), &[], &[INFO, DEBUG], &[]),
        (Some("error"), &["--log-level", "debug"], &[INFO, DEBUG], &[]),
        (Some("debug"), &["--log-level", "warn"], &[], &[INFO, DEBUG]),
        (Some("verbose"), &["--log-level", "info"], &[INFO], &[DEBUG, "no level"]),
        (Some("error"), &["-v"], &[INFO, DEBUG], &[]),
        (None, &["-vv"], &[INFO, DEBUG], &[]),
        (Some("trace"), &["-q"], &[], &[INFO, DEBUG]),
        (None, &["--quiet", "--quiet"], &[], &[INFO, DEBUG]),
        (None, &["--log-level", "off"], &[], &[INFO, DEBUG]),
    ] {
        let log = said(variable, args);
        heard.iter().for_each(|part| assert!(log.contains(part), "{variable:?} {args:?}: no {part:?} in {log}"));
        unheard.iter().for_each(|part| assert!(!log.contains(part), "{variable:?} {args:?}: {part:?} in {log}"));
    }
}

#[test]
fn a_level_that_is_none_is_refused_in_one_line() {
    let image = Image::create(&SMALL);
    let (name, socket) = (image.name(), image.beside_name("zbd.sock"));
    let line = |args: &[&str]| [&["serve", &name, "--socket-path", &socket], args].concat().join(" ");
    for (args, fragments) in [
        (&["--log-level", "loud"][..], &["'loud'", "--log-level", "error, warn, info, debug, trace, off"][..]),
        (&["-v", "--log-level", "info"], &["--verbose", "--log-level"]),
        (&["-v", "-q"], &["--verbose", "--quiet"]),
    ] {
        let line = line(args);
        fails(&line.split(' ').collect::<Vec<_>>(), fragments);
    }
    let help = run(&["serve", "--help"]).stdout;
    assert!(help.contains("--log-level") && help.contains("RUST_LOG"), "{help}");
}
