//! The control socket of a running daemon, and the trace that it writes.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::common::cli::{Geo, Image, SMALL, fails, ok};
use crate::common::disk::{Disk, Setup};
use crate::common::model::assert_ok;
use crate::common::request::{Req, Status, sectors};

const GEO: Geo = Geo { open: 2, active: 3, ..SMALL };

/// A disk with a control socket and a trace.
fn start(queues: u32) -> Disk {
    let image = Image::create(&GEO);
    let (control, trace) = (image.beside_name("control"), image.beside_name("trace"));
    let setup = Setup::new(GEO).queues(queues).args(&["--control-path", &control, "--trace", &trace]);
    setup.start_on(image)
}

fn ctl(disk: &Disk, args: &[&str]) -> String {
    ok(&[&["ctl", &disk.image.beside_name("control")], args].concat())
}

fn ask(disk: &Disk, args: &[&str]) -> Value {
    let text = ctl(disk, &[args, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?} prints no JSON: {error}: {text}"))
}

#[test]
fn a_report_over_the_control_socket_is_what_the_guest_is_told() {
    let mut disk = start(1);
    disk.fill(2, 8192);
    disk.fill(3, GEO.cap);
    assert_ok(disk.open(4));
    let guest = disk.zones();
    let report = ask(&disk, &["report"]);
    let zones = report["zones"].as_array().unwrap();
    assert_eq!(zones.len(), guest.len());
    for (zone, guest) in zones.iter().zip(&guest) {
        assert_eq!(zone["start"].as_u64().map(sectors), Some(guest.start));
        assert_eq!(zone["write_pointer"].as_u64().map(sectors), Some(guest.wp), "{zone}");
    }
    let states: Vec<_> = zones.iter().map(|zone| zone["state"].as_str().unwrap()).collect();
    let expected = ["not-wp", "not-wp", "implicit-open", "full", "explicit-open", "empty", "empty", "empty"];
    assert_eq!(states, expected);
    assert_eq!(ctl(&disk, &["report", "--first", "3", "--count", "2"]).lines().count(), 2);
    let control = disk.image.beside_name("control");
    assert_eq!(ok(&["report", "--socket", &control]), ctl(&disk, &["report"]), "the same report with --socket");
    assert_eq!(
        ok(&["report", "--socket", &control, "-o", "0x1800", "-c", "2"]),
        ctl(&disk, &["report", "--first", "3", "--count", "2"])
    );
    fails(&["report", "--socket", &control, "--offset", "8M"], &[&control, "8388608"]);
    let (served, file) = (ctl(&disk, &["info"]), ok(&["info", &disk.image.name()]));
    for fact in ["image: ", "virtual size: ", "zones: ", "zone capacity: ", "max open zones: ", "max append: "] {
        let of = |text: &str| text.lines().find(|line| line.starts_with(fact)).map(str::to_owned);
        assert!(of(&served).is_some() && of(&served) == of(&file), "{fact} differs:\n{served}\n{file}");
    }
    let map = ask(&disk, &["map", "--cells", "2"]);
    assert_eq!(map["cells"].as_array().map(Vec::len), Some(2));
    assert_eq!(map["totals"]["states"]["explicit-open"], 1);
    assert_eq!(map["totals"]["written"].as_u64(), Some(8192 + GEO.cap));
    disk.finish_clean();
}

#[test]
fn stats_count_each_request_with_its_kind_and_status_and_explain_what_was_refused() {
    let mut disk = start(2);
    let at = GEO.start(2);
    assert_ok(disk.write(at, &[1; 4096]));
    assert_ok(disk.front().call(1, &Req::write(at + 8, [2; 8192])).status);
    assert_eq!(disk.write(at, &[3; 4096]), Status::UnalignedWp);
    disk.append(GEO.start(3), &[4; 4096]).unwrap();
    disk.read(at, 4096).unwrap();
    assert_ok(disk.flush());
    assert_ok(disk.reset(3));
    let stats = ask(&disk, &["stats"]);
    for (kind, count, bytes, errors) in
        [("write", 3, 12288, 1), ("append", 1, 4096, 0), ("read", 1, 4096, 0), ("flush", 1, 0, 0), ("reset", 1, 0, 0)]
    {
        let counted = &stats["operations"][kind];
        let found = ["count", "bytes", "errors"].map(|field| counted[field].as_u64().unwrap());
        assert_eq!(found, [count, bytes, errors], "{kind}");
        let buckets = counted["latency"]["buckets"].as_array().unwrap();
        assert_eq!(buckets.iter().map(|bucket| bucket[1].as_u64().unwrap()).sum::<u64>(), count, "{kind}");
    }
    assert_eq!((&stats["statuses"]["OK"], &stats["statuses"]["ZONE_UNALIGNED_WP"]), (&json!(6), &json!(1)));
    assert_eq!(
        (&stats["frontend"], &stats["in_flight"], &stats["open_zones"], &stats["active_zones"]),
        (&json!(true), &json!(0), &json!(1), &json!(1))
    );
    assert_eq!(stats["hot_zones"], json!([{"zone": 2, "bytes": 12288}, {"zone": 3, "bytes": 4096}]));
    let refusals = stats["refusals"].as_array().unwrap();
    assert_eq!(refusals.len(), 1);
    let expected = format!(
        "write at {at} of 8 sectors: ZONE_UNALIGNED_WP: zone 2 is implicit-open, its write pointer is {0}: expected a \
         write at {0}",
        at + 24
    );
    assert_eq!(refusals[0]["text"], expected.as_str());
    let told = ctl(&disk, &["stats"]);
    let line =
        |name: &str| told.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {told}"));
    let numbers = |name| line(name).split_whitespace().skip(1).take(3).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(numbers("write "), ["3", "1", "12288"]);
    assert_eq!(line("open zones"), "open zones: 1 (of 2)");
    assert_eq!(line("requests in flight"), "requests in flight: 0");
    assert!(
        told.contains(&expected) && told.contains("ZONE_UNALIGNED_WP 1") && told.contains("zone 2: 12 KiB"),
        "{told}"
    );
    disk.finish_clean();
}

#[test]
fn info_says_what_is_served_and_to_whom() {
    let mut disk = start(1);
    let info = ask(&disk, &["info"]);
    for (field, value) in [
        ("image", json!(disk.image.name())),
        ("virtual_size", json!(GEO.size)),
        ("nr_zones", json!(8)),
        ("max_open_zones", json!(2)),
        ("block_size", json!(4096)),
        ("pid", json!(disk.daemon.pid())),
        ("frontend", json!(true)),
        ("zoned_negotiated", json!(true)),
    ] {
        assert_eq!(info[field], value, "{field}");
    }
    disk.disconnect();
    crate::common::eventually("the frontend to be gone", || (ask(&disk, &["info"])["frontend"] == false).then_some(()));
    assert!(ctl(&disk, &["info"]).lines().any(|line| line == "zones: 8 (2 conventional)"));
    disk.finish_clean();
}

#[test]
fn the_control_socket_is_its_owners_and_goes_with_the_daemon() {
    let mut disk = start(1);
    let path = disk.image.beside("control");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    ctl(&disk, &["flush"]);
    disk.assert_works();
    ctl(&disk, &["quit"]);
    assert!(disk.daemon.wait().success());
    assert!(!path.exists());
    disk.assert_image_sound();
    fails(&["ctl", &disk.image.beside_name("control"), "info"], &["control", "no daemon can be reached"]);
}

#[test]
fn silent_clients_keep_nobody_from_asking() {
    let disk = start(1);
    let silent: Vec<_> = (0..20).map(|_| UnixStream::connect(disk.image.beside("control")).unwrap()).collect();
    assert_eq!(ask(&disk, &["info"])["nr_zones"], 8);
    drop(silent);
    disk.finish_clean();
}

#[test]
fn the_log_says_more_when_the_control_socket_asks_for_it() {
    let mut disk = start(1);
    assert_eq!(disk.write(GEO.start(2) + 8, &[0; 4096]), Status::UnalignedWp);
    assert_eq!(ask(&disk, &["log-level", "debug"]), json!({"level": "debug", "schema_version": 1}));
    assert_eq!(disk.write(GEO.start(2) + 16, &[0; 4096]), Status::UnalignedWp);
    let refused = |sector: u64| format!("write at {sector} of 8 sectors: ZONE_UNALIGNED_WP: zone 2 is empty");
    disk.daemon.await_log(&["queue 0", &refused(GEO.start(2) + 16)]);
    assert!(!disk.daemon.log().contains(&refused(GEO.start(2) + 8)));
    assert_eq!(ask(&disk, &["log-level"]), json!({"level": "debug", "schema_version": 1}));
    let control = disk.image.beside_name("control");
    fails(&["ctl", &control, "log-level", "loud"], &["'loud'", "possible values", "debug"]);
    disk.finish_clean();
}

#[test]
fn a_scraper_is_given_the_counts() {
    let mut disk = start(1);
    assert_ok(disk.write(GEO.start(2), &[1; 4096]));
    let mut stream = UnixStream::connect(disk.image.beside("control")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"));
    let label = format!("disk=\"{}\"", disk.image.name());
    for series in [
        format!("vhost_user_zbd_requests_total{{{label},op=\"write\"}} 1"),
        format!("vhost_user_zbd_zones{{{label},state=\"implicit-open\"}} 1"),
        format!("vhost_user_zbd_written_bytes{{{label}}} 4096"),
        format!("vhost_user_zbd_frontend_connected{{{label}}} 1"),
    ] {
        assert!(answer.lines().any(|line| line == series), "{series} is not in:\n{answer}");
        assert!(ctl(&disk, &["metrics"]).lines().any(|line| line == series), "{series}");
    }
    disk.finish_clean();
}

#[test]
fn the_vhost_user_socket_is_named_where_the_control_socket_was_expected() {
    let mut disk = start(1);
    // The daemon looks at its socket again only without a frontend.
    disk.disconnect();
    let socket = disk.image.beside_name("socket");
    for args in [
        &["ctl", &socket, "stats"][..],
        &["top", &socket],
        &["map", "--socket", &socket],
        &["report", "--socket", &socket],
    ] {
        fails(args, &[&socket, "looks like the vhost-user socket", "--control-path"]);
    }
    disk.reconnect();
    disk.finish_clean();
}

#[test]
fn wrong_questions_are_answered_with_what_was_expected() {
    let disk = start(1);
    let control = disk.image.beside_name("control");
    fails(&["ctl", &control, "report", "--first", "8"], &["first is 8", "expected a zone below 8"]);
    fails(&["ctl", &control, "map", "--cells", "0"], &["--cells", "0"]);
    disk.finish_clean();
}

#[test]
fn a_trace_has_every_request_with_its_zone_its_result_and_the_rule_that_it_broke() {
    let mut disk = start(1);
    let at = GEO.start(2);
    assert_ok(disk.write(at, &[1; 4096]));
    let landed = disk.append(at, &[2; 8192]).unwrap();
    assert_eq!(disk.write(at, &[3; 4096]), Status::UnalignedWp);
    assert_ok(disk.flush());
    assert_ok(disk.finish(3));
    let all = disk.image.traced(&[]);
    let fields = |record: &Value| {
        ["kind", "zone", "sector", "sectors", "status", "appended_at", "rule", "expected"]
            .map(|field| record[field].clone())
    };
    let null = Value::Null;
    let expected = [
        [json!("write"), json!(2), json!(at), json!(8), json!("OK"), null.clone(), null.clone(), null.clone()],
        [json!("append"), json!(2), json!(at), json!(16), json!("OK"), json!(landed), null.clone(), null.clone()],
        [
            json!("write"),
            json!(2),
            json!(at),
            json!(8),
            json!("ZONE_UNALIGNED_WP"),
            null.clone(),
            json!("write-pointer"),
            json!(at + 24),
        ],
        [json!("flush"), null.clone(), null.clone(), json!(0), json!("OK"), null.clone(), null.clone(), null.clone()],
        [json!("finish"), json!(3), json!(GEO.start(3)), json!(0), json!("OK"), null.clone(), null.clone(), null],
    ];
    let found: Vec<_> = all.iter().map(fields).collect();
    assert_eq!(found, expected);
    assert_eq!((&all[2]["zone_state"], &all[2]["write_pointer"]), (&json!("implicit-open"), &json!(at + 24)));
    for (filter, count) in [
        (&["--refused"][..], 1),
        (&["--zone", "3"], 1),
        (&["--kind", "write,append"], 3),
        (&["--rule", "write-pointer"], 1),
        (&["--rule", "zone-full"], 0),
        (&["--queue", "1"], 0),
    ] {
        assert_eq!(disk.image.traced(filter).len(), count, "{filter:?}");
    }
    let text = disk.image.trace(&["--refused"]);
    let words = format!("zone 2 sector {at} +8 ZONE_UNALIGNED_WP");
    assert!(
        text.contains(&words)
            && text.contains(&format!(
                "write-pointer, zone implicit-open, write pointer {}, expected {}",
                at + 24,
                at + 24
            )),
        "{text}"
    );
    disk.finish_clean();
}

#[test]
fn a_trace_goes_on_after_a_kill_in_the_middle_of_a_record() {
    let mut disk = start(1);
    assert_ok(disk.flush());
    disk.daemon.kill9();
    let trace = disk.image.beside("trace");
    let mut bytes = fs::read(&trace).unwrap();
    let whole = bytes.len();
    bytes.extend([7; 9]);
    fs::write(&trace, &bytes).unwrap();
    assert_eq!(disk.image.traced(&[]).len(), 1, "part of a record is left out");
    disk.start_again();
    assert_ok(disk.flush());
    assert_eq!(disk.image.traced(&[]).len(), 2);
    assert!(fs::read(&trace).unwrap().len() < whole + 100);
    disk.finish_clean();
}

#[test]
fn a_file_that_is_no_trace_of_this_disk_is_left_as_it_is() {
    let image = Image::create(&SMALL);
    let (name, socket, trace) = (image.name(), image.beside_name("zbd.sock"), image.beside_name("trace"));
    let serve = |trace: &str| ["serve", &name, "--socket-path", &socket, "--trace", trace].map(str::to_owned);
    fs::write(&trace, "dear diary").unwrap();
    fails(&serve(&trace), &["--trace", "not a trace"]);
    assert_eq!(fs::read(&trace).unwrap(), b"dear diary");
    fails(&serve(&name), &["--trace", "not a trace"]);
    fails(&serve("/dev/null"), &["--trace", "not a regular file"]);
    fails(&["trace", &trace], &[&trace, "not a trace"]);
    let other = Image::create(&Geo { size: 2 * SMALL.size, ..SMALL });
    let disk = Setup::new(SMALL).args(&["--trace", &other.beside_name("trace")]).start();
    disk.finish_clean();
    let refused = ["serve", &other.name(), "--socket-path", &socket, "--trace", &other.beside_name("trace")];
    fails(&refused, &["--trace", "of another", "expected"]);
}
