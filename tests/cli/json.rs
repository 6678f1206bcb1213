//! Every JSON output has the fields that docs/json.md has, with the types it says, and that page has no other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::common::cli::{Geo, Image, SMALL, run};
use crate::common::disk::{Disk, Setup};
use crate::common::model::assert_ok;
use crate::common::request::Status;

const GEO: Geo = Geo { open: 3, active: 5, ..SMALL };

/// Fields of the answer to a cut that has not come.
const NO_CUT: [&str; 3] = ["armed", "at", "called_off"];

/// The fields of one output: the types of each, by its path.
type Fields = BTreeMap<String, Vec<String>>;

/// The tables of the page, by their headings.
fn documented() -> BTreeMap<String, Fields> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md");
    let mut tables: BTreeMap<String, Fields> = BTreeMap::new();
    let mut heading = String::new();
    for line in std::fs::read_to_string(page).expect("docs/json.md").lines() {
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut heading);
        } else if let Some((path, rest)) = line.strip_prefix("| `").and_then(|row| row.split_once("` | ")) {
            let types = rest.split(" |").next().unwrap_or_default();
            let types = types.split(" or ").map(str::to_owned).collect();
            tables.entry(heading.clone()).or_default().insert(path.to_owned(), types);
        }
    }
    tables
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Compares a value with what is documented of it and notes which fields it has had.
fn look(path: &str, value: &Value, fields: &Fields, seen: &mut BTreeSet<String>) {
    if !path.is_empty() {
        let types = fields.get(path).unwrap_or_else(|| panic!("{path} is not documented: {value}"));
        let fits = types.iter().any(|one| one == type_of(value));
        assert!(fits, "{path} is documented as {types:?}: {value}");
        seen.insert(path.to_owned());
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| {
            let below = format!("{path}[]");
            // Elements that are objects have no row of their own.
            if item.is_object() { members(&below, item, fields, seen) } else { look(&below, item, fields, seen) }
        }),
        Value::Object(_) => members(path, value, fields, seen),
        _ => {}
    }
}

fn members(path: &str, object: &Value, fields: &Fields, seen: &mut BTreeSet<String>) {
    for (name, value) in object.as_object().expect("an object") {
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let any = below("*");
        look(&if fields.contains_key(&any) { any } else { below(name) }, value, fields, seen);
    }
}

/// Orders whose answer says no more than that they were carried out.
const DONE: &str =
    "ctl flush, ctl mark, ctl fault add, ctl fault clear, ctl fault release, ctl snapshot drop, ctl quit";

/// Rules with every word there is.
const RULES: [&str; 5] = [
    "a --on read --zone 3-4 --sectors 3-4 --queue 0 --nth 7 --count 1 --after mark:m --do hang",
    "b --on read --every 3 --do corrupt=zero",
    "c --on write --prob 0 --seed 4 --do error=ioerr landed=half",
    "d --on read --sectors 0-99 --do unreadable",
    "e --on flush --count 1 --do error=ioerr",
];

/// What a command prints as JSON, whatever it finds.
fn printed(args: &[&str]) -> Value {
    let run = run(&[args, &["--json"]].concat());
    let failure = if ["diff", "explore"].contains(&args[0]) { 2 } else { 1 };
    assert!(run.status.code() != Some(failure), "{args:?}: {run:?}");
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {run:?}"))
}

/// An image with a leak, a cluster that is not counted, and a write pointer beyond its zone.
fn damaged() -> Image {
    let mut disk = Setup::new(GEO).start();
    disk.fill(2, 4096);
    disk.daemon.kill9();
    let Disk { image, .. } = disk;
    let place = image.be64(image.be64(48));
    image.patch(place + 2, &[0, 0]);
    image
}

fn with_a_bad_pointer() -> Image {
    let image = Image::create(&GEO);
    let table = image.be64(image.extension() + 40);
    image.patch(table + 8 * 3, &(GEO.start(3) * 512 + 7).to_be_bytes());
    image
}

/// The outputs by the headings of the page; what comes in several shapes is there several times.
fn outputs() -> Vec<(&'static str, Value)> {
    let image = Image::create(&GEO);
    let [control, trace, record] = ["control", "trace", "record"].map(|name| image.beside_name(name));
    let args = ["--control-path", &control, "--trace", &trace, "--volatile-cache", "--record", &record];
    let (base, made) = (image.beside_name("base"), image.beside_name("made"));
    std::fs::copy(image.path(), &base).expect("a copy of the image");
    let mut disk = Setup::new(GEO).args(&args).start_on(image);
    disk.fill(2, 8192);
    assert_eq!(disk.write(GEO.start(2), &[1; 4096]), Status::UnalignedWp);
    disk.append(GEO.start(3), &[4; 4096]).expect("an append");
    assert_ok(disk.flush());
    disk.append(GEO.start(3), &[5; 4096]).expect("an append");
    assert_ok(disk.write(0, &[6; 4096]));
    let mut outputs: Vec<_> = ["info", "report", "stats", "map", "log-level", "metrics", "flush"]
        .map(|order| {
            let heading = match order {
                "info" => "ctl info",
                "stats" => "ctl stats",
                "log-level" => "ctl log-level",
                "metrics" => "ctl metrics",
                "flush" => DONE,
                same => same,
            };
            (heading, printed(&["ctl", &control, order]))
        })
        .into();
    outputs.push(("map", printed(&["map", "--socket", &control])));
    outputs.push(("report", printed(&["report", "--socket", &control])));
    outputs.push(("ctl power-cut", printed(&["ctl", &control, "power-cut", "at=mark:never"])));
    outputs.push(("ctl info", printed(&["ctl", &control, "info"])));
    outputs.push(("map", printed(&["ctl", &control, "map"])));
    outputs.push((DONE, printed(&["ctl", &control, "mark", "other"])));
    outputs.push((DONE, printed(&["ctl", &control, "fault", "add", "z", "--zone", "5", "--do", "zone-state=offline"])));
    for rule in RULES {
        let words: Vec<&str> = rule.split_whitespace().collect();
        outputs.push((DONE, printed(&[&["ctl", control.as_str(), "fault", "add"], words.as_slice()].concat())));
    }
    assert_ok(disk.write(64, &[7; 4096]));
    assert_eq!(disk.flush(), Status::IoErr);
    outputs.push(("ctl fault list", printed(&["ctl", &control, "fault", "list"])));
    outputs.push((DONE, printed(&["ctl", &control, "fault", "release", "a"])));
    outputs.push((DONE, printed(&["ctl", &control, "fault", "clear", "--all"])));
    outputs.push(("ctl snapshot save", printed(&["ctl", &control, "snapshot", "save", "a"])));
    outputs.push(("ctl snapshot list", printed(&["ctl", &control, "snapshot", "list"])));
    for _ in 0..2 {
        // The second time nothing waits.
        outputs.push(("ctl power-cut", printed(&["ctl", &control, "power-cut", "at=never"])));
    }
    assert_ok(disk.write(0, &[7; 4096]));
    disk.fill(4, 8192);
    outputs.push((DONE, printed(&["ctl", &control, "mark", "late"])));
    outputs.push(("ctl power-cut", printed(&["ctl", &control, "power-cut", "lose=nothing"])));
    outputs.push(("ctl info", printed(&["ctl", &control, "info"])));
    outputs.push(("ctl snapshot save", printed(&["ctl", &control, "snapshot", "revert", "a"])));
    outputs.push((DONE, printed(&["ctl", &control, "snapshot", "drop", "a"])));
    disk.front().reset_device().expect("the power is back");
    for args in [&[][..], &["--kind", "fault-rule"]] {
        let traced = run(&[&["trace", &trace, "--json"], args].concat()).stdout;
        outputs.extend(traced.lines().map(|line| ("trace", serde_json::from_str(line).expect("a line of JSON"))));
    }
    outputs.push((DONE, printed(&["ctl", &control, "quit"])));
    let name = disk.image.name();
    assert!(disk.daemon.wait().success());
    outputs.push(("replay --list", printed(&["replay", &record, "--list"])));
    let lossy = ["replay", &record, "--base", &base, "--to", "mark:late", "-o", &made, "lose=nothing"];
    outputs.push(("replay --to", printed(&lossy)));
    let report = format!("{base}.report");
    let explored = ["explore", &record, "--base", &base, "--check", "false", "--minimise", "--report", &report];
    outputs.push(("explore", printed(&explored)));
    outputs.push(("explore", printed(&explored[..6])));
    outputs.push(("info", printed(&["info", &name])));
    outputs.push(("report", printed(&["report", &name])));
    outputs.push(("map", printed(&["map", &name])));
    outputs.push(("check", printed(&["check", &name])));
    let other = Image::create(&Geo { size: GEO.size * 2, ..GEO });
    outputs.push(("diff", printed(&["diff", &name, &other.name()])));
    let damaged = damaged();
    outputs.push(("check", printed(&["check", &damaged.name()])));
    outputs.push(("check --repair", printed(&["check", &damaged.name(), "--repair"])));
    outputs.push(("check --repair", printed(&["check", &with_a_bad_pointer().name(), "--repair"])));
    outputs.push(("check --repair", printed(&["check", &with_a_bad_pointer().name(), "--repair=pointers"])));
    outputs
}

#[test]
fn every_json_output_has_the_documented_fields_and_a_version() {
    let mut tables = documented();
    let check = tables["check"].clone();
    tables.get_mut("check --repair").expect("a table").extend(check);
    // What a cut leaves of a replayed disk is told as that of a served one.
    let left =
        tables["ctl power-cut"].clone().into_iter().filter(|(path, _)| !NO_CUT.contains(&path.as_str())).collect();
    tables.insert("replay --to".to_owned(), left);
    // What the last cut has left is told as the cut has told it.
    let left = tables["ctl power-cut"].clone().into_iter().filter(|(path, _)| !NO_CUT.contains(&path.as_str()));
    let left: Fields = left.map(|(path, types)| (format!("power.last_cut.{path}"), types)).collect();
    tables.get_mut("ctl info").expect("a table").extend(left);
    let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (heading, value) in &outputs() {
        let fields = tables.get(*heading).unwrap_or_else(|| panic!("no table for {heading}"));
        assert_eq!(value["schema_version"], 1, "{heading}: {value}");
        look("", value, fields, seen.entry(*heading).or_default());
    }
    let check = seen["check"].clone();
    seen.get_mut("check --repair").expect("a repair").extend(check);
    for (heading, fields) in &tables {
        let seen = seen.get(heading.as_str()).unwrap_or_else(|| panic!("nothing prints {heading}"));
        let missing: Vec<_> = fields.keys().filter(|path| !seen.contains(*path)).collect();
        assert!(missing.is_empty(), "{heading}: documented and not there: {missing:?}");
    }
}
