//! Images that QEMU binaries with the zoned series have made, at the shell and served: tests/golden has them.

use std::fs;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::common::MIB;
use crate::common::cli::{Geo, Image, SMALL, ok};
use crate::common::disk::Setup;
use crate::common::request::{State, Status};

fn golden(name: &str) -> Image {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.qcow2.zst"));
    let mut unpacked = ruzstd::decoding::StreamingDecoder::new(fs::File::open(packed).unwrap()).unwrap();
    let mut bytes = Vec::new();
    unpacked.read_to_end(&mut bytes).unwrap();
    let image = Image::absent();
    fs::write(image.path(), bytes).unwrap();
    image
}

#[test]
fn info_names_the_layout_for_people_and_programs() {
    for (name, title, short, endian) in [
        ("conv-2c6s-64k", "v5 to v7 of the QEMU series", "v7", "little"),
        ("b/conv-2c6s-64k", "layout B of the QEMU series", "B", "big"),
    ] {
        let image = golden(name);
        let text = ok(&["info", &image.name()]);
        assert!(text.contains(&format!("\nzoned layout: {title}\n")), "{text}");
        let info: Value = serde_json::from_str(&ok(&["info", &image.name(), "--json"])).unwrap();
        assert_eq!((info["layout"].as_str(), info["table_endian"].as_str()), (Some(short), Some(endian)), "{info}");
        image.assert_clean();
    }
}

#[test]
fn an_image_of_layout_b_is_served_and_stays_one() {
    let geo = Geo { size: 32 * MIB, zone: 4 * MIB, cap: 4 * MIB, conv: 2, ..SMALL };
    let mut disk = Setup::new(geo).start_on(golden("b/conv-2c6s-64k"));
    let states = [State::Closed, State::Full, State::Full, State::Empty, State::Empty, State::Empty];
    assert_eq!((2..8).map(|zone| disk.state(zone)).collect::<Vec<_>>(), states);
    assert_eq!((disk.config_u32(76), disk.config_u32(80)), (3, 4), "open and active limit");
    assert_eq!(disk.read(geo.start(2), 16384), Ok(vec![0xd2; 16384]));
    assert_eq!(disk.append(geo.start(2), &[0x5e; 8192]), Ok(geo.start(2) + 32));
    assert_eq!(disk.finish(2), Status::Ok);
    assert_eq!(disk.reset(4), Status::Ok);
    assert_eq!(disk.write(geo.start(6), &[0x66; 4096]), Status::Ok);
    assert!(disk.stop().success());
    let info: Value = serde_json::from_str(&ok(&["info", &disk.image.name(), "--json"])).unwrap();
    assert_eq!(info["layout"], "B");
    disk.image.assert_clean();
    disk.image.assert_qemu_agrees(1);
    // As the layout has a finished zone, an empty one and a conventional one.
    let table = info["zonedmeta_offset"].as_u64().unwrap();
    let entries = [1, 2, 4, 6].map(|zone| disk.image.be64(table + 8 * zone));
    assert_eq!(entries, [(1 << 63) + 4 * MIB, 12 * MIB, 16 * MIB, 24 * MIB + 4096]);
    disk.start_again();
    assert_eq!(disk.read(geo.start(2) + 32, 8192), Ok(vec![0x5e; 8192]));
    assert_eq!(disk.read(geo.start(6), 4096), Ok(vec![0x66; 4096]));
}
