//! `create` beside qemu-img's own: what one takes the other takes, with only the program's name changed.

use std::process::Command;

use serde_json::Value;

use crate::common::cli::{Image, Run, ok, program, run_command, tool};

/// Options and sizes that qemu-img takes.
const TAKEN: &[(&str, &str)] = &[
    ("", "64M"),
    ("-q", "64M"),
    ("-o compat=1.1", "64M"),
    ("-o compat=v3", "64M"),
    ("-o preallocation=off", "64M"),
    ("-o lazy_refcounts=off", "64M"),
    ("-o lazy_refcounts=no", "64M"),
    ("-o refcount_bits=16", "64M"),
    ("-o extended_l2=off", "64M"),
    ("-o compression_type=zlib,nocow=off,extent_size_hint=0,encryption=off,data_file_raw=off", "64M"),
    ("-o cluster_size=64k", "64M"),
    ("-o cluster_size=64K,cluster_size=128K", "64M"),
    ("-o cluster_size=64K -o cluster_size=128K", "64M"),
    ("-o compat=1.1,preallocation=off -f qcow2", "64M"),
    ("-o size=64M", ""),
    ("-o size=32M,size=64M", ""),
    ("", "1.5G"),
    ("", "0.5T"),
    ("", "0.1G"),
    ("", "64m"),
    ("", "65536k"),
    ("", "67108864B"),
    ("", "67108864"),
];

/// Runs both programs with `options` and `size`, each for a file of its own.
fn both(options: &str, size: &str) -> [(Image, Run); 2] {
    ["qemu-img", program()].map(|name| {
        let image = Image::absent();
        let mut command = Command::new(name);
        command.args(["create", "-f", "qcow2"]).args(options.split_whitespace());
        if name == program() {
            command.args(["-o", "zone.size=4M"]);
        }
        command.arg(image.name()).args(size.split_whitespace());
        let run = run_command(&mut command);
        (image, run)
    })
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn what_qemu_img_takes_is_taken_and_makes_a_disk_of_the_same_size_and_clusters() {
    for (options, size) in TAKEN {
        let [(theirs, made), (ours, also)] = both(options, size);
        assert!(made.status.success(), "qemu-img {options} {size}: {}", made.stderr);
        assert!(also.status.success(), "{options} {size}: {}", also.stderr);
        let quiet = options.contains("-q");
        assert_eq!((made.stdout.lines().count(), also.stdout.lines().count()), if quiet { (0, 0) } else { (1, 1) });
        let expected = json(&tool("qemu-img", &["info", "--output=json", &theirs.name()]).stdout);
        let info = json(&ok(&["info", "--json", &ours.name()]));
        // A size that no block divides is rounded up, to another unit.
        let (size, whole) = (expected["virtual-size"].as_u64().unwrap(), info["virtual_size"].as_u64().unwrap());
        assert_eq!(size.next_multiple_of(4096), whole, "{options} {size}");
        assert_eq!(info["cluster_size"], expected["cluster-size"], "{options} {size}");
        ours.assert_clean();
    }
}

#[test]
fn what_only_this_program_takes_has_the_same_binary_units() {
    for (size, bytes) in [("16GiB", 16u64 << 30), ("256MB", 256 << 20), ("64mib", 64 << 20)] {
        let [_, (image, run)] = both("", size);
        assert!(run.status.success(), "{size}: {}", run.stderr);
        assert_eq!(json(&ok(&["info", "--json", &image.name()]))["virtual_size"], bytes, "{size}");
    }
}

#[test]
fn what_is_refused_by_qemu_img_is_refused() {
    for (options, size) in [
        ("-o size=64M", "64M"),
        ("-o foo=1", "64M"),
        ("-o cluster_size=48k", "64M"),
        ("", "1.5"),
        ("", "64X"),
        ("", "1e3"),
        ("", "8E"),
        ("-f raw2", "64M"),
    ] {
        for (image, run) in both(options, size) {
            assert!(!run.status.success(), "{options} {size}: {run:?}");
            assert!(!image.path().exists(), "{options} {size}");
        }
    }
}

#[test]
fn o_help_lists_the_options_with_or_without_a_file() {
    let alone = ok(&["create", "-f", "qcow2", "-o", "help"]);
    assert_eq!(alone, ok(&["create", "-f", "qcow2", "-o", "help", "absent.qcow2", "64M"]));
    assert_eq!(alone, ok(&["create", "-o", "?"]));
    for option in ["  size=<size> ", "  zone.size=<size> ", "  zone.max_open_zones=<num> ", "  compat=1.1|v3 "] {
        assert!(alone.contains(option), "no {option}: {alone}");
    }
    // All that qemu-img has is known: listed, or refused with a reason.
    let theirs = tool("qemu-img", &["create", "-f", "qcow2", "-o", "help"]).stdout;
    let names = theirs.lines().filter_map(|line| line.trim().split_once('=').map(|(name, _)| name));
    let names: Vec<&str> = names.collect();
    assert!(names.len() > 15, "{theirs}");
    for name in names {
        let image = Image::absent();
        let option = format!("{name}=frobnicate");
        let run = run_command(Command::new(program()).args(["create", &image.name(), "64M", "-o", &option]));
        assert!(!run.stderr.contains("unknown option"), "{name}: {}", run.stderr);
    }
}

#[test]
fn one_line_says_what_was_made() {
    let image = Image::absent();
    let line = ["create", &image.name(), "1.5G", "--zone-size", "64M", "--zone-capacity", "48M", "--max-open-zones"];
    let made = ok(&[&line[..], &["6", "--max-active-zones", "8", "--conventional-zones", "2"]].concat());
    let shape =
        "1.5 GiB: 24 zones of 64 MiB, 48 MiB of each writable, 2 conventional, at most 6 open, at most 8 active";
    assert_eq!(made, format!("Made '{}': {shape}\n", image.name()));
    let image = Image::absent();
    assert_eq!(ok(&["create", "--quiet", &image.name(), "64M", "--zone-size", "4M"]), "");
}

#[test]
fn an_option_that_is_given_again_counts_the_last_time() {
    let image = Image::absent();
    ok(&[
        "create",
        "-f",
        "qcow2",
        "-f",
        "qcow2",
        "--zone-size",
        "1M",
        "--zone-size",
        "2M",
        "-q",
        "-q",
        &image.name(),
        "64M",
    ]);
    assert_eq!(json(&ok(&["info", "--json", &image.name()]))["zone_size"], 2 << 20);
}
