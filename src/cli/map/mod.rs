//! `map`: the zones of an image, or of a running daemon, as a picture: on the terminal, as SVG or as HTML.
//!
//! | module | subject |
//! | --- | --- |
//! | [`look`] | a cell's state, colour and character |
//! | [`terminal`] | the map as lines of text |
//! | [`picture`] | the map as SVG and HTML |

pub(super) mod look;
mod picture;
pub(super) mod terminal;
#[cfg(test)]
pub(super) mod testing;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::image::{self, Opened};
use super::screen::{self, Colours};
use super::{output, size};
use crate::control::client::Client;
use crate::control::{Command, MAX_CELLS};
use crate::observe::info::Info;
use crate::observe::summary::{Summary, Tally};
use crate::qcow2;
use crate::units::Bytes;
use crate::zone::{Geometry, GeometryError, GeometryRequest, State};
use terminal::Layout;

/// Cells of a picture, and of JSON, where the command line does not say.
const PICTURE_CELLS: u32 = 4096;
/// Rows where the output is no terminal.
const PLAIN_ROWS: usize = 32;
/// Rows of a terminal that are not for cells: what stands above and below them, and the shell's prompt.
const OTHER_ROWS: usize = 9;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image file.
    #[arg(required_unless_present = "socket")]
    file: Option<PathBuf>,
    /// Ask the daemon at this control socket, which knows what is open.
    #[arg(long, value_name = "PATH", conflicts_with = "file")]
    socket: Option<PathBuf>,
    /// Draw at most this many cells, each for equally many zones; when not given as many as the terminal has room for,
    /// and 4096 in pictures and JSON.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cells: Option<u32>,
    /// Write the map as an SVG picture into this file; - is standard output.
    #[arg(long, value_name = "OUT")]
    svg: Option<PathBuf>,
    /// Write the map as an HTML page into this file; - is standard output.
    #[arg(long, value_name = "OUT")]
    html: Option<PathBuf>,
    /// Print the cells as JSON.
    #[arg(long)]
    json: bool,
}

/// Where the zones come from.
enum Source {
    /// An image.
    Image(Box<Opened>),
    /// A running daemon.
    Daemon(Client),
}

/// The disk whose zones are drawn, as far as the zones do not say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    /// What it is called: the image's file.
    pub(super) name: String,
    /// Its shape and limits.
    pub(super) geometry: Geometry,
    /// The longest append: of a running daemon the one in force, of an image the one that it states, if any.
    pub(super) longest_append: Option<Bytes>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let to_stdout = |out: &Option<PathBuf>| out.as_deref() == Some(Path::new("-"));
    if u8::from(to_stdout(&args.svg)) + u8::from(to_stdout(&args.html)) + u8::from(args.json) > 1 {
        bail!("--svg -, --html - and --json: expected one of them, as there is one standard output");
    }
    let (disk, mut source) = open(args)?;
    if args.svg.is_none() && args.html.is_none() && !args.json {
        return draw(&disk, &mut source, args.cells);
    }
    let detailed = source.summary(&disk, args.cells.unwrap_or(PICTURE_CELLS))?;
    if let Some(out) = &args.svg {
        put(out, &picture::picture(&disk, &detailed))?;
    }
    if let Some(out) = &args.html {
        put(out, &picture::page(&disk, &detailed))?;
    }
    if args.json {
        output::print(format_args!("{}\n", serde_json::to_string(&detailed)?))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Draws the map as text.
fn draw(disk: &Disk, source: &mut Source, cells: Option<u32>) -> Result<ExitCode> {
    let (columns, rows) = screen::size();
    let (rows, colours) = (rows.map_or(PLAIN_ROWS, |rows| rows.saturating_sub(OTHER_ROWS)), Colours::of_stdout());
    let layout = Layout::fit(disk.geometry.nr_zones(), cells, columns, rows, colours);
    let summary = source.summary(disk, layout.cells)?;
    output::print(screen::text(&terminal::draw(disk, &summary, &layout, columns, colours), colours))?;
    Ok(ExitCode::SUCCESS)
}

fn open(args: &Args) -> Result<(Disk, Source)> {
    if let Some(path) = &args.socket {
        let mut client = Client::connect(path)?;
        let info: Info = client.ask(&Command::Info {})?;
        let disk = Disk::served(&info).with_context(|| path.display().to_string())?;
        return Ok((disk, Source::Daemon(client)));
    }
    let Some(path) = &args.file else { bail!("no image given: expected FILE or --socket") };
    let opened = image::look(path)?;
    let name = path.display().to_string();
    let geometry = *opened.image.geometry();
    Ok((Disk { name, geometry, longest_append: geometry.max_append() }, Source::Image(Box::new(opened))))
}

impl Source {
    fn summary(&mut self, disk: &Disk, cells: u32) -> Result<Summary> {
        let cells = cells.min(MAX_CELLS);
        match self {
            Self::Image(opened) => {
                let zones = disk.geometry.nr_zones();
                let summary = opened.with_zones(0..zones, |all| Summary::of(all, zones, cells));
                Ok(summary.with_context(|| disk.name.clone())?)
            }
            Self::Daemon(client) => Ok(client.ask(&Command::Map { cells })?),
        }
    }
}

/// Writes to a file, or to standard output. A picture of before is overwritten; an image never is.
fn put(out: &Path, text: &str) -> Result<()> {
    if out != Path::new("-") {
        let name = || out.display().to_string();
        if is_image(out) {
            bail!("{}: this is an image, which is not overwritten: expected another name for the picture", name());
        }
        return fs::write(out, text).context("the picture cannot be written").with_context(name);
    }
    output::print(text)
}

fn is_image(path: &Path) -> bool {
    // Others, like a pipe, may wait for a writer when they are read.
    if !fs::metadata(path).is_ok_and(|file| file.is_file()) {
        return false;
    }
    let mut begin = [0; size_of_val(&qcow2::MAGIC)];
    File::open(path).and_then(|mut file| file.read_exact(&mut begin)).is_ok() && begin == qcow2::MAGIC.to_be_bytes()
}

impl Disk {
    /// What a daemon says that it serves.
    pub(super) fn served(info: &Info) -> Result<Self, GeometryError> {
        let (geometry, _) = Geometry::new(&GeometryRequest {
            size: Bytes(info.virtual_size),
            zone_size: Bytes(info.zone_size),
            zone_capacity: Bytes(info.zone_capacity),
            conventional_zones: info.conventional_zones,
            max_open_zones: info.max_open_zones,
            max_active_zones: info.max_active_zones,
            // What is in force is no limit of the image, and need not keep the rules for one.
            max_append_bytes: Bytes(0),
        })?;
        Ok(Self { name: info.image.clone(), geometry, longest_append: Some(Bytes(info.max_append_bytes)) })
    }

    /// Size and zones, in words.
    pub(super) fn shape(&self) -> String {
        let geometry = &self.geometry;
        let (zone, capacity) = (geometry.zone_size(), geometry.zone_capacity());
        let (zones, plural) = (geometry.nr_zones(), if geometry.nr_zones() == 1 { "" } else { "s" });
        let mut shape = format!("{}: {zones} zone{plural} of {}", size::brief(geometry.size()), size::brief(zone));
        if capacity < zone {
            shape += &format!(", {} of each writable", size::brief(capacity));
        }
        if geometry.conventional_zones() > 0 {
            shape += &format!(", {} conventional", geometry.conventional_zones());
        }
        shape
    }

    /// What is in use, of what there is.
    pub(super) fn usage(&self, totals: &Tally) -> String {
        format!("{}, open {}, active {}", written(totals), self.open(totals), self.active(totals))
    }

    /// Open zones against their limit.
    pub(super) fn open(&self, totals: &Tally) -> String {
        against(totals.states.sum(State::is_open), self.geometry.max_open_zones())
    }

    /// Active zones against their limit.
    pub(super) fn active(&self, totals: &Tally) -> String {
        against(totals.states.sum(State::is_active), self.geometry.max_active_zones())
    }
}

/// A count and its limit, 0 being none.
fn against(count: u64, limit: u32) -> String {
    if limit == 0 { format!("{count} (no limit)") } else { format!("{count} of {limit}") }
}

/// What is written of what can be.
pub(super) fn written(tally: &Tally) -> String {
    let (written, capacity) = (size::brief(Bytes(tally.written)), size::brief(Bytes(tally.capacity)));
    format!("written {written} of {capacity} ({:.1} %)", look::fill(tally) * 100.0)
}
