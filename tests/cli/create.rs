//! `create`.

use std::path::Path;

use crate::common::MIB;
use crate::common::cli::{Image, SMALL, fails, ok, run, tool};

fn info(image: &Image) -> serde_json::Value {
    serde_json::from_str(&ok(&["info", &image.name(), "--json"])).expect("info --json is not JSON")
}

#[track_caller]
fn assert_info(image: &Image, expected: &[(&str, u64)]) {
    let info = info(image);
    for (field, value) in expected {
        assert_eq!(info[*field].as_u64(), Some(*value), "{field} in {info}");
    }
}

#[test]
fn qemu_img_s_own_line_works_with_only_the_program_s_name_changed() {
    let image = Image::absent();
    let line = "create -f qcow2 FILE -o size=768M -o zone.size=64M -o zone.capacity=64M -o zone.conventional_zones=0 \
                -o zone.max_append_bytes=4096 -o zone.max_open_zones=6 -o zone.max_active_zones=8 \
                -o zone.mode=host-managed";
    let name = image.name();
    let args: Vec<&str> = line.split_whitespace().map(|arg| if arg == "FILE" { &name } else { arg }).collect();
    ok(&args);
    assert_info(
        &image,
        &[
            ("virtual_size", 768 * MIB),
            ("zoned", 1),
            ("zone_size", 64 * MIB),
            ("zone_capacity", 64 * MIB),
            ("conventional_zones", 0),
            ("nr_zones", 12),
            ("max_append_bytes", 4096),
            ("max_open_zones", 6),
            ("max_active_zones", 8),
            ("zonedmeta_size", 96),
            ("cluster_size", 65536),
        ],
    );
    image.assert_clean();
    image.assert_qemu_agrees(1);
}

#[test]
fn options_of_both_kinds_say_the_same() {
    let both = [
        &["--zone-size", "4M", "--zone-capacity", "3M", "--conventional-zones", "2", "--max-open-zones", "6"][..],
        &["-o", "zone.size=4M,zone.capacity=3M,zone.conventional_zones=2,zone.max_open_zones=6"],
        &["-o", "zone.size=4M", "-o", "zone.capacity=3M,zone.conventional-zones=2", "-o", "zone.max-open-zones=6"],
        &["--zone-size", "4194304", "-o", "zone.capacity=3072k", "--conventional-zones", "2", "--max-open-zones", "6"],
    ];
    let rest = [
        &["--max-active-zones", "8", "--max-append-bytes", "128K", "--cluster-size", "32K"][..],
        &["-o", "zone.max_active_zones=8,zone.max_append_bytes=131072,cluster_size=32k"],
    ];
    for first in both {
        for second in rest {
            for size in [&["96M"][..], &["-o", "size=96M"], &["100663296"], &["-f", "qcow2", "98304K"]] {
                let image = Image::create_with(&[size, first, second].concat());
                assert_info(
                    &image,
                    &[
                        ("virtual_size", 96 * MIB),
                        ("zone_size", 4 * MIB),
                        ("zone_capacity", 3 * MIB),
                        ("conventional_zones", 2),
                        ("nr_zones", 24),
                        ("max_open_zones", 6),
                        ("max_active_zones", 8),
                        ("max_append_bytes", 131_072),
                        ("cluster_size", 32768),
                    ],
                );
            }
        }
    }
}

#[test]
fn the_options_may_stand_before_the_file() {
    let image = Image::absent();
    ok(&["create", "-o", "zone.size=1M", "--zone-capacity", "512K", &image.name(), "8M"]);
    assert_info(&image, &[("zone_capacity", 512 << 10), ("nr_zones", 8)]);
}

#[test]
fn what_is_not_said_has_defaults_that_work() {
    let image = Image::create_with(&["1G", "--zone-size", "64M"]);
    assert_info(
        &image,
        &[
            ("zone_capacity", 64 * MIB),
            ("conventional_zones", 0),
            ("max_open_zones", 0),
            ("max_active_zones", 0),
            ("cluster_size", 65536),
        ],
    );
    let info = info(&image);
    assert!(info["max_append_bytes"].as_u64().unwrap() >= 4096, "Linux refuses a device without appends: {info}");
    assert_eq!(info["table_endian"], "big");
    // Only the active limit given: the open limit is the same.
    let image = Image::create_with(&["1G", "--zone-size", "64M", "--max-active-zones", "8"]);
    assert_info(&image, &[("max_active_zones", 8), ("max_open_zones", 8)]);
}

#[test]
fn the_table_is_written_in_the_byte_order_asked_for() {
    for (endian, decode) in [("big", u64::from_be_bytes as fn([u8; 8]) -> u64), ("little", u64::from_le_bytes)] {
        let image =
            Image::create_with(&["8M", "--zone-size", "1M", "--conventional-zones", "2", "--table-endian", endian]);
        let info = info(&image);
        assert_eq!(info["table_endian"], endian);
        let table = image.be64(image.extension() + 40);
        assert_eq!(info["table_offset"].as_u64(), Some(table));
        for zone in 0..8 {
            let entry = decode(image.bytes(table + 8 * zone, 8).try_into().unwrap());
            let flag = if zone < 2 { 1 << 59 } else { 0 };
            assert_eq!(entry, (zone * MIB) | flag, "entry {zone} of a {endian}-endian table");
        }
    }
}

#[test]
fn the_header_is_that_of_the_format() {
    let image = Image::create(&SMALL);
    assert_eq!((image.be32(0), image.be32(4)), (0x5146_49fb, 3), "magic and version");
    assert_eq!(image.be64(72), 0x20, "incompatible features");
    let extension = image.extension();
    assert_eq!(image.be32(extension - 4), 48, "length of the extension");
    assert_eq!(image.bytes(extension, 4), [1, 0, 0, 0]);
    let fields: Vec<u32> = (1..8).map(|at| image.be32(extension + 4 * at)).collect();
    assert_eq!(fields, [1 << 20, 768 << 10, 2, 8, 0, 0, 64 << 10]);
    assert_eq!(image.be64(extension + 32), 64, "zonedmeta_size");
    let run = tool("qemu-img", &["check", &image.name()]);
    assert!(!run.status.success() && run.stderr.contains("zoned format"), "{run:?}");
}

#[test]
fn limits_that_cannot_be_reached_are_lowered_with_a_warning() {
    let image = Image::absent();
    let line = ["create", &image.name(), "8M", "--zone-size", "1M", "--max-open-zones", "6", "--max-active-zones", "4"];
    let run = run(&line);
    assert!(run.status.success(), "{run:?}");
    assert!(run.stderr.contains("max_open_zones 6") && run.stderr.contains('4'), "{run:?}");
}

#[test]
fn an_existing_file_is_not_overwritten() {
    let image = Image::create(&SMALL);
    let before = std::fs::read(image.path()).unwrap();
    fails(&["create", &image.name(), "8M", "--zone-size", "1M"], &[&image.name(), "exists"]);
    assert!(std::fs::read(image.path()).unwrap() == before);
}

#[test]
fn a_file_in_no_folder_is_an_error() {
    let image = Image::absent();
    let name = image.beside_name("absent/disk.qcow2");
    fails(&["create", &name, "8M", "--zone-size", "1M"], &[&name, "No such file"]);
}

#[test]
fn sizes_with_wrong_suffixes_are_refused_by_value() {
    let image = Image::absent();
    let name = image.name();
    for wrong in ["64X", "64iM", "1.5", "M", "0x10", "64 M", "99999999999999999999", "16E", "1e6", "6,4M", "", " "] {
        fails(&["create", &name, wrong, "--zone-size", "1M"], &[&format!("'{wrong}'"), "size"]);
        let of_options: [&[&str]; 4] =
            [&["--zone-size"], &["--zone-capacity"], &["--cluster-size"], &["--max-append-bytes"]];
        for option in of_options {
            let line = [&["create", &name, "64M"], option, &[wrong]].concat();
            fails(&line, &[option[0], &format!("'{wrong}'")]);
        }
        if !wrong.contains(',') {
            fails(
                &["create", &name, "64M", "-o", &format!("zone.size={wrong}")],
                &["zone.size", &format!("'{wrong}'")],
            );
        }
    }
    for wrong in ["1K", "x", "4294967296", "1.5"] {
        fails(&["create", &name, "64M", "--zone-size", "1M", "--max-open-zones", wrong], &["--max-open-zones", wrong]);
        let option = format!("zone.max_open_zones={wrong}");
        fails(&["create", &name, "64M", "--zone-size", "1M", "-o", &option], &["zone.max_open_zones", wrong]);
    }
    assert!(!image.path().exists());
}

#[test]
fn wrong_options_of_o_are_refused_by_name() {
    let image = Image::absent();
    let name = image.name();
    for (option, fragments) in [
        ("frobnicate=1", &["frobnicate"][..]),
        ("zone.sise=1M", &["zone.sise"]),
        ("zone.size", &["zone.size", "="]),
        ("zone.mode=host-aware", &["zone.mode", "host-aware", "host-managed"]),
        ("zone.mode=none", &["zone.mode", "none", "host-managed"]),
        ("backing_file=x", &["backing_file", "fork BASE CHILD"]),
        ("data_file=x", &["data_file", "holds its data itself"]),
        ("encrypt.format=luks", &["encrypt.format", "not encrypted"]),
        ("encryption=on", &["encryption=on", "expected off"]),
        ("preallocation=full", &["preallocation=full", "expected off"]),
        ("compat=0.10", &["compat=0.10", "expected 1.1"]),
        ("refcount_bits=8", &["refcount_bits=8", "expected 16"]),
        ("lazy_refcounts=on", &["lazy_refcounts=on", "expected off"]),
        ("extended_l2=on", &["extended_l2=on", "expected off"]),
        ("compression_type=zstd", &["compression_type=zstd", "expected zlib"]),
        ("", &["-o"]),
    ] {
        fails(&["create", &name, "64M", "--zone-size", "1M", "-o", option], fragments);
    }
    fails(&["create", &name, "64M", "--zone-size", "1M", "-o", "size=64M"], &["SIZE", "-o", "one of both"]);
    fails(&["create", &name, "64M", "--zone-size", "1M", "-o", "zone.size=1M"], &["--zone-size", "-o", "one of both"]);
    for (option, value, why) in [
        ("-b", "base", "fork BASE CHILD"),
        ("-F", "qcow2", "fork BASE CHILD"),
        ("--object", "secret,id=a", "not encrypted"),
    ] {
        fails(&["create", option, value, &name, "64M", "--zone-size", "1M"], &[option, why]);
    }
    fails(&["create", &name, "64M"], &["zone size|zone_size|--zone-size"]);
    fails(&["create", &name, "--zone-size", "1M"], &["size"]);
    assert!(!image.path().exists());
}

#[test]
fn a_nonsensical_geometry_is_refused_by_the_rule_it_breaks() {
    let image = Image::absent();
    let name = image.name();
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("64M", &["--zone-size", "0"], &["zone_size is 0", "power of two"]),
        ("64M", &["--zone-size", "3M"], &["zone_size is 3145728", "power of two"]),
        ("64M", &["--zone-size", "4G"], &["zone_size is 4294967296", "power of two"]),
        ("64M", &["--zone-size", "256"], &["zone_size is 256", "512"]),
        ("0", &["--zone-size", "1M"], &["size is 0", "512"]),
        ("64M", &["--zone-size", "1M", "--zone-capacity", "2M"], &["zone_capacity is 2097152", "1048576"]),
        ("64M", &["--zone-size", "1M", "--zone-capacity", "0"], &["zone_capacity is 0", "512"]),
        ("64M", &["--zone-size", "1M", "--zone-capacity", "1000"], &["zone_capacity is 1000", "512"]),
        (
            "64M",
            &["--zone-size", "1M", "--conventional-zones", "64"],
            &["conventional_zones is 64", "64", "sequential"],
        ),
        ("64M", &["--zone-size", "1M", "--conventional-zones", "65"], &["conventional_zones is 65", "64"]),
        ("64M", &["--zone-size", "1M", "--max-append-bytes", "1000"], &["max_append_bytes is 1000", "512"]),
        ("64M", &["--zone-size", "1M", "--max-append-bytes", "1M"], &["max_append_bytes is 1048576", "zone capacity"]),
        ("64M", &["--zone-size", "1M", "--cluster-size", "256"], &["cluster_size is 256", "512"]),
        ("64M", &["--zone-size", "1M", "--cluster-size", "4M"], &["cluster_size is 4194304", "2 MiB"]),
        ("64M", &["--zone-size", "1M", "--cluster-size", "48K"], &["cluster_size is 49152", "power of two"]),
        ("7E", &["--zone-size", "1M"], &["zone_size is 1048576", "zones"]),
        ("16T", &["--zone-size", "64M", "--cluster-size", "512"], &["16T|17592186044416", "cluster"]),
    ];
    for (size, args, fragments) in cases {
        let line = [&["create", &name, size], *args].concat();
        let fragments = [&[name.as_str()], *fragments].concat();
        fails(&line, &fragments);
        assert!(!image.path().exists(), "{line:?} leaves a file behind");
    }
}

#[test]
fn a_large_image_is_made_small() {
    let image = Image::create_with(&["16T", "--zone-size", "64M"]);
    assert_info(&image, &[("virtual_size", 16 << 40), ("nr_zones", 262_144), ("zonedmeta_size", 2 << 20)]);
    assert!(image.host_bytes() < 64 * MIB, "{} bytes on the host", image.host_bytes());
    image.assert_clean();
    assert!(Path::new(&image.name()).exists());
}

#[test]
fn each_preset_that_is_listed_makes_a_disk_without_a_further_word() {
    let listed = ok(&["create", "--list-presets"]);
    let names: Vec<&str> =
        listed.lines().filter(|line| !line.starts_with(' ')).filter_map(|l| l.split(' ').next()).collect();
    assert!(["zns", "smr", "btrfs-small", "short-last", "tight"].iter().all(|name| names.contains(name)), "{listed}");
    for name in names {
        let image = Image::create_with(&["--preset", name]);
        image.assert_clean();
    }
    let image = Image::create_with(&["4G", "-o", "preset=smr,zone.conventional_zones=3"]);
    assert_info(&image, &[("virtual_size", 4096 * MIB), ("zone_size", 256 * MIB), ("conventional_zones", 3)]);
    fails(&["create", &Image::absent().name(), "--preset", "frobnicate"], &["'frobnicate'", "zns", "smr"]);
    fails(&["create", "--preset", "zns"], &["FILE"]);
}

#[test]
fn what_will_refuse_the_disk_is_a_warning_with_the_reason() {
    let warned = |args: &[&str]| {
        let image = Image::absent();
        let run = crate::common::cli::run(&[&["create", &image.name()], args].concat());
        assert!(run.status.success() && run.stdout.lines().count() == 1, "{run:?}");
        run.stderr
    };
    let small = ["128M", "--zone-size", "1M"];
    assert_eq!(warned(&small), "", "nobody has said what it is for");
    let both = warned(&[&small[..], &["--for", "btrfs,xfs"]].concat());
    assert_eq!(both.lines().count(), 2, "{both}");
    assert!(
        both.contains("warning: btrfs takes zones of 4 MiB") && both.contains("warning: XFS wants 300 MiB"),
        "{both}"
    );
    assert_eq!(warned(&["--preset", "xfs", "--for", "xfs", "--for", "f2fs"]), "");
    let append = warned(&[&small[..], &["--max-append-bytes", "2048"]].concat());
    assert!(append.contains("max_append_bytes 2048") && append.contains("--block-size 512"), "{append}");
    fails(&["create", "x", "64M", "--zone-size", "1M", "--for", "ext4"], &["ext4", "btrfs"]);
}

#[test]
fn an_image_for_v7_has_the_table_that_its_binaries_take() {
    let line = ["64M", "--zone-size", "4M", "--for", "qemu-v7"];
    for more in [&[][..], &["--table-endian", "little"]] {
        let image = Image::create_with(&[&line, more].concat());
        assert_eq!(info(&image)["table_endian"], "little");
        assert_eq!(info(&image)["layout"], "v7");
    }
    let image = Image::absent();
    let name = image.name();
    let both = [&["create", &name], &line[..], &["--table-endian", "big"]].concat();
    fails(&both, &[&name, "--table-endian is big", "little with --for qemu-v7"]);
    assert!(!image.path().exists());
    let large = run(&["create", &name, "5G", "--zone-size", "64M", "--for", "qemu-v7"]);
    assert!(large.status.success() && large.stderr.contains("warning: v7 cuts write pointers to 32 bits"), "{large:?}");
}
