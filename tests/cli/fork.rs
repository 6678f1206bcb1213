//! `fork` and `serve --snapshot`: images on others, through the daemon and at the shell.

use std::fs;

use crate::common::cli::{Image, SMALL, fails, ok, run, tool};
use crate::common::disk::{Disk, Setup};
use crate::common::model::assert_ok;
use crate::common::request::State;

/// An image with data below pointers, a full zone, a finished one, and data in a conventional zone.
fn golden() -> Image {
    let mut disk = Setup::new(SMALL).start();
    assert_ok(disk.write(8, &[7; 8192]));
    disk.fill(2, 65536 + 4096);
    disk.fill(3, SMALL.cap(3) * 512);
    disk.fill(4, 8192);
    assert_ok(disk.finish(4));
    assert!(disk.stop().success());
    let Disk { image, .. } = disk;
    image
}

fn fork(base: &Image, method: &str) -> Image {
    let child = Image::absent();
    let said = ok(&["fork", &base.name(), &child.name(), "--method", method]);
    assert!(said.starts_with(&format!("Forked '{}' from '{}'", child.name(), base.name())), "{said}");
    child
}

fn equal(first: &Image, second: &Image) {
    let diff = run(&["diff", &first.name(), &second.name()]);
    assert!(diff.status.success(), "{}{}", diff.stdout, diff.stderr);
}

#[test]
fn a_fork_is_as_its_base_and_goes_its_own_way() {
    let base = golden();
    let content = fs::read(base.path()).unwrap();
    let child = fork(&base, "overlay");
    equal(&base, &child);
    let copy = Image::absent();
    fs::copy(base.path(), copy.path()).unwrap();
    let mut flat = Setup::new(SMALL).start_on(copy);
    let mut disk = Setup::new(SMALL).start_on(child);
    for disk in [&mut flat, &mut disk] {
        let (two, three) = (SMALL.start(2), SMALL.start(3));
        assert_eq!(disk.read(8, 8192), Ok(vec![7; 8192]));
        assert!(disk.append(SMALL.start(2), &[6; 3 * 4096]).is_ok());
        assert_ok(disk.reset(3));
        assert_ok(disk.write(three, &[9; 4096]));
        assert_ok(disk.finish(3));
        assert_ok(disk.write(12, &[8; 4096]));
        assert_eq!(disk.state(4), State::Full);
        assert_ok(disk.flush());
        let mut expected = vec![9; 4096];
        expected.resize(65536, 0);
        assert_eq!(disk.read(three, 65536), Ok(expected), "of a zone that was reset nothing of the base is seen");
        assert_eq!(disk.read(two, 4096).map(|data| data.len()), Ok(4096));
    }
    assert!(flat.stop().success() && disk.stop().success());
    let (flat, child) = (flat.image, disk.image);
    equal(&flat, &child);
    child.assert_clean();
    assert!(fs::read(base.path()).unwrap() == content, "the base has changed");
}

#[test]
fn an_idle_fork_takes_little_more_than_its_write_pointer_table() {
    let base = golden();
    let child = fork(&base, "overlay");
    let cluster = 65536;
    assert!(child.host_bytes() <= SMALL.zones() as u64 * 8 + 4 * cluster, "{}", child.host_bytes());
}

#[test]
fn a_base_cannot_be_written_while_a_fork_is_served_nor_a_fork_be_served_whose_base_has_changed() {
    let base = golden();
    let child = fork(&base, "overlay");
    let mut disk = Setup::new(SMALL).start_on(child);
    fails(&["resize", &base.name(), "+1M"], &[&base.name(), "in use"]);
    fails(&["serve", &base.name(), "--socket-path", &base.beside_name("sock")], &[&base.name(), "in use"]);
    assert!(disk.stop().success());
    let child = disk.image;
    let mut other = Setup::new(SMALL).start_on(base);
    other.fill(5, 4096);
    assert!(other.stop().success());
    let base = other.image;
    let said = [child.name(), "base".to_owned(), base.name(), "has changed".to_owned()];
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    for command in [
        vec!["serve", &child.name(), "--socket-path", &child.beside_name("sock")],
        vec!["convert", &child.name(), &child.beside_name("other.qcow2"), "--to", "image"],
    ] {
        fails(&command, &said);
    }
    // What needs none of the base's data is told all the same.
    assert!(ok(&["info", &child.name()]).contains(&format!("builds on: {}", base.name())));
    ok(&["report", &child.name()]);
    child.assert_clean();
    fs::remove_file(base.path()).unwrap();
    fails(
        &["serve", &child.name(), "--socket-path", &child.beside_name("sock")],
        &[&child.name(), &base.name(), "No such file"],
    );
}

#[test]
fn eight_images_are_one_above_the_other_and_not_nine() {
    let mut images = vec![golden()];
    for number in 1..=8u8 {
        let child = fork(images.last().unwrap(), "overlay");
        let mut disk = Setup::new(SMALL).start_on(child);
        assert!(disk.append(SMALL.start(2), &vec![number; 4096 * usize::from(number)]).is_ok());
        assert_ok(disk.write(u64::from(number) * 16, &[number; 4096]));
        assert!(disk.stop().success());
        images.push(disk.image);
    }
    let info = ok(&["info", &images[8].name(), "--json"]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["bases"].as_array().unwrap().len(), 8);
    assert_eq!(info["bases"][7], images[0].name());
    let mut disk = Setup::new(SMALL).start_on(images.pop().unwrap());
    for number in 1..=8u8 {
        assert_eq!(disk.read(u64::from(number) * 16, 4096), Ok(vec![number; 4096]));
    }
    assert!(disk.stop().success());
    let ninth = Image::absent();
    fails(&["fork", &disk.image.name(), &ninth.name(), "--method", "overlay"], &["more than 8"]);
    assert!(!ninth.path().exists());
}

#[test]
fn snapshots_share_an_image_that_stays_as_it_is_and_leave_nothing_behind() {
    let base = golden();
    let content = fs::read(base.path()).unwrap();
    let folder = base.path().parent().unwrap();
    let files = || fs::read_dir(folder).unwrap().count();
    let before = files();
    let start = || {
        // Another name of the same file.
        let same = Image::absent();
        fs::hard_link(base.path(), same.path()).unwrap();
        Setup::new(SMALL).args(&["--snapshot"]).start_on(same)
    };
    let mut all: Vec<Disk> = (0..5).map(|_| start()).collect();
    for (number, disk) in (1u64..).zip(&mut all) {
        assert_ok(disk.reset(2));
        disk.fill(2, number * 4096);
        assert_ok(disk.flush());
    }
    for (number, disk) in (1u64..).zip(&mut all) {
        assert_eq!(disk.zone(2).wp - SMALL.start(2), number * 8);
        assert!(disk.stop().success());
    }
    assert!(fs::read(base.path()).unwrap() == content, "the image has changed");
    assert_eq!(files(), before);
    let both = run(&["serve", &base.name(), "--snapshot", "--read-only", "--socket-path", "x"]);
    assert!(!both.status.success());
}

#[test]
fn what_has_no_base_to_be_forked_from_is_refused_in_one_line() {
    let base = golden();
    let child = Image::absent();
    let plain = Image::absent();
    assert!(tool("qemu-img", &["create", "-q", "-f", "qcow2", &plain.name(), "8M"]).status.success());
    fails(&["fork", &plain.name(), &child.name()], &[&plain.name(), "not a zoned image"]);
    fails(&["fork", &child.name(), &base.name()], &[&child.name(), "No such file"]);
    fails(&["fork", &base.name(), &base.name()], &[&base.name(), "exists"]);
    let served = Setup::new(SMALL).start_on(base);
    fails(&["fork", &served.image.name(), &child.name()], &[&served.image.name(), "in use"]);
    fails(&["create", "-b", &plain.name(), &child.name(), "8M"], &["fork BASE CHILD"]);
    assert!(!child.path().exists());
}

#[test]
fn stock_qemu_img_sees_the_bytes_of_a_chain_without_the_zoned_bit() {
    let base = golden();
    let middle = changed(fork(&base, "overlay"), 2, 9);
    let top = changed(fork(&middle, "overlay"), 3, 5);
    let flat = Image::absent();
    ok(&["convert", &top.name(), &flat.name(), "--to", "image"]);
    for image in [&base, &middle, &top, &flat] {
        image.patch(72, &(image.be64(72) & !0x20).to_be_bytes());
    }
    let compared = tool("qemu-img", &["compare", "-f", "qcow2", "-F", "qcow2", &top.name(), &flat.name()]);
    assert!(compared.status.success(), "{compared:?}");
    let chain = tool("qemu-img", &["info", "--backing-chain", "--output=json", &top.name()]);
    let chain: serde_json::Value = serde_json::from_str(&chain.stdout).unwrap_or_else(|_| panic!("{chain:?}"));
    assert_eq!(chain.as_array().unwrap().len(), 3);
}

/// An image of which a zone was reset and written anew, and a conventional zone written.
fn changed(image: Image, zone: usize, byte: u8) -> Image {
    let mut disk = Setup::new(SMALL).start_on(image);
    assert_ok(disk.reset(zone));
    assert_ok(disk.write(SMALL.start(zone), &vec![byte; 12288]));
    assert_ok(disk.write(u64::from(byte) * 8, &[byte; 4096]));
    assert!(disk.stop().success());
    disk.image
}

#[test]
fn a_fork_is_put_on_another_base_or_taken_into_its_own() {
    let base = golden();
    let child = changed(fork(&base, "overlay"), 2, 9);
    let flat = Image::absent();
    ok(&["convert", &child.name(), &flat.name(), "--to", "image"]);
    // On a base with other data.
    let other = changed(golden(), 4, 3);
    assert!(ok(&["rebase", &child.name(), &other.name()]).contains("taken over"));
    equal(&flat, &child);
    assert!(ok(&["info", &child.name()]).contains(&format!("builds on: {}", other.name())));
    // On a copy, as the base is gone.
    let moved = Image::absent();
    fs::copy(other.path(), moved.path()).unwrap();
    fs::remove_file(other.path()).unwrap();
    fails(&["rebase", &child.name(), &base.name()], &[&child.name(), &base.name(), "not a copy"]);
    assert!(ok(&["rebase", &child.name(), &moved.name()]).contains("by its new name"));
    equal(&flat, &child);
    child.assert_clean();
    // Into its base, while another fork of that is served, and afterwards.
    let served = Setup::new(SMALL).start_on(fork(&moved, "overlay"));
    fails(&["commit", &child.name()], &[&moved.name(), "in use"]);
    drop(served);
    assert!(ok(&["commit", &child.name()]).starts_with(&format!("Committed '{}' to '{}'", child.name(), moved.name())));
    equal(&flat, &moved);
    equal(&flat, &child);
    moved.assert_clean();
    moved.assert_qemu_agrees(1);
    fails(&["commit", &moved.name()], &[&moved.name(), "builds on no other"]);
    fails(&["rebase", &moved.name(), &flat.name()], &[&moved.name(), "builds on no other"]);
}
