//! The page of a report.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Args, Budget, Report};
use crate::cli::replay;
use crate::explore::State;
use crate::picture::explored::{self, Failure, Tried, Words};
use crate::units::ZoneIndex;

/// The page's name in the folder of a report.
const NAME: &str = "report.html";

/// Returns the zones of which a state has lost anything; those of conventional blocks may come several times.
pub(super) fn losing(state: &State) -> impl Iterator<Item = ZoneIndex> + '_ {
    let (moment, choice) = (&state.moment, &state.choice);
    let sequential = moment.zones.zones.iter().zip(&choice.places);
    let sequential = sequential.filter(|((_, steps), place)| place.operations < steps.operations());
    let conventional = moment.zones_of_blocks.iter().zip(&choice.old).filter(|(_, old)| **old);
    sequential.map(|((zone, _), _)| *zone).chain(conventional.map(|(zone, _)| ZoneIndex(*zone)))
}

/// Writes the page of a report into its folder.
pub(super) fn write(folder: &Path, args: &Args, report: &Report, tried: &Tried) -> Result<()> {
    let geometry = replay::geometry(&args.log)?;
    let failures: Vec<_> = report
        .failures
        .iter()
        .map(|one| Failure {
            record: one.record,
            mark: one.marks.last().map(String::as_str),
            why: &one.why,
            lost: one.lost,
            requests: &one.requests,
            least: one.minimised,
            command: one.command.as_deref(),
        })
        .collect();
    let name = args.log.file_name().unwrap_or(args.log.as_os_str()).display().to_string();
    let words = Words { title: &name, lines: &[told(report)], facts: &facts(args, report), failed: report.failed };
    let mut page = Vec::new();
    explored::write(&mut page, &words, &geometry, tried, &failures)?;
    let path = folder.join(NAME);
    std::fs::write(&path, page).with_context(|| path.display().to_string())
}

fn told(report: &Report) -> String {
    let rest = if report.whole { "" } else { "; not all that there are" };
    format!("{} states checked in {:.1} s, {} failed{rest}", report.checked, report.seconds, report.failed)
}

fn facts(args: &Args, report: &Report) -> Vec<(&'static str, String)> {
    let time = |time: Duration| format!("{:.0} s", time.as_secs_f64());
    let used = match args.budget {
        None => "no limit".to_owned(),
        Some(Budget::States(states)) => format!("{} of {states} states", report.checked),
        Some(Budget::Time(most)) => format!("{:.1} s of {}", report.seconds, time(most)),
    };
    let level = match report.level {
        1 => "1: what is stable at each flush",
        2 => "2: besides, what was answered, and one zone alone lost, kept or torn",
        _ => "3: besides, combinations of all zones",
    };
    vec![
        ("recording", report.log.display().to_string()),
        ("image of the beginning", report.base.display().to_string()),
        ("check", report.check.clone()),
        ("level", level.to_owned()),
        ("states found", report.states.to_string()),
        ("of these, different", report.distinct.to_string()),
        ("checked", report.checked.to_string()),
        ("failed", report.failed.to_string()),
        ("all states checked", if report.whole { "yes" } else { "no" }.to_owned()),
        ("budget used", used),
        ("time", format!("{:.1} s", report.seconds)),
        ("states a second", format!("{:.1}", report.checked as f64 / report.seconds.max(0.001))),
    ]
}
