//! `resize`: a larger disk in an image that nobody uses.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};

use super::disk::Disk;
use super::{image, output, size};
use crate::qcow2::{self, Growth};
use crate::store::MAX_ZONES;
use crate::units::Bytes;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image file.
    file: PathBuf,
    /// How much larger the disk becomes, such as +64M or +1G: a whole number of zones.
    #[arg(value_name = "+SIZE", allow_hyphen_values = true)]
    by: String,
    /// Make the last zone whole first, where it is shorter than others; +0 does that alone.
    #[arg(long)]
    fill_last_zone: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let name = || args.file.display().to_string();
    let by = growth(&args.by).with_context(name)?;
    let storage = image::hold_for_writing(&args.file)?;
    let growth = Growth { by, fill_last_zone: args.fill_last_zone, most_zones: MAX_ZONES };
    let geometry = qcow2::grow(&storage, &growth).with_context(name)?;
    let disk = Disk { name: name(), geometry, longest_append: geometry.max_append(), cached: false };
    output::print(format_args!("Grew '{}': {}\n", disk.name, disk.shape()))?;
    Ok(ExitCode::SUCCESS)
}

/// What stands behind the plus.
fn growth(text: &str) -> Result<Bytes> {
    if text.starts_with('-') {
        bail!("'{text}': a disk cannot become smaller: expected +SIZE");
    }
    let Some(by) = text.strip_prefix('+') else {
        bail!("'{text}': expected +SIZE, by which the disk is to grow, such as +1G");
    };
    size::parse(by).map_err(|wrong| anyhow!(wrong))
}
