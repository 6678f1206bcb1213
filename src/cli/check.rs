//! `check`: the consistency of an image, and its repair.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::image;
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
        print_repaired(&report);
        print(&report.left);
        print_way_out(&report.left, Some(pointers));
    }
    Ok(status(&report.left))
}

fn check(path: &Path, as_json: bool) -> Result<ExitCode> {
    let storage = image::hold_for_reading(path)?;
    let report = qcow2::check(&storage).with_context(|| path.display().to_string())?;
    if as_json {
        print_json(&report)?;
    } else {
        print(&report);
        print_way_out(&report, None);
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
    println!("{}", serde_json::to_string_pretty(report).context("the report cannot be written")?);
    Ok(())
}

/// What was done, a line for each kind of it.
fn print_repaired(report: &RepairReport) {
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
    done.for_each(|(count, what)| println!("{what}{count}"));
    for settled in &report.settled {
        println!(
            "Zone {}: write pointer is now {:#x}; before, {}",
            settled.zone, settled.write_pointer, settled.message
        );
    }
    match report.withheld {
        None => {}
        Some(Withheld::Everything) => {
            println!("Nothing was changed: an entry points at metadata, and whose cluster that is cannot be known.");
        }
        Some(Withheld::Leaks) => {
            println!("Leaked clusters were left alone: they may belong to what the errors are about.");
        }
    }
}

/// What can be done about what was found and is still there.
fn print_way_out(report: &CheckReport, repaired: Option<Pointers>) {
    let others = report.errors - report.wrong_pointers + report.leaks;
    if others > 0 && repaired.is_none() {
        println!("check --repair sets right what is safe to set right of this.");
    }
    if report.wrong_pointers > 0 && repaired != Some(Pointers::Settle) {
        println!(
            "check --repair=pointers settles write pointers: an entry that says what was meant becomes that; \
             elsewhere the zone becomes full, or empty where nothing is mapped."
        );
    }
}

fn print(report: &CheckReport) {
    for finding in &report.findings {
        println!("ERROR {}", finding.message);
    }
    let listed = report.findings.len() as u64;
    if report.errors > listed {
        println!("... and {} more", report.errors - listed);
    }
    for leak in &report.leaked {
        println!("Leaked {} clusters at {:#x}", leak.clusters, leak.file_offset);
    }
    match (report.errors, report.leaks) {
        (0, 0) => println!("No errors were found on the image."),
        (0, leaks) => println!("{leaks} clusters are leaked: that wastes space in the image and harms no data."),
        (errors, leaks) => println!("{errors} errors and {leaks} leaked clusters were found on the image."),
    }
    println!(
        "{}/{} clusters mapped, image ends at {}",
        report.allocated_clusters, report.total_clusters, report.image_end
    );
}
