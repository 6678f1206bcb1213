//! The options of `create -o`, by the names that qemu-img has for them.
//!
//! One table has them all: those that are taken, those of which one value is taken because it is what is made anyway,
//! and those that a zoned image cannot have.

use anyhow::{Result, anyhow, bail};

use super::{preset, size};
use crate::units::Bytes;

/// Everything that was asked for, from all forms of options.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) preset: Option<&'static preset::Preset>,
    pub(super) size: Option<Bytes>,
    pub(super) cluster_size: Option<Bytes>,
    pub(super) zone_size: Option<Bytes>,
    pub(super) zone_capacity: Option<Bytes>,
    pub(super) max_append_bytes: Option<Bytes>,
    pub(super) conventional_zones: Option<u32>,
    pub(super) max_open_zones: Option<u32>,
    pub(super) max_active_zones: Option<u32>,
}

impl Wanted {
    /// What is meant by `SIZE,NAME=VALUE,...`, each but the first by the names of `-o`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut wanted = Self::default();
        for (at, option) in text.split(',').enumerate() {
            if at > 0 || option.contains('=') {
                take(&mut wanted, option)?;
            } else {
                wanted.size = Some(size::parse(option).map_err(|error| anyhow!(error))?);
            }
        }
        Ok(wanted)
    }
}

/// An option.
struct Named {
    name: &'static str,
    about: &'static str,
    means: Means,
}

enum Means {
    /// A number of bytes.
    Size(fn(&mut Wanted) -> &mut Option<Bytes>),
    /// A number.
    Count(fn(&mut Wanted) -> &mut Option<u32>),
    /// A preset's name.
    Preset,
    /// One of these, each of which says what is made anyway.
    Always(&'static [&'static str]),
    /// Nothing that a zoned image has: why.
    Never(&'static str),
}

use Means::{Always, Count, Never, Preset, Size};

/// How qemu-img's options say no.
const OFF: Means = Always(&["off", "no", "false", "n"]);
pub(super) const BACKING: &str = "an image on a base is made by fork BASE CHILD";
pub(super) const ENCRYPTION: &str = "a zoned image is not encrypted";
const DATA_FILE: &str = "a zoned image holds its data itself";

const NAMED: &[Named] = &[
    Named { name: "size", about: "Size of the disk", means: Size(|wanted| &mut wanted.size) },
    Named { name: "preset", about: "Geometry with this name, see --list-presets", means: Preset },
    Named {
        name: "cluster_size",
        about: "Cluster size of the image, 512 to 2M",
        means: Size(|wanted| &mut wanted.cluster_size),
    },
    Named {
        name: "zone.size",
        about: "Bytes from one zone to the next, a power of two",
        means: Size(|wanted| &mut wanted.zone_size),
    },
    Named {
        name: "zone.capacity",
        about: "Writable bytes of a sequential zone",
        means: Size(|wanted| &mut wanted.zone_capacity),
    },
    Named {
        name: "zone.conventional_zones",
        about: "Zones, from the first, that are conventional",
        means: Count(|wanted| &mut wanted.conventional_zones),
    },
    Named {
        name: "zone.max_open_zones",
        about: "Most zones open at a time, 0 for no limit",
        means: Count(|wanted| &mut wanted.max_open_zones),
    },
    Named {
        name: "zone.max_active_zones",
        about: "Most zones active at a time, 0 for no limit",
        means: Count(|wanted| &mut wanted.max_active_zones),
    },
    Named {
        name: "zone.max_append_bytes",
        about: "Longest zone append",
        means: Size(|wanted| &mut wanted.max_append_bytes),
    },
    Named { name: "zone.mode", about: "Zoned model", means: Always(&["host-managed"]) },
    Named { name: "compat", about: "Version of the format", means: Always(&["1.1", "v3"]) },
    Named { name: "compression_type", about: "Compression", means: Always(&["zlib"]) },
    Named { name: "data_file_raw", about: "External data file that is a raw image", means: OFF },
    Named { name: "encryption", about: "Encryption", means: OFF },
    Named { name: "extended_l2", about: "Extended L2 tables", means: OFF },
    Named { name: "extent_size_hint", about: "Extent size hint for the image file", means: Always(&["0"]) },
    Named { name: "lazy_refcounts", about: "Postponed refcount updates", means: OFF },
    Named { name: "nocow", about: "Copy-on-write of btrfs turned off", means: OFF },
    Named { name: "preallocation", about: "Preallocation", means: Always(&["off"]) },
    Named { name: "refcount_bits", about: "Width of a refcount", means: Always(&["16"]) },
    Named { name: "backing_file", about: "", means: Never(BACKING) },
    Named { name: "backing_fmt", about: "", means: Never(BACKING) },
    Named { name: "data_file", about: "", means: Never(DATA_FILE) },
];
/// How the names of qemu-img's options for encryption begin.
const ENCRYPT: &str = "encrypt.";

/// Whether an option asks for the list of options, as it does with qemu-img.
pub(super) fn is_help(option: &str) -> bool {
    ["help", "?"].contains(&option)
}

/// What `-o help` prints.
pub(super) fn help() -> String {
    let mut help = "Supported options:\n".to_owned();
    for Named { name, about, means } in NAMED {
        let value = match means {
            Size(_) => "<size>".to_owned(),
            Count(_) => "<num>".to_owned(),
            Preset => "<name>".to_owned(),
            Always(values) => values.join("|"),
            Never(_) => continue,
        };
        help += &format!("  {:<32} - {about}\n", format!("{name}={value}"));
    }
    help + &format!("A size is {}.\n", size::ACCEPTED)
}

/// Takes one NAME=VALUE. One that is taken again counts the last time. A dash in a name is as good as an underscore.
pub(super) fn take(wanted: &mut Wanted, option: &str) -> Result<()> {
    let Some((key, value)) = option.split_once('=') else {
        bail!("-o {option}: expected NAME=VALUE");
    };
    let name = key.replace('-', "_");
    if name.starts_with(ENCRYPT) {
        bail!("-o {key}: not supported: {ENCRYPTION}");
    }
    let Some(named) = NAMED.iter().find(|named| named.name == name) else {
        let supported = NAMED.iter().filter(|named| !matches!(named.means, Never(_))).map(|named| named.name);
        let supported: Vec<&str> = supported.collect();
        bail!("-o {key}: unknown option: expected one of {}", supported.join(", "));
    };
    let wrong = |error: String| anyhow!("-o {key}: {error}");
    match named.means {
        Size(place) => *place(wanted) = Some(size::parse(value).map_err(wrong)?),
        Count(place) => *place(wanted) = Some(count(value).map_err(wrong)?),
        Preset => wanted.preset = Some(preset::named(value).map_err(wrong)?),
        Always(values) if values.contains(&value) => {}
        Always([first, ..]) => bail!("-o {key}={value}: not supported: expected {first}"),
        Always([]) => {}
        Never(why) => bail!("-o {key}: not supported: {why}"),
    }
    Ok(())
}

fn count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("'{text}' is not a count: expected a whole number below 4294967296"))
}
