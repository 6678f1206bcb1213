//! Signals and limits, as a process has them that no test has arranged anything for.

use std::fs;
use std::io::Error;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::common::cli::{Image, SMALL, program};
use crate::common::daemon::Daemon;
use crate::common::eventually;
use crate::common::frontend::{Frontend, Options};
use crate::common::request::{Req, Status};

/// The daemon, started by a process that has arranged something.
fn start(image: &Image, arranged: impl Fn() -> bool + Send + Sync + 'static) -> Daemon {
    let socket = image.beside("zbd.sock");
    let mut command = Command::new(program());
    command.arg("serve").arg(image.path()).arg("--socket-path").arg(&socket);
    let arrange = move || if arranged() { Ok(()) } else { Err(Error::last_os_error()) };
    // SAFETY: the closures below make only async-signal-safe calls.
    unsafe { command.pre_exec(arrange) };
    let mut daemon = Daemon::spawn_program(&mut command, &socket);
    daemon.await_socket();
    daemon
}

fn written(daemon: &mut Daemon) -> Frontend {
    let mut front = Frontend::connect(daemon.connect(), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(front.call(0, &Req::write(SMALL.start(2), [1; 4096])).status, Status::Ok);
    front
}

/// The daemon ended as one does that was asked to.
#[track_caller]
fn assert_orderly(daemon: &mut Daemon, image: &Image, what: &str) {
    assert!(daemon.wait().success(), "{what}");
    assert!(!image.beside("zbd.sock").exists(), "{what}: the socket is left behind");
    image.assert_clean();
}

#[test]
fn each_signal_that_asks_for_an_end_gets_an_orderly_one() {
    // Whoever runs the tests may have them under nohup.
    // SAFETY: an async-signal-safe call.
    let as_ever = || unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) != libc::SIG_ERR };
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let image = Image::create(&SMALL);
        let mut daemon = start(&image, as_ever);
        let front = written(&mut daemon);
        daemon.signal(signal);
        assert_orderly(&mut daemon, &image, &format!("signal {signal}"));
        drop(front);
    }
}

#[test]
fn a_signal_that_was_blocked_at_the_start_ends_the_daemon_all_the_same() {
    let blocked = || {
        // SAFETY: async-signal-safe calls on a set that is filled first.
        unsafe {
            let mut all = std::mem::zeroed();
            libc::sigfillset(&mut all) == 0 && libc::sigprocmask(libc::SIG_BLOCK, &all, std::ptr::null_mut()) == 0
        }
    };
    let image = Image::create(&SMALL);
    let mut daemon = start(&image, blocked);
    let front = written(&mut daemon);
    daemon.signal(libc::SIGTERM);
    assert_orderly(&mut daemon, &image, "blocked");
    drop(front);
}

#[test]
fn a_daemon_under_nohup_outlives_its_terminal() {
    // SAFETY: an async-signal-safe call.
    let ignored = || unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) != libc::SIG_ERR };
    let image = Image::create(&SMALL);
    let mut daemon = start(&image, ignored);
    let mut front = written(&mut daemon);
    daemon.signal(libc::SIGHUP);
    assert_eq!(front.call(0, &Req::flush()).status, Status::Ok);
    assert!(daemon.is_alive());
    daemon.signal(libc::SIGTERM);
    assert_orderly(&mut daemon, &image, "nohup");
}

#[test]
fn the_limit_of_open_files_is_raised_as_far_as_it_may_be() {
    let limit = |soft, hard| {
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        // SAFETY: an async-signal-safe call on a valid value.
        move || unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0 }
    };
    let image = Image::create(&SMALL);
    let mut daemon = start(&image, limit(20, 900));
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["900", "900"], "{limits}");
    drop(written(&mut daemon));
    daemon.signal(libc::SIGTERM);
    assert_orderly(&mut daemon, &image, "limits");
}

#[test]
fn paths_from_the_folder_that_it_was_started_in_are_as_good_as_others() {
    let image = Image::create(&SMALL);
    let folder = image.path().parent().unwrap();
    let mut command = Command::new(program());
    command.args(["serve", "disk.qcow2", "--socket-path", "zbd.sock", "--control-path", "control"]).current_dir(folder);
    let mut daemon = Daemon::spawn_program(&mut command, &image.beside("zbd.sock"));
    daemon.await_socket();
    drop(written(&mut daemon));
    assert!(image.beside("control").exists());
    daemon.signal(libc::SIGTERM);
    assert_orderly(&mut daemon, &image, "relative paths");
    assert!(!image.beside("control").exists());
}

#[test]
fn too_few_descriptors_to_start_with_are_an_end_in_words_that_leaves_no_socket() {
    let mut ended = 0;
    for files in (6..40).step_by(2) {
        let limit = libc::rlimit { rlim_cur: files, rlim_max: files };
        let image = Image::create(&SMALL);
        let socket = image.beside("zbd.sock");
        let mut command = Command::new(program());
        command.arg("serve").arg(image.path()).arg("--socket-path").arg(&socket);
        // SAFETY: the closure makes one async-signal-safe call on a valid value.
        unsafe {
            command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &limit) {
                0 => Ok(()),
                _ => Err(Error::last_os_error()),
            });
        }
        let mut daemon = Daemon::spawn_program(&mut command, &socket);
        let serves = eventually("the daemon to serve or to end", || match daemon.is_alive() {
            true => daemon.log().contains("serving on").then_some(true),
            false => Some(false),
        });
        if serves {
            daemon.signal(libc::SIGTERM);
        } else {
            assert!(daemon.log().contains("(os error 24)"), "{files}: {}", daemon.log());
            ended += 1;
        }
        assert_eq!(daemon.wait().success(), serves, "{files}");
        assert!(!socket.exists(), "{files}: the socket is left behind");
        image.assert_clean();
    }
    assert!(ended > 0);
}

/// The limit of open files below which a process has so many numbers unused.
fn limit_with_room(pid: i32, room: usize) -> u64 {
    let open: Vec<u64> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    (0..).filter(|number| !open.contains(number)).nth(room).unwrap()
}

/// Sets the daemon's limit of open files.
fn limit_files(daemon: &Daemon, files: u64) {
    let limit = libc::rlimit { rlim_cur: files, rlim_max: 1024 };
    // SAFETY: the structure is valid during the call; the old limit is not asked for.
    let set = unsafe { libc::prlimit(daemon.pid(), libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
    assert_eq!(set, 0, "{}", Error::last_os_error());
}

#[test]
fn a_frontend_for_which_there_are_too_few_descriptors_is_turned_away_in_words_and_the_daemon_goes_on() {
    let (mut served, mut refused) = (0, 0);
    for room in 0..24 {
        let image = Image::create(&SMALL);
        let mut daemon = start(&image, || true);
        // The connection with which the start was waited for has its descriptor until it is gone.
        drop(daemon.connect());
        daemon.await_log(&["the frontend is gone"]);
        limit_files(&daemon, limit_with_room(daemon.pid(), room));
        let stream = UnixStream::connect(daemon.socket()).unwrap();
        if room == 0 {
            // Not accepted, so it waits for its answers.
            daemon.await_log(&["WARN", "cannot accept a frontend", "(os error 24)"]);
            drop(stream);
        } else {
            match Frontend::connect(stream, &Options { queues: 1, ..Options::default() }) {
                Ok(mut front) => {
                    assert_eq!(front.call(0, &Req::flush()).status, Status::Ok, "{room}");
                    served += 1;
                }
                Err(_) => {
                    daemon.await_log(&["WARN", "frontend"]);
                    refused += 1;
                }
            }
        }
        assert!(daemon.is_alive(), "{room}");
        limit_files(&daemon, 1024);
        drop(written(&mut daemon));
        daemon.signal(libc::SIGTERM);
        assert_orderly(&mut daemon, &image, &format!("room for {room}"));
    }
    assert!(served > 0 && refused > 0, "{served} served, {refused} refused");
}
