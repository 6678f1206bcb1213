//! `fork`: a new image that is as another one, without its data being copied.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::make::make_filled;
use super::{image, output};
use crate::chain::{self, Chain};
use crate::qcow2::{self, ForkOptions};
use crate::storage::copy::share_blocks;
use crate::storage::file::FileMedium;
use crate::storage::lock::{self, Purpose};

/// How a fork comes by the data of its base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// reflink where the file system can, else overlay.
    Auto,
    /// An image of its own whose blocks the file system shares with the base until one of them is written.
    Reflink,
    /// An image that holds what changes, and reads the rest from the base, which must stay as it is.
    Overlay,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image to fork; nobody may be writing to it.
    base: PathBuf,
    /// The image file to make; it must not exist.
    child: PathBuf,
    /// How the fork comes by the data of its base.
    #[arg(long, value_enum, default_value = "auto")]
    method: Method,
    /// Do not say what was made.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let chain = chain::open(&args.base)?;
    let method = make(args, &chain)?;
    if !args.quiet {
        let (child, base) = (args.child.display(), args.base.display());
        output::print(format_args!("Forked '{child}' from '{base}' ({method})\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the fork and returns by which method.
fn make(args: &Args, chain: &Chain) -> Result<&'static str> {
    if args.method != Method::Overlay {
        match make_reflink(args, chain)? {
            Ok(()) => return Ok("reflink"),
            Err(error) if args.method == Method::Reflink => {
                return Err(error).with_context(|| {
                    format!(
                        "{}: its blocks cannot be shared: expected a file system with reflinks",
                        args.child.display()
                    )
                });
            }
            Err(_) => {}
        }
    }
    let options = ForkOptions::of(&chain.base, name_from(&args.child, &args.base)?);
    make_filled(&args.child, &mut |file| {
        qcow2::fork(&FileMedium::new(file), &chain.base, &options)?;
        Ok(Vec::new())
    })?;
    Ok("overlay")
}

/// Makes the fork share the blocks of its base; the inner error says that the file system cannot.
fn make_reflink(args: &Args, chain: &Chain) -> Result<io::Result<()>> {
    let base = image::open_file(&args.base, File::options().read(true))?;
    lock::lock_image(&base, Purpose::Read).with_context(|| args.base.display().to_string())?;
    if let Some(backing) = chain.base.image().backing()
        && !Path::new(&backing.name).is_absolute()
        && folder_of(&args.child)? != folder_of(&args.base)?
    {
        // The name of what the base builds on would lead elsewhere.
        return Ok(Err(io::ErrorKind::Unsupported.into()));
    }
    let mut refused = None;
    let made = make_filled(&args.child, &mut |file| {
        share_blocks(&base, &file, 0).inspect_err(|error| refused = Some(io::Error::from(*error)))?;
        file.sync_all()?;
        Ok(Vec::new())
    });
    match refused {
        Some(error) => Ok(Err(error)),
        None => made.map(|_| Ok(())),
    }
}

/// The base's file by the name that a fork gives it: the plain name in the same folder, else an absolute one.
pub(super) fn name_from(child: &Path, base: &Path) -> Result<String> {
    let whole = fs::canonicalize(base).with_context(|| base.display().to_string())?;
    let name = match whole.file_name() {
        Some(name) if folder_of(child)? == folder_of(&whole)? => PathBuf::from(name),
        _ => whole,
    };
    match name.into_os_string().into_string() {
        Ok(name) if !name.contains(char::is_control) => Ok(name),
        _ => bail!("{}: its name is no text: expected UTF-8 without control characters", base.display()),
    }
}

fn folder_of(path: &Path) -> Result<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::canonicalize(folder).with_context(|| folder.display().to_string())
}
