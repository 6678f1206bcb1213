//! When a write has to be stable before it is answered. The daemon runs on a host where fdatasync fails on the descriptor
//! that the queues sync the image by (a system call filter of the test's): a request that waits for stable storage is
//! then an error, one that does not is OK. The image's own descriptor can be synced, or it could not be opened.

use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::common::KIB;
use crate::common::cli::{Geo, Image, SMALL, program};
use crate::common::daemon::Daemon;
use crate::common::disk::Setup;
use crate::common::frontend::{Frontend, Options, feature};
use crate::common::model::{assert_ok, pattern};
use crate::common::request::{Req, Status};
use crate::common::syncs::refuse_syncs_but_of;

/// Clusters with room for every write of these tests: they ask for no other change of the image.
const GEO: Geo = Geo { cluster: 256 * KIB, ..SMALL };

/// Zones that have such a cluster.
const CONV: usize = 1;
const SEQ: usize = 2;

fn image() -> Image {
    let mut disk = Setup::new(GEO).start();
    for zone in [CONV, SEQ] {
        let start = disk.geo().start(zone);
        assert_ok(disk.write(start, &pattern(1, 0, 4096)));
    }
    assert!(disk.stop().success());
    disk.image
}

/// Serves the image where nothing can be made stable, with the engine whose fdatasync is a system call.
fn serve_without_stable_storage(image: &Image, args: &[&str]) -> Daemon {
    let socket = image.beside("socket");
    let command = || {
        let mut command = Command::new(program());
        command.arg("serve").arg(image.path()).arg("--socket-path").arg(&socket).args(["--aio", "sync"]).args(args);
        command
    };
    let serve = |mut command: Command| {
        let mut daemon = Daemon::spawn_program(&mut command, &socket);
        daemon.await_socket();
        daemon
    };
    let mut usual = serve(command());
    let own = first_descriptor(usual.pid(), image.path());
    assert!(usual.terminate().success());
    let mut filtered = command();
    // SAFETY: the function makes only async-signal-safe calls and owns nothing.
    unsafe { filtered.pre_exec(move || refuse_syncs_but_of(own)) };
    serve(filtered)
}

/// The first descriptor of a file that a process has. A program that is started in the same way gives it the same one.
fn first_descriptor(pid: i32, path: &Path) -> u32 {
    let number = |entry: io::Result<DirEntry>| entry.unwrap().file_name().to_str().unwrap().parse::<u32>().unwrap();
    let mut numbers: Vec<u32> = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(number).collect();
    numbers.sort_unstable();
    let leads_there =
        |number: &&u32| fs::read_link(format!("/proc/{pid}/fd/{number}")).is_ok_and(|target| target == path);
    *numbers.iter().find(leads_there).unwrap()
}

#[test]
fn a_write_is_stable_before_its_answer_unless_the_driver_flushes_and_the_cache_is_writeback() {
    use feature::{CONFIG_WCE, FLUSH};
    let image = image();
    // Arguments of `serve`, features that are not accepted, what the driver sets `writeback` to, and whether a write
    // is answered before it is stable.
    let cases: &[(&[&str], u64, Option<u8>, bool)] = &[
        (&[], 0, None, true),
        (&[], CONFIG_WCE, None, true),
        (&["--cache", "none"], 0, None, true),
        (&[], 0, Some(1), true),
        (&[], 0, Some(0), false),
        (&["--cache", "none"], 0, Some(0), false),
        (&[], CONFIG_WCE | FLUSH, None, false),
        (&[], FLUSH, None, false),
        (&["--cache", "writethrough"], 0, None, false),
        (&["--cache", "writethrough"], 0, Some(1), false),
        (&["--cache", "writethrough"], CONFIG_WCE, None, false),
    ];
    let start = GEO.start(SEQ);
    // The first request that cannot be made stable spoils the daemon, so each has its own.
    let requests: [fn(u64, u64) -> Req; 3] = [
        |_, _| Req::write(GEO.start(CONV), pattern(2, 0, 4096)),
        |_, wp| Req::write(wp, pattern(3, 0, 4096)),
        |start, _| Req::append(start, pattern(4, 0, 4096)),
    ];
    for (args, without, writeback, volatile) in cases {
        for request in requests {
            let mut daemon = serve_without_stable_storage(&image, args);
            let options = Options { without: *without, ..Options::default() };
            let mut front = Frontend::connect(daemon.connect(), &options).unwrap_or_else(|e| panic!("{e}"));
            if let Some(value) = writeback {
                front.conn.set_config(32, &[*value]).unwrap_or_else(|e| panic!("{e}"));
            }
            let wp = front.call(0, &Req::report(start, 128)).zones()[0].wp;
            let req = request(start, wp);
            let case = format!("{args:?}, without {without:#x}, writeback {writeback:?}, type {}", req.kind);
            let expected = if *volatile { Status::Ok } else { Status::IoErr };
            assert_eq!(front.call(0, &req).status, expected, "{case}");
            // Reads and flushes: the one needs no stable storage, the other nothing else.
            assert_eq!(front.call(0, &Req::read(start, 4096)).status, Status::Ok, "{case}");
            assert_eq!(front.call(0, &Req::flush()).status, Status::IoErr, "{case}");
            assert!(daemon.is_alive(), "{case}");
        }
    }
}
