//! Images against the real qemu-img: it refuses them by name as they are, and with bit 5 cleared it finds nothing but
//! the clusters of the write-pointer table as leaks. A missing qemu-img fails these tests.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop there")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use vhost_user_zbd::qcow2::{Access, ByteOrder, CreateOptions, Image, create};
use vhost_user_zbd::storage::file::FileMedium;
use vhost_user_zbd::units::{Bytes, ZoneIndex};
use vhost_user_zbd::zone::GeometryRequest;

/// Incompatible feature bit 5 in the last byte of the field at 72.
const FEATURE_BYTE: u64 = 79;

struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 20) % bound
    }
}

fn storage(path: &Path) -> Arc<FileMedium> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    Arc::new(FileMedium::new(file))
}

fn options(size: u64, zone_size: u64, cluster_size: u64, table_order: ByteOrder) -> CreateOptions {
    let geometry = GeometryRequest {
        size: Bytes(size),
        zone_size: Bytes(zone_size),
        zone_capacity: Bytes(zone_size / 4 * 3),
        conventional_zones: 2,
        max_open_zones: 0,
        max_active_zones: 0,
        max_append_bytes: Bytes(65536),
    };
    CreateOptions { geometry, cluster_size: Bytes(cluster_size), table_order }
}

fn qemu_img(arguments: &[&str], path: &Path) -> Output {
    Command::new("qemu-img").args(arguments).arg(path).output().unwrap()
}

/// What qemu-img finds in the image when it does not know of the zones.
fn check_without_zones(path: &Path) -> serde_json::Value {
    // Bit 5 is cleared for as long as this takes. A copy would need a program that keeps holes of terabytes.
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, FEATURE_BYTE).unwrap();
    assert_eq!(byte[0], 0x20);
    file.write_all_at(&[0], FEATURE_BYTE).unwrap();
    let output = qemu_img(&["check", "-f", "qcow2", "--output=json"], path);
    file.write_all_at(&byte, FEATURE_BYTE).unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

fn assert_only_the_table_leaks(path: &Path, image: &mut Image<FileMedium>) {
    let found = check_without_zones(path);
    let table = image.zoned().zonedmeta_size.div_ceil(image.header().cluster_size().0);
    let number = |name: &str| found.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
    assert_eq!(number("leaks"), table, "{found}");
    assert_eq!(number("corruptions"), 0, "{found}");
    assert_eq!(number("check-errors"), 0, "{found}");
    let report = image.check().unwrap();
    assert_eq!((report.errors, report.leaks), (0, 0), "{:?}", report.findings);
    assert_eq!(number("allocated-clusters"), report.allocated_clusters, "{found}");
    assert_eq!(number("total-clusters"), report.total_clusters, "{found}");
    assert_eq!(number("image-end-offset"), report.image_end, "{found}");
}

fn load(path: &Path, options: &CreateOptions, rounds: u64, seed: u64) {
    let mut seeded = Seeded(seed);
    create(&*storage(path), options).unwrap();
    let (size, cluster) = (options.geometry.size.0, options.cluster_size.0);
    let mut image = Image::open(storage(path), Access::ReadWrite).unwrap();
    for round in 0..rounds {
        let most = if seeded.below(16) == 0 { 4000 * cluster } else { 20 * cluster };
        let (start, len) = (seeded.below(size), seeded.below(most));
        image.map(Bytes(start), Bytes(len)).unwrap();
        if seeded.below(10) == 0 {
            image.refill(Bytes(seeded.below(64 << 20))).unwrap();
        }
        let zone = ZoneIndex(u32::try_from(seeded.below(u64::from(image.geometry().nr_zones()))).unwrap());
        let pointer = image.geometry().start(zone).0 + seeded.below(options.geometry.zone_size.0 / 512) * 512;
        image.pointer_table().store(zone, Bytes(pointer)).unwrap();
        if round % 50 == 49 {
            image.release().unwrap();
            assert_only_the_table_leaks(path, &mut image);
            image = Image::open(storage(path), Access::ReadWrite).unwrap();
        }
    }
    image.release().unwrap();
    assert_only_the_table_leaks(path, &mut image);
}

#[test]
fn qemu_img_finds_only_the_table_after_random_load() {
    let directory = tempfile::tempdir().unwrap();
    for (cluster_size, size, rounds) in [
        (512, (24 << 20) + 512, 120),
        (4096, 300 << 20, 200),
        (65536, (20 << 30) + 1536, 200),
        (65536, 16 << 40, 50),
        (2 << 20, 40 << 30, 100),
    ] {
        for (seed, order) in [(1, ByteOrder::Big), (2, ByteOrder::Little)] {
            let path = directory.path().join(format!("{cluster_size}-{size}-{seed}.qcow2"));
            let zone_size = if size > 1 << 40 { 64 << 20 } else { 1 << 20 };
            load(&path, &options(size, zone_size, cluster_size, order), rounds, seed);
            fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn qemu_img_refuses_the_image_by_the_name_of_the_feature() {
    let directory = tempfile::tempdir().unwrap();
    for cluster_size in [512, 1024, 65536, 2 << 20] {
        let path = directory.path().join(format!("{cluster_size}.qcow2"));
        create(&*storage(&path), &options(64 << 20, 4 << 20, cluster_size, ByteOrder::Big)).unwrap();
        let output = qemu_img(&["info", "-f", "qcow2"], &path);
        assert!(!output.status.success());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("zoned format"), "{message}");
    }
}

#[test]
fn a_fresh_image_is_clean_to_qemu_img_at_every_cluster_size() {
    let directory = tempfile::tempdir().unwrap();
    for bits in 9..=21 {
        let path = directory.path().join(format!("{bits}.qcow2"));
        create(&*storage(&path), &options((1 << 30) + 512, 1 << 20, 1 << bits, ByteOrder::Big)).unwrap();
        let mut image = Image::open(storage(&path), Access::ReadOnly).unwrap();
        assert_only_the_table_leaks(&path, &mut image);
    }
}
