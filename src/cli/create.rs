//! `create`: a new image. Takes qemu-img's command line, and options of its own for the same things.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;

use super::{parse_size, size};
use crate::qcow2::{self, ByteOrder, CreateOptions};
use crate::storage::file::FileStorage;
use crate::units::{Bytes, SECTOR_SIZE};
use crate::virtio::config;
use crate::zone::GeometryRequest;

const DEFAULT_CLUSTER_SIZE: Bytes = Bytes(64 << 10);
/// The unit in which a default append limit is chosen.
const PAGE: u64 = 4096;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Endian {
    Big,
    Little,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image file to make; it must not exist.
    file: PathBuf,
    /// The size of the disk; suffixes K, M, G, T. Also as `-o size=`.
    #[arg(value_parser = parse_size)]
    size: Option<Bytes>,
    /// The image format, as qemu-img takes it; only qcow2.
    #[arg(short = 'f', long, value_parser = ["qcow2"])]
    format: Option<String>,
    /// Options by the names of qemu-img, separated by commas: size, cluster_size, zone.mode, zone.size,
    /// zone.capacity, zone.conventional_zones, zone.max_open_zones, zone.max_active_zones, zone.max_append_bytes.
    #[arg(short = 'o', value_name = "NAME=VALUE", value_delimiter = ',')]
    options: Vec<String>,
    /// Bytes from one zone to the next: a power of two.
    #[arg(long, value_parser = parse_size)]
    zone_size: Option<Bytes>,
    /// Writable bytes of a sequential zone; the zone size when not given.
    #[arg(long, value_parser = parse_size)]
    zone_capacity: Option<Bytes>,
    /// How many zones, from the first, are conventional.
    #[arg(long)]
    conventional_zones: Option<u32>,
    /// Most zones open at a time; 0 is no limit. The active limit when only that is given.
    #[arg(long)]
    max_open_zones: Option<u32>,
    /// Most zones active at a time; 0 is no limit.
    #[arg(long)]
    max_active_zones: Option<u32>,
    /// Longest zone append; what a queue of 256 entries can carry when not given.
    #[arg(long, value_parser = parse_size)]
    max_append_bytes: Option<Bytes>,
    /// Cluster size of the image, 512 to 2M.
    #[arg(long, value_parser = parse_size)]
    cluster_size: Option<Bytes>,
    /// Byte order of the write pointer table; little is for reading the image with QEMU binaries of the v7 series.
    #[arg(long, value_enum, default_value = "big")]
    table_endian: Endian,
}

/// Everything that was asked for, from all forms of options.
#[derive(Default)]
struct Wanted {
    size: Option<Bytes>,
    cluster_size: Option<Bytes>,
    zone_size: Option<Bytes>,
    zone_capacity: Option<Bytes>,
    max_append_bytes: Option<Bytes>,
    conventional_zones: Option<u32>,
    max_open_zones: Option<u32>,
    max_active_zones: Option<u32>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let name = args.file.display();
    let wanted = gather(args).with_context(|| name.to_string())?;
    let options = complete(&wanted, args).with_context(|| name.to_string())?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&args.file);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => anyhow!("{name}: the file exists: remove it first, or choose another name"),
        _ => anyhow!("{name}: the image cannot be made: {error}"),
    })?;
    match qcow2::create(&FileStorage::new(file), &options) {
        Ok(clamps) => {
            for clamp in clamps {
                eprintln!(
                    "vhost-user-zbd: {name}: warning: {} {} cannot be reached: {} will be in force",
                    clamp.field, clamp.from, clamp.to
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            // What was begun is worth nothing; the first error is the one to tell.
            let _ = fs::remove_file(&args.file);
            Err(anyhow!(error).context(name.to_string()))
        }
    }
}

fn gather(args: &Args) -> Result<Wanted> {
    let mut wanted = Wanted {
        size: args.size,
        cluster_size: args.cluster_size,
        zone_size: args.zone_size,
        zone_capacity: args.zone_capacity,
        max_append_bytes: args.max_append_bytes,
        conventional_zones: args.conventional_zones,
        max_open_zones: args.max_open_zones,
        max_active_zones: args.max_active_zones,
    };
    for option in &args.options {
        let Some((key, value)) = option.split_once('=') else {
            bail!("-o {option}: expected NAME=VALUE");
        };
        match key.replace('-', "_").as_str() {
            "size" => put(&mut wanted.size, key, value, size::parse)?,
            "cluster_size" => put(&mut wanted.cluster_size, key, value, size::parse)?,
            "zone.size" => put(&mut wanted.zone_size, key, value, size::parse)?,
            "zone.capacity" => put(&mut wanted.zone_capacity, key, value, size::parse)?,
            "zone.max_append_bytes" => put(&mut wanted.max_append_bytes, key, value, size::parse)?,
            "zone.conventional_zones" => put(&mut wanted.conventional_zones, key, value, count)?,
            "zone.max_open_zones" => put(&mut wanted.max_open_zones, key, value, count)?,
            "zone.max_active_zones" => put(&mut wanted.max_active_zones, key, value, count)?,
            "zone.mode" if value == "host-managed" => {}
            "zone.mode" => bail!("-o {key}={value}: expected host-managed"),
            _ => bail!("-o {key}: unknown option: expected size, cluster_size or one of the zone.* options of --help"),
        }
    }
    Ok(wanted)
}

fn put<T>(place: &mut Option<T>, key: &str, value: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<()> {
    let value = parse(value).map_err(|error| anyhow!("-o {key}: {error}"))?;
    match place.replace(value) {
        Some(_) => bail!("-o {key}: given twice"),
        None => Ok(()),
    }
}

fn count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("'{text}' is not a count: expected a whole number below 4294967296"))
}

fn complete(wanted: &Wanted, args: &Args) -> Result<CreateOptions> {
    let size = wanted.size.ok_or_else(|| anyhow!("no size given: expected FILE SIZE, or -o size=SIZE"))?;
    let zone_size = wanted.zone_size;
    let zone_size = zone_size.ok_or_else(|| anyhow!("no zone size given: expected --zone-size or -o zone.size="))?;
    let zone_capacity = wanted.zone_capacity.unwrap_or(zone_size);
    let max_active_zones = wanted.max_active_zones.unwrap_or(0);
    Ok(CreateOptions {
        geometry: GeometryRequest {
            size,
            zone_size,
            zone_capacity,
            conventional_zones: wanted.conventional_zones.unwrap_or(0),
            max_open_zones: wanted.max_open_zones.unwrap_or(max_active_zones),
            max_active_zones,
            max_append_bytes: wanted.max_append_bytes.unwrap_or_else(|| default_append(zone_capacity)),
        },
        cluster_size: wanted.cluster_size.unwrap_or(DEFAULT_CLUSTER_SIZE),
        table_order: match args.table_endian {
            Endian::Big => ByteOrder::Big,
            Endian::Little => ByteOrder::Little,
        },
    })
}

/// What the default queue can carry, or what the format's rule leaves of a small zone.
fn default_append(zone_capacity: Bytes) -> Bytes {
    let room = zone_capacity.0.saturating_sub(2 * SECTOR_SIZE);
    let unit = if room >= PAGE { PAGE } else { SECTOR_SIZE };
    Bytes((room / unit * unit).min(config::max_append_carried(config::DEFAULT_QUEUE_SIZE).0))
}
