//! What is offered, what is agreed on, and what follows from it.

use crate::common::cli::SMALL;
use crate::common::disk::{Disk, Setup};
use crate::common::frontend::{Options, feature};
use crate::common::model::{assert_ok, assert_same, pattern};
use crate::common::proto::pf;
use crate::common::request::{MANAGEMENT, Req, State, Status, kind};

const SEQ: usize = 2;

#[test]
fn exactly_the_features_that_are_kept_are_offered() {
    use feature::*;
    let needed = VERSION_1 | ZONED | FLUSH | CONFIG_WCE | BLK_SIZE | TOPOLOGY | SEG_MAX | MQ | INDIRECT_DESC;
    let needed = needed | EVENT_IDX | PROTOCOL_FEATURES;
    // Bit 15 is LIFETIME; bits 0 and 7 are those of legacy devices that have barriers and SCSI commands.
    let never = DISCARD | WRITE_ZEROES | SECURE_ERASE | RING_PACKED | IN_ORDER | RING_RESET | 1 << 15 | 1 << 7 | 1;
    for (args, read_only) in [(&[][..], 0), (&["--read-only"], RO)] {
        let mut disk = Setup::new(SMALL).args(args).start();
        let offered = disk.front().offered;
        assert_eq!(offered & (needed | RO), needed | read_only, "offered: {offered:#x}");
        assert_eq!(offered & never, 0, "offered: {offered:#x}");
    }
}

#[test]
fn the_protocol_features_that_frontends_need_are_offered() {
    let mut disk = Disk::small();
    let offered = disk.front().protocol_offered;
    let needed = pf::MQ | pf::REPLY_ACK | pf::CONFIG | pf::RESET_DEVICE | pf::CONFIGURE_MEM_SLOTS | pf::INFLIGHT_SHMFD;
    assert_eq!(offered & needed, needed, "offered: {offered:#x}");
    assert_eq!(offered & pf::STATUS, 0, "STATUS ends the connection in frontends' libraries");
    assert!(disk.front().queue_num >= 64, "QEMU asks for one queue a CPU: {}", disk.front().queue_num);
}

#[test]
fn without_the_zoned_feature_no_request_is_served_and_the_log_says_why() {
    let mut disk = Setup::new(SMALL).without(feature::ZONED).start();
    let start = disk.geo().start(SEQ);
    for request in MANAGEMENT.into_iter().chain([kind::ZONE_RESET_ALL]) {
        assert_eq!(disk.call(&Req::bare(request, start)).status, Status::Unsupp, "type {request}");
    }
    assert_eq!(disk.call(&Req::report(0, 4096)).status, Status::Unsupp, "report");
    assert_eq!(disk.append(start, &[1; 4096]), Err(Status::Unsupp), "append");
    for req in [Req::read(0, 4096), Req::write(0, [1; 4096]), Req::write(start, [1; 4096]), Req::flush()] {
        let status = disk.call(&req).status;
        assert!(matches!(status, Status::IoErr | Status::Unsupp), "type {}: {status:?}", req.kind);
    }
    disk.daemon.await_log(&["zoned"]);
    let log = disk.daemon.log();
    let said = log.lines().find(|line| line.contains("VIRTIO_BLK_F_ZONED")).expect("a line that names the feature");
    assert!(said.contains("ERROR"), "an error: {said}");
    // The next frontend does accept it, and finds nothing changed.
    disk.reconnect_with(&Options::default());
    assert_eq!(disk.state(SEQ), State::Empty);
    assert_eq!(disk.read(0, 4096).unwrap(), vec![0; 4096]);
    disk.assert_works();
}

#[test]
fn frontends_that_accept_less_are_served() {
    use feature::{CONFIG_WCE, EVENT_IDX, FLUSH, INDIRECT_DESC, MQ, SEG_MAX, TOPOLOGY};
    let mut disk = Disk::small();
    for without in
        [EVENT_IDX, INDIRECT_DESC, EVENT_IDX | INDIRECT_DESC, MQ, CONFIG_WCE, CONFIG_WCE | FLUSH, SEG_MAX | TOPOLOGY]
    {
        disk.reconnect_with(&Options { without, ..Options::default() });
        assert_eq!(disk.front().features & without, 0);
        disk.assert_works();
    }
    for without_protocol in [pf::REPLY_ACK, pf::CONFIGURE_MEM_SLOTS, pf::MQ, pf::REPLY_ACK | pf::CONFIGURE_MEM_SLOTS] {
        disk.reconnect_with(&Options { without_protocol, ..Options::default() });
        disk.assert_works();
    }
}

#[test]
fn without_protocol_features_the_queues_are_enabled_from_the_start() {
    let mut disk = Disk::small();
    disk.reconnect_with(&Options { without: feature::PROTOCOL_FEATURES, ..Options::default() });
    disk.assert_works();
}

#[test]
fn a_read_only_disk_refuses_every_change_and_serves_every_read() {
    let mut disk = Disk::small();
    let data = pattern(1, 0, 8192);
    assert_ok(disk.write(disk.geo().start(SEQ), &data));
    disk.fill(SEQ + 1, SMALL.cap);
    assert!(disk.stop().success());
    let before = std::fs::read(disk.image.path()).unwrap();
    disk.setup = disk.setup.clone().args(&["--read-only"]);
    disk.start_again();
    let start = disk.geo().start(SEQ);
    let zones = disk.zones();
    for zone in [start, disk.geo().start(SEQ + 1), disk.geo().start(SEQ + 2)] {
        for request in MANAGEMENT.into_iter().chain([kind::ZONE_RESET_ALL]) {
            assert_eq!(disk.call(&Req::bare(request, zone)).status, Status::IoErr, "type {request} at {zone:#x}");
        }
        assert_eq!(disk.append(zone, &data), Err(Status::IoErr));
    }
    for at in [0, start, start + 16] {
        assert_eq!(disk.write(at, &data), Status::IoErr, "write at {at:#x}");
    }
    assert_eq!(disk.zones(), zones);
    assert_same(&disk.read(start, 8192).unwrap(), &data, start);
    assert!(disk.stop().success());
    assert!(std::fs::read(disk.image.path()).unwrap() == before, "the image's file has changed");
}

#[test]
fn a_read_only_disk_refuses_every_change_of_a_driver_that_did_not_accept_ro() {
    let mut disk = Setup::new(SMALL).args(&["--read-only"]).without(feature::RO).start();
    let start = disk.geo().start(SEQ);
    assert_eq!(disk.front().features & feature::RO, 0);
    let zones = disk.zones();
    let data = pattern(1, 0, 4096);
    let requests =
        [Req::write(0, data.clone()), Req::write(start, data.clone()), Req::append(start, data), Req::reset_all()];
    for req in requests.into_iter().chain(MANAGEMENT.map(|request| Req::bare(request, start))) {
        assert_eq!(disk.call(&req).status, Status::IoErr, "type {}", req.kind);
    }
    assert_eq!(disk.zones(), zones);
    assert_eq!(disk.read(0, 4096).unwrap(), vec![0; 4096]);
}

#[test]
fn a_write_that_a_read_only_disk_refuses_is_an_error_whatever_else_is_wrong_with_it() {
    let mut disk = Setup::new(SMALL).args(&["--read-only"]).start();
    let (start, end) = (disk.geo().start(SEQ), disk.geo().end());
    let requests = [
        Req::write(start + 8, [1; 4096]),
        Req::write(start, [1; 512]),
        Req::write(start, vec![1; 1 << 20]),
        Req::write(end, [1; 4096]),
        Req::append(start + 8, [1; 4096]),
        Req::append(start, [1; 512]),
        Req::append(0, [1; 4096]),
    ];
    for req in requests {
        let status = disk.call(&req).status;
        assert_eq!(status, Status::IoErr, "type {} of {} bytes at {:#x}", req.kind, req.out.len(), req.sector);
    }
    assert_eq!(disk.state(SEQ), State::Empty);
}

#[test]
fn a_read_only_disk_serves_reads_reports_flushes_and_its_serial() {
    let mut disk = Setup::new(SMALL).args(&["--read-only", "--serial", "ro"]).start();
    assert_ok(disk.flush());
    assert_eq!(disk.zones().len(), SMALL.zones());
    assert_eq!(&disk.get_id()[..3], b"ro\0");
    assert_eq!(disk.read(disk.geo().start(SEQ), 4096).unwrap(), vec![0; 4096]);
    assert_eq!(disk.read(disk.geo().start(SEQ + 1) - 1, 1024), Err(Status::InvalidCmd), "a border is a border");
}

#[test]
fn without_flush_the_cache_mode_begins_as_writethrough() {
    let mut disk = Setup::new(SMALL).without(feature::FLUSH).start();
    assert_ne!(disk.front().features & feature::CONFIG_WCE, 0, "CONFIG_WCE is accepted");
    assert_eq!(disk.config(32, 1), [0], "writeback");
    disk.assert_works();
    disk.front().reset_device().unwrap();
    assert_eq!(disk.config(32, 1), [0], "writeback after a device reset and the same negotiation");
    // The next driver flushes, and has the mode that was asked for.
    disk.reconnect_with(&Options::default());
    assert_eq!(disk.config(32, 1), [1], "writeback");
}

#[test]
fn a_feature_that_is_not_offered_cannot_be_accepted() {
    use feature::{DISCARD, RING_PACKED, RO, SECURE_ERASE, WRITE_ZEROES};
    let mut disk = Disk::small();
    for bit in [DISCARD, WRITE_ZEROES, SECURE_ERASE, RO, RING_PACKED, 1 << 15] {
        let front = disk.front();
        let bits = front.features | bit;
        assert!(front.conn.tell_u64(crate::common::proto::msg::SET_FEATURES, bits).is_err(), "feature {bit:#x}");
        disk.reconnect();
    }
    disk.assert_works();
}

#[test]
fn get_id_gives_the_serial_in_20_bytes() {
    let mut disk = Setup::new(SMALL).args(&["--serial", "zoned-17"]).start();
    assert_eq!(disk.get_id(), b"zoned-17\0\0\0\0\0\0\0\0\0\0\0\0");
    let mut disk = Setup::new(SMALL).args(&["--serial", "exactly-20-bytes-abc"]).start();
    assert_eq!(disk.get_id(), b"exactly-20-bytes-abc");
    let mut disk = Disk::small();
    let id = disk.get_id();
    let text = id.iter().position(|b| *b == 0).unwrap_or(20);
    assert!(id[..text].iter().all(u8::is_ascii_graphic) && id[text..].iter().all(|b| *b == 0), "{id:?}");
}

#[test]
fn types_that_are_not_served_are_unsupported() {
    let mut disk = Disk::small();
    let known = [kind::GET_LIFETIME, kind::DISCARD, kind::WRITE_ZEROES, kind::SECURE_ERASE];
    let unknown = [2, 3, 5, 6, 7, 9, 17, 19, 21, 23, 25, 27, 28, 100, 0x8000_0000, 0x8000_0001, u32::MAX];
    for request in known.into_iter().chain(unknown) {
        for (out, in_len) in [(0, 0), (16, 0), (0, 6), (16, 512)] {
            let req = Req { out: vec![0; out], in_len, ..Req::bare(request, disk.geo().start(SEQ)) };
            assert_eq!(disk.call(&req).status, Status::Unsupp, "type {request}, {out} bytes out, {in_len} in");
        }
    }
    assert_eq!(disk.state(SEQ), State::Empty);
    disk.assert_works();
}

#[test]
fn flush_is_ok_with_and_without_anything_to_make_stable() {
    let mut disk = Disk::small();
    assert_ok(disk.flush());
    let start = disk.geo().start(SEQ);
    let writes: Vec<_> = (0..32).map(|at| disk.submit(0, &Req::write(start + 8 * at, vec![1; 4096]))).collect();
    let flushes: Vec<_> = (0..4).map(|_| disk.submit(0, &Req::flush())).collect();
    for done in disk.front().wait_all(&[writes, flushes].concat()) {
        assert_ok(done.status);
    }
}

#[test]
fn without_the_zoned_feature_a_zone_request_is_unsupported_wherever_it_points_and_however_long_it_is() {
    let mut disk = Setup::new(SMALL).without(feature::ZONED).start();
    let start = disk.geo().start(SEQ);
    let types = [kind::ZONE_APPEND, kind::ZONE_REPORT, kind::ZONE_RESET_ALL];
    for request in types.into_iter().chain(MANAGEMENT) {
        for (out, in_len) in [(0, 8), (0, 4096), (4096, 8), (1 << 20, 64)] {
            for sector in [0, start, start + 1, u64::MAX] {
                let req = Req { out: vec![1; out], in_len, ..Req::bare(request, sector) };
                let status = disk.call(&req).status;
                assert_eq!(status, Status::Unsupp, "type {request}, {out} bytes out, {in_len} in, at {sector:#x}");
            }
        }
    }
}

#[test]
fn an_append_longer_than_the_limit_is_an_error_on_a_read_only_disk() {
    let mut disk = Setup::new(SMALL).args(&["--read-only"]).start();
    let start = disk.geo().start(SEQ);
    assert_eq!(disk.append(start, &vec![1; SMALL.append as usize + 4096]), Err(Status::IoErr));
    assert_eq!(disk.append(start, &vec![1; 1 << 20]), Err(Status::IoErr));
    assert_eq!(disk.state(SEQ), State::Empty);
}

#[test]
fn without_the_zoned_feature_a_zone_request_is_unsupported_whatever_its_buffers() {
    let mut disk = Setup::new(SMALL).without(feature::ZONED).start();
    let start = disk.geo().start(SEQ);
    let types = [kind::ZONE_APPEND, kind::ZONE_REPORT, kind::ZONE_RESET_ALL];
    for request in types.into_iter().chain(MANAGEMENT) {
        for (out, in_len) in [(0, 0), (4096, 0), (0, 4096), (4096, 8), (1 << 20, 64)] {
            for sector in [0, start, start + 1, u64::MAX] {
                let req = Req { out: vec![1; out], in_len, ..Req::bare(request, sector) };
                let status = disk.call(&req).status;
                assert_eq!(status, Status::Unsupp, "type {request}, {out} bytes out, {in_len} in, at {sector:#x}");
            }
        }
    }
}
