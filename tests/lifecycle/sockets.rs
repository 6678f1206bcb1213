//! Where the daemon listens.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use crate::common::cli::{Image, SMALL, assert_refusal, fails, run};
use crate::common::daemon::Daemon;
use crate::common::disk::Disk;
use crate::common::frontend::{Frontend, Options};
use crate::common::request::{Req, Status};

#[test]
fn a_stale_socket_is_replaced() {
    let mut disk = Disk::small();
    disk.daemon.kill9();
    assert!(disk.daemon.socket().exists(), "a killed daemon leaves its socket");
    disk.start_again();
    disk.assert_works();
}

#[test]
fn a_socket_that_a_live_daemon_listens_on_is_refused_and_left_alone() {
    let mut disk = Disk::small();
    let socket = disk.daemon.socket().display().to_string();
    let other = Image::create(&SMALL);
    fails(&["serve", &other.name(), "--socket-path", &socket], &[&socket, "in use|taken|live|listen"]);
    disk.assert_works();
    disk.reconnect();
    disk.assert_works();
}

#[test]
fn a_file_that_is_no_socket_is_never_replaced() {
    let image = Image::create(&SMALL);
    let path = image.beside_name("precious");
    std::fs::write(&path, "keep me").unwrap();
    fails(&["serve", &image.name(), "--socket-path", &path], &[&path, "socket"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "keep me");
}

#[test]
fn a_socket_in_no_folder_is_refused() {
    let image = Image::create(&SMALL);
    let path = image.beside_name("absent/socket");
    fails(&["serve", &image.name(), "--socket-path", &path], &[&path, "No such file"]);
}

#[test]
fn a_socket_path_longer_than_the_system_takes_is_refused() {
    let image = Image::create(&SMALL);
    let path = image.beside_name(&"x".repeat(120));
    fails(&["serve", &image.name(), "--socket-path", &path], &[&path, "long|SUN_LEN|108"]);
}

#[test]
fn a_listening_socket_is_taken_as_a_descriptor() {
    let image = Image::create(&SMALL);
    let path = image.beside("given");
    let listener = UnixListener::bind(&path).unwrap();
    let mut daemon = Daemon::spawn_on_fd(image.path(), OwnedFd::from(listener.try_clone().unwrap()), &path, &[]);
    drop(listener);
    daemon.await_socket();
    for _ in 0..3 {
        let stream = daemon.connect();
        let mut front = Frontend::connect(stream, &Options::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(front.call(0, &Req::flush()).status, Status::Ok);
    }
    assert!(daemon.terminate().success());
    // Whoever made it keeps it.
    assert!(path.exists(), "a socket that was given is not the daemon's to remove");
}

#[test]
fn a_descriptor_that_is_no_socket_is_refused() {
    let image = Image::create(&SMALL);
    fails(&["serve", &image.name(), "--fd", "77"], &["77"]);
    fails(&["serve", &image.name(), "--fd", "0"], &["0", "socket"]);
    fails(&["serve", &image.name(), "--fd", "-1"], &["-1"]);
    fails(&["serve", &image.name(), "--fd", "x"], &["x"]);
}

#[test]
fn a_socket_is_named_once() {
    let image = Image::create(&SMALL);
    let path = image.beside_name("socket");
    fails(&["serve", &image.name(), "--socket-path", &path, "--fd", "3"], &["--fd"]);
    let none = run(&["serve", &image.name()]);
    assert_refusal(&none, &["--socket-path", "--fd"], "serve without a socket");
}
