//! Whether what a crash has left of a workload is what may be there, by what was promised before.
//!
//! What POSIX and Linux's file systems promise: `sync` has all stable, but for zonefs, whose `sync` does not reach the disk; `fsync` of a file its content and size, and the name by which
//! it was opened; `fdatasync` content and size, and the name where the file had no stable one yet; `fsync` of the root all names. A file
//! system may have made more stable than that, at any time: so each name may stand as after any later operation, each block
//! of a file may be as any later operation has left it, or zeros where one of these had none there, and a size may be any between those
//! that the file had. What is wrong: a name that does not stand for any of these, a file that no operation has deleted and that
//! is there under none of its names, a block that nobody wrote to that place, an older one than was promised.

use std::collections::{BTreeMap, BTreeSet};

use super::found::{Found, Held};
use super::model::{Inode, Model, WHOLE};
use super::{BLOCK, FileSystem, Operation, Workload, WorkloadError};

/// From which operation on a name or a content may be as it is found.
struct Promises {
    names: BTreeMap<String, usize>,
    contents: BTreeMap<Inode, usize>,
}

/// What was promised when the operation `last` had returned.
fn promises(workload: &Workload, models: &[Model], last: usize) -> Promises {
    let mut promises = Promises { names: BTreeMap::new(), contents: BTreeMap::new() };
    for (at, operation) in workload.operations.iter().enumerate().take(last) {
        let number = at + 1;
        let Some(now) = models.get(number) else { break };
        let inode = |name: &str| now.names.get(name).copied();
        match operation {
            Operation::Fsync(name) if name == "." => promises.all_names(models, number),
            Operation::Fsync(name) => {
                promises.names.insert(name.clone(), number);
                inode(name).and_then(|inode| promises.contents.insert(inode, number));
            }
            Operation::Fdatasync(name) => {
                let Some(inode) = inode(name) else { continue };
                if !promises.has_name(models, inode) {
                    promises.names.insert(name.clone(), number);
                }
                promises.contents.insert(inode, number);
            }
            Operation::Sync if workload.fs != FileSystem::Zonefs => {
                promises.all_names(models, number);
                promises.contents.extend((0..now.files.len()).map(|inode| (inode, number)));
            }
            _ => {}
        }
    }
    promises
}

impl Promises {
    fn all_names(&mut self, models: &[Model], number: usize) {
        self.names.extend(all_names(models).into_iter().map(|name| (name, number)));
    }

    fn name(&self, name: &str) -> usize {
        self.names.get(name).copied().unwrap_or(0)
    }

    fn content(&self, inode: Inode) -> usize {
        self.contents.get(&inode).copied().unwrap_or(0)
    }

    /// Whether a name that a file has is stable.
    fn has_name(&self, models: &[Model], inode: Inode) -> bool {
        let stands =
            |name: &String| models.get(self.name(name)).and_then(|model| model.names.get(name)) == Some(&inode);
        all_names(models).iter().any(stands)
    }
}

fn all_names(models: &[Model]) -> BTreeSet<String> {
    models.iter().flat_map(|model| model.names.keys().cloned()).collect()
}

/// The last operation of which the marks say that it has returned, or none where the workload had not begun.
fn last_done(marks: &str) -> Option<usize> {
    let done = |mark: &str| match mark.trim() {
        "begin" => Some(0),
        other => other.strip_suffix(" done").and_then(|number| number.parse().ok()),
    };
    marks.lines().filter_map(done).max()
}

/// Judges what was found. Returns what is wrong, in one line, or nothing where it may be.
pub fn complaint(
    workload: &Workload,
    marks: &str,
    found: &BTreeMap<String, Found>,
) -> Result<Option<String>, WorkloadError> {
    let models = Model::all(workload)?;
    let Some(last) = last_done(marks) else { return Ok(None) };
    let promises = promises(workload, &models, last);
    let names = all_names(&models);
    if let Some(name) = found.keys().find(|name| !names.contains(*name) && *name != "lost+found") {
        return Ok(Some(format!("{name} is there, which nobody has made")));
    }
    let mut seen = BTreeSet::new();
    for name in &names {
        let since = models.get(promises.name(name)..).unwrap_or_default();
        let may_be: BTreeSet<Option<Inode>> = since.iter().map(|model| model.names.get(name).copied()).collect();
        let wrong = match found.get(name) {
            None if may_be.contains(&None) => continue,
            None => Some(format!("{name} is not there")),
            Some(file) => is_one_of(&models, &promises, name, file, &may_be, &mut seen),
        };
        if let Some(wrong) = wrong {
            return Ok(Some(format!("{wrong}; operation {last} was done")));
        }
    }
    Ok(lost(&models, &promises, &seen).map(|lost| format!("{lost}; operation {last} was done")))
}

/// Whether a file is one of those that its name may stand for. Notes which it may be. Returns why not.
fn is_one_of(
    models: &[Model],
    promises: &Promises,
    name: &str,
    file: &Found,
    may_be: &BTreeSet<Option<Inode>>,
    seen: &mut BTreeSet<Inode>,
) -> Option<String> {
    let mut why = format!("{name} is there, which should not be");
    let before = seen.len();
    let mut fits = false;
    for inode in may_be.iter().flatten() {
        match content(models, *inode, promises.content(*inode), file) {
            None => {
                fits = true;
                seen.insert(*inode);
            }
            Some(wrong) if !fits => why = format!("{name}: {wrong}"),
            Some(_) => {}
        }
    }
    (!fits && seen.len() == before).then_some(why)
}

/// What is wrong with a file where it is that one.
fn content(models: &[Model], inode: Inode, since: usize, file: &Found) -> Option<String> {
    let versions: Vec<_> = models.iter().skip(since).filter_map(|model| model.files.get(inode)).collect();
    let sizes = versions.iter().map(|version| version.size);
    let (least, most) = (sizes.clone().min()?, sizes.max()?);
    // How long a whole zone is nobody knows here; what is not written of it is zeros.
    let is_whole = least == WHOLE && file.size > 0;
    if !is_whole && !(least..=most).contains(&file.size) || !file.size.is_multiple_of(BLOCK) {
        let expected = if least == most { least.to_string() } else { format!("{least} to {most}") };
        return Some(format!("its size is {}: expected {expected}", file.size));
    }
    for (number, held) in (0..file.size / BLOCK).zip(&file.blocks) {
        let mut writers = versions.iter().map(|version| version.blocks.get(&number).copied());
        let fits = match held {
            Held::Zeros => writers.any(|writer| writer.is_none()),
            Held::Written(writer, block) => *block == number && writers.any(|known| known == Some(*writer)),
            Held::Other => false,
        };
        if !fits {
            let expected: BTreeSet<String> = versions
                .iter()
                .map(|version| {
                    version.blocks.get(&number).map_or("zeros".to_owned(), |writer| format!("operation {writer}'s"))
                })
                .collect();
            let expected: Vec<String> = expected.into_iter().collect();
            return Some(format!("block {number} has {}: expected {}", told(held), expected.join(" or ")));
        }
    }
    let listed = file.blocks.len() as u64;
    (listed != file.size / BLOCK).then(|| format!("{listed} of its {} blocks could be read", file.size / BLOCK))
}

fn told(held: &Held) -> String {
    match held {
        Held::Zeros => "zeros".to_owned(),
        Held::Written(writer, block) => format!("operation {writer}'s block {block}"),
        Held::Other => "what nobody wrote".to_owned(),
    }
}

/// A file that has to be there under some name and is not.
fn lost(models: &[Model], promises: &Promises, seen: &BTreeSet<Inode>) -> Option<String> {
    let files = models.last().map_or(0, |model| model.files.len());
    for inode in (0..files).filter(|inode| !seen.contains(inode)) {
        let names = |model: &Model| -> Vec<String> {
            model.names.iter().filter(|(_, of)| **of == inode).map(|(name, _)| name.clone()).collect()
        };
        let stable =
            models.iter().enumerate().filter(|(at, model)| names(model).iter().any(|name| promises.name(name) == *at));
        let Some(first) = stable.map(|(at, _)| at).max() else { continue };
        let since = models.get(first..).unwrap_or_default();
        if since.iter().all(|model| !names(model).is_empty()) {
            let all: BTreeSet<String> = since.iter().flat_map(names).collect();
            let all: Vec<String> = all.into_iter().collect();
            return Some(format!("the file of {} is not there", all.join(", ")));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::super::found;
    use super::*;

    /// A list of files: name, then who wrote each block ("z" is zeros).
    fn list(files: &[(&str, &str)]) -> BTreeMap<String, Found> {
        let block = |(number, writer): (usize, &str)| match writer {
            "z" => "4096 ".to_owned(),
            writer => format!("256 op {:02} block {number:03}", writer.parse::<u64>().unwrap()),
        };
        let file = |(name, writers): &(&str, &str)| {
            let blocks: Vec<String> = writers.split_whitespace().enumerate().map(block).collect();
            format!("file {name} {}\n{}\n", blocks.len() as u64 * BLOCK, blocks.join("\n"))
        };
        let text: String = files.iter().map(file).collect();
        found::read(&text.lines().filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect::<String>())
            .unwrap()
    }

    type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

    /// Workload, marks, files, what is wrong with them.
    const CASES: &[Case] = &[
        ("write A 0 4096; fsync A", "begin\n2 done", &[("A", "1 0")], ""),
        (
            "write A 0 4096; fsync A",
            "begin\n2 done",
            &[("A", "0 0")],
            "A: block 0 has operation 0's block 0: expected operation 1's",
        ),
        ("write A 0 4096; fsync A", "begin", &[("A", "0 0")], ""),
        (
            "write A 0 4096; fsync A",
            "begin",
            &[("A", "z 0")],
            "A: block 0 has zeros: expected operation 0's or operation 1's",
        ),
        ("write A 0 4096; fsync A", "begin", &[], "A is not there"),
        ("write A 0 4096; fsync A", "", &[], ""),
        ("append A 4096; fdatasync A", "begin\n2 done", &[("A", "0 0")], "A: its size is 8192: expected 12288"),
        (
            "append A 4096; fdatasync A",
            "begin\n2 done",
            &[("A", "0 0 z")],
            "A: block 2 has zeros: expected operation 1's",
        ),
        ("append A 4096; fdatasync A", "begin", &[("A", "0 0 z")], ""),
        (
            "append A 4096; fdatasync A",
            "begin",
            &[("A", "0 1")],
            "A: block 1 has operation 1's block 1: expected operation 0's",
        ),
        ("truncate A 4096; append A 4096; sync", "begin", &[("A", "0 2")], ""),
        ("truncate A 4096; append A 4096; sync", "begin", &[("A", "0 z")], ""),
        (
            "truncate A 4096; append A 4096; sync",
            "begin\n3 done",
            &[("A", "0 0")],
            "A: block 1 has operation 0's block 1: expected operation 2's",
        ),
        ("rename A B; fsync B", "begin", &[("A", "0 0")], ""),
        ("rename A B; fsync B", "begin", &[("B", "0 0")], ""),
        ("rename A B; fsync B", "begin", &[], "the file of A, B is not there"),
        ("rename A B; fsync B", "begin\n2 done", &[("A", "0 0")], "B is not there"),
        ("rename A B; fsync .", "begin\n2 done", &[("A", "0 0"), ("B", "0 0")], "A is there, which should not be"),
        ("link A B; fsync .", "begin\n2 done", &[("B", "0 0")], "A is not there"),
        ("link A B; fsync .", "begin", &[("A", "0 0")], ""),
        ("unlink A; fsync .", "begin", &[], ""),
        ("unlink A; fsync .", "begin\n2 done", &[("A", "0 0")], "A is there, which should not be"),
        ("create B; write B 0 4096; fdatasync B", "begin\n3 done", &[("A", "0 0")], "B is not there"),
        ("create B; write B 0 4096; fdatasync B", "begin\n3 done", &[("A", "0 0"), ("B", "2")], ""),
        (
            "create B; write B 0 4096; rename B A; fsync A",
            "begin\n4 done",
            &[("A", "0 0")],
            "A: its size is 8192: expected 4096",
        ),
        ("create B; write B 0 4096; rename B A; fsync A", "begin", &[("A", "2")], ""),
        ("create B; fsync B", "begin", &[("A", "0 0"), ("C", "0")], "C is there, which nobody has made"),
    ];

    #[test]
    fn what_may_be_is_good_and_what_may_not_be_is_told() {
        for (text, marks, files, expected) in CASES {
            let workload = Workload::parse(FileSystem::Btrfs, text).unwrap();
            let said = complaint(&workload, marks, &list(files)).unwrap().unwrap_or_default();
            let said = said.split(';').next().unwrap();
            assert_eq!(said, *expected, "{text}: {marks:?}: {files:?}");
        }
    }

    #[test]
    fn zones_that_are_finished_or_reset_are_judged_by_their_files() {
        let cases: [Case; 6] = [
            ("finish seq/0; fsync seq/0", "begin\n2 done", &[("seq/0", "0 0 z z"), ("seq/1", ""), ("cnv/0", "z")], ""),
            ("finish seq/0; fsync seq/0", "begin", &[("seq/0", "0 0"), ("seq/1", ""), ("cnv/0", "z")], ""),
            ("truncate seq/0 0; sync", "begin", &[("seq/0", "0"), ("seq/1", ""), ("cnv/0", "z")], ""),
            ("truncate seq/0 0; sync", "begin\n2 done", &[("seq/0", "0 0"), ("seq/1", ""), ("cnv/0", "z")], ""),
            (
                "truncate seq/0 0; fsync seq/0",
                "begin\n2 done",
                &[("seq/0", "0 0"), ("seq/1", ""), ("cnv/0", "z")],
                "seq/0: its size is 8192: expected 0",
            ),
            (
                "append seq/0 4096; fsync seq/0",
                "begin\n2 done",
                &[("seq/0", "0 0 z"), ("seq/1", ""), ("cnv/0", "z")],
                "seq/0: block 2 has zeros: expected operation 1's",
            ),
        ];
        for (text, marks, files, expected) in cases {
            let workload = Workload::parse(FileSystem::Zonefs, text).unwrap();
            let said = complaint(&workload, marks, &list(files)).unwrap().unwrap_or_default();
            assert_eq!(said.split(';').next().unwrap(), expected, "{text}: {marks:?}: {files:?}");
        }
    }
}
