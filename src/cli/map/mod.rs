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

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::disk::{Disk, Source};
use super::output;
use super::page::{self, STDOUT};
use super::screen::{self, Colours};
use crate::observe::summary::Summary;
use crate::observe::versioned;
use terminal::Layout;

/// Cells of a picture, and of JSON, where the command line does not say.
const PICTURE_CELLS: u32 = 4096;
/// Rows where the output is no terminal.
const PLAIN_ROWS: usize = 32;
/// Rows of a terminal that are not for cells: what stands above and below them, and the shell's prompt.
const OTHER_ROWS: usize = 9;
/// Those for the power of a disk that has a volatile cache.
const POWER_ROWS: usize = 2;

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

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let to_stdout = |out: &Option<PathBuf>| out.as_deref() == Some(Path::new(STDOUT));
    if u8::from(to_stdout(&args.svg)) + u8::from(to_stdout(&args.html)) + u8::from(args.json) > 1 {
        bail!("--svg -, --html - and --json: expected one of them, as there is one standard output");
    }
    let (disk, mut source) = match (&args.socket, &args.file) {
        (Some(path), _) => Source::daemon(path)?,
        (None, Some(path)) => Source::image(path)?,
        (None, None) => bail!("no image given: expected FILE or --socket"),
    };
    if args.svg.is_none() && args.html.is_none() && !args.json {
        return draw(&disk, &mut source, args.cells);
    }
    let detailed = source.summary(&disk, args.cells.unwrap_or(PICTURE_CELLS))?;
    if let Some(out) = &args.svg {
        page::put(out, &picture::picture(&disk, &detailed))?;
    }
    if let Some(out) = &args.html {
        page::put(out, &picture::page(&disk, &detailed))?;
    }
    if args.json {
        print_json(&detailed)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the map of what a daemon serves, as the command does with `--socket`.
pub(super) fn print_served(path: &Path, cells: Option<u32>, as_json: bool) -> Result<ExitCode> {
    let (disk, mut source) = Source::daemon(path)?;
    if !as_json {
        return draw(&disk, &mut source, cells);
    }
    print_json(&source.summary(&disk, cells.unwrap_or(PICTURE_CELLS))?)?;
    Ok(ExitCode::SUCCESS)
}

fn print_json(summary: &Summary) -> Result<()> {
    output::print(format_args!("{}\n", serde_json::to_string(&versioned(summary))?))
}

/// Draws the map as text.
fn draw(disk: &Disk, source: &mut Source, cells: Option<u32>) -> Result<ExitCode> {
    let (columns, rows) = screen::size();
    let other = OTHER_ROWS + if disk.cached { POWER_ROWS } else { 0 };
    let (rows, colours) = (rows.map_or(PLAIN_ROWS, |rows| rows.saturating_sub(other)), Colours::of_stdout());
    let layout = Layout::fit(disk.geometry.nr_zones(), cells, columns, rows, colours);
    let summary = source.summary(disk, layout.cells)?;
    output::print(screen::text(&terminal::draw(disk, &summary, &layout, columns, colours), colours))?;
    Ok(ExitCode::SUCCESS)
}
