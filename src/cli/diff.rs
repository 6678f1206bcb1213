//! `diff`: two images compared, zone by zone.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::json;

use super::progress::Progress;
use super::{image, output, size};
use crate::observe::SCHEMA_VERSION;
use crate::qcow2::{CompareError, Comparison, Image, Seen, ShapeDifference, Which, ZoneDifference, compare_shapes};
use crate::storage::file::FileMedium;
use crate::units::{Bytes, ZoneIndex};

/// Exit status when the images differ.
const DIFFERENT: u8 = 1;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// An image file.
    first: PathBuf,
    /// The image file that it is compared with.
    second: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What was compared.
#[derive(Default)]
struct Totals {
    compared: u32,
    different: u32,
    /// The disks as a whole differ.
    shape: bool,
}

impl Totals {
    fn equal(&self) -> bool {
        !self.shape && self.different == 0
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let (mut first, mut second) = (open(&args.first)?, open(&args.second)?);
    let mut out = output::held();
    let mut printer = Printer { out: &mut out, json: args.json, zones: 0 };
    let compared = compare(&mut first, &mut second, &mut printer);
    let (totals, written) = match compared {
        Ok(totals) => {
            let written = printer.end(&totals);
            (totals, written)
        }
        Err(Stop::Output(error)) => {
            // Something was printed, so something differs.
            (Totals { different: 1, ..Totals::default() }, Err(error))
        }
        Err(Stop::Image(error)) => {
            output::discard(out);
            let path = if error.which() == Which::First { &args.first } else { &args.second };
            return Err(error).with_context(|| path.display().to_string());
        }
    };
    output::finish(out, written)?;
    Ok(if totals.equal() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}

/// An image that nobody may write to meanwhile, with all its write pointers right.
fn open(path: &Path) -> Result<Image<FileMedium>> {
    image::open_to_read(path)
}

/// Why a comparison ends early.
enum Stop {
    /// An image cannot be read.
    Image(CompareError),
    /// What differs cannot be printed.
    Output(io::Error),
}

fn compare(
    first: &mut Image<FileMedium>,
    second: &mut Image<FileMedium>,
    printer: &mut Printer<impl Write>,
) -> Result<Totals, Stop> {
    let shape = compare_shapes(first, second);
    printer.shape(&shape).map_err(Stop::Output)?;
    let mut totals = Totals { shape: !shape.is_empty(), ..Totals::default() };
    let zone_size = first.geometry().zone_size().0;
    let Some(mut comparison) = Comparison::new(first, second) else { return Ok(totals) };
    let mut progress = Progress::new("comparing");
    let zones = comparison.zones();
    let all = u64::from(zones.end) * zone_size;
    for zone in zones {
        progress.at(u64::from(zone) * zone_size, all);
        let difference =
            comparison.zone(ZoneIndex(zone), |reached| progress.at(reached.0, all)).map_err(Stop::Image)?;
        totals.compared += 1;
        if let Some(difference) = difference {
            totals.different += 1;
            printer.zone(&difference, zone_size).map_err(Stop::Output)?;
        }
    }
    Ok(totals)
}

/// Prints what differs as it is found.
struct Printer<'a, W> {
    out: &'a mut W,
    json: bool,
    /// How many zones were printed.
    zones: u32,
}

impl<W: Write> Printer<'_, W> {
    fn shape(&mut self, shape: &[ShapeDifference]) -> io::Result<()> {
        if self.json {
            let shape = serde_json::to_string(shape)?;
            return write!(self.out, "{{\"schema_version\":{SCHEMA_VERSION},\n\"shape\":{shape},\n\"zones\":[");
        }
        shape.iter().try_for_each(|difference| writeln!(self.out, "{}", shape_line(difference)))
    }

    /// One zone a line, in JSON too.
    fn zone(&mut self, difference: &ZoneDifference, zone_size: u64) -> io::Result<()> {
        self.zones += 1;
        if self.json {
            let comma = if self.zones == 1 { "" } else { "," };
            return write!(self.out, "{comma}\n  {}", zone_json(difference));
        }
        writeln!(self.out, "{}", zone_line(difference, zone_size))
    }

    fn end(&mut self, totals: &Totals) -> io::Result<()> {
        let Totals { compared, different, .. } = *totals;
        let equal = totals.equal();
        if self.json {
            let counts = format!("\"zones_compared\":{compared},\"zones_different\":{different},\"equal\":{equal}");
            return writeln!(self.out, "\n],\n{counts}}}");
        }
        match (equal, compared) {
            (true, _) => writeln!(self.out, "No differences were found in {compared} zones."),
            (false, 0) => writeln!(self.out, "No zones were compared, as they are of different sizes."),
            (false, _) => writeln!(self.out, "{different} of {compared} zones differ."),
        }
    }
}

/// A property of the disk as a line: that of the first image, that of the second.
fn shape_line(difference: &ShapeDifference) -> String {
    let bytes = |value: u64| size::show(Bytes(value));
    let limit = |value: u64| if value == 0 { "no limit".to_owned() } else { value.to_string() };
    let count = |value: u64| value.to_string();
    let append = |value: u64| if value == 0 { "not stated".to_owned() } else { bytes(value) };
    let (name, show): (_, &dyn Fn(u64) -> String) = match difference.field {
        "virtual_size" => ("virtual size", &bytes),
        "zone_size" => ("zone size", &bytes),
        "zone_capacity" => ("zone capacity", &bytes),
        "max_open_zones" => ("max open zones", &limit),
        "max_active_zones" => ("max active zones", &limit),
        "max_append_bytes" => ("max append", &append),
        _ => ("conventional zones", &count),
    };
    format!("{name}: {} against {}", show(difference.first), show(difference.second))
}

/// What differs in a zone as a line. Positions are in sectors, as in a report: that of a write pointer from the zone's start.
fn zone_line(difference: &ZoneDifference, zone_size: u64) -> String {
    let ZoneDifference { zone, first, second, data } = difference;
    let mut parts = Vec::new();
    if difference.in_state() {
        parts.push(format!("state {} against {}", first.state.name(), second.state.name()));
    }
    if difference.in_pointer() {
        let inside = |seen: &Seen| Bytes(seen.write_pointer.0 - u64::from(zone.0) * zone_size).to_sector().0;
        parts.push(format!("wptr 0x{:06x} against 0x{:06x}", inside(first), inside(second)));
    }
    if let Some(data) = data {
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        let (sectors, ranges) = (data.sectors, data.ranges);
        parts.push(format!(
            "data from sector 0x{:09x} on, {sectors} sector{} in {ranges} range{}",
            data.first.to_sector().0,
            plural(sectors),
            plural(ranges)
        ));
    }
    format!("zone {zone}: {}", parts.join("; "))
}

fn zone_json(difference: &ZoneDifference) -> serde_json::Value {
    let ZoneDifference { zone, first, second, data } = difference;
    let seen = |seen: &Seen| json!({ "state": seen.state.name(), "write_pointer": seen.write_pointer.0 });
    let data = data.map(|data| json!({ "first": data.first.0, "sectors": data.sectors, "ranges": data.ranges }));
    json!({
        "index": zone.0,
        "state_differs": difference.in_state(),
        "pointer_differs": difference.in_pointer(),
        "first": seen(first),
        "second": seen(second),
        "data": data,
    })
}
