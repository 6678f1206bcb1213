//! `workload`: small workloads on a file system, for a guest to do, and the judgement of what a crash has left of one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::output;
use crate::workload::{FileSystem, Workload, enumerate, found, oracle, script};

/// Exit status when what was found may not be.
const BAD: u8 = 1;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(super) struct Args {
    /// The file system.
    #[arg(long)]
    fs: FileSystem,
    /// Print each workload of so many operations, with its number.
    #[arg(long, value_name = "N", group = "what", value_parser = clap::value_parser!(u8).range(1..=3))]
    ops: Option<u8>,
    /// Print them; this is what is done unless -o is there.
    #[arg(long, requires = "ops")]
    list: bool,
    /// Make a folder with the list and with the script of each workload, by its number.
    #[arg(short, long, value_name = "DIR", requires = "ops", conflicts_with = "list")]
    output: Option<PathBuf>,
    /// Print a script that does a workload in the folder $1 and sets marks by the disk $2.
    #[arg(long, value_name = "WORKLOAD", group = "what")]
    script: Option<String>,
    /// Print a script that lists the folder $1.
    #[arg(long, group = "what")]
    lister: bool,
    /// Judge what a crash has left of a workload.
    #[arg(long, value_name = "WORKLOAD", group = "what", requires = "marks", requires = "found")]
    judge: Option<String>,
    /// The marks that were set before the crash, one on a line.
    #[arg(long, value_name = "FILE", requires = "judge")]
    marks: Option<PathBuf>,
    /// What the script of --lister has printed.
    #[arg(long, value_name = "FILE", requires = "judge")]
    found: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    if let (Some(text), Some(marks), Some(found)) = (&args.judge, &args.marks, &args.found) {
        return judge(&Workload::parse(args.fs, text)?, marks, found);
    }
    if let Some(text) = &args.script {
        output::print(script::script(&Workload::parse(args.fs, text)?))?;
    } else if args.lister {
        output::print(script::lister(args.fs).to_owned())?;
    } else {
        let (list, all) = listed(args.fs, args.ops.unwrap_or(1));
        match &args.output {
            Some(folder) => keep(folder, &list, &all)?,
            None => output::print(list)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// All workloads of so many operations, and a line for each with its number, which counts from 1.
fn listed(fs: FileSystem, ops: u8) -> (String, Vec<Workload>) {
    let (mut text, mut all) = (String::new(), Vec::new());
    enumerate::each(fs, ops.into(), &mut |workload| {
        all.push(workload.clone());
        text.push_str(&format!("{} {workload}\n", all.len()));
    });
    (text, all)
}

/// Makes a folder with `list` and a script for each workload.
fn keep(folder: &Path, list: &str, all: &[Workload]) -> Result<()> {
    std::fs::create_dir(folder).with_context(|| folder.display().to_string())?;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    };
    write("list", list)?;
    for (at, workload) in all.iter().enumerate() {
        write(&format!("{}.sh", at + 1), &script::script(workload))?;
    }
    Ok(())
}

fn judge(workload: &Workload, marks: &Path, list: &Path) -> Result<ExitCode> {
    let text = |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
    let files = found::read(&text(list)?).map_err(|why| anyhow::anyhow!("{}: {why}", list.display()))?;
    let complaint = oracle::complaint(workload, &text(marks)?, &files)?;
    output::print(format!("{}\n", complaint.as_deref().unwrap_or("good")))?;
    Ok(if complaint.is_none() { ExitCode::SUCCESS } else { ExitCode::from(BAD) })
}
