//! `replay`: what is in a recording, and the image as it was at a moment of it.

mod list;

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};

use super::progress::Progress;
use super::{cut, image, make, output, page};
use crate::convert::data_in;
use crate::logging;
use crate::observe::versioned;
use crate::picture::recorded::Follower;
use crate::picture::timeline::Unit;
use crate::power::{CutOutcome, Words};
use crate::qcow2::{Access, Image};
use crate::record::format::pointers_digest;
use crate::record::{Machine, Point, Reader, Scan};
use crate::storage::file::FileMedium;
use crate::store::ZoneInfo;
use crate::units::Bytes;
use crate::zone::{Geometry, Zone, ZoneKind};

/// Bytes of a recording, and of an image, that are read at a time.
const READ: usize = 1 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file of "serve --record".
    log: PathBuf,
    /// A copy of the image as it was when the recording began; it is not changed.
    #[arg(long, value_name = "IMAGE", required_unless_present_any = ["list", "html"])]
    base: Option<PathBuf>,
    /// List what was done from one flush to the next, and the marks.
    #[arg(long, conflicts_with_all = ["to", "output"])]
    list: bool,
    /// Draw the zones over the requests, as an HTML page in this file; - is standard output.
    #[arg(long, value_name = "OUT", conflicts_with_all = ["list", "json", "to", "output", "words"])]
    html: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Make the image as it was at this moment: flush:N, request:N, mark:NAME or record:N. All that was answered by then is there.
    #[arg(long, value_name = "MOMENT", value_parser = Point::parse, required_unless_present_any = ["list", "html"],
        requires = "output")]
    to: Option<Point>,
    /// The image to make, which must not exist.
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// What a loss of power at that moment leaves: lose=all|nothing|zone:N,N, keep=zone:N,N, seed=N or state=FILE;
    /// model=prefix|virtio; mgmt=volatile|stable.
    #[arg(value_name = "NAME=VALUE", conflicts_with = "list")]
    words: Vec<String>,
}

type Log = Reader<BufReader<File>>;

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let (mut log, len) = open_log(&args.log)?;
    if let Some(base) = &args.base {
        check_base(base, &log).with_context(|| base.display().to_string())?;
    }
    if let Some(out) = &args.html {
        return draw(&args.log, out);
    }
    match (&args.to, &args.base, &args.output) {
        (Some(to), Some(base), Some(out)) => make_state(args, to, base, out, (log, len)),
        _ => {
            let scan = look_through(&args.log, &mut log, len, None)?;
            output::print(if args.json { list::as_json(&scan)? } else { list::as_text(&scan) })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Looks through a recording, and whether an image can be the one that it began with. Returns the length of its file besides.
pub(super) fn scan(path: &Path, base: Option<&Path>) -> Result<(Scan, u64)> {
    let (mut log, len) = open_log(path)?;
    if let Some(base) = base {
        check_base(base, &log).with_context(|| base.display().to_string())?;
    }
    Ok((look_through(path, &mut log, len, None)?, len))
}

/// Returns the shape of the disk of a recording.
pub(super) fn geometry(path: &Path) -> Result<Geometry> {
    let (log, _) = open_log(path)?;
    log.header().geometry().with_context(|| path.display().to_string())
}

fn open_log(path: &Path) -> Result<(Log, u64)> {
    let open = || -> Result<(Log, u64)> {
        let file = image::open_regular(path, File::options().read(true), "a recording of serve --record")?;
        let len = file.metadata()?.len();
        Ok((Reader::new(BufReader::with_capacity(READ, file))?, len))
    };
    open().with_context(|| path.display().to_string())
}

/// Draws what is in a recording by now.
fn draw(path: &Path, out: &Path) -> Result<ExitCode> {
    let name = || path.display().to_string();
    let told = &Cell::new(false);
    let events = || {
        let ((mut log, len), mut follower) = (open_log(path)?, Follower::default());
        let records = std::iter::from_fn(move || {
            let record = log.read().with_context(name).transpose();
            // It is read twice.
            if record.is_none() && !told.replace(true) {
                warn_of_rest(path, log.left_over(), len);
            }
            record
        });
        Ok(records.filter_map(move |record| record.map(|record| follower.take(record)).transpose()))
    };
    page::draw(out, path, Unit::Requests, geometry(path)?, events)?;
    Ok(ExitCode::SUCCESS)
}

/// Reads all of a recording. Says where it was cut short.
fn look_through(path: &Path, log: &mut Log, len: u64, point: Option<&Point>) -> Result<Scan> {
    let mut progress = Progress::new("reading");
    let scan = Scan::of(log, point, |at| progress.at(at, len)).with_context(|| path.display().to_string())?;
    progress.clear();
    warn_of_rest(path, scan.left_over, len);
    Ok(scan)
}

/// Says that so many bytes of a recording are not a whole record, if there are any.
fn warn_of_rest(path: &Path, left_over: u64, len: u64) {
    if left_over != 0 {
        logging::warning(format_args!(
            "{}: cut short: what follows its last whole record, {left_over} of {len} bytes, is left out",
            path.display(),
        ));
    }
}

/// Checks that an image is one that the recording can have begun with.
fn check_base(path: &Path, log: &Log) -> Result<()> {
    let image = Image::open(image::hold_for_reading(path)?, Access::ReadOnly)?;
    let (header, geometry) = (log.header(), *image.geometry());
    header.check_same(&geometry, header.block())?;
    let mut digest = 0u64;
    image.each_write_pointer(0..geometry.nr_zones(), |index, pointer| {
        let zone = ZoneInfo::of(&geometry, index, &Zone::from_pointer(&geometry, index, pointer));
        if zone.kind != ZoneKind::Conventional && zone.write_pointer > zone.start {
            digest = digest.wrapping_add(pointers_digest([(index, zone.write_pointer)]));
        }
        std::ops::ControlFlow::Continue(())
    })?;
    if digest != header.pointers() {
        bail!(
            "not the image that the recording began with: the digest of its write pointers is {digest:016x}: expected \
             {:016x}, that of a copy made before",
            header.pointers()
        );
    }
    Ok(())
}

/// The words of a loss of power; none where there is none.
fn words(args: &Args) -> Result<Option<Words>> {
    if args.words.is_empty() {
        return Ok(None);
    }
    let words = cut::words(args.words.iter().map(String::as_str))?;
    for (name, said) in [("at", &words.at), ("then", &words.then)] {
        if let Some(said) = said {
            bail!("{name} is '{said}': expected none, as --to says the moment and nobody is served");
        }
    }
    Ok(Some(words))
}

fn make_state(args: &Args, to: &Point, base: &Path, out: &Path, (mut log, len): (Log, u64)) -> Result<ExitCode> {
    let words = words(args)?;
    let name = || args.log.display().to_string();
    let scan = look_through(&args.log, &mut log, len, Some(to))?;
    let last = scan.reached(to).map_err(|error| anyhow!(error)).with_context(name)?;
    let mut outcome = None;
    make::make_filled(out, &mut |file| {
        copy(base, &file).with_context(|| base.display().to_string())?;
        outcome = replay(args, &scan, last, words.clone(), file)?;
        Ok(Vec::new())
    })?;
    let told = match (outcome, args.json) {
        (Some(outcome), true) => serde_json::to_string_pretty(&versioned(outcome))? + "\n",
        (Some(outcome), false) => cut::in_words(&outcome),
        (None, _) => String::new(),
    };
    output::print(told)?;
    Ok(ExitCode::SUCCESS)
}

/// Does again what the recording says, up to its record `last`, on a copy of the base.
fn replay(args: &Args, scan: &Scan, last: u64, words: Option<Words>, file: File) -> Result<Option<CutOutcome>> {
    let name = || args.log.display().to_string();
    let (mut log, _) = open_log(&args.log)?;
    let mut machine = Machine::new(Arc::new(FileMedium::new(file)), None, log.header().block(), scan.undone())?;
    if let Some(words) = &words {
        // What is wrong with them is told before the work, not after it.
        words.clone().read(machine.geometry()).map_err(|error| anyhow!(error))?;
    }
    let mut progress = Progress::new("replaying");
    while let Some(record) = log.read().with_context(name)?.filter(|record| record.number <= last) {
        machine.take(&record).with_context(name)?;
        progress.at(record.number, last);
    }
    let outcome = words.map(|words| machine.cut(words)).transpose()?;
    machine.finish()?;
    Ok(outcome)
}

/// Copies a file that nobody writes, with its holes.
fn copy(from: &Path, to: &File) -> Result<()> {
    let from = image::open_file(from, File::options().read(true))?;
    let len = from.metadata()?.len();
    to.set_len(len)?;
    let (mut at, mut bytes) = (0, vec![0; READ]);
    let mut progress = Progress::new("copying");
    while let Some(data) = data_in(&from, at, len)? {
        at = data.start;
        while at < data.end {
            let part = usize::try_from(data.end - at)?.min(bytes.len());
            let part = bytes.get_mut(..part).unwrap_or_default();
            from.read_exact_at(part, at)?;
            to.write_all_at(part, at).map_err(|error| io::Error::new(error.kind(), format!("the copy: {error}")))?;
            at += part.len() as u64;
            progress.at(at, len);
        }
    }
    Ok(())
}

/// A number of bytes in words.
fn size(bytes: u64) -> String {
    super::size::show(Bytes(bytes))
}
