//! An image in use is refused: by the daemon, and by QEMU's tools, each to the other.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use crate::common::cli::{Image, SMALL, assert_refusal, fails, ok, run, tool};
use crate::common::disk::{Disk, Setup};
use crate::common::model::assert_ok;

#[test]
fn a_second_daemon_is_refused_the_image_and_told_who_has_it() {
    let mut disk = Disk::small();
    let (name, socket) = (disk.image.name(), disk.image.beside_name("other"));
    for args in
        [&["serve", &name, "--socket-path", &socket][..], &["serve", &name, "--socket-path", &socket, "--read-only"]]
    {
        fails(args, &[&name, "in use", &disk.daemon.pid().to_string()]);
    }
    assert!(!disk.image.beside("other").exists(), "a refused daemon leaves no socket");
    disk.assert_works();
    // Once the first has gone the image is free.
    assert!(disk.stop().success());
    disk.start_again();
    disk.assert_works();
}

#[test]
fn check_is_refused_while_the_image_is_served() {
    let disk = Disk::small();
    let run = run(&["check", &disk.image.name()]);
    assert_refusal(&run, &[&disk.image.name(), "in use"], "check");
    assert_eq!(run.status.code(), Some(1), "could not check");
}

#[test]
fn two_daemons_may_serve_one_image_read_only() {
    let disk = Setup::new(SMALL).args(&["--read-only"]).start();
    let socket = disk.image.beside("other");
    let other = crate::common::daemon::Daemon::start(disk.image.path(), &socket, &["--read-only"]);
    let name = disk.image.name();
    fails(&["serve", &name, "--socket-path", &disk.image.beside_name("third")], &[&name, "in use"]);
    drop(other);
}

#[test]
fn qemu_s_tools_are_refused_the_image_while_it_is_served() {
    let mut disk = Disk::small();
    let name = disk.image.name();
    // As raw, so that it is the lock and not the feature bit that stops them.
    let refused = [
        tool("qemu-img", &["resize", "-f", "raw", "--shrink", &name, "1M"]),
        tool("qemu-io", &["-f", "raw", "-c", "write 0 512", &name]),
        tool("qemu-img", &["convert", "-f", "raw", "-O", "raw", &name, &disk.image.beside_name("copy")]),
    ];
    for run in refused {
        assert!(!run.status.success() && run.stderr.contains("lock"), "{run:?}");
    }
    disk.assert_works();
    disk.finish_clean();
}

#[test]
fn the_daemon_is_refused_an_image_that_qemu_writes() {
    let image = Image::create(&SMALL);
    let mut qemu = Command::new("qemu-io")
        .args(["-f", "raw"])
        .arg(image.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-io");
    // It answers a command once it has the image open.
    let mut stdin = qemu.stdin.take().unwrap();
    stdin.write_all(b"read 0 512\n").unwrap();
    let mut line = String::new();
    BufReader::new(qemu.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let socket = image.beside_name("socket");
    for args in [&["serve", &image.name(), "--socket-path", &socket][..], &["check", &image.name()]] {
        fails(args, &[&image.name(), "in use", &qemu.id().to_string()]);
    }
    drop(stdin);
    assert!(qemu.wait().unwrap().success());
    image.assert_clean();
}

#[test]
fn stock_qemu_img_refuses_the_format_by_name() {
    let image = Image::create(&SMALL);
    let run = tool("qemu-img", &["info", &image.name()]);
    assert!(!run.status.success(), "{run:?}");
    assert!(run.stderr.contains("zoned format"), "{}", run.stderr);
}

#[test]
fn info_and_report_work_while_the_image_is_served_and_say_so() {
    let mut disk = Disk::small();
    disk.fill(3, 8192);
    assert_ok(disk.flush());
    let name = disk.image.name();
    for args in [&["info", &name][..], &["info", &name, "--json"], &["report", &name], &["report", &name, "--json"]] {
        let run = run(args);
        assert!(run.status.success(), "{args:?}: {run:?}");
        assert!(run.stderr.contains("served"), "{args:?} does not say that the image is being served: {run:?}");
    }
    let report: serde_json::Value = serde_json::from_str(&run(&["report", &name, "--json"]).stdout).unwrap();
    let zone = &report["zones"][3];
    assert_eq!(zone["write_pointer"], 3 * (1 << 20) + 8192, "{zone}");
    assert!(disk.stop().success());
    let after = crate::common::cli::run(&["report", &name]);
    assert_eq!(after.stderr, "", "nobody serves the image now");
    ok(&["info", &name]);
}
