//! `info`: the geometry of an image, or of the disk that a running daemon serves.

use std::fmt::Display;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::{image, output, size};
use crate::chain;
use crate::observe::info::Info;
use crate::observe::versioned;
use crate::qcow2::ByteOrder;
use crate::units::Bytes;
use crate::virtio::config;

pub(super) fn run(path: &Path, as_json: bool) -> Result<ExitCode> {
    let opened = image::look(path)?;
    let (header, zoned) = (opened.image.header(), opened.image.zoned());
    let endian = match opened.image.table_order() {
        ByteOrder::Big => "big",
        ByteOrder::Little => "little",
    };
    let on_disk = opened.file.metadata().with_context(|| path.display().to_string())?.blocks() * 512;
    let bases = chain::names(path, &**opened.image.storage());
    if as_json {
        let info = json!({
            "format": "qcow2",
            "virtual_size": header.size.0,
            "bases": bases,
            "cluster_size": header.cluster_size().0,
            "disk_size": on_disk,
            "layout": zoned.layout.name(),
            "zoned": zoned.zoned,
            "zone_size": zoned.zone_size,
            "zone_capacity": zoned.zone_capacity,
            "conventional_zones": zoned.conventional_zones,
            "nr_zones": zoned.nr_zones,
            "max_active_zones": zoned.max_active_zones,
            "max_open_zones": zoned.max_open_zones,
            "max_append_bytes": zoned.max_append_bytes,
            "zonedmeta_size": zoned.zonedmeta_size,
            "zonedmeta_offset": zoned.zonedmeta_offset,
            "table_offset": zoned.zonedmeta_offset,
            "table_endian": endian,
        });
        output::print(serde_json::to_string_pretty(&versioned(info))? + "\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let append = match zoned.max_append_bytes {
        0 => format!(
            "not stated: what the queue can carry, {} with the default --queue-size",
            size::show(config::max_append_carried(config::DEFAULT_QUEUE_SIZE).min(Bytes(zoned.zone_capacity)))
        ),
        limit => size::show(Bytes(limit.into())),
    };
    let mut facts = Facts::default();
    facts.add("image", path.display());
    for base in &bases {
        facts.add("builds on", base.display());
    }
    facts.add("file format", "qcow2, zoned (host-managed)");
    facts.add("zoned layout", zoned.layout.title());
    facts.add("virtual size", size::show(header.size));
    facts.add("disk size", size::show(Bytes(on_disk)));
    facts.add("cluster size", size::show(header.cluster_size()));
    facts.zones(&Zones {
        count: zoned.nr_zones,
        conventional: zoned.conventional_zones,
        size: zoned.zone_size,
        capacity: zoned.zone_capacity,
        max_open: zoned.max_open_zones,
        max_active: zoned.max_active_zones,
        max_append: append,
    });
    let (at, len) = (zoned.zonedmeta_offset, zoned.zonedmeta_size);
    facts.add("write pointer table", format_args!("{at:#x}, {len} bytes, {endian}-endian"));
    for clamp in opened.image.clamps() {
        facts.add("note", format_args!("{} {} cannot be reached: {} is in force", clamp.field, clamp.from, clamp.to));
    }
    output::print(facts.text)?;
    Ok(ExitCode::SUCCESS)
}

/// What a daemon says of the disk that it serves, and of itself.
pub(super) fn served(info: &Info) -> String {
    let mut facts = Facts::default();
    facts.add("image", &info.image);
    for base in &info.bases {
        facts.add("builds on", base);
    }
    facts.add("virtual size", size::show(Bytes(info.virtual_size)));
    facts.zones(&Zones {
        count: info.nr_zones,
        conventional: info.conventional_zones,
        size: info.zone_size,
        capacity: info.zone_capacity,
        max_open: info.max_open_zones,
        max_active: info.max_active_zones,
        max_append: size::show(Bytes(info.max_append_bytes)),
    });
    facts.add("block size", size::show(Bytes(info.block_size.into())));
    facts.add("serial", if info.serial.is_empty() { "none" } else { &info.serial });
    facts.add("read-only", yes_or_no(info.read_only));
    facts.add("queues", info.num_queues);
    facts.add("cache", &info.cache);
    facts.add("polling", format_args!("{:?}", Duration::from_micros(info.poll_us)));
    facts.add("frontend", if info.frontend { "connected" } else { "not connected" });
    facts.add("driver knows zones", yes_or_no(info.zoned_negotiated));
    if let Some(power) = &info.power {
        facts.add("power", power.now.in_words());
        facts.add("volatile", size::show(Bytes(power.now.volatile_bytes)));
        if let Some(cut) = power.last_cut.as_ref().map(|cut| &cut.content) {
            facts.add("last power cut", format_args!("{} zones touched, digest {}", cut.zones.len(), cut.digest));
        }
    }
    facts.add("daemon", format_args!("vhost-user-zbd {}, process {}", info.version, info.pid));
    facts.text
}

fn yes_or_no(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

/// What an image or a daemon says of the zones of a disk. Limits of 0 are none.
struct Zones {
    count: u32,
    conventional: u32,
    size: u64,
    capacity: u64,
    max_open: u32,
    max_active: u32,
    /// In words.
    max_append: String,
}

/// Lines of a name and what is known by it.
#[derive(Default)]
struct Facts {
    text: String,
}

impl Facts {
    fn add(&mut self, name: &str, value: impl Display) {
        self.text += &format!("{name}: {value}\n");
    }

    fn zones(&mut self, zones: &Zones) {
        let limit = |limit: u32| if limit == 0 { "no limit".to_owned() } else { limit.to_string() };
        self.add("zones", format_args!("{} ({} conventional)", zones.count, zones.conventional));
        self.add("zone size", size::show(Bytes(zones.size)));
        self.add("zone capacity", size::show(Bytes(zones.capacity)));
        self.add("max open zones", limit(zones.max_open));
        self.add("max active zones", limit(zones.max_active));
        self.add("max append", &zones.max_append);
    }
}
