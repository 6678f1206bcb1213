//! What is no snapshot: each is refused in one line, and nothing has changed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::rig::{GEO, Rig, assert_clean};
use crate::common::cli::{Geo, Image, assert_refusal, fails, ok};
use crate::common::control::Control;
use crate::common::daemon::Daemon;
use crate::common::disk::Setup;
use crate::common::request::Status;
use serde_json::json;

#[test]
fn names_that_are_none_or_taken_or_unknown_are_refused() {
    let rig = Rig::start(Setup::new(GEO));
    rig.snapshot_ok(&["save", "a"]);
    let before = fs::read(rig.file("a")).unwrap();
    let target = rig.disk.image.beside_name("there");
    fs::write(&target, "mine").unwrap();
    let long = "x".repeat(65);
    for (args, fragments) in [
        (&["save", "a"][..], &["a.qcow2", "the file exists"][..]),
        (&["save", "--to", &target], &["there", "the file exists"]),
        (&["save", "--to", &rig.disk.image.beside_name("none/b")], &["none/b", "cannot be made"]),
        (&["save", ".a"], &["no name of a snapshot"]),
        (&["save", "../a"], &["no name of a snapshot"]),
        (&["save", &long], &["at most 64"]),
        (&["save"], &["NAME"]),
        (&["save", "b", "--to", "c"], &["cannot be used with"]),
        (&["revert", "b"], &["no snapshot 'b'"]),
        (&["revert", "a/b"], &["no name of a snapshot"]),
        (&["revert", "a", "then=exit"], &["then=dead or then=fail"]),
        (&["drop", "b"], &["no snapshot 'b'"]),
    ] {
        assert_refusal(&rig.snapshot(args), fragments, &format!("{args:?}"));
    }
    assert_eq!(fs::read(rig.file("a")).unwrap(), before);
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    assert_eq!(fs::read_dir(rig.file("a").parent().unwrap()).unwrap().count(), 1);
    fails(&["ctl", &rig.disk.image.beside_name("nobody"), "snapshot", "list"], &["no daemon can be reached"]);
}

#[test]
fn a_snapshot_of_another_disk_is_refused_before_anything_changes() {
    let mut rig = Rig::start(Setup::new(GEO).args(&["--volatile-cache"]));
    assert_eq!(rig.disk.write(GEO.start(3), &[7; 8192]), Status::Ok);
    rig.snapshot_ok(&["save", "a"]);
    let others = [
        (Geo { conv: 3, ..GEO }, "another geometry"),
        (Geo { size: GEO.size + GEO.zone, ..GEO }, "another geometry"),
        (Geo { cluster: 4096, ..GEO }, "its write pointers elsewhere|another cluster size"),
    ];
    for (at, (geo, why)) in others.iter().enumerate() {
        let name = format!("other{at}");
        fs::copy(Image::create(geo).path(), rig.file(&name)).unwrap();
        assert_refusal(&rig.snapshot(&["revert", &name]), &[why, "expected one of this disk"], &format!("{geo:?}"));
    }
    fs::write(rig.file("text"), "no image at all").unwrap();
    assert_refusal(&rig.snapshot(&["revert", "text"]), &["not a qcow2 image"], "a text");
    fs::write(rig.file("empty"), "").unwrap();
    assert_refusal(&rig.snapshot(&["revert", "empty"]), &["not a qcow2 image|truncated"], "nothing");
    // The image itself, by another name.
    fs::hard_link(rig.disk.image.path(), rig.file("itself")).unwrap();
    assert_refusal(&rig.snapshot(&["revert", "itself"]), &["in use|lock"], "the image");
    // Nothing of that has cut the power or changed a byte.
    assert_eq!(rig.disk.write(GEO.start(3) + 16, &[7; 4096]), Status::Ok);
    rig.snapshot_ok(&["save", "b"]);
    assert_clean(&rig.file("b"));
}

#[test]
fn a_snapshot_that_is_served_itself_is_neither_gone_back_to_nor_dropped() {
    let rig = Rig::start(Setup::new(GEO));
    rig.snapshot_ok(&["save", "a"]);
    let daemon = Daemon::start(&rig.file("a"), &rig.disk.image.beside("other"), &[]);
    for order in ["revert", "drop"] {
        assert_refusal(&rig.snapshot(&[order, "a"]), &["a.qcow2", "in use|lock"], order);
    }
    drop(daemon);
    rig.snapshot_ok(&["drop", "a"]);
}

#[test]
fn a_disk_that_is_served_read_only_does_not_become_a_snapshot() {
    let image = Image::create(&GEO);
    let rig = Rig::start_on(Setup::new(GEO).args(&["--read-only"]), image);
    rig.snapshot_ok(&["save", "a"]);
    assert_refusal(&rig.snapshot(&["revert", "a"]), &["served read-only"], "read-only");
}

#[test]
fn a_target_without_room_is_an_error_that_leaves_nothing_and_requests_go_on() {
    let mut rig = Rig::start(Setup::new(GEO));
    for zone in 2..12 {
        assert_eq!(rig.disk.write(GEO.start(zone), &[7; 65536]), Status::Ok);
    }
    rig.disk.daemon.limit_file_size(Some(256 << 10));
    assert_refusal(&rig.snapshot(&["save", "a"]), &["cannot be copied", "too large|no space"], "no room");
    rig.disk.daemon.limit_file_size(None);
    assert!(!rig.file("a").parent().unwrap().exists());
    assert_eq!(rig.disk.write(GEO.start(3) + 128, &[7; 4096]), Status::Ok);
    rig.snapshot_ok(&["save", "a"]);
    assert_clean(&rig.file("a"));
}

#[test]
fn commands_without_their_file_and_words_that_are_none_are_refused() {
    let rig = Rig::start(Setup::new(GEO));
    let mut control = Control::connect(&rig.disk.image.beside("control"));
    for (command, why) in [
        (json!({"cmd": "snapshot-save"}), "0 files came along: expected one"),
        (json!({"cmd": "snapshot-revert", "name": "a"}), "0 files came along: expected one"),
        (json!({"cmd": "snapshot-revert"}), "not a command"),
        (json!({"cmd": "snapshot-revert", "name": "a", "then": "exit"}), "expected dead or fail"),
        (json!({"cmd": "snapshot-revert", "name": "a", "then": "never"}), "not a command"),
    ] {
        let error = control.ask(&command).unwrap().unwrap_err();
        assert!(error.contains(why), "{command}: {error}");
    }
    // Files that are none, or not open for that.
    let image = rig.disk.image.path();
    let (empty, full) = (rig.disk.image.beside("empty"), rig.disk.image.beside("full"));
    fs::write(&empty, "").unwrap();
    fs::write(&full, "mine").unwrap();
    let open = |path: &Path, options: &mut fs::OpenOptions| options.open(path).unwrap();
    let pipe = File::from(OwnedFd::from(std::io::pipe().unwrap().1));
    let (save, revert) = (r#"{"cmd":"snapshot-save"}"#, r#"{"cmd":"snapshot-revert","name":"a"}"#);
    for (command, file, why) in [
        (save, pipe, "no regular file"),
        (save, open(&empty, File::options().read(true)), "not open for that"),
        (save, open(&empty, File::options().append(true)), "not open for that"),
        (save, open(&full, File::options().write(true)), "expected an empty file"),
        (save, open(image, File::options().read(true).write(true)), "the image itself"),
        (revert, open(image, File::options().read(true)), "the image itself"),
        (revert, open(&full, File::options().write(true)), "not open for that"),
        (revert, open(&full, File::options().read(true)), "not a qcow2 image"),
    ] {
        let stream = UnixStream::connect(rig.disk.image.beside("control")).unwrap();
        let line = format!("{command}\n");
        assert_eq!(stream.send_with_fds(&[line.as_bytes()], &[file.as_raw_fd()]).unwrap(), line.len());
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert!(answer.contains(why), "{command}, expected '{why}': {answer}");
    }
    assert_eq!(fs::read(&full).unwrap(), b"mine");
    ok(&["ctl", &rig.control(), "info"]);
}
