//! The same requests in every shape a driver may give their descriptors.

use crate::common::cli::{Geo, SMALL};
use crate::common::disk::{Disk, Setup};
use crate::common::frontend::feature;
use crate::common::model::{assert_same, pattern};
use crate::common::request::{Framing, Req, State, Status};

with_each_engine! {
    any_framing_carries_any_request,
    any_framing_in_an_indirect_table_carries_any_request,
}

const SEQ: usize = 2;

/// Shapes that say where descriptors end; the device must not care.
fn framings() -> Vec<(&'static str, Framing)> {
    vec![
        ("natural", Framing::pieces(&[16], &[65536])),
        ("two descriptors", Framing::merged()),
        ("two descriptors off alignment", Framing::merged().misaligned(3)),
        ("header in two", Framing::pieces(&[8, 8], &[])),
        ("header in two with data", Framing::pieces(&[4], &[])),
        ("header in sixteen", Framing::pieces(&[1; 16], &[1; 3])),
        ("header in three, the last with data", Framing::pieces(&[1, 14, 101], &[7])),
        ("data in sectors", Framing::pieces(&[&[16][..], &[512; 16]].concat(), &[512; 16])),
        ("data in odd pieces", Framing::pieces(&[16, 1, 511, 513, 5000, 3], &[1, 511, 513, 5000, 3])),
        ("data in odd pieces off alignment", Framing::pieces(&[16, 1, 511, 513, 5000], &[1, 4097]).misaligned(5)),
        ("many pieces", Framing::pieces(&[&[16][..], &[100; 60]].concat(), &[100; 60])),
        ("status with the last byte of data", Framing::pieces(&[16], &[8191])),
    ]
}

fn run_all(disk: &mut Disk, shape: impl Fn(Req, &Framing) -> Req) {
    let geo = disk.geo();
    let start = geo.start(SEQ);
    for (at, (name, framing)) in framings().iter().enumerate() {
        let data = pattern(at as u64, 0, 8192);
        let mut run = |req: Req| {
            let done = disk.call(&shape(req, framing));
            assert_eq!(done.status, Status::Ok, "framing \"{name}\"");
            done
        };
        run(Req::reset(start));
        run(Req::write(start, data.clone()));
        assert_same(&run(Req::read(start, 8192)).data, &data, start);
        assert_eq!(run(Req::append(start, data.clone())).number(), start + 16, "framing \"{name}\"");
        assert_same(&run(Req::read(start + 16, 8192)).data, &data, start);
        let zones = run(Req::report(start, 64 + 3 * 64)).zones();
        assert_eq!((zones.len(), zones[0].wp, zones[0].state), (3, start + 32, State::ImplicitOpen), "\"{name}\"");
        assert!(run(Req::get_id()).data.len() == 20);
        run(Req::write(24, data.clone()));
        assert_same(&run(Req::read(24, 8192)).data, &data, 24);
        run(Req::flush());
        run(Req::open(start));
        run(Req::close(start));
        run(Req::finish(start));
        run(Req::reset_all());
        // What is refused is refused in any shape, too.
        let refused = disk.call(&shape(Req::write(start + 8, data.clone()), framing));
        assert_eq!(refused.status, Status::UnalignedWp, "framing \"{name}\"");
    }
}

fn any_framing_carries_any_request(setup: impl Fn(Geo) -> Setup) {
    let mut disk = setup(SMALL).start();
    run_all(&mut disk, |req, framing| req.framed(framing.clone()));
    disk.finish_clean();
}

fn any_framing_in_an_indirect_table_carries_any_request(setup: impl Fn(Geo) -> Setup) {
    let mut disk = setup(SMALL).start();
    run_all(&mut disk, |req, framing| req.framed(framing.clone()).indirect());
    disk.finish_clean();
}

#[test]
fn any_framing_works_without_the_page_cache() {
    // --cache none may mean O_DIRECT, which wants alignment that these shapes do not have.
    let mut disk = Setup::new(SMALL).args(&["--cache", "none"]).start();
    run_all(&mut disk, |req, framing| req.framed(framing.clone()));
    disk.finish_clean();
    let mut disk = Setup::new(SMALL).args(&["--cache", "writethrough", "--block-size", "512"]).start();
    run_all(&mut disk, |req, framing| req.framed(framing.clone()));
    disk.finish_clean();
}

#[test]
fn a_request_with_as_many_segments_as_seg_max_is_served() {
    let mut disk = Setup::new(SMALL).queue_size(256).start();
    let start = disk.geo().start(SEQ);
    let segments = disk.config_u32(12).min(254) as usize / 8 * 8;
    let data = pattern(6, 0, 512 * segments);
    let pieces = vec![512; data.len() / 512];
    for indirect in [false, true] {
        let shape = |req: Req, pieces: Framing| Req { indirect, ..req.framed(pieces) };
        let write = shape(Req::write(start, data.clone()), Framing::pieces(&[&[16], &pieces[..]].concat(), &[]));
        assert_eq!(disk.call(&write).status, Status::Ok, "{segments} segments, indirect: {indirect}");
        let read = disk.call(&shape(Req::read(start, data.len()), Framing::pieces(&[16], &pieces)));
        assert_eq!(read.status, Status::Ok);
        assert_same(&read.data, &data, start);
        assert_eq!(disk.reset(SEQ), Status::Ok);
    }
}

#[test]
fn data_in_the_smallest_pieces_is_served_without_indirect_descriptors() {
    let mut disk = Setup::new(SMALL).queue_size(1024).without(feature::INDIRECT_DESC).start();
    let start = disk.geo().start(SEQ);
    let data = pattern(8, 0, 4096);
    let framing = Framing::pieces(&[&[16][..], &[17; 240]].concat(), &[17; 240]);
    assert_eq!(disk.call(&Req::write(start, data.clone()).framed(framing.clone())).status, Status::Ok);
    assert_same(&disk.call(&Req::read(start, 4096).framed(framing)).data, &data, start);
}
