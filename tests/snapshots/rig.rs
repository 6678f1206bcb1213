//! A served disk with its control socket, and images looked at without a daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vhost_user_zbd::storage::file::FileMedium;
use vhost_user_zbd::store::{OpenOptions, ZonedStore};
use vhost_user_zbd::units::{Bytes, Sector};

use crate::common::cli::{Geo, Image, Run, TWELVE, ok, run};
use crate::common::disk::{Disk, Setup};
use crate::common::proto::msg;

/// The shape of the disk.
pub(crate) const GEO: Geo = TWELVE;

/// What is written at a time.
pub(crate) const BLOCK: u64 = 4096;

/// How many rounds an environment variable asks for, or an ordinary run has.
pub(crate) fn rounds(name: &str, ordinary: u64) -> u64 {
    std::env::var(name).map_or(ordinary, |count| count.parse().unwrap_or_else(|e| panic!("{name}={count}: {e}")))
}

/// A served disk.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) disk: Disk,
}

impl Rig {
    /// A new image, served, with a frontend.
    #[track_caller]
    pub(crate) fn start(setup: Setup) -> Self {
        let image = Image::create(&setup.geo);
        Self::start_on(setup, image)
    }

    /// The same on an image that is there.
    #[track_caller]
    pub(crate) fn start_on(setup: Setup, image: Image) -> Self {
        let args = ["--control-path", &image.beside_name("control")].map(str::to_owned);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Self { disk: setup.args(&args).start_on(image) }
    }

    /// The control socket, as an argument.
    pub(crate) fn control(&self) -> String {
        self.disk.image.beside_name("control")
    }

    /// `ctl snapshot` with these arguments.
    pub(crate) fn snapshot(&self, args: &[&str]) -> Run {
        run(&[&["ctl", &self.control(), "snapshot"], args].concat())
    }

    /// The same, which must go well: its output.
    #[track_caller]
    pub(crate) fn snapshot_ok(&self, args: &[&str]) -> String {
        ok(&[&["ctl", &self.control(), "snapshot"], args].concat())
    }

    /// The file of a snapshot.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.disk.image.beside(&format!("disk.qcow2.snapshots/{name}.qcow2"))
    }

    /// Resets the device by RESET_DEVICE, and sets it up again.
    #[track_caller]
    pub(crate) fn reset_device(&mut self) {
        let front = self.disk.front();
        front.conn.tell(msg::RESET_DEVICE, &[], &[]).unwrap();
        front.inflight = None;
        front.forget();
        front.conn.tell_u64(msg::SET_FEATURES, front.features).unwrap();
        front.share_inflight().unwrap();
        (0..front.queues.len()).for_each(|queue| front.start_queue(queue, 0).unwrap());
    }

    /// Ends the daemon; its image is clean and the same as this one.
    #[track_caller]
    pub(crate) fn finish_equal_to(mut self, other: &Path) {
        assert!(self.disk.stop().success(), "the daemon's end");
        assert_clean(self.disk.image.path());
        ok(&["diff", &self.disk.image.name(), &other.display().to_string()]);
    }
}

/// An image has no errors and no leaks.
#[track_caller]
pub(crate) fn assert_clean(path: &Path) {
    let run = run(&["check", &path.display().to_string()]);
    assert_eq!(run.status.code(), Some(0), "{}: check: {run:?}", path.display());
}

/// The blocks of each zone of an image, up to its write pointer; all of a conventional one.
#[track_caller]
pub(crate) fn look(path: &Path, geo: &Geo) -> Vec<Vec<Vec<u8>>> {
    let medium = Arc::new(FileMedium::new(std::fs::File::open(path).unwrap()));
    let options = OpenOptions { read_only: true, write_granularity: Bytes(BLOCK), hold_resets: false };
    let store = ZonedStore::open(medium, options).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let zone = |zone: usize| {
        let now = store.zone_now(Sector(geo.start(zone))).unwrap();
        let start = geo.start(zone) * 512;
        let end = if geo.is_conventional(zone) { start + geo.len(zone) * 512 } else { now.info.write_pointer.0 };
        let mut bytes = vec![0; (end - start) as usize];
        store.peek(Bytes(start), &mut bytes).unwrap();
        bytes.chunks(BLOCK as usize).map(<[u8]>::to_vec).collect()
    };
    (0..geo.zones()).map(zone).collect()
}
