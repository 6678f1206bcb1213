//! Images that are not what they should be: each is refused with the field, its value and what was expected, by every
//! command, and nothing is written.

use crate::common::MIB;
use crate::common::cli::{Image, SMALL, assert_refusal, fails, run, tool};
use crate::common::request::State;

/// Every command that opens an image refuses it and says each of `fragments`; the file stays as it is.
#[track_caller]
fn assert_refused(image: &Image, fragments: &[&str]) {
    assert_not_used(image, fragments);
    let name = image.name();
    let check = run(&["check", &name]);
    assert_refusal(&check, &[&[name.as_str()], fragments].concat(), "check");
    assert_eq!(check.status.code(), Some(1), "could not check");
}

/// The same of every command but `check`.
#[track_caller]
fn assert_not_used(image: &Image, fragments: &[&str]) {
    let name = image.name();
    let before = std::fs::read(image.path()).unwrap();
    let socket = image.beside_name("socket");
    let commands: [&[&str]; 4] = [
        &["info", &name],
        &["report", &name, "--json"],
        &["serve", &name, "--socket-path", &socket, "--read-only"],
        &["serve", &name, "--socket-path", &socket],
    ];
    for args in commands {
        assert_refusal(&run(args), &[&[name.as_str()], fragments].concat(), &format!("{args:?}"));
    }
    assert!(!image.beside("socket").exists(), "a socket was made for an image that cannot be served");
    assert!(std::fs::read(image.path()).unwrap() == before, "the image was written");
}

#[test]
fn no_such_file() {
    let image = Image::absent();
    let (name, socket) = (image.name(), image.beside_name("socket"));
    let commands: [&[&str]; 4] =
        [&["info", &name], &["report", &name], &["check", &name], &["serve", &name, "--socket-path", &socket]];
    for args in commands {
        fails(args, &[&name, "No such file"]);
    }
    assert!(!image.path().exists());
}

#[test]
fn not_a_file() {
    let image = Image::absent();
    std::fs::create_dir(image.path()).unwrap();
    fails(&["info", &image.name()], &[&image.name(), "directory|regular file"]);
    fails(&["serve", &image.name(), "--socket-path", "s"], &[&image.name(), "directory|regular file"]);
    fails(&["info", "/dev/null"], &["/dev/null", "regular file"]);
}

#[test]
fn not_qcow2() {
    let contents: [&[u8]; 5] = [b"", b"QFI", b"Hello, world\n", &[0; 100_000], &[0xff; 70_000]];
    for content in contents {
        let image = Image::absent();
        std::fs::write(image.path(), content).unwrap();
        assert_refused(&image, &["qcow2"]);
    }
}

#[test]
fn plain_qcow2_without_zones() {
    let image = Image::absent();
    let made = tool("qemu-img", &["create", "-f", "qcow2", &image.name(), "64M"]);
    assert!(made.status.success(), "{made:?}");
    assert_refused(&image, &["zoned", "plain qcow2|without"]);
}

#[test]
fn an_old_version_of_qcow2() {
    let image = Image::absent();
    let made = tool("qemu-img", &["create", "-f", "qcow2", "-o", "compat=0.10", &image.name(), "64M"]);
    assert!(made.status.success(), "{made:?}");
    assert_refused(&image, &["version is 2", "3"]);
    let image = Image::create(&SMALL);
    image.patch(4, &[0, 0, 0, 9]);
    assert_refused(&image, &["version is 9", "3"]);
}

#[test]
fn features_that_are_not_supported_are_named() {
    for (options, fragment) in [
        (&["-o", "encrypt.format=luks,encrypt.key-secret=s", "--object", "secret,id=s,data=x"][..], "encrypt"),
        (&["-o", "extended_l2=on"], "extended L2"),
        (&["-o", "data_file=DATA"], "external data file"),
        (&["-b", "BASE", "-F", "raw"], "backing file"),
    ] {
        // A plain image with the feature gets the zoned extension in place of its feature name table.
        let zoned = Image::create(&SMALL);
        let image = Image::absent();
        let (base, data) = (image.beside_name("base"), image.beside_name("data"));
        std::fs::write(&base, vec![0; 8 << 20]).unwrap();
        let options: Vec<String> =
            options.iter().map(|option| option.replace("BASE", &base).replace("DATA", &data)).collect();
        let mut args = vec!["create", "-f", "qcow2"];
        args.extend(options.iter().map(String::as_str));
        let name = image.name();
        args.extend([&name, "8M"]);
        let made = tool("qemu-img", &args);
        assert!(made.status.success(), "{made:?}");
        give_zones(&image, &zoned);
        assert_refused(&image, &[fragment]);
    }
}

/// Makes the feature name table of `image` a zoned extension, the one of `from`, and sets the feature bit.
fn give_zones(image: &Image, from: &Image) {
    let mut at = u64::from(image.be32(100));
    while image.be32(at) != 0x6803_f857 {
        assert_ne!(image.be32(at), 0, "no feature name table");
        at += 8 + u64::from(image.be32(at + 4).next_multiple_of(8));
    }
    let total = image.be32(at + 4).next_multiple_of(8);
    let mut extension = from.bytes(from.extension() - 8, 56);
    // What was behind the table keeps its place: the rest is an extension that nobody knows.
    extension.extend(0x5e5e_5e5e_u32.to_be_bytes());
    extension.extend((total - 56).to_be_bytes());
    image.patch(at, &extension);
    let features = image.be64(72);
    image.patch(72, &(features | 0x20).to_be_bytes());
}

#[test]
fn a_truncated_file() {
    let whole = Image::create(&SMALL);
    let len = std::fs::metadata(whole.path()).unwrap().len();
    let l1 = whole.be64(40);
    let table = whole.be64(whole.extension() + 40);
    for cut in [4, 8, 72, 103, whole.extension() + 3, 4096, 65536, 65537, 131_072, table, table + 63, l1, l1 + 7] {
        let image = Image::create(&SMALL);
        std::fs::File::options().write(true).open(image.path()).unwrap().set_len(cut.min(len)).unwrap();
        assert_refused(&image, &["truncated|inside the file|missing|extension|header|qcow2"]);
    }
}

/// A field of the extension: where it is, what is put there, and what the message says.
type Field = (u64, &'static [u8], &'static [&'static str]);

#[test]
fn each_field_of_the_extension_that_is_wrong_is_named_with_its_value() {
    let cases: &[Field] = &[
        (0, &[0], &["zoned is 0", "host-managed"]),
        (0, &[2], &["zoned is 2", "1"]),
        (0, &[255], &["zoned is 255", "1"]),
        (4, &[0, 0, 0, 0], &["zone_size is 0", "power of two"]),
        (4, &[0, 0x30, 0, 0], &["zone_size is 3145728", "power of two"]),
        (4, &[0xff, 0xff, 0xff, 0xff], &["zone_size is 4294967295", "power of two"]),
        (8, &[0, 0, 0, 0], &["zone_capacity is 0", "1048576"]),
        (8, &[0, 0x10, 2, 0], &["zone_capacity is 1049088", "1048576"]),
        (8, &[0, 0, 3, 0xe8], &["zone_capacity is 1000", "512"]),
        (12, &[0, 0, 0, 8], &["conventional_zones is 8", "sequential"]),
        (12, &[0xff, 0xff, 0xff, 0xff], &["conventional_zones is 4294967295", "sequential"]),
        (16, &[0, 0, 0, 0], &["nr_zones is 0", "8"]),
        (16, &[0, 0, 0, 7], &["nr_zones is 7", "8"]),
        (16, &[0, 0, 0, 9], &["nr_zones is 9", "8"]),
        (16, &[0xff, 0xff, 0xff, 0xff], &["nr_zones is 4294967295", "8"]),
        (28, &[0, 0, 3, 0xe8], &["max_append_bytes is 1000", "512"]),
        (28, &[0, 0xc, 0, 0], &["max_append_bytes is 786432", "zone capacity"]),
        (28, &[0xff, 0xff, 0xfe, 0], &["max_append_bytes is 4294966784", "zone capacity"]),
        (32, &[0, 0, 0, 0, 0, 0, 0, 0], &["zonedmeta_size is 0", "64"]),
        (32, &[0, 0, 0, 0, 0, 0, 0, 63], &["zonedmeta_size is 63", "64"]),
        (32, &[0x10, 0, 0, 0, 0, 0, 0, 0], &["zonedmeta", "1152921504606846976"]),
        (32, &[0xff; 8], &["zonedmeta", "18446744073709551615"]),
        (40, &[0; 8], &["zonedmeta_offset is 0", "cluster"]),
        (40, &[0, 0, 0, 0, 0, 3, 2, 0], &["zonedmeta_offset is 0x30200|zonedmeta_offset is 197120", "cluster"]),
        (40, &[0, 0, 1, 0, 0, 0, 0, 0], &["zonedmeta_offset is 0x10000000000|1099511627776", "inside the file"]),
        (40, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], &["zonedmeta_offset", "inside the file"]),
        (40, &[0, 0, 0, 0, 0, 1, 0, 0], &["refcount", "zonedmeta", "overlap"]),
    ];
    for (offset, bytes, fragments) in cases {
        let image = Image::create(&SMALL);
        image.patch(image.extension() + offset, bytes);
        assert_refused(&image, fragments);
    }
}

#[test]
fn an_append_limit_that_is_not_stated_is_what_the_queue_carries() {
    let image = Image::create(&SMALL);
    image.patch(image.extension() + 28, &[0; 4]);
    let name = image.name();
    let text = crate::common::cli::ok(&["info", &name]);
    assert!(text.contains("max append: not stated: what the queue can carry, 768 KiB with the default"), "{text}");
    let info: serde_json::Value = serde_json::from_str(&crate::common::cli::ok(&["info", &name, "--json"])).unwrap();
    assert_eq!(info["max_append_bytes"], 0);
    crate::common::cli::ok(&["check", &name]);
    crate::common::cli::ok(&["map", &name]);
    let mut disk = crate::common::disk::Setup::new(SMALL).start_on(image);
    let sectors = u64::from(disk.config_u32(84));
    assert_eq!(sectors, SMALL.cap / 512, "the queue carries more than a zone takes");
    let zone = SMALL.start(4);
    assert_eq!(disk.append(zone, &vec![7; (sectors * 512) as usize]), Ok(zone));
    assert_eq!(disk.state(4), State::Full);
}

#[test]
fn limits_that_are_too_high_are_lowered_and_said() {
    for (offset, field) in [(20, "max_active_zones"), (24, "max_open_zones")] {
        let image = Image::create(&SMALL);
        image.patch(image.extension() + offset, &[0, 0, 0x27, 0x0f]);
        let text = crate::common::cli::ok(&["info", &image.name()]);
        assert!(text.contains(field) && text.contains("9999"), "{text}");
    }
}

#[test]
fn the_extension_as_a_whole() {
    // Too short, longer than there is room for, twice, absent, and without its feature bit.
    let image = Image::create(&SMALL);
    let at = image.extension() - 4;
    image.patch(at, &[0, 0, 0, 40]);
    assert_refused(&image, &["extension", "40", "48"]);
    image.patch(at, &[0xff, 0xff, 0xff, 0xf0]);
    assert_refused(&image, &["extension", "4294967280"]);
    let image = Image::create(&SMALL);
    image.patch(image.extension() - 8, &[0x5e; 4]);
    assert_refused(&image, &["bit 5", "extension"]);
    let image = Image::create(&SMALL);
    image.patch(72, &[0; 8]);
    assert_refused(&image, &["bit 5", "extension"]);
    let image = Image::create(&SMALL);
    image.patch(72, &[0x80, 0, 0, 0, 0, 0, 0, 0x20]);
    assert_refused(&image, &["bit 63"]);
}

#[test]
fn a_table_whose_clusters_are_not_its_own() {
    let image = Image::create(&SMALL);
    let table = image.be64(image.extension() + 40);
    let refcount = image.be64(image.be64(48)) + 2 * (table >> 16);
    for count in [0, 2] {
        image.patch(refcount, &[0, count]);
        assert_refused(&image, &["refcount", &count.to_string(), &format!("{table:#x}")]);
    }
}

#[test]
fn write_pointers_that_cannot_be() {
    let cases: &[(u64, u64, &[&str])] = &[
        // A zone, the entry, and what the message says.
        (3, 2 * MIB, &["zone 3", "0x200000"]),
        (3, 5 * MIB, &["zone 3", "0x500000"]),
        (3, 3 * MIB + 100, &["zone 3", "0x300064", "512"]),
        (3, (3 * MIB) | 1 << 59, &["zone 3"]),
        (1, MIB, &["zone 1", "0x100000"]),
        (1, (5 * MIB) | 1 << 59, &["zone 1"]),
        (7, u64::MAX, &["zone 7", "0xffffffffffffffff"]),
        (7, 8 * MIB + 512, &["zone 7", "0x800200"]),
        (7, 0, &["zone 7"]),
    ];
    for (zone, entry, fragments) in cases {
        let image = Image::create(&SMALL);
        image.patch(image.be64(image.extension() + 40) + 8 * zone, &entry.to_be_bytes());
        // Each refusal says the way out; a check goes on and lists what there is.
        assert_not_used(&image, &[*fragments, &["check --repair=pointers settles them"]].concat());
        let check = run(&["check", &image.name()]);
        assert_eq!(check.status.code(), Some(2), "{check:?}");
        for fragment in fragments.iter().chain(&["ERROR the write pointer", "check --repair=pointers settles"]) {
            assert!(check.stdout.contains(fragment), "lacks \"{fragment}\": {check:?}");
        }
    }
}

#[test]
fn single_entries_of_a_v7_binary_in_a_big_endian_table() {
    let image = Image::create(&SMALL);
    let table = image.be64(image.extension() + 40);
    let written = [(3, 3 * MIB + 4096), (6, 6 * MIB)];
    for (zone, pointer) in written {
        image.patch(table + 8 * zone, &pointer.to_le_bytes());
    }
    let check = run(&["check", &image.name()]);
    assert_eq!(check.status.code(), Some(2), "{check:?}");
    for part in ["zone 3 is 0x10300000000000 read big-endian", "0x301000 read little-endian", "zone 6", "2 errors"] {
        assert!(check.stdout.contains(part), "lacks \"{part}\": {check:?}");
    }
    let name = image.name();
    let settled = crate::common::cli::ok(&["check", &name, "--repair=pointers"]);
    assert!(
        settled.contains("Zone 3: write pointer is now 0x301000; before, the write pointer of zone 3"),
        "{settled}"
    );
    assert_eq!(written.map(|(zone, _)| image.be64(table + 8 * zone)), written.map(|(_, pointer)| pointer));
    image.assert_clean();
}

#[test]
fn a_block_size_that_a_write_pointer_does_not_fit() {
    let image = Image::create(&SMALL);
    let table = image.be64(image.extension() + 40);
    image.patch(table + 8 * 4, &(4 * MIB + 512).to_be_bytes());
    let (name, socket) = (image.name(), image.beside_name("socket"));
    for args in [&[][..], &["--block-size", "4096"], &["--read-only"]] {
        let line = [&["serve", &name, "--socket-path", &socket], args].concat();
        fails(&line, &[&name, "4", "0x400200|4194816", "4096", "512"]);
    }
    // The format has no block size, so all else works with it; and so does serving in blocks of 512.
    crate::common::cli::ok(&["info", &name]);
    crate::common::cli::ok(&["check", &name]);
    let mut disk = crate::common::disk::Setup::new(SMALL).args(&["--block-size", "512"]).start_on(image);
    assert_eq!(disk.zone(4).written(), 1);
    assert_eq!(disk.read(SMALL.start(4), 512), Ok(vec![0; 512]));
}

#[test]
fn tables_of_qcow2_that_are_wrong() {
    type Case = (u64, Vec<u8>, &'static [&'static str]);
    let cases: [Case; 8] = [
        (20, 5_u32.to_be_bytes().to_vec(), &["cluster_bits"]),
        (20, 40_u32.to_be_bytes().to_vec(), &["cluster_bits"]),
        (96, 9_u32.to_be_bytes().to_vec(), &["refcount_order"]),
        (100, 70_u32.to_be_bytes().to_vec(), &["header_length"]),
        (40, (1_u64 << 50).to_be_bytes().to_vec(), &["l1_table_offset"]),
        (48, 0x1234_u64.to_be_bytes().to_vec(), &["refcount_table_offset"]),
        (36, u32::MAX.to_be_bytes().to_vec(), &["l1_size"]),
        (56, u32::MAX.to_be_bytes().to_vec(), &["refcount_table_clusters"]),
    ];
    for (offset, bytes, fragments) in cases {
        let image = Image::create(&SMALL);
        image.patch(offset, &bytes);
        assert_refused(&image, fragments);
    }
}

#[test]
fn no_header_byte_makes_the_program_die() {
    // Each byte of the header and the extension inverted: refused in one line, or harmless.
    let original = Image::create(&SMALL);
    let end = original.extension() + 48;
    let header = original.bytes(0, end as usize);
    let image = Image::create(&SMALL);
    for (at, byte) in header.iter().enumerate() {
        image.patch(at as u64, &[!byte]);
        let run = run(&["info", &image.name()]);
        match run.status.code() {
            Some(0) => {}
            Some(1) => assert_refusal(&run, &[&image.name()], &format!("byte {at} inverted")),
            other => panic!("byte {at} inverted: {other:?}: {run:?}"),
        }
        image.patch(at as u64, &[*byte]);
    }
}
