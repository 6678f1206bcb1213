//! `explore`: each state that a loss of power may have left at the moments of a recording, made and checked.

mod page;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::progress::Progress;
use super::{output, replay};
use crate::explore::jobs::{self, Event, Found, Plan};
use crate::explore::maker::Recording;
use crate::explore::witness::{self, Lost};
use crate::explore::{Check, Command, Level, Maker, State, Verdict};
use crate::observe::versioned;
use crate::picture::explored::Tried;

/// Exit status when a state has failed.
const FAILED: u8 = 1;
/// States that have failed whose images are kept.
const MOST_KEPT: u64 = 100;
/// States that have failed that are shown one by one.
const MOST_SHOWN: usize = 10;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file of "serve --record".
    log: PathBuf,
    /// A copy of the image as it was when the recording began; it is not changed.
    #[arg(long, value_name = "IMAGE")]
    base: PathBuf,
    /// What checks a state, for the shell: ZBD_IMAGE is its image, which may be written, and ZBD_MARKS a file of the marks so
    /// far; exit status 0 is good.
    #[arg(long, value_name = "COMMAND")]
    check: String,
    /// The check stays: it is given a line for each state, the paths of image, marks and a file for its output with tabs between,
    /// and answers "good", or "bad" and why.
    #[arg(long)]
    stay: bool,
    /// A check that takes longer has failed, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// States that are checked side by side; one for each processor where nothing is said.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// 1: what is stable at each flush. 2: besides, all that was answered at each answer, and one zone alone lost, kept or torn.
    /// 3: besides, all combinations of all zones where these are not too many.
    #[arg(long, value_name = "LEVEL", default_value = "2", value_parser = level)]
    level: Level,
    /// Check at most so many states (20000), or begin no state after so long (90s, 20m, 8h).
    #[arg(long, value_name = "STATES|TIME", value_parser = budget)]
    budget: Option<Budget>,
    /// Keep images of states that have failed, and a report as JSON and as a page, in this folder, which is made or is empty.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Look for the least loss with which what has failed fails.
    #[arg(long)]
    minimise: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Budget {
    States(u64),
    Time(Duration),
}

fn level(text: &str) -> Result<Level, String> {
    text.parse().ok().and_then(Level::from_number).ok_or_else(|| "expected 1, 2 or 3".to_owned())
}

fn budget(text: &str) -> Result<Budget, String> {
    let expected = || "expected a number of states from 1, or a time as 90s, 20m or 8h".to_owned();
    let unit = |unit| text.strip_suffix(unit).map(|count| count.parse::<u64>().map_err(|_| expected()));
    let times = [('s', 1), ('m', 60), ('h', 3600)].into_iter().find_map(|(name, unit_s)| Some((unit(name)?, unit_s)));
    match times {
        Some((count, unit_s)) => {
            let seconds = count?.checked_mul(unit_s).filter(|seconds| *seconds > 0).ok_or_else(expected)?;
            Ok(Budget::Time(Duration::from_secs(seconds)))
        }
        None => text.parse().ok().filter(|states| *states > 0).map(Budget::States).ok_or_else(expected),
    }
}

/// What was found, as it is told.
#[derive(Debug, Serialize)]
struct Report {
    log: PathBuf,
    base: PathBuf,
    check: String,
    level: u8,
    /// States, one under several promises counted once for each.
    states: u64,
    /// States that differ.
    distinct: u64,
    checked: u64,
    failed: u64,
    /// Whether all states were checked.
    whole: bool,
    seconds: f64,
    failures: Vec<Failure>,
}

/// A state that has failed.
#[derive(Debug, Serialize)]
struct Failure {
    why: String,
    /// The power goes when this record has happened.
    record: u64,
    marks: Vec<String>,
    /// Requests and blocks that are lost.
    lost: u64,
    requests: Vec<String>,
    /// Where its image, its state and what the check said are kept.
    folder: Option<PathBuf>,
    /// What makes it again.
    command: Option<String>,
    minimised: bool,
    #[serde(skip)]
    state: Box<State>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let (scan, _) = replay::scan(&args.log, Some(&args.base))?;
    if let Some(folder) = &args.report {
        make_empty(folder).with_context(|| folder.display().to_string())?;
    }
    let work = tempfile::Builder::new().prefix("vhost-user-zbd-explore.").tempdir()?;
    let plan = plan(args, scan.undone(), work.path())?;
    let began = Instant::now();
    let mut tried = Tried::new(scan.records);
    let (found, mut failures, checked) = explore(args, &plan, scan.bytes, &mut tried)?;
    failures.sort_by_key(|one| (one.record, one.lost));
    let failed = failures.len() as u64;
    failures.truncate(MOST_KEPT as usize);
    for failure in failures.iter_mut().take(MOST_SHOWN) {
        tell_apart(args, &plan, failure)?;
    }
    let report = Report {
        log: args.log.clone(),
        base: args.base.clone(),
        check: args.check.clone(),
        level: args.level as u8,
        states: found.states,
        distinct: found.distinct,
        checked,
        failed,
        whole: found.whole && checked == found.states,
        seconds: began.elapsed().as_secs_f64(),
        failures,
    };
    let told = serde_json::to_string_pretty(&versioned(&report))? + "\n";
    if let Some(folder) = &args.report {
        let path = folder.join("report.json");
        std::fs::write(&path, &told).with_context(|| path.display().to_string())?;
        page::write(folder, args, &report, &tried)?;
    }
    output::print(if args.json { told } else { as_text(&report) })?;
    if plan.command.stop.load(Ordering::Relaxed) {
        bail!("stopped by a signal: {} states were checked", report.checked);
    }
    Ok(if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn make_empty(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    if std::fs::read_dir(folder)?.next().is_some() {
        bail!("the folder has something in it: expected an empty one, or none");
    }
    Ok(())
}

fn plan(args: &Args, undone: Arc<std::collections::HashSet<u64>>, work: &Path) -> Result<Plan> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Plan {
        recording: Recording { log: args.log.clone(), base: args.base.clone(), undone },
        level: args.level,
        command: Command {
            text: args.check.clone(),
            stays: args.stay,
            timeout: Duration::from_secs(args.timeout),
            stop,
        },
        jobs: args.jobs.map_or(processors, usize::from),
        most_states: if let Some(Budget::States(states)) = args.budget { Some(states) } else { None },
        most_time: if let Some(Budget::Time(time)) = args.budget { Some(time) } else { None },
        work: work.to_owned(),
        keep: args.report.as_ref().map(|folder| (folder.join("failures"), MOST_KEPT)),
    })
}

/// Explores, and returns what there was, what has failed, and how many states were checked, each of which is put into `tried`.
fn explore(args: &Args, plan: &Plan, len: u64, tried: &mut Tried) -> Result<(Found, Vec<Failure>, u64)> {
    let (mut failures, mut checked) = (Vec::new(), 0);
    let mut progress = Progress::new("exploring");
    let found = jobs::explore(plan, &mut |event| match event {
        Event::Read(at) => progress.at(at, len),
        Event::Checked(_, Verdict::Stopped, _) => {}
        Event::Checked(state, Verdict::Good, _) => {
            checked += 1;
            tried.take(state.record, page::losing(&state), false);
        }
        Event::Checked(state, Verdict::Bad(why), kept) => {
            checked += 1;
            tried.take(state.record, page::losing(&state), true);
            let folder = kept.map(|kept| kept.folder);
            failures.push(Failure {
                why,
                record: state.record,
                marks: state.marks.to_vec(),
                lost: state.choice.lost,
                requests: Vec::new(),
                command: folder.as_deref().map(|folder| command(args, state.record, &folder.join("state.json"))),
                folder,
                minimised: false,
                state,
            });
        }
    })?;
    progress.clear();
    Ok((found, failures, checked))
}

/// The command that makes a state again.
fn command(args: &Args, record: u64, state: &Path) -> String {
    let quoted = |path: &Path| {
        let text = path.display().to_string();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:,@%".contains(&byte);
        if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
    };
    let (log, base, state) = (quoted(&args.log), quoted(&args.base), quoted(state));
    format!("vhost-user-zbd replay {log} --base {base} --to record:{record} state={state} -o OUT.qcow2")
}

/// Finds out what a state has lost, and the least loss that fails where that is asked for.
fn tell_apart(args: &Args, plan: &Plan, failure: &mut Failure) -> Result<()> {
    if args.minimise && !plan.command.stop.load(Ordering::Relaxed) {
        let folder = tempfile::Builder::new().prefix("minimise.").tempdir_in(&plan.work)?;
        let mut maker = Maker::new(plan.recording.clone(), folder.path());
        let mut check = Check::new(plan.command.clone(), 0);
        let least = witness::minimise(&failure.state, |state| {
            let verdict = jobs::checked(&mut maker, &mut check, state, folder.path())?;
            Ok::<_, jobs::ExploreError>(matches!(verdict, Verdict::Bad(_)))
        })?;
        failure.minimised = true;
        if least.identity != failure.state.identity {
            failure.lost = least.choice.lost;
            if let Some(kept) = &failure.folder {
                let path = kept.join("least.json");
                std::fs::write(&path, serde_json::to_vec_pretty(&least.told())?)
                    .with_context(|| path.display().to_string())?;
                maker.make(&least, &kept.join("least.qcow2"))?;
                failure.command = Some(command(args, failure.record, &path));
            }
            *failure.state = least;
        }
    }
    let lost = witness::lost(&plan.recording, &failure.state)?;
    failure.requests = lost.iter().map(Lost::to_string).collect();
    Ok(())
}

fn as_text(report: &Report) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let rate = report.checked as f64 / report.seconds.max(0.001);
    let _ = writeln!(
        text,
        "{} of {} states checked, {} of them distinct, in {:.1} s ({rate:.1} a second): {} failed",
        report.checked, report.states, report.distinct, report.seconds, report.failed
    );
    for failure in report.failures.iter().take(MOST_SHOWN) {
        let behind = failure.marks.last().map_or("before any mark".to_owned(), |mark| format!("behind mark:{mark}"));
        let _ = writeln!(text, "record:{} {behind}: {}", failure.record, failure.why);
        let least = if failure.minimised { "at the least " } else { "" };
        let _ = writeln!(text, "  lost {least}{} requests or blocks", failure.lost);
        for request in &failure.requests {
            let _ = writeln!(text, "    {request}");
        }
        if let (Some(folder), Some(command)) = (&failure.folder, &failure.command) {
            let _ = writeln!(text, "  kept in {}\n  {command}", folder.display());
        }
    }
    let more = report.failed.saturating_sub(MOST_SHOWN as u64);
    if more > 0 {
        let _ = writeln!(text, "and {more} more");
    }
    text
}
