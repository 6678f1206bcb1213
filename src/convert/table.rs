//! Zone tables: what the zones of a disk are, as text.
//!
//! Read are the JSON of `report --json` and the text of `blkzone report` of any version, both of a whole disk. Written is the
//! JSON.

use std::io::{self, Write};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use crate::control::ZoneRow;
use crate::observe::SCHEMA_VERSION;
use crate::store::ZoneInfo;
use crate::units::{Bytes, SECTOR_SIZE, Sector, ZoneIndex};
use crate::zone::{Geometry, GeometryRequest, State, ZoneKind};

/// What a zone table does not say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Most zones open at a time; 0 is no limit.
    pub max_open_zones: u32,
    /// Most zones active at a time; 0 is no limit.
    pub max_active_zones: u32,
    /// Longest append; 0 states no limit.
    pub max_append_bytes: Bytes,
}

/// The part of a report that is looked at.
#[derive(Deserialize)]
struct Report {
    zones: Vec<ZoneRow>,
}

/// Reads a zone table: the shape of the disk, and the write pointer of each zone.
pub fn read(text: &str, limits: Limits) -> Result<(Geometry, Vec<Bytes>)> {
    let zones = match text.trim_start().starts_with('{') {
        true => from_json(text)?,
        false => from_blkzone(text)?,
    };
    let geometry = geometry(&zones, limits)?;
    let pointers = zones.iter().map(|zone| pointer(&geometry, zone)).collect::<Result<_>>()?;
    Ok((geometry, pointers))
}

/// Prints reports of zones as JSON, one zone a line, so that a large report needs no memory and is still pleasant to read.
pub fn write_json(out: &mut impl Write, zones: impl Iterator<Item = ZoneRow>) -> io::Result<()> {
    write!(out, "{{\"schema_version\":{},\"zones\":[", SCHEMA_VERSION)?;
    for (number, zone) in zones.enumerate() {
        let line = serde_json::to_string(&zone)?;
        write!(out, "{}\n  {line}", if number == 0 { "" } else { "," })?;
    }
    writeln!(out, "\n]}}")
}

fn from_json(text: &str) -> Result<Vec<ZoneInfo>> {
    let report: Report = serde_json::from_str(text).context("no report in JSON")?;
    let info = |row: &ZoneRow| {
        let unknown =
            || anyhow!("zone {} is {} and {}: expected a type and a state of report", row.index, row.kind, row.state);
        row.to_info().ok_or_else(unknown)
    };
    report.zones.iter().map(info).collect()
}

fn from_blkzone(text: &str) -> Result<Vec<ZoneInfo>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let zones: Vec<ZoneInfo> = lines
        .zip(0..)
        .map(|((number, line), index)| {
            blkzone_line(line, ZoneIndex(index)).with_context(|| format!("line {}", number + 1))
        })
        .collect::<Result<_>>()?;
    if zones.is_empty() {
        bail!("it is empty: expected a zone a line, as blkzone report prints them, or the JSON of report");
    }
    Ok(zones)
}

/// A line of blkzone. All numbers are sectors of 512 bytes; the write pointer is relative to the zone's start.
fn blkzone_line(line: &str, index: ZoneIndex) -> Result<ZoneInfo> {
    let bytes = |name: &str| -> Result<Option<Bytes>> {
        let Some(text) = word_behind(line, name) else { return Ok(None) };
        let digits =
            text.strip_prefix("0x").ok_or_else(|| anyhow!("{name} is {text}: expected 0x and hexadecimal digits"))?;
        let sectors = u64::from_str_radix(digits, 16).with_context(|| format!("{name} is {text}"))?;
        Ok(Some(Sector(sectors).to_bytes().ok_or_else(|| anyhow!("{name} is {text}: expected fewer sectors"))?))
    };
    let needed =
        |name: &str| bytes(name)?.ok_or_else(|| anyhow!("no {name}: expected a line as blkzone report prints it"));
    let number = |name: &str| -> Result<u8> {
        let word = word_behind(line, name).and_then(|word| word.split('(').next()?.parse().ok());
        word.ok_or_else(|| anyhow!("no {name}: expected a line as blkzone report prints it"))
    };
    let (start, len) = (needed("start")?, needed("len")?);
    let kind = match number("type")? {
        1 => ZoneKind::Conventional,
        2 => ZoneKind::SequentialWriteRequired,
        other => bail!("type is {other}: expected 1 or 2, as an image has no other zones"),
    };
    let state = number("zcond")?;
    let state = State::from_number(state).ok_or_else(|| anyhow!("zcond is {state}: expected a condition of a zone"))?;
    // Before util-linux 2.36 there was no cap, and of a conventional or a full zone the pointer says nothing.
    let capacity = bytes("cap")?.unwrap_or(len);
    let written = match state {
        State::NotWp | State::Empty => Bytes(0),
        State::Full => capacity,
        _ => needed("wptr")?,
    };
    let write_pointer = start.checked_add(written).ok_or_else(|| anyhow!("wptr is past the end of everything"))?;
    Ok(ZoneInfo { index, kind, state, start, len, capacity, write_pointer })
}

/// What stands behind a name and its colon or space.
fn word_behind<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let begins =
        |(at, _): &(usize, &str)| !line[..*at].ends_with(|before: char| before.is_alphanumeric() || before == '-');
    let (at, _) = line.match_indices(name).find(begins)?;
    let rest = line[at + name.len()..].trim_start_matches([':', ' ']);
    Some(rest.split([',', ' ', ']']).next().unwrap_or(rest))
}

/// The shape of the disk that has these zones.
fn geometry(zones: &[ZoneInfo], limits: Limits) -> Result<Geometry> {
    let (Some(first), Some(last)) = (zones.first(), zones.last()) else { bail!("no zones: expected one at least") };
    let conventional = zones.iter().take_while(|zone| zone.kind == ZoneKind::Conventional).count();
    let capacity = zones.get(conventional).map_or(first.len, |zone| zone.capacity);
    let size =
        last.start.checked_add(last.len).ok_or_else(|| anyhow!("zone {} is past the end of everything", last.index))?;
    let (geometry, _) = Geometry::new(&GeometryRequest {
        size,
        zone_size: first.len,
        zone_capacity: capacity,
        conventional_zones: u32::try_from(conventional).context("too many zones")?,
        max_open_zones: limits.max_open_zones,
        max_active_zones: limits.max_active_zones,
        max_append_bytes: limits.max_append_bytes,
    })?;
    for (zone, expected) in zones.iter().zip((0..).map(ZoneIndex)) {
        let found = (zone.index, zone.kind, zone.start, zone.len);
        let wanted = (expected, geometry.kind(expected), geometry.start(expected), geometry.len(expected));
        if expected.0 >= geometry.nr_zones()
            || found != wanted
            || (zone.capacity != geometry.capacity(expected) && zone.kind != ZoneKind::Conventional)
        {
            bail!(
                "zone {} is {}, begins at {} and has {} bytes, {} of them writable: expected all zones of a disk in order, \
                 the conventional ones first, and all like the first but the last, which may be shorter",
                zone.index,
                zone.kind.name(),
                zone.start,
                zone.len,
                zone.capacity
            );
        }
    }
    Ok(geometry)
}

/// The write pointer that can be stored of a zone.
fn pointer(geometry: &Geometry, zone: &ZoneInfo) -> Result<Bytes> {
    let (start, end) = (zone.start, geometry.writable_end(zone.index));
    let pointer = match zone.state {
        State::NotWp | State::Empty => start,
        State::Full => end,
        State::ImplicitOpen | State::ExplicitOpen | State::Closed => zone.write_pointer,
        State::ReadOnly | State::Offline => {
            bail!("zone {} is {}: expected a state that an image can hold", zone.index, zone.state.name())
        }
    };
    if !(start..=end).contains(&pointer) || !pointer.is_multiple_of(SECTOR_SIZE) {
        bail!("zone {} has its write pointer at {pointer}: expected a sector from {start} to {end}", zone.index);
    }
    Ok(pointer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// As blkzone of util-linux 2.38 prints null_blk's zones; the last is short.
    const TABLE: &str = "\
  start: 0x000000000, len 0x000800, cap 0x000800, wptr 0x000000 reset:0 non-seq:0, zcond: 0(nw) [type: 1(CONVENTIONAL)]
  start: 0x000000800, len 0x000800, cap 0x000600, wptr 0x000000 reset:0 non-seq:0, zcond: 1(em) [type: 2(SEQ_WRITE_REQUIRED)]
  start: 0x000001000, len 0x000800, cap 0x000600, wptr 0x000123 reset:0 non-seq:0, zcond: 4(cl) [type: 2(SEQ_WRITE_REQUIRED)]
  start: 0x000001800, len 0x000800, cap 0x000600, wptr 0x000800 reset:0 non-seq:0, zcond:14(fu) [type: 2(SEQ_WRITE_REQUIRED)]
  start: 0x000002000, len 0x000400, cap 0x000400, wptr 0x000008 reset:0 non-seq:0, zcond: 2(oi) [type: 2(SEQ_WRITE_REQUIRED)]
";

    fn sectors(pointers: &[Bytes]) -> Vec<u64> {
        pointers.iter().map(|pointer| pointer.to_sector().0).collect()
    }

    #[test]
    fn the_text_of_blkzone_is_a_zone_table() {
        let (geometry, pointers) = read(TABLE, Limits::default()).unwrap();
        assert_eq!((geometry.nr_zones(), geometry.conventional_zones()), (5, 1));
        assert_eq!((geometry.size().to_sector().0, geometry.zone_capacity().to_sector().0), (0x2400, 0x600));
        assert_eq!(sectors(&pointers), [0, 0x800, 0x1123, 0x1e00, 0x2008]);
    }

    #[test]
    fn a_line_without_a_capacity_is_of_a_zone_that_is_writable_to_its_end() {
        let old =
            TABLE.lines().take(4).map(|line| line.replace("cap 0x000800, ", "").replace("cap 0x000600, ", "") + "\n");
        let (geometry, pointers) = read(&old.collect::<String>(), Limits::default()).unwrap();
        assert_eq!(geometry.zone_capacity().to_sector().0, 0x800);
        assert_eq!(sectors(&pointers), [0, 0x800, 0x1123, 0x2000]);
    }

    #[test]
    fn what_is_printed_as_json_reads_as_the_same() {
        let (geometry, pointers) = read(TABLE, Limits::default()).unwrap();
        let mut json = Vec::new();
        let zones = (0..).map(ZoneIndex).zip(&pointers).map(|(index, pointer)| {
            ZoneRow::from(&ZoneInfo::of(&geometry, index, &crate::zone::Zone::from_pointer(&geometry, index, *pointer)))
        });
        write_json(&mut json, zones).unwrap();
        assert_eq!(read(std::str::from_utf8(&json).unwrap(), Limits::default()).unwrap(), (geometry, pointers));
    }

    #[test]
    fn what_no_image_can_hold_is_refused_by_its_line_or_zone_and_value() {
        let cases = [
            ("zcond: 4(cl)", "zcond:13(ro)", "zone 2 is read-only: expected a state that an image can hold"),
            ("zcond: 4(cl)", "zcond: 9(??)", "line 3: zcond is 9: expected a condition of a zone"),
            ("[type: 1(CONVENTIONAL)]", "[type: 3(SEQ_WRITE_PREFERRED)]", "line 1: type is 3: expected 1 or 2"),
            ("start: 0x000001000", "start: 0x000001008", "zone 2 is seq-write-required, begins at 2101248"),
            ("len 0x000400", "len 0x000900", "zone 4"),
            ("wptr 0x000123", "wptr 0x000601", "zone 2 has its write pointer at"),
            ("wptr 0x000123", "wptr 123", "line 3: wptr is 123: expected 0x and hexadecimal digits"),
            ("len 0x000800, cap 0x000800, ", "", "line 1: no len: expected a line as blkzone report prints it"),
        ];
        for (from, to, expected) in cases {
            let text = TABLE.replacen(from, to, 1);
            let error = format!("{:#}", read(&text, Limits::default()).unwrap_err());
            assert!(error.contains(expected), "{to}: {error}");
        }
        for text in ["", "\n", "{}", "{\"zones\":[]}"] {
            assert!(read(text, Limits::default()).is_err(), "{text:?}");
        }
    }
}
