//! Pictures and pages that commands write: where they may go, and what a picture of zones over time says in words.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::disk::Disk;
use super::{output, size};
use crate::observe::trace;
use crate::picture::event::Event;
use crate::picture::timeline::{self, Unit, Words};
use crate::picture::{Grid, Survey};
use crate::qcow2;
use crate::record::format;
use crate::units::Bytes;
use crate::zone::Geometry;

/// Standard output.
pub(super) const STDOUT: &str = "-";

/// Writes a picture to a file, or to standard output. A picture of before is overwritten; an image, a trace and a recording never are.
pub(super) fn put(out: &Path, text: &str) -> Result<()> {
    if out == Path::new(STDOUT) {
        return output::print(text);
    }
    let name = || out.display().to_string();
    if let Some(what) = kept(out) {
        bail!("{}: this is {what}, which is not overwritten: expected another name for the picture", name());
    }
    fs::write(out, text).context("the picture cannot be written").with_context(name)
}

/// What a file is, if it is one that cannot be made again.
fn kept(path: &Path) -> Option<&'static str> {
    // Others, like a pipe, may wait for a writer when they are read.
    if !fs::metadata(path).is_ok_and(|file| file.is_file()) {
        return None;
    }
    let mut begin = Vec::new();
    File::open(path).and_then(|file| file.take(8).read_to_end(&mut begin)).ok()?;
    let kinds: [(&[u8], _); 3] =
        [(&qcow2::MAGIC.to_be_bytes(), "an image"), (&trace::MAGIC, "a trace"), (&format::MAGIC, "a recording")];
    kinds.into_iter().find(|(magic, _)| begin.starts_with(magic)).map(|(_, what)| what)
}

/// Draws what became of a disk's zones, and writes the page. `events` begins to read them, in the order of their times; that is
/// done twice.
pub(super) fn draw<I: Iterator<Item = Result<Event>>>(
    out: &Path,
    file: &Path,
    unit: Unit,
    geometry: Geometry,
    mut events: impl FnMut() -> Result<I>,
) -> Result<()> {
    let survey = Survey::of(geometry, events()?)?;
    let grid = Grid::of(&survey, events()?)?;
    let name = file.file_name().unwrap_or(file.as_os_str()).display().to_string();
    let disk = Disk { name, geometry, longest_append: None, cached: false };
    let words = Words {
        kind: match unit {
            Unit::Nanoseconds => "trace of a zoned disk",
            Unit::Requests => "recording of a zoned disk",
        },
        lines: vec![disk.shape(), told(&survey, unit)],
        title: disk.name,
        size: |bytes| size::brief(Bytes(bytes)),
    };
    let mut page = Vec::new();
    timeline::write(&mut page, &words, unit, &survey, &grid)?;
    put(out, &String::from_utf8(page)?)
}

/// What happened in all: a line.
fn told(survey: &Survey, unit: Unit) -> String {
    let plural = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let mut text = plural(survey.requests, "request");
    if let (Unit::Nanoseconds, Some((first, last))) = (unit, survey.span) {
        text += &format!(" in {:.3} s", last.saturating_sub(first) as f64 / 1e9);
    }
    if survey.refused > 0 {
        text += &format!(", {} answered with an error", survey.refused);
    }
    text += &format!(
        ", {} written, {} touched",
        size::brief(Bytes(survey.written)),
        plural(survey.touched.len() as u64, "zone")
    );
    for (count, what) in [(survey.marks, "mark"), (survey.cuts, "power cut")] {
        if count > 0 {
            text += &format!(", {}", plural(count, what));
        }
    }
    text
}
