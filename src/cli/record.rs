//! The file of `serve --record`.

use std::fs::OpenOptions;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};

use super::image;
use crate::record::{Log, session};
use crate::storage::file::FileMedium;
use crate::storage::lock::{self, Purpose};
use crate::store::ZonedDevice;
use crate::units::Bytes;

/// Bytes of a recording that are read at a time.
const READ: usize = 1 << 20;

/// Begins to record a disk, which is written in units of `block`, in a file that is there or is made.
pub(super) fn begin(path: &Path, disk: &dyn ZonedDevice, block: Bytes) -> Result<Arc<Log>> {
    let begin = || -> Result<Arc<Log>> {
        let options = &mut OpenOptions::new();
        let options = options.read(true).write(true).create(true);
        let file = image::open_regular(path, options, "a recording, or no file yet")?;
        lock::lock_image(&file, Purpose::Write).context("the recording is in use")?;
        let input = BufReader::with_capacity(READ, file.try_clone()?);
        let log = session::begin(Arc::new(FileMedium::new(file)), input, disk, block, Box::new(now))?;
        Ok(Arc::new(log))
    };
    begin().with_context(|| format!("--record {}", path.display()))
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
