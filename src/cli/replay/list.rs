//! What is in a recording, for people and as JSON.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use super::size;
use crate::observe::versioned;
use crate::record::{Ended, Epoch, Happened, Scan};
use crate::units::ZoneIndex;

/// A line for each epoch, and one for each mark and whatever else has happened, in order.
pub(super) fn as_text(scan: &Scan) -> String {
    let mut text = String::new();
    let plural = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let seconds = scan.times.map_or(0.0, |(first, last)| last.saturating_sub(first) as f64 / 1e9);
    let flushes = if scan.flushes == 1 { "1 flush".to_owned() } else { format!("{} flushes", scan.flushes) };
    let _ = writeln!(
        text,
        "{} and {flushes} answered in {seconds:.3} s, {}, {}",
        plural(scan.answered - scan.flushes.min(scan.answered), "request"),
        plural(scan.records, "record"),
        size(scan.bytes)
    );
    for (number, epoch) in (1u64..).zip(&scan.epochs) {
        let name = if epoch.ends_in_flush { format!("flush:{number}") } else { "not flushed".to_owned() };
        let requests = epoch.answered - u64::from(epoch.ends_in_flush).min(epoch.answered);
        let _ = write!(text, "{name}, request:{}: {}", epoch.answered_in_all, plural(requests, "request"));
        if epoch.bytes != 0 {
            let _ = write!(text, ", {} written", size(epoch.bytes));
        }
        if !epoch.zones.is_empty() {
            let zone = if epoch.zones.len() == 1 { "zone" } else { "zones" };
            let _ = write!(text, ", {zone} {}", ranges(&epoch.zones));
        }
        if epoch.failed != 0 {
            let _ = write!(text, ", {} failed", epoch.failed);
        }
        text.push('\n');
        for (happened, answered) in &epoch.happened {
            let _ = writeln!(text, "  {} behind request:{answered}", in_words(happened).escape_debug());
        }
    }
    text
}

/// 3-5, 9: the zones of an epoch.
fn ranges(zones: &BTreeSet<ZoneIndex>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for zone in zones {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(zone.0) => *last = zone.0,
            _ => runs.push((zone.0, zone.0)),
        }
    }
    let run = |(first, last): (u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.into_iter().map(run).collect::<Vec<_>>().join(", ")
}

fn in_words(happened: &Happened) -> String {
    match happened {
        Happened::Mark(name) => format!("mark:{name}"),
        Happened::PowerCut => "the power is cut".to_owned(),
        Happened::DeviceReset => "the device is reset".to_owned(),
        Happened::Fault(text) => format!("a fault: {text}"),
        Happened::Session => "another daemon goes on".to_owned(),
        Happened::End(Ended::Orderly) => "the daemon has ended".to_owned(),
        Happened::End(Ended::NotWritten) => "the recording has ended: its file could not be written".to_owned(),
    }
}

/// The same in JSON.
pub(super) fn as_json(scan: &Scan) -> Result<String> {
    let (first, last) = scan.times.unzip();
    let epochs: Vec<Value> = (1u64..).zip(&scan.epochs).map(|(number, epoch)| epoch_json(number, epoch)).collect();
    let all = json!({
        "records": scan.records,
        "bytes": scan.bytes,
        "left_over": scan.left_over,
        "answered": scan.answered,
        "flushes": scan.flushes,
        "first_ns": first,
        "last_ns": last,
        "epochs": epochs,
    });
    Ok(serde_json::to_string_pretty(&versioned(all))? + "\n")
}

fn epoch_json(number: u64, epoch: &Epoch) -> Value {
    let mark = |(happened, request): &(Happened, u64)| match happened {
        Happened::Mark(name) => Some(json!({ "name": name, "request": request })),
        _ => None,
    };
    let event = |(happened, request): &(Happened, u64)| match happened {
        Happened::Mark(_) => None,
        other => Some(json!({ "what": in_words(other), "request": request })),
    };
    json!({
        "flush": epoch.ends_in_flush.then_some(number),
        "request": epoch.answered_in_all,
        "answered": epoch.answered,
        "failed": epoch.failed,
        "bytes": epoch.bytes,
        "zones": epoch.zones.iter().map(|zone| zone.0).collect::<Vec<_>>(),
        "marks": epoch.happened.iter().filter_map(mark).collect::<Vec<_>>(),
        "events": epoch.happened.iter().filter_map(event).collect::<Vec<_>>(),
    })
}
