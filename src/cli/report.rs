//! `report`: the zones of an image, as blkzone prints them or as JSON.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::{image, output, parse_size};
use crate::control::ZoneRow;
use crate::control::client::Client;
use crate::store::ZoneInfo;
use crate::units::Bytes;
use crate::zone::{State, ZoneKind};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image file.
    file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Begin with the zone that holds this byte of the device.
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = parse_size)]
    offset: Bytes,
    /// List this many zones at most.
    #[arg(long, value_name = "N")]
    count: Option<u32>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let opened = image::look(&args.file)?;
    let geometry = *opened.image.geometry();
    let Some(first) = geometry.zone_at(args.offset) else {
        bail!("{}: --offset is {}: expected less than the size, {}", args.file.display(), args.offset, geometry.size());
    };
    let left = geometry.nr_zones() - first.0;
    let last = first.0 + args.count.unwrap_or(left).min(left);
    let zones = first.0..last;
    let name = || args.file.display().to_string();
    // Nothing is printed of a report that would end in the midst.
    opened.with_zones(zones.clone(), |zones| zones.for_each(drop)).with_context(name)?;
    let mut out = output::stdout();
    let print = |zones: &mut dyn Iterator<Item = ZoneInfo>| {
        if args.json { print_json(&mut out, zones) } else { print_text(&mut out, zones) }
    };
    let printed = opened.with_zones(zones, print).with_context(name)?;
    output::finish(out, printed)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the zones of a running daemon, each as it was when it was asked for.
pub(super) fn print_served(
    client: &mut Client,
    first: u32,
    count: u32,
    as_json: bool,
    out: &mut impl Write,
) -> Result<io::Result<()>> {
    let mut zones = Vec::new();
    client.report(first, count, |part| {
        zones.extend(part.zones.iter().filter_map(ZoneRow::to_info));
    })?;
    let zones = zones.into_iter();
    Ok(if as_json { print_json(out, zones) } else { print_text(out, zones) })
}

fn print_text(out: &mut impl Write, zones: impl Iterator<Item = ZoneInfo>) -> io::Result<()> {
    for zone in zones {
        let pointer = Bytes(zone.write_pointer.0 - zone.start.0);
        let (kind, kind_name) = match zone.kind {
            ZoneKind::Conventional => (1, "CONVENTIONAL"),
            ZoneKind::SequentialWriteRequired => (2, "SEQ_WRITE_REQUIRED"),
        };
        writeln!(
            out,
            "  start: 0x{:09x}, len 0x{:06x}, cap 0x{:06x}, wptr 0x{:06x} reset:0 non-seq:0, zcond:{:2}({}) [type: {kind}({kind_name})]",
            zone.start.to_sector().0,
            zone.len.to_sector().0,
            zone.capacity.to_sector().0,
            pointer.to_sector().0,
            zone.state as u8,
            condition(zone.state),
        )?;
    }
    Ok(())
}

/// The two letters of blkzone.
fn condition(state: State) -> &'static str {
    match state {
        State::NotWp => "nw",
        State::Empty => "em",
        State::ImplicitOpen => "oi",
        State::ExplicitOpen => "oe",
        State::Closed => "cl",
        State::ReadOnly => "ro",
        State::Full => "fu",
        State::Offline => "of",
    }
}

/// One zone a line, so that a large report needs no memory here and is still pleasant to read.
fn print_json(out: &mut impl Write, zones: impl Iterator<Item = ZoneInfo>) -> io::Result<()> {
    write!(out, "{{\"zones\":[")?;
    for (number, zone) in zones.enumerate() {
        let line = serde_json::to_string(&ZoneRow::from(&zone))?;
        write!(out, "{}\n  {line}", if number == 0 { "" } else { "," })?;
    }
    writeln!(out, "\n]}}")
}
