//! What the process may do while it serves, and who may talk to it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::common::cli::{Image, SMALL, fails};
use crate::common::disk::{Disk, Setup};

/// A field of /proc/PID/task/TID/status of every thread of the daemon.
fn of_every_thread(disk: &Disk, field: &str) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", disk.daemon.pid())).unwrap();
    let read = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
        };
        (value("Name"), value(field))
    };
    tasks.map(|task| read(task.unwrap())).collect()
}

#[test]
fn every_thread_of_a_serving_daemon_is_filtered_and_without_capabilities() {
    let mut disk = Setup::new(SMALL).queues(2).start();
    disk.assert_works();
    let threads = of_every_thread(&disk, "Seccomp_filters");
    let count = |name: &str| threads.iter().find(|(thread, _)| thread == name).map(|(_, count)| count.as_str());
    assert_eq!(count("queue-0"), Some("3"), "{threads:?}");
    assert_eq!(count("queue-1"), Some("3"), "{threads:?}");
    assert_eq!(count("housekeeper"), Some("3"), "{threads:?}");
    assert!(threads.len() >= 4 && threads.iter().all(|(_, count)| count != "0"), "{threads:?}");
    for (field, expected) in [("Seccomp", "2"), ("NoNewPrivs", "1"), ("CapEff", "0000000000000000")] {
        for (thread, value) in of_every_thread(&disk, field) {
            assert_eq!(value, expected, "{field} of {thread}");
        }
    }
    for (thread, value) in of_every_thread(&disk, "CapPrm") {
        assert_eq!(value, "0000000000000000", "permitted capabilities of {thread}");
    }
    disk.finish_clean();
}

#[test]
fn the_log_mode_restricts_nothing_and_off_filters_nothing() {
    for (mode, filters) in [("log", "1"), ("off", "0")] {
        let mut disk = Setup::new(SMALL).args(&["--sandbox", mode]).start();
        disk.assert_works();
        let threads = of_every_thread(&disk, "Seccomp_filters");
        let main = threads.iter().find(|(thread, _)| thread.starts_with("vhost-user-zbd"));
        assert_eq!(main.map(|(_, count)| count.as_str()), Some(filters), "{threads:?}");
        disk.finish_clean();
    }
}

#[test]
fn the_socket_is_its_owners_alone_unless_said_otherwise() {
    for (args, mode) in [(&[][..], 0o600), (&["--socket-mode", "660"][..], 0o660), (&["--socket-mode=0"][..], 0)] {
        let disk = Setup::new(SMALL).args(args).start();
        let about = fs::metadata(disk.daemon.socket()).unwrap();
        assert_eq!(about.permissions().mode() & 0o777, mode, "{args:?}");
    }
    // A group that this process may give a file to: its own.
    let own = fs::metadata("/proc/self").unwrap().gid();
    let disk = Setup::new(SMALL).args(&["--socket-group", &own.to_string(), "--socket-mode", "0660"]).start();
    let about = fs::metadata(disk.daemon.socket()).unwrap();
    assert_eq!((about.gid(), about.permissions().mode() & 0o777), (own, 0o660));
}

#[test]
fn a_wrong_mode_or_group_is_refused_by_name() {
    let image = Image::create(&SMALL);
    let socket = image.beside_name("socket");
    for (option, value, fragment) in [
        ("--socket-mode", "9", "'9' is not a mode"),
        ("--socket-mode", "1777", "'1777' is not a mode"),
        ("--socket-group", "no-such-group", "'no-such-group' is not a group"),
        ("--sandbox", "maybe", "enforce"),
    ] {
        fails(&["serve", &image.name(), "--socket-path", &socket, option, value], &[fragment]);
    }
}
