//! `ctl SOCKET snapshot`: copies of a disk that is served, and the way back to one.
//!
//! A snapshot by name is a file in a folder beside the image. All files are opened here, since the daemon may open none.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Subcommand;
use serde::Serialize;

use super::progress::Progress;
use super::{image, make, output, size};
use crate::control::client::Client;
use crate::control::{Command, Snapshot};
use crate::observe::info::Info;
use crate::observe::versioned;
use crate::power::Then;
use crate::storage::lock::{self, Purpose};
use crate::units::Bytes;

/// What a snapshot's file is called behind its name.
const SUFFIX: &str = ".qcow2";
/// The longest name.
const LONGEST: usize = 64;

/// What can be done about snapshots.
#[derive(Debug, Subcommand)]
pub(super) enum Order {
    /// Keep the disk as it is now, in a file that is an image itself. Requests are held meanwhile.
    Save {
        /// What it is called: the file is NAME.qcow2 in the folder IMAGE.snapshots.
        #[arg(required_unless_present = "to")]
        name: Option<String>,
        /// Make this file instead.
        #[arg(long, value_name = "FILE", conflicts_with = "name")]
        to: Option<PathBuf>,
    },
    /// List the snapshots that have a name.
    List,
    /// Have the disk be again what it was, in its place: the power goes, and is back when the device is reset.
    Revert {
        /// The snapshot.
        name: String,
        /// then=dead: no request is answered until the device is reset, which holds where nothing is said; then=fail: every one
        /// fails.
        #[arg(value_name = "then=dead|fail", value_parser = parse_then)]
        then: Option<Then>,
    },
    /// Remove a snapshot.
    Drop {
        /// The snapshot.
        name: String,
    },
}

/// One snapshot in a list.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    /// When it was saved, in seconds since 1970.
    time: i64,
    virtual_size: u64,
    /// What it takes on the host, blocks that it shares with other files among them.
    disk_size: u64,
}

/// Obeys the order.
pub(super) fn run(socket: &Path, order: &Order, json: bool) -> Result<()> {
    let mut client = Client::connect(socket)?;
    let info: Info = client.ask(&Command::Info {})?;
    let place = Place::of(&info);
    match order {
        Order::Save { name, to } => {
            let (path, named) = match (name, to) {
                (Some(name), _) => (place.file(name)?, true),
                (None, Some(path)) => (path.clone(), false),
                (None, None) => bail!("expected a name, or --to and a file"),
            };
            save(&mut client, &place, &path, named, json)
        }
        Order::List => output::print(list(&place, json)?),
        Order::Revert { name, then } => {
            let (path, file) = place.open(name)?;
            let then = then.unwrap_or(Then::Dead);
            let command = Command::SnapshotRevert { name: path.display().to_string(), then };
            // What is left to do is as long as the snapshot; how far it has come shows nowhere.
            let done: Snapshot = client.ask_long(&command, &file, || ())?;
            let requests = if then == Then::Fail { "requests fail" } else { "nothing is answered" };
            tell(&done, json, |done| {
                let took = in_millis(done.held_us);
                format!("reverted to {name} in {took} ({}); {requests} until the device is reset\n", done.method)
            })
        }
        Order::Drop { name } => {
            let (path, _locked) = place.open(name)?;
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
            // Where others are left it stays.
            let _ = fs::remove_dir(&place.folder);
            if json {
                output::print(serde_json::to_string_pretty(&versioned(serde_json::json!({})))? + "\n")
            } else {
                Ok(())
            }
        }
    }
}

fn save(client: &mut Client, place: &Place, path: &Path, named: bool, json: bool) -> Result<()> {
    let mode = fs::metadata(&place.image).map(|image| image.mode() & 0o666);
    let made_folder = named && place.make_folder(mode.as_ref().ok().copied())?;
    let all = fs::metadata(&place.image).map_or(0, |image| image.blocks() * 512);
    let mut saved = None;
    let filled = make::make_at_last(path, &mut |file| {
        if let Ok(mode) = mode {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        let mut progress = Progress::new("copying");
        let so_far = || file.metadata().map_or(0, |file| file.blocks() * 512);
        let answer: Snapshot = client.ask_long(&Command::SnapshotSave {}, &file, || progress.at(so_far(), all))?;
        file.sync_all()?;
        saved = Some(answer);
        Ok(Vec::new())
    });
    if filled.is_err() && made_folder {
        // Nothing is in it.
        let _ = fs::remove_dir(&place.folder);
    }
    filled?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| folder.display().to_string())?;
    let saved = saved.ok_or_else(|| anyhow!("{}: nothing was saved", path.display()))?;
    tell(&saved, json, |saved| {
        format!("saved to {} ({}); requests were held for {}\n", path.display(), saved.method, in_millis(saved.held_us))
    })
}

fn tell(done: &Snapshot, json: bool, in_words: impl FnOnce(&Snapshot) -> String) -> Result<()> {
    output::print(if json { serde_json::to_string_pretty(&versioned(done))? + "\n" } else { in_words(done) })
}

fn in_millis(micros: u64) -> String {
    format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
}

/// Where the snapshots of an image are.
struct Place {
    image: PathBuf,
    folder: PathBuf,
}

impl Place {
    fn of(info: &Info) -> Self {
        Self { image: PathBuf::from(&info.image), folder: PathBuf::from(format!("{}.snapshots", info.image)) }
    }

    /// The file of a name.
    fn file(&self, name: &str) -> Result<PathBuf> {
        if !is_name(name) {
            bail!(
                "'{name}' is no name of a snapshot: expected at most {LONGEST} letters, digits, '-', '_' and '.', and no '.' at \
                 the beginning"
            );
        }
        Ok(self.folder.join(format!("{name}{SUFFIX}")))
    }

    /// The file of a snapshot, which nobody may be writing to.
    fn open(&self, name: &str) -> Result<(PathBuf, File)> {
        let path = self.file(name)?;
        let file = image::open_file(&path, File::options().read(true));
        let file = file.with_context(|| format!("no snapshot '{name}': {}", path.display()))?;
        lock::lock_image(&file, Purpose::Read).with_context(|| path.display().to_string())?;
        Ok((path, file))
    }

    /// Makes the folder, for those who may use the image. Returns whether there was none.
    fn make_folder(&self, mode: Option<u32>) -> Result<bool> {
        let name = || self.folder.display().to_string();
        // Whoever may read or write a file may do so in the folder, for which its names have to be found.
        let mode = mode.map_or(0o700, |mode| mode | (mode & 0o444) >> 2 | (mode & 0o222) >> 1);
        match DirBuilder::new().mode(mode).create(&self.folder) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error).with_context(name),
        }
    }
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.len() <= LONGEST && !name.starts_with('.') && name.bytes().all(fits)
}

fn parse_then(text: &str) -> Result<Then, String> {
    match text {
        "then=dead" => Ok(Then::Dead),
        "then=fail" => Ok(Then::Fail),
        _ => Err("expected then=dead or then=fail".to_owned()),
    }
}

fn list(place: &Place, json: bool) -> Result<String> {
    let all = snapshots(place)?;
    if json {
        return Ok(serde_json::to_string_pretty(&versioned(serde_json::json!({ "snapshots": all })))? + "\n");
    }
    if all.is_empty() {
        return Ok("no snapshots\n".to_owned());
    }
    let width = all.iter().map(|listed| listed.name.len()).max().unwrap_or(0).max("name".len());
    let mut text = format!("{:<width$}  {:<20}  {:>12}  {:>12}\n", "name", "time (UTC)", "disk", "on the host");
    for Listed { name, time, virtual_size, disk_size } in &all {
        let (disk, host) = (size::show(Bytes(*virtual_size)), size::show(Bytes(*disk_size)));
        text += &format!("{name:<width$}  {:<20}  {disk:>12}  {host:>12}\n", date(*time));
    }
    Ok(text)
}

/// All snapshots, the oldest first. What else is in the folder is left out.
fn snapshots(place: &Place) -> Result<Vec<Listed>> {
    let found = match fs::read_dir(&place.folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.with_context(|| place.folder.display().to_string())?,
    };
    let mut all = Vec::new();
    for entry in found {
        let entry = entry.with_context(|| place.folder.display().to_string())?;
        let file = entry.file_name();
        let Some(name) = file.to_str().and_then(|name| name.strip_suffix(SUFFIX)).filter(|name| is_name(name)) else {
            continue;
        };
        if let Some(listed) = look(name, &entry.path())? {
            all.push(listed);
        }
    }
    all.sort_by(|one, other| (one.time, &one.name).cmp(&(other.time, &other.name)));
    Ok(all)
}

/// What is known of a snapshot; nothing where it was dropped a moment ago.
fn look(name: &str, path: &Path) -> Result<Option<Listed>> {
    let seen = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        seen => seen.with_context(|| path.display().to_string())?,
    };
    let opened = image::look(path)?;
    Ok(Some(Listed {
        name: name.to_owned(),
        time: seen.mtime(),
        virtual_size: opened.image.header().size.0,
        disk_size: seen.blocks() * 512,
    }))
}

/// A time in UTC, to the second.
fn date(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years begin in March here, so that the day that comes and goes is the last of one; 719468 days are from there to 1970.
    let day = days + 719_468;
    let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (of_month, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{of_month:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_a_file_that_is_seen_and_stays_in_its_folder() {
        let long = "x".repeat(LONGEST);
        for name in ["a", "before-upgrade_2.1", "0", &long] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", ".a", "a/b", "a b", "\u{e4}", "a\n", &format!("{long}x")] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn times_are_told_as_the_calendar_has_them() {
        for (seconds, told) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_800, "2000-03-01 00:00:00"),
            (1_796_066_169, "2026-11-30 19:16:09"),
            (4_107_542_399, "2100-02-28 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
        ] {
            assert_eq!(date(seconds), told);
        }
    }
}
