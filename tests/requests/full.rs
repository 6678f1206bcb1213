//! A file system that is really full: one of its own for the daemon, 24 MiB of tmpfs in namespaces that end with it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::common::MIB;
use crate::common::cli::{Geo, Image, SMALL, program};
use crate::common::daemon::Daemon;
use crate::common::frontend::{Frontend, Options};
use crate::common::model::{assert_same, pattern};
use crate::common::request::{Req, Status};

const GEO: Geo = Geo { size: 64 * MIB, zone: 8 * MIB, cap: 8 * MIB, conv: 1, ..SMALL };
const CHUNK: usize = 256 * 1024;

/// Serves a copy of the image there; also the file system's root as this process reaches it.
fn serve_on_a_small_file_system(image: &Image, args: &[&str]) -> (Daemon, PathBuf) {
    let (socket, folder) = (image.beside("socket"), image.beside("small"));
    fs::create_dir(&folder).unwrap();
    let script = "mount -t tmpfs -o size=24m none \"$0\" && cp \"$1\" \"$0/image\" && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).arg(&folder).arg(image.path());
    command.arg(program()).arg("serve").arg(folder.join("image")).arg("--socket-path").arg(&socket).args(args);
    let mut daemon = Daemon::spawn_program(&mut command, &socket);
    daemon.await_socket();
    let root = PathBuf::from(format!("/proc/{}/root", daemon.pid()));
    let inside = root.join(folder.strip_prefix("/").unwrap());
    assert!(inside.join("image").exists(), "the image is not seen at {}", inside.display());
    (daemon, inside)
}

/// Writes into a zone from a sector on until it is full or a write is refused; where it came to, and the refusal.
fn fill(front: &mut Frontend, mut sector: u64, end: u64) -> (u64, Option<Status>) {
    while sector < end {
        let done = front.call(0, &Req::write(sector, pattern(sector, 0, CHUNK)));
        if done.status != Status::Ok {
            return (sector, Some(done.status));
        }
        sector += (CHUNK / 512) as u64;
    }
    (sector, None)
}

fn zone_pointer(front: &mut Frontend, zone: usize) -> u64 {
    front.call(0, &Req::report(GEO.start(zone), 128)).zones()[0].wp
}

#[test]
fn a_full_file_system_costs_the_writes_that_have_no_room_and_is_forgotten_when_there_is_room_again() {
    for args in [&["--aio", "sync"][..], &[]] {
        let image = Image::create(&GEO);
        let (mut daemon, folder) = serve_on_a_small_file_system(&image, args);
        let mut front = Frontend::connect(daemon.connect(), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
        fs::write(folder.join("filler"), vec![1; 10 * MIB as usize]).unwrap();

        let (mut ends, mut refused) = (Vec::new(), None);
        for zone in 1..4 {
            let (end, refusal) = fill(&mut front, GEO.start(zone), GEO.start(zone) + GEO.cap(zone));
            ends.push((zone, end));
            if refusal.is_some() {
                refused = refusal;
                break;
            }
        }
        assert_eq!(refused, Some(Status::IoErr), "24 MiB took more than they have");
        assert_eq!(front.call(0, &Req::flush()).status, Status::Ok, "what was acknowledged has its space");
        let &(last, end) = ends.last().unwrap();
        let pointer = zone_pointer(&mut front, last);
        assert!(
            (end..end + (CHUNK / 512) as u64).contains(&pointer),
            "{end:#x} was acknowledged, pointer {pointer:#x}"
        );

        fs::remove_file(folder.join("filler")).unwrap();
        let more = front.call(0, &Req::write(pointer, pattern(7, 0, 4096)));
        assert_eq!(more.status, Status::Ok, "there is room again");
        assert_eq!(front.call(0, &Req::flush()).status, Status::Ok);
        for (zone, end) in ends {
            let mut sector = GEO.start(zone);
            while sector < end {
                let read = front.call(0, &Req::read(sector, CHUNK));
                assert_eq!(read.status, Status::Ok);
                assert_same(&read.data, &pattern(sector, 0, CHUNK), sector);
                sector += (CHUNK / 512) as u64;
            }
        }
        drop(front);
        assert!(daemon.terminate().success());
    }
}
