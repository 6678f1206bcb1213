//! The in-flight region itself: its layout, and regions and messages that are wrong.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::FileExt;

use crate::common::Rng;
use crate::common::cli::SMALL;
use crate::common::disk::{Disk, Setup};
use crate::common::frontend::Frontend;
use crate::common::inflight::Inflight;
use crate::common::model::{assert_ok, pattern};
use crate::common::proto::{Talk, msg};
use crate::common::request::Req;

use super::{GEO, SEQ, Traffic, Until, finish_sound};

#[test]
fn the_region_tells_in_the_standard_layout_which_heads_are_in_flight() {
    let disk = Setup::new(GEO).queues(4).queue_size(256).start();
    let mut traffic = Traffic::new(disk, 51, 96);
    let mut seen = 0;
    for _ in 0..10 {
        traffic.run(Until::Answers(100));
        traffic.disk.daemon.kill9();
        traffic.take_answers();
        let front = traffic.disk.front();
        for queue in 0..front.queues.len() {
            let block = front.inflight.as_ref().unwrap().block(queue);
            let entries = front.inflight.as_ref().unwrap().entries();
            assert_eq!((block.version, block.desc_num), (1, entries), "header of queue {queue}");
            let marked = block.entries.iter().enumerate().filter(|(_, (inflight, _))| *inflight);
            let mut marked: Vec<(u16, u64)> = marked.map(|(head, (_, counter))| (head as u16, *counter)).collect();
            // Where the indices differ the last answers are in the ring and not yet settled here.
            if block.used_idx != front.queues[queue].used_index(&front.mem) {
                continue;
            }
            let pending = front.heads_in_flight(queue);
            let strange: Vec<_> = marked.iter().filter(|(head, _)| !pending.contains(head)).collect();
            assert!(strange.is_empty(), "queue {queue}: heads that are not in flight: {strange:?}");
            marked.sort_by_key(|(_, counter)| *counter);
            let orders = marked.windows(2).all(|two| two[0].1 < two[1].1);
            assert!(orders, "queue {queue}: two requests with one counter: {marked:?}");
            seen += marked.len();
        }
        traffic.disk.resume();
    }
    assert!(seen > 0, "no request was ever in flight at a kill");
    traffic.drain_and_verify();
    finish_sound(&mut traffic.disk);
}

#[test]
fn a_region_begins_with_nothing_in_flight() {
    let mut disk = Setup::new(GEO).queues(3).queue_size(64).start();
    for _ in 0..3 {
        disk.submit(0, &Req::flush());
        disk.reconnect();
        let region = disk.front().inflight.as_ref().unwrap();
        for queue in 0..3 {
            assert!(region.block(queue).entries.iter().all(|(inflight, _)| !inflight), "queue {queue}");
        }
    }
}

fn memfd(len: u64) -> File {
    // SAFETY: the name is a NUL-terminated literal; the result is checked.
    let raw = unsafe { libc::memfd_create(c"in-flight".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(raw >= 0, "memfd_create");
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let file = unsafe { File::from_raw_fd(raw) };
    file.set_len(len).unwrap();
    file
}

/// A copy of a region, so that what is done to it does not depend on how the daemon's own file is protected.
fn copy(region: &Inflight) -> Inflight {
    let len = region.mmap_offset + region.mmap_size;
    let mut bytes = vec![0; len as usize];
    region.file.read_exact_at(&mut bytes, 0).unwrap();
    let file = memfd(len);
    file.write_all_at(&bytes, 0).unwrap();
    Inflight { file, ..*region }
}

/// The next daemon gets what `spoil` makes of the region. It may refuse or ignore it; it lives, the next frontend is
/// served, and the image is whole.
#[track_caller]
fn harmless(name: &str, disk: &mut Disk, spoil: impl FnOnce(&mut Inflight)) {
    println!("{name}");
    let mut region = copy(disk.front().inflight.as_ref().unwrap());
    spoil(&mut region);
    disk.daemon.kill9();
    disk.front().inflight = Some(region);
    let outcome = disk.try_resume();
    println!("{name}: {outcome:?}");
    disk.reconnect();
    disk.assert_works();
    assert!(disk.daemon.is_alive(), "{name}");
}

/// A disk that has something to lose, and a region that tells of it.
fn worked() -> Disk {
    let mut disk = Setup::new(SMALL).queues(2).start();
    for zone in SEQ..SEQ + 3 {
        disk.fill(zone, 64 << 10);
    }
    assert_ok(disk.open(SEQ + 3));
    disk
}

#[track_caller]
fn assert_unharmed(disk: &mut Disk) {
    for zone in SEQ..SEQ + 3 {
        assert_eq!(disk.zone(zone).written(), 128, "zone {zone}");
        assert_eq!(disk.read(SMALL.start(zone), 64 << 10), Ok(pattern(zone as u64, 0, 64 << 10)), "zone {zone}");
    }
}

#[test]
fn a_region_of_nonsense_does_no_harm() {
    let mut rng = Rng::new(52);
    let mut noise = |len: u64| (0..len).map(|_| rng.next() as u8).collect::<Vec<u8>>();
    let mut disk = worked();
    for round in 0..4 {
        harmless(&format!("noise {round}"), &mut disk, |region| region.patch(0, &noise(region.mmap_size)));
    }
    for byte in [0, 1, 0xff] {
        let name = format!("all bytes {byte:#x}");
        harmless(&name, &mut disk, |region| region.patch(0, &vec![byte; region.mmap_size as usize]));
    }
    // Behind a right standard part: what the daemon keeps for itself there.
    for round in 0..4 {
        harmless(&format!("noise behind the queues {round}"), &mut disk, |region| {
            let begin = region.block_start(2);
            region.patch(begin, &noise(region.mmap_size - begin));
        });
    }
    // Here and there a changed byte, anywhere.
    for round in 0..8 {
        let at = noise(64);
        harmless(&format!("changed bytes {round}"), &mut disk, |region| {
            for at in at.chunks(8) {
                let offset = u64::from_le_bytes(at.try_into().unwrap()) % region.mmap_size;
                region.patch(offset, &at[..1]);
            }
        });
    }
    // The device is told that requests are in flight which the driver never made: their descriptors are zeros.
    harmless("all heads in flight", &mut disk, |region| {
        for head in 0..u64::from(region.queue_size) {
            region.patch(16 + 16 * head, &[1]);
        }
    });
    assert_unharmed(&mut disk);
    finish_sound(&mut disk);
}

#[test]
fn a_wrong_header_of_a_queue_does_no_harm() {
    let mut disk = worked();
    // Offsets in the header: version, number of entries, head of the last batch, used index.
    for (offset, name) in [(8, "version"), (10, "desc_num"), (12, "last_batch_head"), (14, "used_idx")] {
        for value in [0_u16, 2, 7, 127, 129, 0x7fff, 0xffff] {
            harmless(&format!("{name} {value}"), &mut disk, |region| region.patch(offset, &value.to_le_bytes()));
        }
    }
    assert_unharmed(&mut disk);
    finish_sound(&mut disk);
}

#[test]
fn a_region_of_wrong_sizes_does_no_harm() {
    type Spoil = fn(&mut Inflight);
    let wrong: [(&str, Spoil); 13] = [
        ("nothing is mapped", |region| region.mmap_size = 0),
        ("one byte is mapped", |region| region.mmap_size = 1),
        ("half is mapped", |region| region.mmap_size /= 2),
        ("one byte too few is mapped", |region| region.mmap_size -= 1),
        ("more than the file is mapped", |region| region.mmap_size += 1 << 20),
        ("more than there is memory is mapped", |region| region.mmap_size = u64::MAX),
        ("an odd offset", |region| region.mmap_offset = 1),
        ("an offset behind the file", |region| region.mmap_offset = 1 << 40),
        ("an offset that overflows", |region| region.mmap_offset = u64::MAX - 4095),
        ("more queues", |region| region.num_queues = u16::MAX),
        ("no queues", |region| region.num_queues = 0),
        ("longer queues", |region| region.queue_size = u16::MAX),
        ("no entries", |region| region.queue_size = 0),
    ];
    let mut disk = worked();
    for (name, spoil) in wrong {
        harmless(name, &mut disk, spoil);
    }
    type Make = fn(u64) -> File;
    let files: [(&str, Make); 4] = [
        ("an empty file", |_| memfd(0)),
        ("a short file", |len| memfd(len / 2)),
        ("a device", |_| File::options().read(true).write(true).open("/dev/null").unwrap()),
        ("a file that is not to be written", |len| {
            let file = memfd(len);
            File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
        }),
    ];
    for (name, file) in files {
        harmless(name, &mut disk, |region| region.file = file(region.mmap_size));
    }
    assert_unharmed(&mut disk);
    finish_sound(&mut disk);
}

#[test]
fn wrong_messages_about_a_region_do_no_harm() {
    let whole = Inflight::payload_of(1 << 16, 0, 1, 128);
    let pipe = |_: &Frontend| -> File {
        let mut pipe = [0; 2];
        // SAFETY: an array for two descriptors.
        assert_eq!(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        // SAFETY: the descriptors were just made; each gets one owner.
        unsafe { (File::from_raw_fd(pipe[0]), File::from_raw_fd(pipe[1])) }.0
    };
    type Send<'a> = Box<dyn Fn(&mut Frontend) -> Talk<()> + 'a>;
    let tell = |payload: Vec<u8>, fds: Vec<RawFd>| -> Send<'_> {
        Box::new(move |front| front.conn.tell(msg::SET_INFLIGHT_FD, &payload, &fds))
    };
    let wrong: Vec<(&str, Send<'_>)> = vec![
        ("no descriptor", tell(whole.to_vec(), vec![])),
        ("two descriptors", tell(whole.to_vec(), vec![0, 0])),
        ("a short message", tell(whole[..16].to_vec(), vec![0])),
        ("an empty message", tell(vec![], vec![])),
        ("a long message", tell([whole, whole].concat(), vec![0])),
        (
            "a pipe",
            Box::new(|front| {
                let pipe = pipe(front);
                front.conn.tell(msg::SET_INFLIGHT_FD, &whole, &[pipe.as_raw_fd()])
            }),
        ),
        ("a region for no queue", Box::new(|front| front.conn.get_inflight(0, 128).map(drop))),
        ("a region for no entries", Box::new(|front| front.conn.get_inflight(1, 0).map(drop))),
        ("a region for too many queues", Box::new(|front| front.conn.get_inflight(u16::MAX, 128).map(drop))),
        ("a region for too long queues", Box::new(|front| front.conn.get_inflight(1, u16::MAX).map(drop))),
    ];
    let mut disk = worked();
    for (name, send) in wrong {
        println!("{name}: {:?}", send(disk.front()));
        disk.reconnect();
        disk.assert_works();
    }
    assert_unharmed(&mut disk);
    finish_sound(&mut disk);
}

#[test]
fn regions_do_not_pile_up_in_the_daemon() {
    let mut disk = worked();
    let files = disk.daemon.open_files();
    for _ in 0..50 {
        let region = disk.front().conn.get_inflight(2, 128).unwrap_or_else(|e| panic!("{e}"));
        drop(region);
        disk.reconnect();
    }
    let now = disk.daemon.open_files();
    assert!(now <= files + 3, "descriptors leak with each region: {files}, then {now}");
}
