//! Bases by network: where their chunks are kept, and who fetches them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};

use super::size;
use crate::chain::Remote;
use crate::fetch::link::{Link, LinkError};
use crate::units::Bytes;

/// The least space of a cache: what all reads of a busy guest take at a time.
const SMALLEST: Bytes = Bytes(64 << 20);

/// The cache folder's name below those that have one for each program.
const NAME: &str = "vhost-user-zbd";

/// How bases by network are opened.
pub(super) struct Network {
    folder: PathBuf,
    size: Bytes,
}

impl Network {
    /// With a cache in this folder, or the usual one.
    pub(super) fn new(folder: Option<&Path>, size: Bytes) -> Result<Self> {
        if size < SMALLEST {
            bail!("--cache-size {}: expected at least {}", size::show(size), size::show(SMALLEST));
        }
        let folder = folder.map_or_else(usual_folder, Path::to_owned);
        Ok(Self { folder: std::path::absolute(folder)?, size })
    }
}

/// What the service manager says, then the user's own, then the host's.
fn usual_folder() -> PathBuf {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let of_user = || of("XDG_CACHE_HOME").or_else(|| of("HOME").map(|home| home.join(".cache")));
    let of_host = || PathBuf::from("/var/cache");
    let is_root = nix::unistd::geteuid().is_root();
    of("CACHE_DIRECTORY").unwrap_or_else(|| {
        let above = if is_root { of("XDG_CACHE_HOME") } else { of_user() };
        above.unwrap_or_else(of_host).join(NAME)
    })
}

impl Remote for Network {
    #[cfg(feature = "network")]
    fn open(&self, url: &str) -> Result<Arc<Link>, LinkError> {
        use crate::fetch::fetcher::process;
        // Only its owner may change what guests read.
        let make = std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
            .create(&self.folder);
        make.map_err(|error| {
            LinkError::Refused(format!("the cache in {} cannot be made: {error}", self.folder.display()))
        })?;
        process::start(Path::new(process::THIS), url, &self.folder, self.size.0)
    }

    #[cfg(not(feature = "network"))]
    fn open(&self, _: &str) -> Result<Arc<Link>, LinkError> {
        let (folder, size) = (self.folder.display(), self.size);
        log::debug!("the cache would be in {folder}, of {size} bytes");
        Err(LinkError::Refused("this program was built without the feature network: expected a file".to_owned()))
    }
}
