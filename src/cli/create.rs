//! `create`: a new image. Takes qemu-img's command line, and options of its own for the same things.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;

use super::disk::Disk;
use super::make::make;
use super::named::Wanted;
use super::preset::{self, MeantFor, Preset};
use super::{named, output, parse_size};
use crate::logging;
use crate::qcow2::{ByteOrder, CreateOptions};
use crate::units::{Bytes, SECTOR_SIZE};
use crate::virtio::config;
use crate::zone::{Geometry, GeometryRequest};

const DEFAULT_CLUSTER_SIZE: Bytes = Bytes(64 << 10);
/// The unit in which a default append limit is chosen.
const PAGE: u64 = 4096;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Endian {
    Big,
    Little,
}

#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Args {
    /// The image file to make; it must not exist.
    file: Option<PathBuf>,
    /// The size of the disk, such as 64M, 1.5G or 16GiB. Also as `-o size=`. A preset has one.
    #[arg(value_parser = parse_size)]
    size: Option<Bytes>,
    /// Do not say what was made.
    #[arg(short, long)]
    quiet: bool,
    /// The image format, as qemu-img takes it; only qcow2.
    #[arg(short = 'f', long, value_parser = ["qcow2"])]
    format: Option<String>,
    /// Options by the names of qemu-img, separated by commas; "-o help" lists them.
    #[arg(short = 'o', value_name = "NAME=VALUE", value_delimiter = ',')]
    options: Vec<String>,
    /// Take a geometry that has a name; any option that is given counts instead of what it says.
    #[arg(long, value_name = "NAME", value_parser = preset::parser())]
    preset: Option<&'static Preset>,
    /// List the presets, and exit.
    #[arg(long)]
    list_presets: bool,
    /// Make the disk so that these take it, and warn where they will not, and say why.
    #[arg(long = "for", value_enum, value_name = "WHAT,...", value_delimiter = ',')]
    meant_for: Vec<MeantFor>,
    /// Bytes from one zone to the next: a power of two.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    zone_size: Option<Bytes>,
    /// Writable bytes of a sequential zone; the zone size when not given.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    zone_capacity: Option<Bytes>,
    /// How many zones, from the first, are conventional.
    #[arg(long, value_name = "N")]
    conventional_zones: Option<u32>,
    /// Most zones open at a time; 0 is no limit. The active limit when only that is given.
    #[arg(long, value_name = "N")]
    max_open_zones: Option<u32>,
    /// Most zones active at a time; 0 is no limit.
    #[arg(long, value_name = "N")]
    max_active_zones: Option<u32>,
    /// Longest zone append; what a queue of 256 entries can carry when not given; 0 states no limit.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_append_bytes: Option<Bytes>,
    /// Cluster size of the image, 512 to 2M.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    cluster_size: Option<Bytes>,
    /// Byte order of the write pointer table: big, or little with --for qemu-v7, as its binaries take no other.
    #[arg(long, value_enum, value_name = "ORDER")]
    table_endian: Option<Endian>,
}

/// Why there is no such option, where it is one of qemu-img's.
pub(super) fn why_not(option: &str) -> Option<&'static str> {
    match option {
        "-b" | "-B" | "-F" | "-u" => Some(named::BACKING),
        "--object" => Some(named::ENCRYPTION),
        _ => None,
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let listed = match () {
        () if args.list_presets => Some(preset::list()),
        () if args.options.iter().any(|option| named::is_help(option)) => Some(named::help()),
        () => None,
    };
    if let Some(list) = listed {
        output::print(list)?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = args.file.as_ref().ok_or_else(|| anyhow!("no image given: expected FILE"))?;
    let name = path.display();
    let wanted = gather(args).with_context(|| name.to_string())?;
    let order = table_order(args).with_context(|| name.to_string())?;
    let options = wanted.complete(order).with_context(|| name.to_string())?;
    for warning in make(path, &options)?.into_iter().chain(objections(&options, &args.meant_for)) {
        logging::warning(format_args!("{name}: warning: {warning}"));
    }
    if !args.quiet {
        output::print(made(path, &options)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table_order(args: &Args) -> Result<ByteOrder> {
    let for_v7 = args.meant_for.contains(&MeantFor::QemuV7);
    match (args.table_endian, for_v7) {
        (Some(Endian::Big), true) => {
            bail!("--table-endian is big: expected little with --for qemu-v7, whose binaries write over any other")
        }
        (Some(Endian::Little), _) | (None, true) => Ok(ByteOrder::Little),
        (Some(Endian::Big) | None, false) => Ok(ByteOrder::Big),
    }
}

/// The line that says what was made.
fn made(path: &Path, options: &CreateOptions) -> Result<String> {
    let name = path.display().to_string();
    let (geometry, _) = Geometry::new(&options.geometry)?;
    let limits = [("open", geometry.max_open_zones()), ("active", geometry.max_active_zones())];
    let limits = limits.iter().filter(|(_, limit)| *limit > 0).map(|(what, limit)| format!(", at most {limit} {what}"));
    let limits: String = limits.collect();
    let disk = Disk { name, geometry, longest_append: geometry.max_append(), cached: false };
    Ok(format!("Made '{}': {}{limits}\n", disk.name, disk.shape()))
}

/// Why Linux, and what the disk is meant for, will refuse it.
fn objections(options: &CreateOptions, meant_for: &[MeantFor]) -> Vec<String> {
    // The image has been made from this.
    let Ok((geometry, _)) = Geometry::new(&options.geometry) else { return Vec::new() };
    let mut objections = Vec::new();
    if let Some(limit) = geometry.max_append().filter(|limit| limit.0 < PAGE) {
        objections.push(format!(
            "max_append_bytes {limit} is less than a block of 4096 bytes, which Linux refuses: serve it with --block-size 512"
        ));
    }
    objections.extend(meant_for.iter().flat_map(|what| what.objections(&geometry, options.cluster_size)));
    objections
}

fn gather(args: &Args) -> Result<Wanted> {
    let mut named = Wanted::default();
    args.options.iter().try_for_each(|option| named::take(&mut named, option))?;
    Ok(Wanted {
        preset: either(named.preset, args.preset, "--preset")?,
        size: either(named.size, args.size, "SIZE")?,
        cluster_size: either(named.cluster_size, args.cluster_size, "--cluster-size")?,
        zone_size: either(named.zone_size, args.zone_size, "--zone-size")?,
        zone_capacity: either(named.zone_capacity, args.zone_capacity, "--zone-capacity")?,
        max_append_bytes: either(named.max_append_bytes, args.max_append_bytes, "--max-append-bytes")?,
        conventional_zones: either(named.conventional_zones, args.conventional_zones, "--conventional-zones")?,
        max_open_zones: either(named.max_open_zones, args.max_open_zones, "--max-open-zones")?,
        max_active_zones: either(named.max_active_zones, args.max_active_zones, "--max-active-zones")?,
    })
}

/// What was said by the name of an option of `-o`, or by one of our own. Which of both counts nobody can know; qemu-img
/// refuses a size that is said in both ways, too.
fn either<T>(named: Option<T>, own: Option<T>, name: &str) -> Result<Option<T>> {
    match (named, own) {
        (Some(_), Some(_)) => bail!("{name}: given by -o, too: expected only one of both"),
        (named, own) => Ok(named.or(own)),
    }
}

impl Wanted {
    /// With what was not said.
    pub(super) fn complete(&self, table_order: ByteOrder) -> Result<CreateOptions> {
        let preset = self.preset;
        let size = self.size.or(preset.map(|preset| preset.size));
        let size = size.ok_or_else(|| anyhow!("no size given: expected FILE SIZE, -o size=SIZE or a preset"))?;
        let size = whole(size);
        let zone_size = self.zone_size.or(preset.map(|preset| preset.zone_size));
        let zone_size =
            zone_size.ok_or_else(|| anyhow!("no zone size given: expected --zone-size, -o zone.size= or a preset"))?;
        // A preset's capacity goes with its own zones.
        let of_preset = preset.filter(|_| self.zone_size.is_none()).map(|preset| preset.zone_capacity);
        let zone_capacity = self.zone_capacity.or(of_preset).unwrap_or(zone_size);
        let conventional = preset.map(|preset| preset.conventional_zones(size, zone_size));
        let conventional_zones = self.conventional_zones.or(conventional).unwrap_or(0);
        // A limit that a smaller disk than the preset's cannot reach is none, and nobody asked for it.
        let zones = size.0.checked_div(zone_size.0).unwrap_or(0).saturating_sub(conventional_zones.into());
        let reached = |limit: u32| if u64::from(limit) < zones { limit } else { 0 };
        let max_active_zones =
            self.max_active_zones.or(preset.map(|preset| reached(preset.max_active_zones))).unwrap_or(0);
        let max_open_zones = match (self.max_open_zones, self.max_active_zones, preset) {
            (Some(open), ..) => open,
            (None, None, Some(preset)) => reached(preset.max_open_zones),
            (None, ..) => max_active_zones,
        };
        let max_append_bytes = self.max_append_bytes.unwrap_or_else(|| default_append(zone_capacity));
        Ok(CreateOptions {
            geometry: GeometryRequest {
                size,
                zone_size,
                zone_capacity,
                conventional_zones,
                max_open_zones,
                max_active_zones,
                max_append_bytes,
            },
            cluster_size: self.cluster_size.unwrap_or(DEFAULT_CLUSTER_SIZE),
            table_order,
        })
    }
}

/// A size of a disk that is no whole number of sectors, as 1.3G is none, is rounded up: by qemu-img to sectors, here to
/// blocks, so that the disk can be served with the default block size.
fn whole(size: Bytes) -> Bytes {
    let whole = if size.is_multiple_of(SECTOR_SIZE) { Some(size.0) } else { size.0.checked_next_multiple_of(PAGE) };
    whole.map_or(size, Bytes)
}

/// What the default queue can carry, or what the format's rule leaves of a small zone.
fn default_append(zone_capacity: Bytes) -> Bytes {
    let room = zone_capacity.0.saturating_sub(2 * SECTOR_SIZE);
    let unit = if room >= PAGE { PAGE } else { SECTOR_SIZE };
    Bytes((room / unit * unit).min(config::max_append_carried(config::DEFAULT_QUEUE_SIZE).0))
}
