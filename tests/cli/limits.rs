//! What an image, or what is given in place of one, may cost: memory and time have bounds that its words do not move.

use std::fs::{self, OpenOptions};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;

use vhost_user_zbd::qcow2::{ByteOrder, CreateOptions, create};
use vhost_user_zbd::storage::file::FileMedium;
use vhost_user_zbd::store::MAX_ZONES;
use vhost_user_zbd::units::Bytes;
use vhost_user_zbd::zone::GeometryRequest;

use crate::common::MIB;
use crate::common::cli::{Image, SMALL, assert_refusal, fails, ok, program, run, run_command};

/// An image of as many of the smallest zones.
fn with_zones(zones: u64) -> Image {
    let image = Image::absent();
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(image.path()).unwrap();
    let geometry = GeometryRequest {
        size: Bytes(zones * 2048),
        zone_size: Bytes(2048),
        zone_capacity: Bytes(2048),
        conventional_zones: 0,
        max_open_zones: 0,
        max_active_zones: 0,
        max_append_bytes: Bytes(512),
    };
    let options = CreateOptions { geometry, cluster_size: Bytes(65536), table_order: ByteOrder::Big };
    create(&FileMedium::new(file), &options).unwrap();
    image
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let image = Image::create(&SMALL);
    let (pipe, socket, served) = (image.beside_name("pipe"), image.beside_name("other"), image.beside_name("zbd.sock"));
    nix::unistd::mkfifo(pipe.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _listener = UnixListener::bind(&socket).unwrap();
    let folder = image.path().parent().unwrap().to_str().unwrap().to_owned();
    for path in [pipe.as_str(), &socket, &folder, "/dev/zero"] {
        let commands: [&[&str]; 10] = [
            &["info", path],
            &["report", path],
            &["map", path],
            &["check", path],
            &["check", "--repair", path],
            &["diff", path, &image.name()],
            &["diff", &image.name(), path],
            &["resize", path, "+1M"],
            &["serve", path, "--socket-path", &served],
            &["serve", path, "--socket-path", &served, "--read-only"],
        ];
        for args in commands {
            fails(args, &[path, "not a regular file: expected a qcow2 image in a file"]);
        }
        fails(&["serve", &image.name(), "--socket-path", &served, "--trace", path], &["--trace", "not a regular file"]);
    }
}

#[test]
fn more_zones_than_are_served_are_refused_with_what_they_would_take() {
    let wanted = ["create", "disk", "1T", "--zone-size", "4K"];
    let image = Image::absent();
    let args: Vec<String> = wanted.map(|arg| if arg == "disk" { image.name() } else { arg.to_owned() }).to_vec();
    fails(
        &args,
        &[&image.name(), "zone_size is 4096", "268435456 zones", "at most 16777216", "bytes of memory for each"],
    );
    assert!(!image.path().exists());

    let zones = u64::from(MAX_ZONES) + 1;
    let image = with_zones(zones);
    let name = image.name();
    let serve =
        ["serve", &name, "--block-size", "512", "--socket-path", &image.beside_name("zbd.sock")].map(str::to_owned);
    fails(&serve, &["16777217 zones", "bytes of memory", "expected at most 16777216"]);
    // What is only looked at is read where it is looked at, and nowhere else.
    let table = image.be64(image.extension() + 40);
    image.patch(table + 8 * (zones - 1), &[0xff; 8]);
    assert_eq!(ok(&["report", &name, "--count", "2"]).lines().count(), 2);
    assert!(ok(&["info", &name]).contains("zones: 16777217 "));
    let last = ((zones - 1) * 2048).to_string();
    fails(&["report", &name, "--offset", &last], &["zone 16777216"]);
    let check = run(&["check", &name]);
    assert_eq!(check.status.code(), Some(2), "{check:?}");
    assert!(check.stdout.contains("zone 16777216"), "{check:?}");
}

#[test]
fn a_report_that_meets_a_wrong_pointer_prints_nothing() {
    let image = with_zones(10_000);
    let table = image.be64(image.extension() + 40);
    image.patch(table + 8 * 9_999, &[0xff; 8]);
    fails(&["report", &image.name()], &["zone 9999"]);
}

#[test]
fn where_there_is_no_memory_for_the_zones_it_is_said_so() {
    let image = with_zones(1 << 20);
    let limit = libc::rlimit { rlim_cur: 64 * MIB, rlim_max: libc::RLIM_INFINITY };
    let mut command = Command::new(program());
    let socket = image.beside_name("zbd.sock");
    command.args(["serve", &image.name(), "--block-size", "512", "--socket-path", &socket]);
    // SAFETY: the closure makes one async-signal-safe call on a valid value.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_AS, &limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let run = run_command(&mut command);
    assert_refusal(&run, &["no memory for the 1048576 zones", "bytes"], "64 MiB");
}

#[test]
fn zones_that_are_smaller_than_a_cluster_are_worth_a_warning() {
    let image = Image::absent();
    let create = |more: &[&str]| {
        let name = image.name();
        let made = run(&[&["create", &name, "1G", "--zone-size", "16K"], more].concat());
        assert!(made.status.success(), "{made:?}");
        fs::remove_file(image.path()).unwrap();
        made.stderr
    };
    let warned = create(&[]);
    for part in ["warning: zone_size 16384", "a cluster of 65536 bytes", "4 zones share", "--cluster-size 16384"] {
        assert!(warned.contains(part), "{part}: {warned}");
    }
    assert_eq!(create(&["--cluster-size", "16K"]), "");
}
