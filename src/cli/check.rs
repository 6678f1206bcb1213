//! `check`: the consistency of an image.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::image;
use crate::qcow2::CheckReport;

/// Exit status when the image has errors.
const ERRORS: u8 = 2;
/// Exit status when clusters are leaked and nothing is worse.
const LEAKS: u8 = 3;

pub(super) fn run(path: &Path, as_json: bool) -> Result<ExitCode> {
    let mut opened = image::open_alone(path)?;
    let report = opened.image.check().with_context(|| path.display().to_string())?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&report).context("the report cannot be written")?);
    } else {
        print(&report);
    }
    Ok(match (report.errors, report.leaks) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(LEAKS),
        _ => ExitCode::from(ERRORS),
    })
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
