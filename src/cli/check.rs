//! `check`: the consistency of an image, and its repair.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::{image, output};
use crate::observe::versioned;
use crate::qcow2::{self, CheckReport, Pointers, RepairReport, Withheld};

/// Exit status when the image has errors.
const ERRORS: u8 = 2;
/// Exit status when clusters are leaked and nothing is worse.
const LEAKS: u8 = 3;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image file.
    file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Repair what can be repaired safely; with "pointers" also settle write pointers that cannot be right.
    #[arg(long, value_enum, value_name = "WHAT", num_args = 0..=1, require_equals = true,
        default_missing_value = "metadata")]
    repair: Option<Repair>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Repair {
    /// Refcounts, leaks, COPIED flags and the dirty bit.
    Metadata,
    /// These, and write pointers.
    Pointers,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let pointers = match args.repair {
        None => return check(&args.file, args.json),
        Some(Repair::Metadata) => Pointers::Report,
        Some(Repair::Pointers) => Pointers::Settle,
    };
    let storage = image::hold_for_writing(&args.file)?;
    let report = qcow2::repair(&storage, pointers).with_context(|| args.file.display().to_string())?;
    if args.json {
        print_json(&report)?;
    } else {
        let left = found(&report.left) + &way_out(&report.left, Some(pointers));
        output::print(repaired(&report) + &left)?;
    }
    Ok(status(&report.left))
}

fn check(path: &Path, as_json: bool) -> Result<ExitCode> {
    let storage = image::hold_for_reading(path)?;
    let report = qcow2::check(&storage).with_context(|| path.display().to_string())?;
    if as_json {
        print_json(&report)?;
    } else {
        output::print(found(&report) + &way_out(&report, None))?;
    }
    Ok(status(&report))
}

fn status(report: &CheckReport) -> ExitCode {
    match (report.errors, report.leaks) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(LEAKS),
        _ => ExitCode::from(ERRORS),
    }
}

fn print_json(report: &impl serde::Serialize) -> Result<()> {
    output::print(format_args!("{}\n", serde_json::to_string_pretty(&versioned(report))?))
}

/// What was done, a line for each kind of it.
fn repaired(report: &RepairReport) -> String {
    let mut text = String::new();
    let mut line = |line: String| text += &(line + "\n");
    let kinds = [
        (report.refcounts_raised, "Refcounts raised of clusters in use: "),
        (report.refcount_blocks_added, "Refcount blocks added: "),
        (report.copied_flags_set, "COPIED flags set: "),
        (report.pointers_settled, "Write pointers settled: "),
        (report.leaks_returned, "Leaked clusters given back: "),
        (report.bytes_cut, "Bytes cut from the end of the file: "),
        (u64::from(report.dirty_bit_cleared), "Dirty bit cleared: "),
    ];
    let done = kinds.iter().filter(|(count, _)| *count > 0);
    done.for_each(|(count, what)| line(format!("{what}{count}")));
    for settled in &report.settled {
        let (zone, pointer) = (settled.zone, settled.write_pointer);
        line(format!("Zone {zone}: write pointer is now {pointer:#x}; before, {}", settled.message));
    }
    match report.withheld {
        None => {}
        Some(Withheld::Everything) => {
            line("Nothing was changed: an entry points at metadata, and whose cluster that is cannot be known.".into());
        }
        Some(Withheld::Leaks) => {
            line("Leaked clusters were left alone: they may belong to what the errors are about.".into());
        }
    }
    text
}

/// What can be done about what was found and is still there.
fn way_out(report: &CheckReport, repaired: Option<Pointers>) -> String {
    let mut text = String::new();
    let others = report.errors - report.wrong_pointers + report.leaks;
    if others > 0 && repaired.is_none() {
        text += "check --repair sets right what is safe to set right of this.\n";
    }
    if report.wrong_pointers > 0 && repaired != Some(Pointers::Settle) {
        text += "check --repair=pointers settles write pointers: an entry that says what was meant becomes that; \
                 elsewhere the zone becomes full, or empty where nothing is mapped.\n";
    }
    text
}

/// What is wrong, a line each, and then what that comes to.
fn found(report: &CheckReport) -> String {
    let mut text = String::new();
    let mut line = |line: String| text += &(line + "\n");
    for finding in &report.findings {
        line(format!("ERROR {}", finding.message));
    }
    let listed = report.findings.len() as u64;
    if report.errors > listed {
        line(format!("... and {} more", report.errors - listed));
    }
    for leak in &report.leaked {
        line(format!("Leaked {} clusters at {:#x}", leak.clusters, leak.file_offset));
    }
    line(match (report.errors, report.leaks) {
        (0, 0) => "No errors were found on the image.".to_owned(),
        (0, leaks) => format!("{leaks} clusters are leaked: that wastes space in the image and harms no data."),
        (errors, leaks) => format!("{errors} errors and {leaks} leaked clusters were found on the image."),
    });
    let (mapped, of) = (report.allocated_clusters, report.total_clusters);
    line(format!("{mapped}/{of} clusters mapped, image ends at {}", report.image_end));
    text
}
