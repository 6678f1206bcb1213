//! `info`: the geometry of an image.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::json;

use super::{image, output, size};
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
    if as_json {
        let info = json!({
            "format": "qcow2",
            "virtual_size": header.size.0,
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
        output::print(format_args!("{info:#}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let limit = |limit: u32| match limit {
        0 => "no limit".to_owned(),
        limit => limit.to_string(),
    };
    let append = match zoned.max_append_bytes {
        0 => format!(
            "not stated: what the queue can carry, {} with the default --queue-size",
            size::show(config::max_append_carried(config::DEFAULT_QUEUE_SIZE).min(Bytes(zoned.zone_capacity)))
        ),
        limit => size::show(Bytes(limit.into())),
    };
    let mut text = String::new();
    let mut line = |line: String| text += &(line + "\n");
    line(format!("image: {}", path.display()));
    line("file format: qcow2, zoned (host-managed)".to_owned());
    line(format!("zoned layout: {}", zoned.layout.title()));
    line(format!("virtual size: {}", size::show(header.size)));
    line(format!("disk size: {}", size::show(Bytes(on_disk))));
    line(format!("cluster size: {}", size::show(header.cluster_size())));
    line(format!("zones: {} ({} conventional)", zoned.nr_zones, zoned.conventional_zones));
    line(format!("zone size: {}", size::show(Bytes(zoned.zone_size))));
    line(format!("zone capacity: {}", size::show(Bytes(zoned.zone_capacity))));
    line(format!("max open zones: {}", limit(zoned.max_open_zones)));
    line(format!("max active zones: {}", limit(zoned.max_active_zones)));
    line(format!("max append: {append}"));
    line(format!(
        "write pointer table: {:#x}, {} bytes, {endian}-endian",
        zoned.zonedmeta_offset, zoned.zonedmeta_size
    ));
    for clamp in opened.image.clamps() {
        line(format!("note: {} {} cannot be reached: {} is in force", clamp.field, clamp.from, clamp.to));
    }
    output::print(text)?;
    Ok(ExitCode::SUCCESS)
}
