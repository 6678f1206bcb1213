//! The program as a whole.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::common::cli::{Image, SMALL, assert_refusal, fails, ok, program, run, run_command};
use crate::common::daemon::Daemon;
use crate::common::frontend::{Frontend, Options};
use crate::common::request::{Req, Status};

#[test]
fn print_capabilities_is_exactly_what_qemu_s_schema_asks_for() {
    assert_eq!(ok(&["--print-capabilities"]).trim_end(), r#"{"type":"block","features":["read-only","blk-file"]}"#);
}

#[test]
fn help_and_version_succeed() {
    let number = ok(&["-V"]);
    assert_eq!(number, format!("vhost-user-zbd {}\n", env!("CARGO_PKG_VERSION")));
    let version = ok(&["--version"]);
    assert!(version.starts_with(number.as_str()), "{version}");
    for feature in ["VIRTIO_BLK_F_ZONED", "io_uring", "seccomp", "sd_notify"] {
        assert!(version.contains(feature), "--version does not name {feature}: {version}");
    }
    for command in [
        "create", "serve", "info", "report", "map", "top", "check", "convert", "diff", "fork", "rebase", "commit",
        "resize", "replay", "explore", "workload",
    ] {
        assert!(ok(&["--help"]).contains(command), "--help does not name {command}");
        assert!(!ok(&[command, "--help"]).is_empty());
    }
}

#[test]
fn a_wrong_command_line_is_told_with_its_tip_and_usage_on_lines_of_their_own() {
    let run = fails(&["create", "--zone-sise", "1M"], &["--zone-sise"]);
    let lines: Vec<&str> = run.stderr.lines().collect();
    let expected = [
        "error: unexpected argument '--zone-sise' found",
        "",
        "  tip: a similar argument exists: '--zone-size'",
        "",
        "Usage: vhost-user-zbd create --zone-size <SIZE> [FILE] [SIZE]",
        "",
        "For more information, try '--help'.",
    ];
    assert_eq!(lines, expected);
    assert_eq!(run.status.code(), Some(1));
}

#[test]
fn unknown_commands_options_and_values_are_named() {
    let image = Image::create(&SMALL);
    let name = image.name();
    let cases: &[(&[&str], &str)] = &[
        (&["frobnicate"], "frobnicate"),
        (&["--frobnicate"], "--frobnicate"),
        (&["info", &name, "--frobnicate"], "--frobnicate"),
        (&["check", &name, "--fix"], "--fix"),
        (&["report", &name, "--offset", "x"], "--offset"),
        (&["report", &name, "--count", "-3"], "-3"),
        (&["serve", &name, "--frobnicate", "1"], "--frobnicate"),
        (&["serve", &name, "--cache", "unsafe"], "unsafe"),
        (&["serve", &name, "--aio", "threads"], "threads"),
        (&["serve", &name, "--block-size", "1024"], "1024"),
        (&["serve", &name, "--block-size", "0"], "0"),
        (&["serve", &name, "--num-queues", "0"], "--num-queues"),
        (&["serve", &name, "--num-queues", "65"], "65"),
        (&["serve", &name, "--queue-size", "100"], "100"),
        (&["serve", &name, "--queue-size", "65536"], "65536"),
        (&["serve", &name, "--serial", "more-than-twenty-bytes-long"], "more-than-twenty-bytes-long"),
        (&["create", &name, "1G", "--frobnicate"], "--frobnicate"),
        (&["create", &name, "1G", "-f", "raw"], "raw"),
        (&["info", &name, "another"], "another"),
    ];
    for (args, fragment) in cases {
        fails(args, &[fragment]);
    }
    for args in [&["info"][..], &["check"], &["report"], &["create"], &["serve", "--socket-path", "x"]] {
        let run = run(args);
        assert_refusal(&run, &["FILE"], &format!("{args:?} without a file"));
    }
}

#[test]
fn the_cause_of_an_error_is_told_once() {
    let image = Image::create(&SMALL);
    let socket = image.beside("missing").join("disk.sock");
    let run = run(&["serve", &image.name(), "--socket-path", &socket.display().to_string()]);
    let expected =
        format!("vhost-user-zbd: {}: cannot listen: No such file or directory (os error 2)", socket.display());
    assert_refusal(&run, &[&expected], "a socket in a folder that is not there");
    assert_eq!(run.stderr.matches("os error").count(), 1, "{}", run.stderr);
}

#[test]
fn the_image_can_be_named_as_qemu_s_backend_programs_have_it() {
    let image = Image::create(&SMALL);
    for with_command in [true, false] {
        let socket = image.beside(if with_command { "one" } else { "two" });
        let mut command = Command::new(program());
        if with_command {
            command.arg("serve");
        }
        command.arg(format!("--socket-path={}", socket.display())).arg(format!("--blk-file={}", image.name()));
        let mut daemon = Daemon::spawn_program(&mut command, &socket);
        daemon.await_socket();
        let stream = daemon.connect();
        let mut front = Frontend::connect(stream, &Options::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(front.call(0, &Req::flush()).status, Status::Ok);
        drop(front);
        assert!(daemon.terminate().success());
    }
    let socket = image.beside_name("three");
    fails(&["serve", &image.name(), "--blk-file", &image.name(), "--socket-path", &socket], &["--blk-file"]);
}

#[test]
fn where_there_is_no_space_create_says_so_and_leaves_nothing() {
    let image = Image::absent();
    let mut command = Command::new(program());
    command.args(["create", &image.name(), "1G", "--zone-size", "64M"]);
    let little_space = || {
        let limit = libc::rlimit { rlim_cur: 100_000, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: an async-signal-safe call on a valid value. What a write past the limit comes to is the program's to say.
        let set = unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) };
        if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes only async-signal-safe calls.
    unsafe { command.pre_exec(little_space) };
    let run = run_command(&mut command);
    assert_refusal(&run, &[&image.name(), "File too large"], "create without space");
    assert!(!image.path().exists(), "a half-made image is left behind");
}

#[test]
fn whatever_ends_create_leaves_no_file() {
    let image = Image::absent();
    let folder = image.path().parent().unwrap();
    for round in 0..20 {
        let mut command = Command::new(program());
        // Long enough to be met in the midst of: tables of some megabytes, each of them flushed.
        command.args(["create", &image.name(), "8G", "--zone-size", "8K", "--cluster-size", "4K"]);
        let mut child = command.spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(round));
        child.kill().unwrap();
        let whole = child.wait().unwrap().success();
        let found: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        match found.as_slice() {
            [] => assert!(!whole),
            [name] => {
                assert_eq!(*name, *image.path().file_name().unwrap());
                image.assert_clean();
                std::fs::remove_file(image.path()).unwrap();
            }
            more => panic!("{more:?}"),
        }
    }
}
