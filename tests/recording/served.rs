//! A served disk that is recorded, with several queues, kills, cuts and a log that cannot be written on; and `replay`.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::common::cli::{Geo, Image, TWELVE, fails, ok, run};
use crate::common::control::Control;
use crate::common::disk::{Disk, Setup};
use crate::common::model::assert_ok;
use crate::common::request::{Req, Status};
use crate::load::Load;

const GEO: Geo = TWELVE;

/// A recorded disk, with a copy of its image from before.
struct Recorded {
    load: Load,
    log: String,
    control: PathBuf,
    copies: u32,
}

impl Recorded {
    #[track_caller]
    fn start(seed: u64, args: &[&str]) -> Self {
        let image = Image::create(&GEO);
        fs::copy(image.path(), image.beside("base")).expect("a copy");
        let (log, control) = (image.beside_name("log"), image.beside("control"));
        let control_path = control.display().to_string();
        let args = [&["--record", log.as_str(), "--control-path", &control_path], args].concat();
        let disk = Setup::new(GEO).queues(4).args(&args).start_on(image);
        Self { load: Load::new(disk, seed, 24), log, control, copies: 0 }
    }

    fn disk(&mut self) -> &mut Disk {
        &mut self.load.disk
    }

    fn beside(&self, name: &str) -> String {
        self.load.disk.image.beside_name(name)
    }

    fn ask(&self, command: &Value) -> Value {
        Control::connect(&self.control).ask(command).expect("the daemon runs").expect("it obeys")
    }

    /// Waits for all in flight, sets a mark and copies the image.
    fn copy(&mut self) {
        self.load.drain();
        self.copies += 1;
        let name = format!("copy{}", self.copies);
        self.ask(&json!({"cmd": "mark", "name": name}));
        fs::copy(self.load.disk.image.path(), self.load.disk.image.beside(&name)).expect("a copy");
    }

    /// Makes a state; returns what that prints.
    #[track_caller]
    fn replay(&self, to: &str, words: &[&str], out: &str) -> String {
        let (base, out) = (self.beside("base"), self.beside(out));
        ok(&[&["replay", self.log.as_str(), "--base", &base, "--to", to, "-o", &out, "--json"], words].concat())
    }

    /// Each copy is made again.
    #[track_caller]
    fn assert_made_again(&self) {
        for copy in 1..=self.copies {
            let (seen, made) = (format!("copy{copy}"), format!("made{copy}"));
            self.replay(&format!("mark:{seen}"), &[], &made);
            let diff = run(&["diff", &self.beside(&made), &self.beside(&seen)]);
            assert!(diff.status.success(), "{seen}: {diff:?}");
            ok(&["check", &self.beside(&made)]);
        }
    }
}

#[test]
fn states_of_a_served_disk_are_made_again_whatever_its_options() {
    for (seed, args) in [
        (1, &[][..]),
        (2, &["--aio", "sync"]),
        (3, &["--cache", "writethrough"]),
        (4, &["--volatile-cache"]),
        (5, &["--block-size", "512"]),
    ] {
        let mut recorded = Recorded::start(seed, args);
        for _ in 0..4 {
            recorded.load.run(150);
            recorded.copy();
        }
        assert!(recorded.disk().stop().success());
        recorded.assert_made_again();
        let list = ok(&["replay", &recorded.log, "--list"]);
        assert!(list.contains("mark:copy4 behind request:") && list.contains("the daemon has ended"), "{list}");
    }
}

#[test]
fn a_recording_goes_on_over_kills_under_a_running_guest() {
    for seed in 10..14 {
        let mut recorded = Recorded::start(seed, &[]);
        for _ in 0..3 {
            recorded.load.run(100);
            recorded.copy();
            recorded.load.run(60);
            // Requests are in flight.
            recorded.disk().daemon.kill9();
            recorded.disk().resume();
            recorded.load.run(20);
            recorded.copy();
        }
        assert!(recorded.disk().stop().success());
        recorded.assert_made_again();
        let list = ok(&["replay", &recorded.log, "--list"]);
        assert_eq!(list.matches("another daemon goes on").count(), 3, "{list}");
    }
}

#[test]
fn a_recording_goes_on_over_cuts_of_the_power() {
    let mut recorded = Recorded::start(20, &["--volatile-cache"]);
    let disk = recorded.disk();
    let mut written = 0;
    for round in 0..4u8 {
        for zone in 2..6 {
            disk.append(GEO.start(zone), &vec![round + 1; 4096 * (1 + usize::from(round))]).expect("an append");
        }
        assert_ok(disk.write(8 * u64::from(round), &[round; 8192]));
        if round % 2 == 0 {
            assert_ok(disk.flush());
        }
        written += 5;
    }
    recorded.copy();
    let state = recorded.replay("mark:copy1", &["seed=4"], "lost");
    let words = json!({"cmd": "power-cut", "seed": 4});
    let cut = recorded.ask(&words);
    let told: Value = serde_json::from_str(&state).expect("JSON");
    assert_eq!((&told["digest"], &told["zones"]), (&cut["digest"], &cut["zones"]), "a cut then, and one later");
    recorded.disk().front().reset_device().expect("the power is back");
    recorded.disk().append(GEO.start(7), &[9; 4096]).expect("an append");
    recorded.copy();
    assert!(recorded.disk().stop().success());
    recorded.assert_made_again();
    fs::write(recorded.beside("state.json"), &state).expect("a file");
    recorded.replay("mark:copy1", &[&format!("state={}", recorded.beside("state.json"))], "again");
    let diff = run(&["diff", &recorded.beside("lost"), &recorded.beside("again")]);
    assert!(diff.status.success(), "{diff:?}");
    let list: Value = serde_json::from_str(&ok(&["replay", &recorded.log, "--list", "--json"])).expect("JSON");
    let events: Vec<&Value> = list["epochs"].as_array().expect("epochs").iter().map(|epoch| &epoch["events"]).collect();
    let events = format!("{events:?}");
    assert!(events.contains("the power is cut") && events.contains("the device is reset"), "{events}");
    assert_eq!(list["flushes"], 2);
    assert!(list["answered"].as_u64() > Some(written), "{list}");
}

#[test]
fn a_log_that_cannot_be_written_ends_the_recording_once_and_not_the_disk() {
    const LIMIT: u64 = 3 << 20;
    let mut recorded = Recorded::start(30, &[]);
    let disk = recorded.disk();
    for _ in 0..40 {
        assert_ok(disk.write(0, &[1; 65536]));
    }
    disk.daemon.limit_file_size(Some(LIMIT));
    for _ in 0..20 {
        assert_ok(disk.write(0, &[2; 65536]));
    }
    assert_ok(disk.flush());
    disk.daemon.limit_file_size(None);
    assert_ok(disk.write(0, &[3; 65536]));
    let log = disk.daemon.log();
    assert_eq!(log.matches("the recording has ended: its file cannot be written").count(), 1, "{log}");
    assert!(disk.stop().success());
    let list = ok(&["replay", &recorded.log, "--list"]);
    assert!(list.contains("the recording has ended: its file could not be written"), "{list}");
    let answered = list.split(" requests").next().and_then(|text| text.parse::<u64>().ok());
    assert!((41..50).contains(&answered.expect("a number")), "{list}");
    let (image, log) = (recorded.disk().image.name(), recorded.log.clone());
    let socket = recorded.beside("other.sock");
    fails(&["serve", &image, "--socket-path", &socket, "--record", &log], &["--record", "expected another file"]);
}

#[test]
fn a_file_that_is_no_recording_of_this_disk_is_refused_and_stays() {
    let mut recorded = Recorded::start(40, &[]);
    recorded.disk().append(GEO.start(3), &[1; 4096]).expect("an append");
    assert!(recorded.disk().stop().success());
    let (image, log) = (recorded.disk().image.name(), recorded.log.clone());
    let (text, other) = (recorded.beside("text"), Image::create(&Geo { size: GEO.size * 2, ..GEO }));
    fs::write(&text, "no recording").expect("a file");
    let before = fs::read(&log).expect("the log");
    let socket = recorded.beside("other.sock");
    let serve = |image: &str, log: &str| run(&["serve", image, "--socket-path", &socket, "--record", log]);
    let cases = [
        (serve(&image, &text), "not a recording of vhost-user-zbd"),
        (serve(&other.name(), &log), "a recording of another disk, whose size is"),
        (serve(&recorded.beside("base"), &log), "the image was written without it"),
        (serve(&image, &recorded.beside("missing/log")), "No such file or directory"),
    ];
    for (run, said) in &cases {
        assert_eq!(run.status.code(), Some(1), "{run:?}");
        assert_eq!(run.stderr.trim_end().lines().count(), 1, "{run:?}");
        assert!(run.stderr.contains("--record") && run.stderr.contains(said), "{said}: {run:?}");
    }
    assert_eq!(fs::read(&log).expect("the log"), before);
    assert_eq!(fs::read_to_string(&text).expect("the text"), "no recording");
    let read_only = ["serve", &image, "--socket-path", &socket, "--read-only", "--record", &log];
    fails(&read_only, &["--read-only", "--record"]);
}

#[test]
fn what_is_no_moment_no_base_or_no_recording_makes_no_image() {
    let mut recorded = Recorded::start(50, &[]);
    recorded.disk().append(GEO.start(3), &[1; 4096]).expect("an append");
    assert_ok(recorded.disk().flush());
    recorded.copy();
    assert!(recorded.disk().stop().success());
    let (log, base, later) = (recorded.log.clone(), recorded.beside("base"), recorded.beside("copy1"));
    let (larger, out) = (Image::create(&Geo { size: GEO.size * 2, ..GEO }), recorded.beside("out"));
    let other = larger.name();
    let damaged = recorded.beside("damaged");
    let mut bytes = fs::read(&log).expect("the log");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).expect("a file");
    let make = |log: &str, base: &str, to: &str, words: &[&str]| {
        run(&[&["replay", log, "--base", base, "--to", to, "-o", &out], words].concat())
    };
    for (run, said) in [
        (make(&log, &base, "flush:2", &[]), "flush:2: the recording has 1 flushes"),
        (make(&log, &base, "request:9", &[]), "request:9: the recording has 2 answered requests"),
        (make(&log, &base, "mark:none", &[]), "mark:none: the recording has no such mark"),
        (make(&log, &base, "noon", &[]), "expected flush:N, request:N, mark:NAME or record:N"),
        (make(&log, &later, "flush:1", &[]), "not the image that the recording began with"),
        (make(&log, &other, "flush:1", &[]), "a recording of another disk"),
        (make(&base, &base, "flush:1", &[]), "not a recording of vhost-user-zbd"),
        (make(&damaged, &base, "flush:1", &[]), "is damaged: its check is wrong"),
        (make(&log, &base, "flush:1", &["lose=some"]), "lose is 'some': expected all, nothing or zone:N,N,..."),
        (make(&log, &base, "flush:1", &["at=flush:1"]), "at is 'flush:1': expected none"),
        (make(&log, &base, "flush:1", &["then=fail"]), "then is 'fail': expected none"),
        (make(&log, &base, "flush:1", &["lost"]), "'lost' is not known"),
    ] {
        assert_eq!(run.status.code(), Some(1), "{said}: {run:?}");
        assert!(run.stderr.contains(said), "{said}: {run:?}");
        assert!(!fs::exists(&out).expect("a look"), "{said}: something was made");
    }
    assert!(make(&log, &base, "flush:1", &[]).status.success());
    let again = make(&log, &base, "flush:1", &[]);
    assert!(again.stderr.contains("the file exists"), "{again:?}");
    assert!(make(&log, &later, "flush:0", &[]).stderr.contains("not the image"));
}

#[test]
fn a_recording_that_was_cut_short_says_so_and_is_listed_as_far_as_it_goes() {
    let mut recorded = Recorded::start(60, &[]);
    assert_eq!(recorded.disk().call(&Req::append(GEO.start(3), vec![1; 4096])).status, Status::Ok);
    recorded.copy();
    recorded.disk().daemon.kill9();
    let bytes = fs::read(&recorded.log).expect("the log");
    fs::write(&recorded.log, &bytes[..bytes.len() - 1]).expect("the log");
    let listed = run(&["replay", &recorded.log, "--list"]);
    assert!(listed.status.success(), "{listed:?}");
    assert!(listed.stderr.contains("cut short: what follows its last whole record"), "{listed:?}");
    assert!(listed.stdout.contains("1 request") && !listed.stdout.contains("mark:"), "{listed:?}");
    recorded.disk().resume();
    recorded.copy();
    assert!(recorded.disk().stop().success());
    recorded.copies = 2;
    recorded.replay("mark:copy2", &[], "made2");
    let diff = run(&["diff", &recorded.beside("made2"), &recorded.beside("copy2")]);
    assert!(diff.status.success(), "{diff:?}");
}
