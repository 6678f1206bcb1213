//! Rules for faults on a command line, in a file, and in words.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::control::Command;
use crate::fault::{RuleProgress, RuleWords, Saved};
use crate::logging;
use crate::vhost::Rules;

/// What can be done about the rules.
#[derive(Debug, Subcommand)]
pub(super) enum Order {
    /// Add a rule, or take zones away and have them back.
    Add(Box<Add>),
    /// List the rules, how far each has come, and the zones taken away.
    List,
    /// Remove a rule; what it holds back goes on. Zones that it has taken away stay so until they are restored.
    Clear {
        /// Its name.
        #[arg(required_unless_present = "all")]
        name: Option<String>,
        /// Remove all.
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Let go what a rule holds back now.
    Release {
        /// Its name.
        name: String,
    },
}

/// The words of a rule.
#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// What the rule is called.
    name: String,
    /// Which requests: read, write, append, flush, report, open, close, finish, reset, reset-all or any, separated by commas.
    /// Zones can be changed without: at once.
    #[arg(long, value_name = "OP,...")]
    on: Option<String>,
    /// Those that touch this zone, or one from the first to the last.
    #[arg(long, value_name = "N|A-B")]
    zone: Option<String>,
    /// Those that touch this sector, or one from the first to the last.
    #[arg(long, value_name = "N|A-B")]
    sectors: Option<String>,
    /// Those that come by this queue.
    #[arg(long, value_name = "N")]
    queue: Option<u16>,
    /// Of these the nth alone.
    #[arg(long, value_name = "N")]
    nth: Option<u64>,
    /// Of these each nth.
    #[arg(long, value_name = "N")]
    every: Option<u64>,
    /// Of these each with this chance, from 0 to 1.
    #[arg(long, value_name = "P")]
    prob: Option<String>,
    /// What chance is taken from: the same seed and the same requests in a zone have the same victims.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Act so often at most.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Begin when this mark is set by "ctl mark".
    #[arg(long, value_name = "mark:NAME")]
    after: Option<String>,
    /// What becomes of them: error=ioerr|unsupp|invalid|unaligned|open-resource|active-resource [landed=0|all|half|BLOCKS|random],
    /// unreadable, corrupt=flip:N|zero|old, delay=10ms|uniform:A-B|exp:M [before|after], hang, lie,
    /// zone-state=read-only|offline|restore.
    #[arg(long = "do", value_name = "ACTION", num_args = 1.., required = true)]
    action: Vec<String>,
    /// With zone-state=restore: at once, and not when the device is next reset. The guest is not told.
    #[arg(long)]
    now: bool,
}

impl Order {
    pub(super) fn command(&self) -> Command {
        match self {
            Self::Add(add) => {
                if add.now {
                    logging::warning(
                        "the guest is not told that its zones are back: it may go on with what it knows of them",
                    );
                }
                Command::FaultAdd { rule: add.words(), now: add.now }
            }
            Self::List => Command::FaultList {},
            Self::Clear { name, .. } => Command::FaultClear { name: name.clone() },
            Self::Release { name } => Command::FaultRelease { name: name.clone() },
        }
    }
}

impl Add {
    fn words(&self) -> RuleWords {
        RuleWords {
            name: self.name.clone(),
            on: self.on.clone(),
            zone: self.zone.clone(),
            sectors: self.sectors.clone(),
            queue: self.queue,
            nth: self.nth,
            every: self.every,
            prob: self.prob.clone(),
            seed: self.seed,
            count: self.count,
            after: self.after.clone(),
            action: self.action.join(" "),
            progress: None,
        }
    }
}

/// Opens a file of rules, which is made where there is none, and reads it.
pub(super) fn open(path: &Path) -> Result<Rules> {
    let name = path.display().to_string();
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("--faults {name}"))?;
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(|| format!("--faults {name}"))?;
    let saved = match text.trim() {
        "" => Saved::default(),
        text => serde_json::from_str(text).with_context(|| format!("--faults {name}: no rules"))?,
    };
    Ok(Rules { name: format!("--faults {name}"), saved, keep: Box::new(move |saved| write(&file, saved)) })
}

/// Writes a file of rules anew, by the descriptor that there is. Whoever reads the file at any moment finds rules.
fn write(file: &File, saved: &Saved) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(saved)?;
    text.push('\n');
    let len = text.len() as u64;
    // What the file has beyond is blank until it is cut off.
    let before = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    let blanks = before.saturating_sub(text.len());
    text.extend(std::iter::repeat_n(' ', blanks));
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(len)
}

/// The rules and the zones taken away, a line each.
pub(super) fn in_words(saved: &Saved) -> String {
    let mut text = String::new();
    if saved.rules.is_empty() && saved.zones.is_empty() {
        text += "no rule, and no zone is taken away\n";
    }
    for rule in &saved.rules {
        let none = RuleProgress::default();
        let progress = rule.progress.as_ref().unwrap_or(&none);
        let _ = write!(text, "{}: on {}", rule.name, rule.on.as_deref().unwrap_or("any"));
        let numbers = [("queue", rule.queue.map(u64::from)), ("nth", rule.nth), ("every", rule.every)];
        let last =
            [("seed", rule.seed), ("count", rule.count)].map(|(name, value)| (name, value.map(|n| n.to_string())));
        let words = [("zone", rule.zone.clone()), ("sectors", rule.sectors.clone())].into_iter();
        let words = words.chain(numbers.map(|(name, value)| (name, value.map(|n| n.to_string()))));
        let words = words.chain([("prob", rule.prob.clone())]).chain(last).chain([("after", rule.after.clone())]);
        for (name, value) in words.filter_map(|(name, value)| value.map(|value| (name, value))) {
            let _ = write!(text, " {name} {value}");
        }
        let _ = write!(text, " do {}: acted on {} of {}", rule.action, progress.acted, progress.matched);
        if progress.held != 0 {
            let _ = write!(text, ", holds back {}", progress.held);
        }
        if !progress.awake {
            text += ", waits for its mark";
        }
        text += "\n";
    }
    for zone in &saved.zones {
        let back = if zone.comes_back { ", comes back when the device is reset" } else { "" };
        let _ = writeln!(text, "zone {}: {}{back}", zone.zone, zone.state);
    }
    text
}
