//! Fetchers in threads of this process, or as processes, over one cache folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use tempfile::TempDir;
use vhost_user_zbd::fetch::cache::Cache;
use vhost_user_zbd::fetch::fetcher::{process, work};
use vhost_user_zbd::fetch::link::{Link, LinkError};
use vhost_user_zbd::fetch::medium::RemoteMedium;
use vhost_user_zbd::fetch::message::Socket;
use vhost_user_zbd::storage::Medium;
use vhost_user_zbd::units::FileOffset;

use super::server::content;

pub(crate) const CHUNK: u64 = vhost_user_zbd::fetch::chunks::CHUNK;
pub(crate) const MIB: u64 = 1 << 20;

/// A cache folder.
pub(crate) struct Rig {
    pub(crate) folder: TempDir,
    pub(crate) size: u64,
}

/// What a daemon has of a base, with the thread of its link.
pub(crate) struct Daemon {
    pub(crate) link: Arc<Link>,
    pub(crate) medium: RemoteMedium,
    thread: Option<JoinHandle<()>>,
}

impl Rig {
    pub(crate) fn new(size: u64) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), size }
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// A daemon with a fetcher in a thread.
    pub(crate) fn open(&self, url: &str) -> Result<Daemon, LinkError> {
        let (own, other) = Socket::pair().unwrap();
        let cache = Cache::open(&self.cache(), self.size).unwrap();
        let url = url.to_owned();
        std::thread::spawn(move || drop(work::work(&url, &cache, other)));
        Ok(Daemon::over(Link::open(own)?))
    }

    /// A daemon with a fetcher in a process of its own, kept by another.
    pub(crate) fn open_process(&self, url: &str) -> Result<Daemon, LinkError> {
        let program = Path::new(env!("CARGO_BIN_EXE_vhost-user-zbd"));
        std::fs::create_dir_all(self.cache()).unwrap();
        Ok(Daemon::over(process::start(program, url, &self.cache(), self.size)?))
    }

    /// Bytes that the files of the cache take.
    pub(crate) fn space(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let mut all = 0;
        for entry in std::fs::read_dir(self.cache()).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                let data = std::fs::metadata(entry.join("data"));
                all += data.map_or(0, |about| about.blocks() * 512);
            }
        }
        all
    }
}

impl Daemon {
    fn over(link: Arc<Link>) -> Self {
        link.will_run();
        let running = Arc::clone(&link);
        let thread = Some(std::thread::spawn(move || running.run()));
        Self { medium: RemoteMedium::new(Arc::clone(&link)), link, thread }
    }

    pub(crate) fn read(&self, at: u64, len: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.medium.read_at(FileOffset(at), &mut bytes).map(|()| bytes)
    }

    /// Reads what has to be there.
    pub(crate) fn check(&self, version: u64, at: u64, len: usize) {
        let end = (at + len as u64).min(self.link.identity().len);
        let mut expected = content(version, at.min(end)..end);
        expected.resize(len, 0);
        assert!(self.read(at, len).unwrap() == expected, "other bytes at {at}, of {len}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.link.end();
        self.thread.take().into_iter().for_each(|thread| thread.join().unwrap());
    }
}
