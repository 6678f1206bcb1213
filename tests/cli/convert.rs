//! `convert`: zloop's directories, raw files with a zone table, and images, into each other.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use vhost_user_zbd::disk::{Bytes, Disk, Opening, Sector};

use crate::common::cli::{Geo, Image, fails, ok};
use crate::common::{KIB, MIB, Rng};

/// Zones that zloop can have as well, in whole MiB.
const GEO: Geo =
    Geo { size: 16 * MIB, zone: 2 * MIB, cap: MIB, conv: 2, open: 3, active: 4, append: 64 * KIB, cluster: 64 * KIB };

/// An image with something of every kind in its zones.
fn filled(geo: &Geo, seed: u64) -> Image {
    let image = Image::create(geo);
    let mut disk = Disk::open_image(image.path(), Opening::default()).unwrap();
    let mut rng = Rng::new(seed);
    let mut bytes = |len: u64| (0..len).map(|_| rng.below(256) as u8).collect::<Vec<u8>>();
    let at = |zone: usize, bytes: u64| Sector(geo.start(zone) + bytes / 512);
    disk.write(at(0, 12 * KIB), &bytes(8 * KIB)).unwrap();
    disk.write(at(2, 0), &bytes(200 * KIB)).unwrap();
    disk.write(at(2, 200 * KIB), &vec![0; 256 * KIB as usize]).unwrap();
    disk.write(at(2, 456 * KIB), &bytes(4 * KIB)).unwrap();
    disk.write(at(3, 0), &bytes(geo.cap)).unwrap();
    disk.write(at(4, 0), &bytes(4 * KIB)).unwrap();
    disk.finish(at(4, 0)).unwrap();
    // What was there before a reset does not show.
    disk.write(at(5, 0), &bytes(68 * KIB)).unwrap();
    disk.reset(at(5, 0)).unwrap();
    disk.write(at(5, 0), &bytes(4 * KIB)).unwrap();
    disk.finish(at(6, 0)).unwrap();
    disk.end().unwrap();
    image
}

/// State, pointer and bytes of each zone.
fn content(path: &Path) -> Vec<(String, u64, Vec<u8>)> {
    let mut disk = Disk::open_image(path, Opening::default()).unwrap();
    let zones = disk.report(Sector(0), usize::MAX).unwrap();
    let mut read = |start: Bytes, len: u64| disk.read(start.to_sector(), Bytes(len)).unwrap();
    let content =
        zones.iter().map(|zone| (zone.state.name().to_owned(), zone.write_pointer.0, read(zone.start, zone.len.0)));
    content.collect()
}

#[test]
fn a_disk_comes_back_the_same_from_every_form() {
    let limits = ["--max-open-zones", "3", "--max-active-zones", "4", "--max-append-bytes", "65536"];
    for (seed, cluster) in [(1, 4 * KIB), (2, 64 * KIB), (3, 2 * MIB)] {
        let image = filled(&Geo { cluster, ..GEO }, seed);
        let expected = content(image.path());
        let named = |name: &str| image.beside_name(name);
        let (raw, zones, zloop) = (named("raw"), named("raw.json"), named("7"));
        ok(&["convert", &image.name(), &zloop, "--to", "zloop"]);
        ok(&["convert", &image.name(), &raw, "--to", "raw", "--zones", &zones]);
        let to_images: [&[&str]; 4] = [
            &[&image.name(), "--to", "image", "--cluster-size", "4K", "--table-endian", "little"],
            &[&image.name(), "--to", "image", "--cluster-size", "2M"],
            &[&zloop, "--zone-capacity", "1M"],
            &[&raw, "--zones", &zones],
        ];
        for (number, args) in to_images.iter().enumerate() {
            let again = named(&format!("again-{number}.qcow2"));
            let limits = if number < 2 { &[][..] } else { &limits };
            ok(&[&["convert"], &args[..1], &[&again], &args[1..], limits].concat());
            assert!(content(again.as_ref()) == expected, "{args:?} of {image:?} is another disk");
            ok(&["check", &again]);
            let told = |name: &str| {
                ok(&["info", name, "--json"]).lines().filter(|line| line.contains("zones")).collect::<String>()
            };
            assert_eq!(told(&again), told(&image.name()), "{args:?}");
        }
    }
}

#[test]
fn the_files_of_zloop_are_as_long_as_their_zones_are_written() {
    let image = filled(&GEO, 4);
    let zloop = image.beside("0");
    ok(&["convert", &image.name(), zloop.to_str().unwrap(), "--to", "zloop"]);
    let len = |name: &str| fs::metadata(zloop.join(name)).unwrap().len();
    let lens = [
        "cnv-000000",
        "cnv-000001",
        "seq-000002",
        "seq-000003",
        "seq-000004",
        "seq-000005",
        "seq-000006",
        "seq-000007",
    ];
    let expected = [2 * MIB, 2 * MIB, 460 * KIB, MIB, MIB, 4 * KIB, MIB, 0];
    assert_eq!(lens.map(len), expected);
    assert_eq!(fs::read_dir(&zloop).unwrap().count(), lens.len());
    let bytes: u64 = fs::read_dir(&zloop).unwrap().map(|file| file.unwrap().metadata().unwrap().blocks() * 512).sum();
    assert!(bytes <= 2 * MIB, "zeros take space: {bytes}");
    // What Linux before 7 leaves of a finished zone.
    fs::File::options().write(true).open(zloop.join("seq-000004")).unwrap().set_len(2 * MIB).unwrap();
    let again = image.beside_name("again.qcow2");
    ok(&["convert", zloop.to_str().unwrap(), &again, "--zone-capacity", "1M"]);
    assert!(content(again.as_ref()) == content(image.path()));
}

#[test]
fn the_text_of_blkzone_is_a_zone_table_and_what_is_beyond_the_pointers_is_left_out() {
    let image = filled(&GEO, 5);
    let (raw, json, table) = (image.beside_name("raw"), image.beside_name("json"), image.beside("table"));
    ok(&["convert", &image.name(), &raw, "--to", "raw", "--zones", &json]);
    fs::write(&table, ok(&["report", &image.name()])).unwrap();
    let file = fs::File::options().write(true).open(&raw).unwrap();
    file.write_all_at(&[0xaa; 4096], GEO.zone * 7).unwrap();
    file.write_all_at(&[0xaa; 4096], GEO.zone * 5 + 4096).unwrap();
    let again = image.beside_name("again.qcow2");
    ok(&["convert", &raw, &again, "--zones", table.to_str().unwrap()]);
    assert!(content(again.as_ref()) == content(image.path()));
}

#[test]
fn what_makes_no_disk_is_refused_and_leaves_nothing_behind() {
    let image = filled(&GEO, 6);
    let named = |name: &str| image.beside_name(name);
    let (raw, json, zloop, target) = (named("raw"), named("json"), named("0"), named("target"));
    ok(&["convert", &image.name(), &raw, "--to", "raw", "--zones", &json]);
    ok(&["convert", &image.name(), &zloop, "--to", "zloop"]);
    let odd = Image::create(&Geo { size: 7 * MIB, zone: 2 * MIB, cap: MIB, ..GEO });
    let small = Image::create(&Geo { zone: 256 * KIB, cap: 256 * KIB, ..GEO });
    let strange = image.beside("strange");
    fs::create_dir(&strange).unwrap();
    fs::write(strange.join("seq-000001"), []).unwrap();
    let before = fs::read_dir(image.beside("")).unwrap().count();
    let cases: [(&[&str], &[&str]); 12] = [
        (&[&image.name(), &target], &["an image already", "--to"]),
        (&[&image.name(), &raw, "--to", "image"], &["raw", "exists"]),
        (&[&image.name(), &target, "--to", "raw"], &["--zones"]),
        (&[&image.name(), &target, "--to", "zloop", "--zones", &json], &["--zones"]),
        (&[&raw, &target], &["raw", "--zones"]),
        (&[&raw, &target, "--zones", &raw], &["raw"]),
        (&[&raw, &target, "--zones", &json, "--to", "raw"], &["--zones"]),
        (&[&raw, &target, "--zones", &json, "--zone-size", "1M"], &["--zone-size", "directory"]),
        (&[&zloop, &target, "--zone-capacity", "512K"], &["seq-000003", "1048576", "524288"]),
        (&[&small.name(), &target, "--to", "zloop"], &["262144", "MiB"]),
        (&[&odd.name(), &target, "--to", "zloop"], &["last zone", "2097152"]),
        (&[strange.to_str().unwrap(), &target], &["zone 0", "no file"]),
    ];
    for (args, fragments) in cases {
        fails(&[&["convert"], args].concat(), fragments);
        assert_eq!(fs::read_dir(image.beside("")).unwrap().count(), before, "{args:?} leaves something behind");
    }
    fs::write(strange.join("seq-000000"), []).unwrap();
    fails(&["convert", strange.to_str().unwrap(), &target], &["zone size", "--zone-size"]);
    fs::write(strange.join("notes"), []).unwrap();
    fails(&["convert", strange.to_str().unwrap(), &target, "--zone-size", "1M"], &["notes", "cnv-NNNNNN"]);
    fs::File::options().write(true).open(&raw).unwrap().set_len(MIB).unwrap();
    fails(&["convert", &raw, &target, "--zones", &json], &["1048576", "16777216"]);
}
