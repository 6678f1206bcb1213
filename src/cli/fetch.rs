//! The fetcher's process and its keeper: hidden commands, which `serve` starts for a base by network.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::fetch::fetcher::process;
use crate::logging;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The object.
    url: String,
    /// The folder of the cache.
    #[arg(long)]
    cache_dir: PathBuf,
    /// The most bytes of the cache.
    #[arg(long)]
    cache_size: u64,
}

pub(super) fn keep(args: &Args) -> Result<ExitCode> {
    logging::start(None);
    process::keep(&args.url, &args.cache_dir, args.cache_size).with_context(|| args.url.clone())?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn fetch(args: &Args) -> Result<ExitCode> {
    logging::start(None);
    process::fetch(&args.url, &args.cache_dir, args.cache_size).with_context(|| args.url.clone())?;
    Ok(ExitCode::SUCCESS)
}
