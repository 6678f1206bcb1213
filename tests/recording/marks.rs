//! The mark disk: what a guest writes to it is a mark, in order with its I/O on the other disk.

use std::os::unix::net::UnixStream;

use serde_json::json;

use crate::common::cli::{Image, TWELVE, ok};
use crate::common::control::Control;
use crate::common::disk::{Disk, Setup};
use crate::common::eventually;
use crate::common::frontend::{Frontend, Options, feature};
use crate::common::model::assert_ok;
use crate::common::request::{Req, Status};

/// A recorded disk and its mark disk.
struct Pair {
    disk: Disk,
    marks: Frontend,
    log: String,
}

impl Pair {
    #[track_caller]
    fn start(args: &[&str]) -> Self {
        let image = Image::create(&TWELVE);
        let (log, socket) = (image.beside_name("log"), image.beside_name("marks"));
        let args = [&["--record", log.as_str(), "--mark-socket", &socket], args].concat();
        let disk = Setup::new(TWELVE).args(&args).start_on(image);
        let marks = connect(&socket);
        Self { disk, marks, log }
    }

    #[track_caller]
    fn mark(&mut self, text: &str) {
        let mut block = text.as_bytes().to_vec();
        block.resize(512, 0);
        assert_eq!(self.marks.call(0, &Req::write(0, block)).status, Status::Ok, "{text}");
    }

    fn listed(&self) -> serde_json::Value {
        serde_json::from_str(&ok(&["replay", &self.log, "--list", "--json"])).expect("JSON")
    }
}

fn connect(socket: &str) -> Frontend {
    let stream = UnixStream::connect(socket).expect("the socket of the mark disk");
    Frontend::connect(stream, &Options::default()).unwrap_or_else(|error| panic!("connecting: {error}"))
}

#[test]
fn it_is_an_ordinary_disk_of_a_mebibyte() {
    let mut pair = Pair::start(&[]);
    let marks = &mut pair.marks;
    assert_eq!(marks.offered & feature::ZONED, 0);
    let config = marks.conn.get_config(0, 96).expect("the configuration").expect("an answer");
    assert_eq!(config[..8], 2048u64.to_le_bytes());
    assert_eq!(config[20..24], 512u32.to_le_bytes());
    assert_eq!(config[72..96], [0; 24]);
    assert_eq!(marks.call(0, &Req::write(2047, vec![7; 512])).status, Status::Ok);
    assert_eq!(marks.call(0, &Req::read(2047, 512)).data, vec![7; 512]);
    assert_eq!(marks.call(0, &Req::flush()).status, Status::Ok);
    for beyond in [Req::write(2048, vec![7; 512]), Req::write(2047, vec![7; 1024]), Req::read(2048, 512)] {
        assert_eq!(marks.call(0, &beyond).status, Status::IoErr, "{beyond:?}");
    }
    for zoned in [Req::append(2048, vec![7; 512]), Req::report(0, 4096), Req::reset(2048), Req::reset_all()] {
        assert_eq!(marks.call(0, &zoned).status, Status::Unsupp, "{zoned:?}");
    }
    assert!(pair.disk.stop().success());
    let marks = pair.listed()["epochs"][0]["marks"].clone();
    assert_eq!(marks, json!([{ "name": "\u{7}".repeat(512), "request": 0 }]), "what was refused is no mark");
}

#[test]
fn a_mark_stands_behind_what_was_answered_before_it_and_before_what_was_asked_for_after() {
    let mut pair = Pair::start(&[]);
    for round in 0..20u64 {
        let asked: Vec<_> =
            (0..4).map(|zone| pair.disk.submit(0, &Req::append(TWELVE.start(2 + zone), vec![1; 4096]))).collect();
        asked.into_iter().for_each(|token| assert_ok(pair.disk.wait(token).status));
        pair.mark(&format!("round {round}\nand more"));
    }
    assert!(pair.disk.stop().success());
    let marks = pair.listed()["epochs"][0]["marks"].clone();
    let expected: Vec<_> =
        (0..20).map(|round| json!({ "name": format!("round {round}"), "request": 4 * (round + 1) })).collect();
    assert_eq!(marks, json!(expected));
}

#[test]
fn a_power_cut_may_wait_for_a_mark_of_the_mark_disk() {
    let image_args = ["--volatile-cache", "--power-cut", "at=mark:go then=fail"];
    let mut pair = Pair::start(&image_args);
    pair.disk.append(TWELVE.start(3), &[1; 4096]).expect("an append");
    pair.mark("not yet");
    assert_ok(pair.disk.flush());
    pair.disk.append(TWELVE.start(3), &[1; 4096]).expect("an append");
    pair.mark("go");
    eventually("the power to be cut", || (pair.disk.flush() == Status::IoErr).then_some(()));
    pair.disk.front().reset_device().expect("the power is back");
    assert_eq!(pair.disk.zone(3).written(), 8, "what was flushed");
    assert!(pair.disk.stop().success());
    let list = ok(&["replay", &pair.log, "--list"]);
    let order = ["mark:not yet", "mark:go", "the power is cut", "the device is reset", "the daemon has ended"];
    let at: Vec<_> = order.iter().map(|text| list.find(text).unwrap_or_else(|| panic!("{text}: {list}"))).collect();
    assert!(at.is_sorted(), "{list}");
}

#[test]
fn one_frontend_after_another_and_the_next_daemon_take_marks() {
    let mut pair = Pair::start(&[]);
    let socket = pair.disk.image.beside_name("marks");
    pair.mark("first");
    drop(pair.marks);
    pair.marks = connect(&socket);
    pair.mark("second");
    pair.disk.daemon.kill9();
    pair.disk.resume();
    pair.marks.reconnect(UnixStream::connect(&socket).expect("the socket")).expect("the mark disk goes on");
    pair.mark("third");
    assert!(pair.disk.stop().success());
    let list = ok(&["replay", &pair.log, "--list"]);
    assert!(["first", "second", "third"].iter().all(|mark| list.contains(&format!("mark:{mark} behind"))), "{list}");
    assert!(!std::fs::exists(&socket).expect("a look"), "its socket is gone with the daemon");
}

#[test]
fn ctl_mark_is_a_mark_as_well() {
    let control = |image: &Image| image.beside("control");
    let image = Image::create(&TWELVE);
    let (log, path) = (image.beside_name("log"), control(&image));
    let args = ["--record", &log, "--control-path", &path.display().to_string()];
    let mut disk = Setup::new(TWELVE).args(&args).start_on(image);
    Control::connect(&path).ask(&json!({"cmd": "mark", "name": "by hand"})).expect("it runs").expect("it obeys");
    assert!(disk.stop().success());
    assert!(ok(&["replay", &log, "--list"]).contains("mark:by hand behind request:0"));
}
