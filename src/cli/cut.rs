//! The words of a power cut on a command line, and what it has left in words.

use std::fmt::Write as _;

use anyhow::{Result, anyhow};

use super::size;
use crate::power::{CutOutcome, Words};
use crate::units::Bytes;

/// Reads words of the form NAME=VALUE; of state= the file that it names, which has what an earlier cut has printed.
pub(super) fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Words> {
    Words::parse(words, |path| {
        let text = std::fs::read_to_string(path).map_err(|error| format!("state is '{path}': {error}"))?;
        serde_json::from_str(&text)
            .map_err(|error| format!("state is '{path}': expected what ctl --json power-cut has printed: {error}"))
    })
    .map_err(|error| anyhow!(error))
}

/// What a cut has left: a line for each zone that it touched.
pub(super) fn in_words(outcome: &CutOutcome) -> String {
    let mut text = String::new();
    let size = |bytes: u64| size::show(Bytes(bytes));
    for zone in &outcome.zones {
        let _ = write!(text, "zone {}: ", zone.zone);
        if zone.kept >= zone.stable && zone.resets_lost == 0 {
            let _ = write!(text, "kept {} of {}", size(zone.kept - zone.stable), size(zone.accepted - zone.stable));
        } else if zone.resets_lost == 0 {
            text += "its reset kept";
        } else {
            let _ = write!(text, "its reset lost, write pointer at {}", zone.kept);
        }
        let notes =
            [(zone.torn, ", a write torn"), (zone.finishes_lost != 0, ", its finish lost"), (zone.mended, ", mended")];
        notes.into_iter().filter(|(is, _)| *is).for_each(|(_, note)| text += note);
        text += "\n";
    }
    for zone in &outcome.conventional {
        let _ = writeln!(text, "zone {} (conventional): kept {} of {} blocks", zone.zone, zone.kept, zone.volatile);
    }
    let _ = writeln!(text, "digest: {}", outcome.digest);
    text
}
