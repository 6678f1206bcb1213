//! `report`: the zones of an image, as blkzone prints them or as JSON.

use std::io::{self, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};

use super::disk::Disk;
use super::{image, output, parse_size};
use crate::control::client::Client;
use crate::control::{Command, ZoneRow};
use crate::convert::table;
use crate::observe::info::Info;
use crate::store::ZoneInfo;
use crate::units::{Bytes, Sector};
use crate::zone::{Geometry, State, ZoneKind};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image file.
    #[arg(required_unless_present = "socket")]
    file: Option<PathBuf>,
    /// Ask the daemon at this control socket, which knows what is open.
    #[arg(long, value_name = "PATH", conflicts_with = "file")]
    socket: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Begin with the zone that holds this byte of the disk.
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    offset: Option<Bytes>,
    /// Begin with the zone that holds this sector of 512 bytes, as blkzone's -o has it.
    #[arg(short = 'o', long, value_name = "SECTOR", conflicts_with = "offset", value_parser = parse_sectors)]
    sector: Option<Bytes>,
    /// List the zones of so many sectors from there on, as blkzone's -l has it.
    #[arg(short = 'l', long, value_name = "SECTORS", conflicts_with = "count", value_parser = parse_sectors)]
    length: Option<Bytes>,
    /// List this many zones at most.
    #[arg(short = 'c', long, value_name = "N")]
    count: Option<u32>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(path) = &args.socket {
        let mut client = Client::connect(path)?;
        let info: Info = client.ask(&Command::Info {})?;
        let disk = Disk::served(&info).with_context(|| path.display().to_string())?;
        let zones = args.wanted(&disk.geometry).with_context(|| path.display().to_string())?;
        return print_served(&mut client, zones.start, zones.end - zones.start, args.json);
    }
    let path = args.file.as_ref().ok_or_else(|| anyhow!("no image given: expected FILE or --socket"))?;
    let opened = image::look(path)?;
    let name = || path.display().to_string();
    let wanted = args.wanted(opened.image.geometry()).with_context(name)?;
    // Nothing is printed of a report that would end in the midst.
    opened.with_zones(wanted.clone(), |zones| zones.for_each(drop)).with_context(name)?;
    opened
        .with_zones(wanted, |zones| print(zones.map(|zone| ZoneRow::from(&zone)), args.json))
        .with_context(name)??;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// The zones that are asked for.
    fn wanted(&self, geometry: &Geometry) -> Result<Range<u32>> {
        let begin = self.offset.or(self.sector).unwrap_or_default();
        let Some(first) = geometry.zone_at(begin) else {
            bail!("the report begins at {begin}: expected less than the size, {}", geometry.size());
        };
        let left = geometry.nr_zones() - first.0;
        let of_length = |length: Bytes| {
            let end = begin.0.saturating_add(length.0).div_ceil(geometry.zone_size().0);
            let zones = if length.0 == 0 { 0 } else { end.saturating_sub(first.0.into()) };
            u32::try_from(zones).unwrap_or(u32::MAX)
        };
        let count = self.count.or(self.length.map(of_length)).unwrap_or(left);
        Ok(first.0..first.0 + count.min(left))
    }
}

/// Reads a number of sectors as blkzone does: in hexadecimal too, as a report has them.
fn parse_sectors(text: &str) -> Result<Bytes, String> {
    let sectors = match text.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16)) {
        Some(Ok(sectors)) => Sector(sectors),
        Some(Err(_)) => return Err(format!("'{text}' is not a number: expected hexadecimal digits behind 0x")),
        None => Sector(parse_size(text)?.0),
    };
    sectors.to_bytes().ok_or_else(|| format!("'{text}' is too large: expected sectors of 512 bytes"))
}

/// Prints the zones of a running daemon, each as it was when it was asked for.
pub(super) fn print_served(client: &mut Client, first: u32, count: u32, as_json: bool) -> Result<ExitCode> {
    let mut zones = Vec::new();
    client.report(first, count, |part| zones.extend(part.zones.iter().cloned()))?;
    print(zones.into_iter(), as_json)?;
    Ok(ExitCode::SUCCESS)
}

fn print(zones: impl Iterator<Item = ZoneRow>, as_json: bool) -> Result<()> {
    let mut out = output::stdout();
    let printed = match as_json {
        true => table::write_json(&mut out, zones),
        false => print_text(&mut out, zones.filter_map(|zone| zone.to_info())),
    };
    output::finish(out, printed)
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
