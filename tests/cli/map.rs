//! `map`: the zones drawn as text, as pictures, and as JSON.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::MIB;
use crate::common::cli::{Geo, Image, SMALL, assert_refusal, fails, ok, program, run, run_command};
use crate::common::disk::{Disk, Setup};
use crate::common::model::assert_ok;

const GEO: Geo = Geo { open: 3, active: 5, ..SMALL };

/// Two conventional zones, one that is closed, two that are full, three that are empty.
fn written() -> Image {
    let mut disk = Setup::new(GEO).start();
    disk.fill(2, 400 << 10);
    disk.fill(3, GEO.cap);
    assert_ok(disk.finish(4));
    assert_ok(disk.open(5));
    assert!(disk.stop().success());
    let Disk { image, .. } = disk;
    image
}

#[test]
fn the_map_of_an_image_is_text_where_there_is_no_terminal() {
    let image = written();
    let expected = format!(
        "{}\n\
         8 MiB: 8 zones of 1 MiB, 768 KiB of each writable, 2 conventional\n\
         written 1.89 MiB of 4.5 MiB (42.0 %), open 0 of 3, active 1 of 5\n\
         \n\
         0  ==5##...\n\
         \n\
         = conventional 2   # full 2   0-9 closed 1   . empty 3\n\
         letters and digits go by tenths written: a, A and 0 are less than one\n",
        image.name()
    );
    assert_eq!(ok(&["map", &image.name()]), expected);
}

#[test]
fn text_is_as_wide_as_columns_says_and_has_no_colours() {
    let image = Image::create(&Geo { size: 64 * MIB, conv: 0, ..SMALL });
    for (columns, zones) in [("20", 16), ("40", 32), ("80", 64), ("nonsense", 64)] {
        let mut command = Command::new(program());
        command.args(["map", &image.name()]).env("COLUMNS", columns);
        command.env("TERM", "xterm-256color").env("COLORTERM", "truecolor");
        let run = run_command(&mut command);
        let row = run.stdout.lines().nth(4).unwrap_or_else(|| panic!("{run:?}"));
        assert_eq!(row.matches('.').count(), zones, "{columns} columns: {run:?}");
        assert!(!run.stdout.contains('\x1b'), "{run:?}");
    }
}

#[test]
fn the_map_of_a_served_image_is_drawn_and_says_so() {
    let mut disk = Setup::new(GEO).start();
    disk.fill(2, GEO.cap);
    let run = run(&["map", &disk.image.name()]);
    assert!(run.status.success(), "{run:?}");
    assert!(run.stdout.contains("\n0  ==#.....\n"), "{run:?}");
    assert!(run.stderr.contains("being served"), "{run:?}");
}

#[test]
fn the_map_of_a_running_daemon_shows_what_is_open() {
    let image = Image::create(&GEO);
    let control = image.beside_name("control");
    let mut disk = Setup::new(GEO).args(&["--control-path", &control]).start_on(image);
    disk.fill(2, 400 << 10);
    disk.fill(3, GEO.cap);
    assert_ok(disk.open(4));
    let text = ok(&["map", "--socket", &control]);
    assert!(text.starts_with(&format!("{}\n8 MiB: 8 zones of 1 MiB", disk.image.name())), "{text}");
    assert!(text.contains("open 2 of 3, active 2 of 5\n\n0  ==f#A...\n"), "{text}");
    assert_eq!(ok(&["ctl", &control, "map"]), text, "ctl draws as map does");
    let cells = ["--cells", "4", "--json"];
    assert_eq!(
        ok(&[&["ctl", &control, "map"], &cells[..]].concat()),
        ok(&[&["map", "--socket", &control], &cells[..]].concat())
    );
    let json: Value = serde_json::from_str(&ok(&["map", "--socket", &control, "--json", "--cells", "1"])).unwrap();
    assert_eq!(json["totals"]["states"]["explicit-open"], 1);
    assert!(ok(&["map", "--socket", &control, "--svg", "-"]).contains("zone 4: explicitly open"));
    assert!(disk.stop().success());
    fails(&["map", "--socket", &control], &[&control, "no daemon"]);
    fails(&["map", &disk.image.name(), "--socket", &control], &["--socket"]);
}

#[test]
fn as_json_it_has_cells_and_totals() {
    let image = written();
    let map = |cells: &str| -> Value {
        let text = ok(&["map", &image.name(), "--json", "--cells", cells]);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    };
    let (capacity, closed) = (GEO.cap, 400 << 10);
    let totals = json!({
        "states": {"not-wp": 2, "empty": 3, "closed": 1, "full": 2},
        "written": 2 * capacity + closed,
        "capacity": 6 * capacity,
    });
    let expected = json!({
        "schema_version": 1,
        "zones": 8,
        "cells": [
            {"first": 0, "zones": 4, "states": {"not-wp": 2, "closed": 1, "full": 1}, "written": capacity + closed,
                "capacity": 2 * capacity},
            {"first": 4, "zones": 4, "states": {"full": 1, "empty": 3}, "written": capacity, "capacity": 4 * capacity},
        ],
        "totals": totals,
    });
    assert_eq!(map("2"), expected);
    assert_eq!(map("1000")["cells"].as_array().map(Vec::len), Some(8));
    assert_eq!(map("1")["totals"], totals);
}

#[test]
fn pictures_go_to_files_and_to_standard_output() {
    let image = written();
    let (svg, html) = (image.beside_name("map.svg"), image.beside_name("map.html"));
    assert_eq!(ok(&["map", &image.name(), "--svg", &svg, "--html", &html]), "");
    let (svg_text, html_text) = (fs::read_to_string(&svg).unwrap(), fs::read_to_string(&html).unwrap());
    assert!(svg_text.starts_with("<svg ") && svg_text.ends_with("</svg>\n"), "{svg_text}");
    assert!(html_text.starts_with("<!DOCTYPE html>") && html_text.ends_with("</html>\n"), "{html_text}");
    for text in [&svg_text, &html_text] {
        for part in [&image.name(), "8 zones of 1 MiB", "zone 2: closed; written 400 KiB of 768 KiB (52.1 %)", "full 2"]
        {
            assert!(text.contains(part), "no \"{part}\" in {text}");
        }
        for outside in ["href", "src=", "url(", "@import"] {
            assert!(!text.contains(outside), "the picture needs another file: {text}");
        }
    }
    assert_eq!(ok(&["map", &image.name(), "--svg", "-"]), svg_text);
    assert_eq!(ok(&["map", &image.name(), "--html", "-"]), html_text);
    fs::write(&svg, "the picture of yesterday, which was longer than nothing").unwrap();
    ok(&["map", &image.name(), "--svg", &svg]);
    assert_eq!(fs::read_to_string(&svg).unwrap(), svg_text);
}

#[test]
fn a_picture_never_overwrites_an_image() {
    let (image, other) = (written(), Image::create(&SMALL));
    for out in [&image, &other] {
        let before = fs::read(out.path()).unwrap();
        for format in ["--svg", "--html"] {
            fails(&["map", &image.name(), format, &out.name()], &[&out.name(), "image", "another name"]);
        }
        assert!(fs::read(out.path()).unwrap() == before, "the image was changed");
    }
}

#[test]
fn a_name_with_special_characters_is_escaped() {
    let image = Image::create(&SMALL);
    let odd = image.beside_name("<b>&\"'\u{1b}[31m.qcow2");
    fs::copy(image.path(), &odd).unwrap();
    for format in ["--svg", "--html"] {
        let text = ok(&["map", &odd, format, "-"]);
        assert!(text.contains("&lt;b&gt;&amp;&quot;&#39;\u{fffd}[31m.qcow2"), "{text}");
        assert!(!text.contains("<b>") && !text.contains('\u{1b}'), "{text}");
    }
    assert!(!ok(&["map", &odd]).contains('\u{1b}'));
}

#[test]
fn what_cannot_be_drawn_or_written_is_one_line() {
    let image = Image::create(&SMALL);
    let name = image.name();
    fails(&["map", &Image::absent().name()], &["cannot be opened"]);
    fails(&["map", &name, "--cells", "0"], &["--cells", "0"]);
    fails(&["map", &name, "--cells", "many"], &["--cells", "many"]);
    fails(&["map", &name, "--svg", &image.beside_name("no/such/folder.svg")], &["folder.svg", "No such file"]);
    for both in [&["--svg", "-", "--json"][..], &["--html", "-", "--svg", "-"], &["--json", "--html", "-"]] {
        fails(&[&["map", &name], both].concat(), &["one standard output"]);
    }
    assert_refusal(&run(&["map"]), &["FILE"], "map without a file");
    fs::write(image.beside("text"), "no image").unwrap();
    fails(&["map", &image.beside_name("text")], &["text"]);
}
