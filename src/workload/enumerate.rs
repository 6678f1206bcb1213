//! Every workload of so many operations, in the same order each time: those that differ in nothing but names once, none that cannot be
//! done. What makes things stable does not count: there may be one such operation behind each, and there is one behind the last.

use super::model::{Model, WHOLE};
use super::{BLOCK, FileSystem, Operation, Workload};

/// Names of files, in the order in which they come into use.
const NAMES: [&str; 4] = ["A", "B", "C", "D"];

/// Shows each workload of `count` operations, 1 to 3.
pub fn each(fs: FileSystem, count: usize, found: &mut dyn FnMut(&Workload)) {
    let mut workload = Workload { fs, operations: Vec::new() };
    let model = Model::new(fs);
    below(&mut workload, &model, 1, count, found);
}

fn below(workload: &mut Workload, model: &Model, used: usize, left: usize, found: &mut dyn FnMut(&Workload)) {
    if left == 0 {
        return found(workload);
    }
    for operation in changes(workload.fs, model, used) {
        let mut after = model.clone();
        if after.apply(workload.fs, &operation, workload.operations.len() + 1).is_err() {
            continue;
        }
        let used = used_by(&operation).max(used);
        workload.operations.push(operation.clone());
        if left > 1 {
            below(workload, &after, used, left - 1, found);
        }
        for stable in stabilities(workload.fs, &operation) {
            workload.operations.push(stable);
            below(workload, &after, used, left - 1, found);
            workload.operations.pop();
        }
        workload.operations.pop();
    }
}

/// How many of [`NAMES`] are in use after an operation, as far as it is concerned.
fn used_by(operation: &Operation) -> usize {
    match operation {
        Operation::Create(name) | Operation::Rename(_, name) | Operation::Link(_, name) => {
            NAMES.iter().position(|known| *known == name).map_or(0, |at| at + 1)
        }
        _ => 0,
    }
}

/// What can be done next; of names that were never used the first stands for all.
fn changes(fs: FileSystem, model: &Model, used: usize) -> Vec<Operation> {
    if fs == FileSystem::Zonefs {
        return changes_of_zones(model);
    }
    let mut all = Vec::new();
    let known = NAMES.iter().take(used + 1);
    let free: Vec<&str> = known.copied().filter(|name| !model.names.contains_key(*name)).collect();
    for (name, inode) in &model.names {
        let size = model.files.get(*inode).map_or(0, |file| file.size);
        let own = || name.clone();
        match size {
            0 => all.push(Operation::Write(own(), 0, 2 * BLOCK)),
            _ => all.extend([Operation::Write(own(), 0, BLOCK), Operation::Append(own(), BLOCK)]),
        }
        if size > BLOCK {
            all.push(Operation::Truncate(own(), BLOCK));
        }
        let others = model.names.keys().filter(|other| *other != name && model.names.get(*other) != Some(inode));
        all.extend(others.map(|other| Operation::Rename(own(), other.clone())));
        all.extend(free.iter().map(|new| Operation::Rename(own(), (*new).to_owned())));
        all.extend(free.iter().map(|new| Operation::Link(own(), (*new).to_owned())));
        all.push(Operation::Unlink(own()));
    }
    all.extend(free.into_iter().map(|new| Operation::Create(new.to_owned())));
    all
}

fn changes_of_zones(model: &Model) -> Vec<Operation> {
    let mut all = Vec::new();
    for (name, inode) in model.names.iter().filter(|(name, _)| name.starts_with("seq/")) {
        let size = model.files.get(*inode).map_or(0, |file| file.size);
        if size < WHOLE {
            all.extend([Operation::Append(name.clone(), 2 * BLOCK), Operation::Finish(name.clone())]);
        }
        if size > 0 {
            all.push(Operation::Truncate(name.clone(), 0));
        }
    }
    all.push(Operation::Write("cnv/0".to_owned(), 0, 2 * BLOCK));
    all
}

/// What may make an operation stable.
fn stabilities(fs: FileSystem, operation: &Operation) -> Vec<Operation> {
    let root = || Operation::Fsync(".".to_owned());
    match operation {
        // Of zonefs, "sync" does not reach the disk.
        Operation::Finish(name) => vec![Operation::Fsync(name.clone())],
        Operation::Write(name, ..) | Operation::Append(name, _) | Operation::Truncate(name, _)
            if fs == FileSystem::Zonefs =>
        {
            vec![Operation::Fsync(name.clone()), Operation::Fdatasync(name.clone())]
        }
        Operation::Write(name, ..) | Operation::Append(name, _) | Operation::Truncate(name, _) => {
            vec![Operation::Fsync(name.clone()), Operation::Fdatasync(name.clone()), Operation::Sync]
        }
        Operation::Create(name) | Operation::Rename(_, name) | Operation::Link(_, name) => {
            vec![Operation::Fsync(name.clone()), root(), Operation::Sync]
        }
        _ => vec![root(), Operation::Sync],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use std::collections::HashSet;

    fn all(fs: FileSystem, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        each(fs, count, &mut |workload| all.push(workload.to_string()));
        all
    }

    #[test]
    fn of_one_operation_there_are_those_that_can_be_counted_by_hand() {
        // Write, append, truncate with three ends each; rename, link, create with three; unlink with two.
        assert_eq!(all(FileSystem::Btrfs, 1).len(), 3 * 3 + 3 * 3 + 2);
        // Append and finish of two files with two ends and one, truncate with two of the one that has data, the conventional file with
        // two.
        assert_eq!(all(FileSystem::Zonefs, 1).len(), 2 * (2 + 1) + 2 + 2);
        assert_eq!(
            all(FileSystem::Xfs, 1)[..3],
            ["write A 0 4096; fsync A", "write A 0 4096; fdatasync A", "write A 0 4096; sync"]
        );
    }

    #[test]
    fn of_two_operations_there_are_those_that_can_be_counted_by_hand() {
        // Behind the first there is one of its ends or none. What may come second, behind: write and append, as in the beginning (20);
        // truncate, all but another truncate (17); rename to B, with a choice of A and C for a new name (29); link to B, all by
        // two names but for one create (37); create of B, of A as before and over B (20), of B, which is empty (14), of C (3). Behind
        // unlink, which has two ends, create of A or B.
        assert_eq!(all(FileSystem::Btrfs, 2).len(), 4 * (20 + 20 + 17 + 29 + 37 + 20 + 14 + 3) + 3 * 6);
        // Each of both files has 5 with data, 3 without, 2 when finished; the conventional file 2.
        assert_eq!(
            all(FileSystem::Zonefs, 2).len(),
            // Appended to, emptied, the other one appended to, the conventional one written; then finished, the other one finished.
            3 * ((5 + 3 + 2) + (3 + 3 + 2) + (5 + 5 + 2) + (5 + 3 + 2)) + 2 * ((2 + 3 + 2) + (5 + 2 + 2))
        );
    }

    #[test]
    fn each_can_be_read_again_ends_with_a_promise_and_is_there_once() {
        for fs in [FileSystem::Btrfs, FileSystem::Zonefs] {
            for count in 1..=3 {
                let texts = all(fs, count);
                for text in &texts {
                    let workload = Workload::parse(fs, text).unwrap();
                    assert_eq!(workload.to_string(), *text);
                    assert!(workload.operations.last().unwrap().persists(), "{text}");
                    let changes = workload.operations.iter().filter(|operation| !operation.persists()).count();
                    assert_eq!(changes, count, "{text}");
                }
                assert_eq!(texts.iter().collect::<HashSet<_>>().len(), texts.len());
            }
        }
    }

    #[test]
    fn a_name_that_was_never_used_comes_after_those_that_were() {
        for text in all(FileSystem::F2fs, 3) {
            let firsts: Vec<usize> = NAMES[1..].iter().map(|name| text.find(name).unwrap_or(usize::MAX)).collect();
            assert!(firsts.is_sorted(), "{text}");
        }
    }
}
