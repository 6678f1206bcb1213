//! The image after much work: sound by two checkers, and no larger than what it holds.

use crate::common::cli::{Geo, SMALL};
use crate::common::disk::{Disk, Setup};
use crate::common::model::{assert_ok, pattern};
use crate::common::{KIB, MIB, eventually};
use crate::load::Load;

const GEO: Geo = Geo { size: 48 * MIB, zone: 4 * MIB, cap: 3 * MIB, conv: 2, ..SMALL };

fn heavy(geo: Geo, seed: u64) {
    let disk = Setup::new(geo).queues(4).queue_size(256).start();
    let mut load = Load::new(disk, seed, 64);
    load.run(4000);
    load.drain();
    load.model.verify(&mut load.disk, true);
    assert!(load.disk.stop().success());
    load.disk.assert_image_sound();
    load.disk.start_again();
    load.model.verify(&mut load.disk, false);
    load.disk.finish_clean();
}

#[test]
fn after_heavy_random_load_both_checkers_find_nothing() {
    heavy(GEO, 21);
}

#[test]
fn after_heavy_random_load_on_small_clusters_both_checkers_find_nothing() {
    heavy(Geo { cluster: 512, size: 6 * MIB, zone: 512 * KIB, cap: 512 * KIB, conv: 1, ..SMALL }, 22);
}

fn fill_all(disk: &mut Disk) {
    let data = pattern(1, 0, MIB as usize);
    for zone in 2..12 {
        for part in 0..3 {
            assert_ok(disk.write(disk.geo().start(zone) + part * 2048, &data));
        }
    }
    assert_ok(disk.flush());
}

#[test]
fn a_reset_gives_the_space_back_to_the_host() {
    let mut disk = Setup::new(GEO).start();
    let empty = disk.image.host_bytes();
    fill_all(&mut disk);
    let full = disk.image.host_bytes();
    assert!(full >= empty + 30 * MIB, "{full} bytes for 30 MiB of data");
    assert_ok(disk.reset(2));
    let image = disk.image.path().to_path_buf();
    let host_bytes = move || {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(&image).unwrap().blocks() * 512
    };
    eventually("the host to have the blocks of one zone back", || (host_bytes() <= full - 2 * MIB).then_some(()));
    assert_ok(disk.reset_all());
    eventually("the host to have the blocks of all zones back", || (host_bytes() <= empty + 2 * MIB).then_some(()));
    // And the space is used again, not more of it.
    fill_all(&mut disk);
    let again = disk.image.host_bytes();
    assert!(again <= full + 2 * MIB, "{again} bytes where {full} did before");
    disk.finish_clean();
}

#[test]
fn writing_and_resetting_for_long_does_not_let_the_file_grow() {
    let mut disk = Setup::new(GEO).start();
    let length = |disk: &Disk| std::fs::metadata(disk.image.path()).unwrap().len();
    fill_all(&mut disk);
    let once = length(&disk);
    for _ in 0..10 {
        assert_ok(disk.reset_all());
        fill_all(&mut disk);
    }
    let now = length(&disk);
    assert!(now <= once + 8 * MIB, "the file has grown from {once} to {now} bytes for the same data");
    disk.finish_clean();
}

#[test]
fn blocks_are_taken_ahead_of_the_writes_past_the_page_cache_and_only_there() {
    for (cache, ahead) in [("writeback", false), ("none", true)] {
        let mut disk = Setup::new(GEO).args(&["--cache", cache]).start();
        // What the first write brings besides: an L2 table, refcounts.
        assert_ok(disk.write(disk.geo().start(4), &pattern(4, 0, 4096)));
        assert_ok(disk.flush());
        let before = disk.image.host_bytes();
        for generation in 0..2 {
            assert_ok(disk.write(disk.geo().start(3), &pattern(3, 0, 4096)));
            assert_ok(disk.flush());
            let taken = disk.image.host_bytes() - before;
            let expected = if ahead { MIB..=2 * MIB } else { 4096..=128 * KIB };
            assert!(expected.contains(&taken), "--cache {cache}, generation {generation}: {taken} bytes for 4096");
            assert_ok(disk.reset(3));
            eventually("the blocks to be back", || (disk.image.host_bytes() <= before).then_some(()));
        }
        disk.finish_clean();
    }
}

#[test]
fn a_finish_of_a_barely_written_zone_takes_no_space_for_its_rest() {
    let mut disk = Setup::new(GEO).start();
    disk.fill(3, 65536);
    let before = disk.image.host_bytes();
    assert_ok(disk.finish(3));
    assert_ok(disk.flush());
    let after = disk.image.host_bytes();
    assert!(after <= before + 64 * KIB, "a finish took {} bytes", after - before);
}

#[test]
fn a_disk_of_16_tib_with_every_zone_partly_written_is_served_in_little_memory() {
    let zones = 262_144;
    let image = crate::common::cli::Image::create_with(&["16T", "--zone-size", "64M"]);
    // Every pointer 4 KiB into its zone, as if each had been written.
    let table = image.be64(image.extension() + 40);
    let pointers: Vec<u8> = (0..zones).flat_map(|zone| (zone * 64 * MIB + 4096).to_be_bytes()).collect();
    image.patch(table, &pointers);
    let geo = Geo { size: 16 << 40, zone: 64 * MIB, cap: 64 * MIB, conv: 0, ..SMALL };
    let mut disk = Setup::new(geo).start_on(image);
    let (mut next, mut seen) = (0, 0);
    while next < geo.end() {
        let page = disk.report(next, 8000);
        seen += page.iter().filter(|zone| zone.written() == 8).count() as u64;
        next = geo.start((next / (geo.zone / 512)) as usize + page.len());
    }
    assert_eq!(seen, zones);
    for zone in (0..zones as usize).step_by(8191) {
        assert_ok(disk.write(geo.start(zone) + 8, &[1; 4096]));
    }
    let resident = disk.daemon.status_kib("VmHWM");
    assert!(resident < 200 * 1024, "{resident} KiB resident");
    assert!(disk.stop().success());
}
