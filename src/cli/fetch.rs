//! The processes beside `serve` for a base by network: a fetcher and its keeper. `serve` starts this program again for them, by
//! words that are no command of it.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::fetch::fetcher::process;
use crate::logging;

/// Does what `serve` has started the process for; none where it was started for anything else.
pub(super) fn as_part_of_serve(arguments: &[OsString]) -> Option<Result<ExitCode>> {
    let (name, rest) = arguments.get(1..)?.split_first()?;
    let act = match name.to_str()? {
        process::KEEPER => process::keep,
        process::FETCHER => process::fetch,
        _ => return None,
    };
    Some(run(act, rest))
}

fn run(act: fn(&str, &Path, u64) -> std::io::Result<()>, arguments: &[OsString]) -> Result<ExitCode> {
    logging::start(None);
    let [url, folder, size] = arguments else {
        bail!("this is started by serve, for an image by network");
    };
    let (url, size) = (url.to_string_lossy(), size.to_string_lossy());
    let size = size.parse().with_context(|| format!("{size}: expected bytes"))?;
    act(&url, Path::new(folder), size).with_context(|| url.into_owned())?;
    Ok(ExitCode::SUCCESS)
}
