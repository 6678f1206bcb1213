//! `info`, `report` and `check`.

use serde_json::{Value, json};

use crate::common::MIB;
use crate::common::cli::{Geo, Image, SMALL, fails, ok, run};
use crate::common::disk::{Disk, Setup};
use crate::common::model::assert_ok;

const GEO: Geo = Geo { open: 3, active: 5, ..SMALL };

fn written() -> Image {
    let mut disk = Setup::new(GEO).start();
    disk.fill(2, 8192);
    disk.fill(3, GEO.cap);
    disk.fill(4, 4096);
    assert_ok(disk.finish(4));
    assert_ok(disk.finish(5));
    assert_ok(disk.open(6));
    assert_ok(disk.write(0, &[7; 4096]));
    assert!(disk.stop().success());
    let Disk { image, .. } = disk;
    image
}

fn parse(args: &[&str]) -> Value {
    let text = ok(args);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?} prints no JSON: {e}: {text}"))
}

#[test]
fn info_as_json_has_every_field_of_the_extension_by_its_name() {
    let image = Image::create(&GEO);
    let info = parse(&["info", &image.name(), "--json"]);
    let expected = [
        ("virtual_size", 8 * MIB),
        ("cluster_size", 65536),
        ("zoned", 1),
        ("zone_size", MIB),
        ("zone_capacity", 768 << 10),
        ("conventional_zones", 2),
        ("nr_zones", 8),
        ("max_active_zones", 5),
        ("max_open_zones", 3),
        ("max_append_bytes", 65536),
        ("zonedmeta_size", 64),
        ("zonedmeta_offset", image.be64(image.extension() + 40)),
        ("table_offset", image.be64(image.extension() + 40)),
    ];
    for (field, value) in expected {
        assert_eq!(info[field].as_u64(), Some(value), "{field}: {info}");
    }
    assert_eq!(info["table_endian"], "big");
}

#[test]
fn info_as_text_tells_the_same() {
    let image = Image::create(&GEO);
    let text = ok(&["info", &image.name()]);
    for part in [&image.name(), "8 MiB", "1 MiB", "768 KiB", "64 KiB", "host-managed", "big"] {
        assert!(text.contains(part), "info lacks \"{part}\": {text}");
    }
    let table = image.be64(image.extension() + 40);
    assert!(text.contains(&format!("{table:#x}")), "info lacks the table's place: {text}");
}

#[test]
fn report_as_json_has_each_zone_in_bytes() {
    let image = written();
    let report = parse(&["report", &image.name(), "--json"]);
    let zone = |index: u64, state: &str, pointer: u64| {
        let conventional = index < 2;
        json!({
            "index": index,
            "type": if conventional { "conventional" } else { "seq-write-required" },
            "state": state,
            "start": index * MIB,
            "length": MIB,
            "capacity": if conventional { MIB } else { GEO.cap },
            "write_pointer": pointer,
        })
    };
    let zones = report["zones"].as_array().unwrap();
    assert_eq!(zones.len(), 8);
    let expected = [(2, "closed", 2 * MIB + 8192), (6, "empty", 6 * MIB), (7, "empty", 7 * MIB)];
    for (index, state, pointer) in expected {
        assert_eq!(zones[index as usize], zone(index, state, pointer));
    }
    // A conventional or full zone has no valid pointer; all else is said of it.
    for (index, state) in [(0, "not-wp"), (1, "not-wp"), (3, "full"), (4, "full"), (5, "full")] {
        let found = &zones[index as usize];
        let pointer = found["write_pointer"].as_u64().unwrap_or_else(|| panic!("a number in {found}"));
        assert_eq!(*found, zone(index, state, pointer));
    }
}

#[test]
fn report_as_text_is_what_blkzone_prints() {
    let image = written();
    let text = ok(&["report", &image.name()]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 8, "{text}");
    let line = |start: u64, cap: u64, wptr: u64, zcond: &str, kind: &str| {
        format!(
            "  start: 0x{start:09x}, len 0x000800, cap 0x{cap:06x}, wptr 0x{wptr:06x} reset:0 non-seq:0, \
             zcond:{zcond} [type: {kind}]"
        )
    };
    assert_eq!(lines[2], line(0x1000, 0x600, 0x10, " 4(cl)", "2(SEQ_WRITE_REQUIRED)"));
    assert_eq!(lines[7], line(0x3800, 0x600, 0, " 1(em)", "2(SEQ_WRITE_REQUIRED)"));
    for (at, zcond, kind) in [(0, " 0(nw)", "1(CONVENTIONAL)"), (3, "14(fu)", "2(SEQ_WRITE_REQUIRED)")] {
        assert!(lines[at].contains(&format!("zcond:{zcond} [type: {kind}]")), "{}", lines[at]);
    }
}

#[test]
fn report_lists_the_part_that_is_asked_for() {
    let image = written();
    let name = image.name();
    let indices = |args: &[&str]| -> Vec<u64> {
        let report = parse(&[&["report", &name, "--json"], args].concat());
        report["zones"].as_array().unwrap().iter().map(|zone| zone["index"].as_u64().unwrap()).collect()
    };
    assert_eq!(indices(&["--offset", "3M"]), [3, 4, 5, 6, 7]);
    assert_eq!(indices(&["--offset", "3145727", "--count", "2"]), [2, 3]);
    assert_eq!(indices(&["--offset", "8388607", "--count", "100"]), [7]);
    assert_eq!(indices(&["--count", "1"]), [0]);
    assert_eq!(indices(&["--count", "0"]), [0; 0]);
    fails(&["report", &name, "--offset", "8M"], &[&name, "8388608"]);
    // By sectors, with blkzone's options and as its reports have them; a zone has 0x800.
    assert_eq!(indices(&["-o", "0x1800"]), [3, 4, 5, 6, 7]);
    assert_eq!(indices(&["-o", "6144", "-c", "2"]), [3, 4]);
    assert_eq!(indices(&["--sector", "6143", "--count", "1"]), [2]);
    assert_eq!(indices(&["-l", "0x1000"]), [0, 1]);
    assert_eq!(indices(&["-o", "0x800", "-l", "0x801"]), [1, 2]);
    assert_eq!(indices(&["-o", "2K", "-l", "2K"]), [1]);
    assert_eq!(indices(&["-o", "0x3800", "-l", "1M"]), [7]);
    assert_eq!(indices(&["-l", "0"]), [0; 0]);
    fails(&["report", &name, "-o", "0x4000"], &[&name, "8388608"]);
    fails(&["report", &name, "-o", "0xg"], &["--sector", "'0xg'", "hexadecimal"]);
    fails(&["report", &name, "-o", "0xffffffffffffffff"], &["--sector", "too large"]);
    fails(&["report", &name, "-o", "0", "--offset", "0"], &["--sector", "--offset"]);
    fails(&["report", &name, "-l", "1", "-c", "1"], &["--length", "--count"]);
    assert_eq!(ok(&["report", &name, "--offset", "7M"]).lines().count(), 1);
}

/// The file offset of the refcount of a cluster.
fn refcount_place(image: &Image, cluster: u64) -> u64 {
    let block = image.be64(image.be64(48));
    block + 2 * cluster
}

#[test]
fn check_returns_0_for_a_clean_image() {
    for image in [Image::create(&GEO), written()] {
        let run = run(&["check", &image.name()]);
        assert_eq!(run.status.code(), Some(0), "{run:?}");
        assert!(!run.stdout.is_empty());
        let report = parse(&["check", &image.name(), "--json"]);
        assert_eq!((report["errors"].as_u64(), report["leaks"].as_u64()), (Some(0), Some(0)), "{report}");
    }
}

#[test]
fn check_returns_3_for_leaks_and_changes_nothing() {
    let image = written();
    // The file gets two more clusters, which are counted and used by nobody.
    let clusters = std::fs::metadata(image.path()).unwrap().len().div_ceil(65536);
    std::fs::File::options().write(true).open(image.path()).unwrap().set_len((clusters + 2) * 65536).unwrap();
    for cluster in [clusters, clusters + 1] {
        image.patch(refcount_place(&image, cluster), &[0, 1]);
    }
    let before = std::fs::read(image.path()).unwrap();
    let run = run(&["check", &image.name()]);
    assert_eq!(run.status.code(), Some(3), "{run:?}");
    let json = crate::common::cli::run(&["check", &image.name(), "--json"]);
    assert_eq!(json.status.code(), Some(3));
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((report["errors"].as_u64(), report["leaks"].as_u64()), (Some(0), Some(2)), "{report}");
    assert!(std::fs::read(image.path()).unwrap() == before, "check has changed the image");
}

#[test]
fn check_returns_2_for_errors_and_changes_nothing() {
    let image = written();
    // The first L2 table is counted by nobody.
    let l1 = image.be64(40);
    let l2 = (0..).map(|at| image.be64(l1 + 8 * at)).find(|entry| *entry != 0).unwrap() & 0x00ff_ffff_ffff_fe00;
    image.patch(refcount_place(&image, l2 / 65536), &[0, 0]);
    let before = std::fs::read(image.path()).unwrap();
    for args in [&["check", &image.name()][..], &["check", &image.name(), "--json"]] {
        let run = run(args);
        assert_eq!(run.status.code(), Some(2), "{run:?}");
        assert!(run.stdout.contains(&format!("{l2:#x}")) || run.stdout.contains(&l2.to_string()), "{run:?}");
    }
    assert!(std::fs::read(image.path()).unwrap() == before, "check has changed the image");
}

#[test]
fn check_returns_1_where_it_could_not_check() {
    let image = Image::absent();
    for args in [&["check", &image.name()][..], &["check", &image.name(), "--json"]] {
        let run = fails(args, &[&image.name(), "No such file"]);
        assert_eq!(run.status.code(), Some(1));
    }
}
