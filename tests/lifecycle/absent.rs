//! An image that is made when it is served for the first time.

use std::fs;

use crate::common::cli::{Image, SMALL, fails, ok};
use crate::common::daemon::Daemon;
use crate::common::frontend::{Frontend, Options};
use crate::common::request::{Req, Status};

fn serve(image: &Image, description: &str) -> Daemon {
    Daemon::start(image.path(), &image.beside("zbd.sock"), &["--create", description])
}

fn info(image: &Image, field: &str) -> u64 {
    let info: serde_json::Value = serde_json::from_str(&ok(&["info", &image.name(), "--json"])).unwrap();
    info[field].as_u64().unwrap()
}

#[test]
fn an_image_that_is_not_there_is_made_once_and_then_kept() {
    let image = Image::absent();
    for _ in 0..2 {
        let mut daemon = serve(&image, "32M,preset=zonefs");
        let mut front = Frontend::connect(daemon.connect(), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(front.call(0, &Req::flush()).status, Status::Ok);
        drop(front);
        assert!(daemon.terminate().success());
        assert_eq!(daemon.log().matches("made, as there was no image").count(), 1);
    }
    assert_eq!((info(&image, "virtual_size"), info(&image, "zone_size")), (32 << 20, 4 << 20));
    image.assert_clean();
    let beside = fs::read_dir(image.path().parent().unwrap()).unwrap().count();
    assert_eq!(beside, 2, "besides the image and the log something is left behind");
}

#[test]
fn an_image_that_is_there_stays_as_it_is() {
    let image = Image::create(&SMALL);
    let mut daemon = serve(&image, "32M,preset=zonefs");
    assert!(daemon.terminate().success());
    assert_eq!(info(&image, "virtual_size"), SMALL.size);
}

#[test]
fn a_wrong_description_is_refused_whether_there_is_an_image_or_not() {
    for image in [Image::absent(), Image::create(&SMALL)] {
        let there = image.path().exists();
        let (name, socket) = (image.name(), image.beside_name("zbd.sock"));
        for (description, fragment) in [
            ("32M", "no zone size"),
            ("preset=frobnicate", "'frobnicate'"),
            ("32M,64M,preset=zns", "-o 64M: expected NAME=VALUE"),
            ("32M,zone.sise=4M", "zone.sise"),
            ("", "''"),
        ] {
            fails(&["serve", &name, "--socket-path", &socket, "--create", description], &["--create", fragment]);
        }
        fails(&["serve", &name, "--socket-path", &socket, "--create", "preset=zns", "--read-only"], &["--read-only"]);
        assert_eq!(image.path().exists(), there);
    }
    let image = Image::absent();
    let socket = image.beside_name("zbd.sock");
    fails(
        &["serve", &image.name(), "--socket-path", &socket, "--create", "1G,zone.size=3M"],
        &["zone_size", "power of two"],
    );
    assert_eq!(fs::read_dir(image.path().parent().unwrap()).unwrap().count(), 0);
}
