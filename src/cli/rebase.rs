//! `rebase` and `commit`: an image on another base, and its changes in its base.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};

use super::progress::Progress;
use super::{fork, image, output};
use crate::chain;
use crate::qcow2::{self, Base, OpenError, RebaseError};
use crate::storage::file::FileMedium;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image; nobody else may have it.
    child: PathBuf,
    /// The image to build on from now on.
    base: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct CommitArgs {
    /// The image whose changes are taken into its base; nobody else may have either.
    child: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let name = || args.child.display().to_string();
    let storage = image::hold_for_writing(&args.child)?;
    let new = || chain::open(&args.base).map(|chain| chain.base);
    let by = fork::name_from(&args.child, &args.base)?;
    let compared = compare_and_rebase(&args.child, &storage, &by, new()?).with_context(name)?;
    let said = match compared {
        Some(clusters) => format!("{clusters} clusters taken over"),
        None => {
            qcow2::relink(&storage, &new()?, &by).with_context(|| format!("{}: {}", name(), args.base.display()))?;
            "the same base, by its new name".to_owned()
        }
    };
    output::print(format_args!("'{}' builds on '{}' ({said})\n", name(), args.base.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Rebases an image whose base is there as it was, and returns how many clusters the image has taken over; none where the base is not.
fn compare_and_rebase(child: &Path, storage: &Arc<FileMedium>, name: &str, new: Base) -> Result<Option<u64>> {
    let old = match chain::bases_of(child, &**storage) {
        Ok(Some(old)) => old,
        Ok(None) => return Err(RebaseError::NoBase.into()),
        Err(_) => return Ok(None),
    };
    let all = old.base.geometry().size().0;
    let mut progress = Progress::new("comparing");
    match qcow2::rebase(storage, old.base, new, name, |reached| progress.at(reached.0, all)) {
        Ok(rebased) => Ok(Some(rebased.clusters)),
        Err(RebaseError::Open(OpenError::BaseChanged { .. })) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn commit(args: &CommitArgs) -> Result<ExitCode> {
    let name = || args.child.display().to_string();
    let top = image::hold_for_writing(&args.child)?;
    let base = chain::names(&args.child, &*top).into_iter().next();
    let base = base.ok_or_else(|| anyhow!("{}: {}", name(), RebaseError::NoBase))?;
    let storage = image::hold_for_writing(&base)?;
    let below = chain::bases_of(&base, &*storage)?.map(|chain| chain.base);
    let stamp = || chain::stamp(&base).map_err(|source| OpenError::Io { doing: "look at the base's file", source });
    let mut progress = Progress::new("committing");
    let done = qcow2::commit(&top, &storage, below, stamp, |reached, all| progress.at(reached.0, all.0));
    drop(progress);
    let zones = done.with_context(name)?.zones;
    output::print(format_args!("Committed '{}' to '{}': {zones} zones changed\n", name(), base.display()))?;
    Ok(ExitCode::SUCCESS)
}
