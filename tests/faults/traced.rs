//! The trace says by its name which rule has refused a request.

use serde_json::{Value, json};

use crate::common::cli::Image;
use crate::common::disk::Setup;
use crate::common::request::{Req, Status};
use crate::rig::{GEO, Rig, at, status, write};

/// A disk with a trace.
fn start(queues: u32) -> Rig {
    let image = Image::create(&GEO);
    let trace = image.beside_name("trace");
    Rig::start_on(Setup::new(GEO).queues(queues).args(&["--trace", &trace]), image)
}

/// The field of each line.
fn column(lines: &[Value], field: &str) -> Vec<Value> {
    lines.iter().map(|line| line[field].clone()).collect()
}

#[test]
fn a_request_that_a_rule_refuses_is_traced_with_the_rules_name() {
    let mut rig = start(1);
    // As long as names are, with a character where one record of the trace ends.
    let long = format!("{}\u{1f4a5}{}", "n".repeat(40), "m".repeat(20));
    assert_eq!(long.len(), 64);
    rig.add("my rule", "on write do error=unsupp");
    rig.add(&long, "on append do error=ioerr landed=1");
    rig.add("flushes", "on flush count 1 do error=ioerr");
    rig.add("bad", "on read zone 4 do unreadable");
    let sector = at(3, 0);
    for (req, expected) in [
        (write(3, 0, 1, 1), Status::Unsupp),
        (Req::append(sector, vec![1; 8192]), Status::IoErr),
        (Req::read(at(4, 0), 4096), Status::IoErr),
        (Req::flush(), Status::IoErr),
        (Req::flush(), Status::Ok),
        (write(3, 0, 1, 1), Status::Unsupp),
        (Req::append(sector + 8, vec![1; 4096]), Status::InvalidCmd),
    ] {
        assert_eq!(status(&mut rig, &req), expected, "{req:?}");
    }
    let null = Value::Null;
    let names =
        [json!("my rule"), json!(long), json!("bad"), json!("flushes"), null.clone(), json!("my rule"), null.clone()];
    let all = rig.disk.image.traced(&[]);
    assert_eq!(column(&all, "fault"), names, "{all:?}");
    let fault = json!("fault");
    let rules = [&fault, &fault, &fault, &fault, &null, &fault, &json!("zone-start")].map(Clone::clone);
    assert_eq!(column(&all, "rule"), rules);
    let told = rig.disk.image.traced(&["--kind", "fault-rule"]);
    assert_eq!(column(&told, "fault"), names[..4], "each once: {told:?}");
    for (filter, count) in [
        (&["--rule", "fault"][..], 5),
        (&["--refused"], 6),
        (&["--kind", "write,fault-rule"], 2 + 4),
        (&["--kind", "fault-rule", "--refused"], 0),
        (&["--kind", "flush", "--rule", "fault"], 1),
    ] {
        assert_eq!(rig.disk.image.traced(filter).len(), count, "{filter:?}");
    }
    let text = rig.disk.image.trace(&[]);
    for said in [
        format!(" us: fault my rule, zone empty, write pointer {sector}\n"),
        format!(" us: fault {long}, zone implicit-open, write pointer {}\n", sector + 8),
        " us: fault flushes\n".to_owned(),
    ] {
        assert!(text.contains(&said), "{said}: {text}");
    }
    let number = told[0]["number"].as_u64().unwrap();
    let text = rig.disk.image.trace(&["--kind", "fault-rule"]);
    assert!(text.lines().next().unwrap().ends_with(&format!(" rule {number} for faults is my rule")), "{text}");
    rig.clear_all();
    rig.disk.finish_clean();
}

#[test]
fn a_number_that_another_rule_has_got_is_traced_with_the_name_of_its_time() {
    let mut rig = start(1);
    let names = ["one", "two", "three"];
    for name in names {
        rig.add(name, "on flush do error=ioerr");
        for _ in 0..2 {
            assert_eq!(status(&mut rig, &Req::flush()), Status::IoErr);
        }
        rig.clear(name);
        rig.disk.daemon.kill9();
        rig.disk.start_again();
        rig.connect_control();
    }
    let told = rig.disk.image.traced(&["--kind", "fault-rule"]);
    assert_eq!(column(&told, "fault"), names);
    assert_eq!(column(&told, "number"), [1, 1, 1], "the case that this is about");
    let all = rig.disk.image.traced(&["--kind", "flush"]);
    assert_eq!(column(&all, "fault"), ["one", "one", "two", "two", "three", "three"]);
    rig.disk.finish_clean();
}

#[test]
fn all_queues_name_the_rule_that_refuses_their_requests() {
    let mut rig = start(4);
    rig.add("busy", "on read do error=ioerr");
    let read = Req::read(at(3, 0), 4096);
    let tokens: Vec<_> = (0..64).map(|n| rig.disk.submit(n % 4, &read)).collect();
    for token in tokens {
        assert_eq!(rig.disk.wait(token).status, Status::IoErr);
    }
    let all = rig.disk.image.traced(&[]);
    assert_eq!(all.len(), 64);
    assert!(all.iter().all(|line| line["fault"] == "busy"), "{all:?}");
    assert_eq!(rig.disk.image.traced(&["--kind", "fault-rule"]).len(), 1);
    rig.disk.finish_clean();
}
