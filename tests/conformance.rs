//! docs/conformance.md is kept true: every test it names is there and is run, every rule has a verdict, and the counts
//! at its top are those of its rows. Reads files only.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = "docs/conformance.md";

/// The head of every table of rules.
const HEAD: [&str; 4] = ["Rule", "From", "Shown by", "Verdict"];

/// What a verdict begins with, and the name of its count.
const VERDICTS: [(&str, &str); 4] = [
    ("holds", "shown"),
    ("not applicable: ", "not applicable"),
    ("deliberately different: ", "deliberately different"),
    ("open: ", "open"),
];

/// One rule of the document.
struct Row {
    line: usize,
    rule: String,
    tests: Vec<String>,
    verdict: String,
}

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn text(relative: &str) -> String {
    fs::read_to_string(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

/// The cells of a line of a table; `None` for any other line.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

/// What stands between backquotes.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_string).collect()
}

fn is_rule_line(cells: &[&str]) -> bool {
    cells.iter().all(|cell| !cell.is_empty() && cell.chars().all(|c| matches!(c, '-' | ':')))
}

/// Every row of a table of rules.
fn rows(document: &str) -> Vec<Row> {
    let (mut rows, mut inside) = (Vec::new(), false);
    for (at, line) in document.lines().enumerate() {
        let line_number = at + 1;
        let Some(cells) = cells(line) else {
            inside = false;
            continue;
        };
        if cells == HEAD {
            inside = true;
        } else if inside && !is_rule_line(&cells) {
            let [rule, _, tests, verdict] = cells[..] else {
                panic!("{DOCUMENT}:{line_number}: {} cells, expected 4", cells.len());
            };
            let (rule, verdict) = (rule.to_string(), verdict.to_string());
            rows.push(Row { line: line_number, rule, tests: quoted(tests), verdict });
        }
    }
    rows
}

/// The counts at the top: a table of a name and a number in each line, in front of the first table of rules.
fn counts(document: &str) -> BTreeMap<String, usize> {
    let top = document.lines().filter_map(cells).take_while(|cells| cells[..] != HEAD);
    let pairs = top.filter_map(|cells| Some((cells.first()?.to_lowercase(), cells.get(1)?.parse().ok()?)));
    pairs.collect()
}

fn count_of(verdict: &str) -> Option<&'static str> {
    let known = VERDICTS.iter().find(|(begin, _)| match begin.strip_suffix(' ') {
        // A reason has to follow.
        Some(_) => verdict.strip_prefix(begin).is_some_and(|reason| !reason.trim().is_empty()),
        None => verdict == *begin,
    });
    known.map(|(_, count)| *count)
}

/// The file of a module of a test: `a` is tests/a.rs or tests/a/main.rs, `a::b` is tests/a/b.rs and `a::b::c`
/// tests/a/b/c.rs, each if the one before says so.
fn module_file(modules: &[&str]) -> Result<String, String> {
    let [target, inner @ ..] = modules else { return Err("expected `target::test`".to_string()) };
    let forms = [format!("tests/{target}.rs"), format!("tests/{target}/main.rs")];
    let mut file = forms.into_iter().find(|file| path(file).is_file());
    let mut folder = format!("tests/{target}");
    for module in inner {
        let Some(parent) = &file else { break };
        let declared = text(parent).lines().any(|line| line == format!("mod {module};"));
        file = declared.then(|| format!("{folder}/{module}.rs")).filter(|file| path(file).is_file());
        folder = format!("{folder}/{module}");
    }
    file.ok_or_else(|| format!("there is no test module `{}`", modules.join("::")))
}

/// The tests of a source file: functions with `#[test]` that are not ignored, and those that `with_each_engine!` makes
/// tests of.
fn tests_of(source: &str) -> HashSet<String> {
    let functions: HashSet<&str> = source.lines().filter_map(function_name).collect();
    let mut tests = HashSet::new();
    let (mut is_test, mut is_ignored, mut in_list) = (false, false, false);
    for line in source.lines().map(str::trim) {
        if line.starts_with("with_each_engine! {") {
            in_list = true;
        } else if in_list {
            in_list = line != "}";
            let name = line.trim_end_matches(',');
            if functions.contains(name) {
                tests.insert(name.to_string());
            }
        } else if line.starts_with("#[") || line.starts_with("//") {
            is_test |= line == "#[test]";
            is_ignored |= line.starts_with("#[ignore");
        } else {
            if is_test
                && !is_ignored
                && let Some(name) = function_name(line)
            {
                tests.insert(name.to_string());
            }
            (is_test, is_ignored) = (false, false);
        }
    }
    tests
}

fn function_name(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

#[test]
fn every_test_that_the_document_names_is_there_and_is_run() {
    let mut known: HashMap<String, HashSet<String>> = HashMap::new();
    let mut wrong = Vec::new();
    for row in rows(&text(DOCUMENT)) {
        for name in &row.tests {
            let parts: Vec<&str> = name.split("::").collect();
            let Some((test, modules)) = parts.split_last() else { continue };
            match module_file(modules) {
                Err(why) => wrong.push(format!("{DOCUMENT}:{}: {name}: {why}", row.line)),
                Ok(file) => {
                    let tests = known.entry(file.clone()).or_insert_with(|| tests_of(&text(&file)));
                    if !tests.contains(*test) {
                        wrong.push(format!("{DOCUMENT}:{}: {file} has no test `{test}`", row.line));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_of_the_document_has_a_verdict_and_one_that_holds_has_a_test() {
    let rows = rows(&text(DOCUMENT));
    assert!(!rows.is_empty(), "{DOCUMENT} has no rules");
    let mut seen = HashSet::new();
    let mut wrong = Vec::new();
    for Row { line, rule, tests, verdict } in &rows {
        let count = count_of(verdict);
        let fault = match count {
            _ if rule.is_empty() => "no rule",
            _ if !seen.insert(rule) => "a rule that stands there twice",
            None => "a verdict is `holds`, or `not applicable`, `deliberately different` or `open` with `: ` and why",
            Some("shown") if tests.is_empty() => "a rule that holds and has no test",
            Some(_) => continue,
        };
        wrong.push(format!("{DOCUMENT}:{line}: {fault}: {rule} | {verdict}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_counts_at_the_top_of_the_document_are_those_of_its_rows() {
    let document = text(DOCUMENT);
    let rows = rows(&document);
    let mut found: BTreeMap<String, usize> = VERDICTS.iter().map(|(_, count)| ((*count).to_string(), 0)).collect();
    for count in rows.iter().filter_map(|row| count_of(&row.verdict)) {
        *found.entry(count.to_string()).or_default() += 1;
    }
    found.insert("rules".to_string(), rows.len());
    assert_eq!(counts(&document), found, "left: what {DOCUMENT} says; right: what its rows are");
}

#[test]
fn a_wrong_document_is_noticed() {
    let table = "| Rule | From | Shown by | Verdict |\n| --- | --- | --- | --- |\n";
    let found =
        rows(&format!("{table}| a | b | `c::d`, `e::f::g` | holds |\n| h | i | | open: why |\n\n| not | one |\n"));
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].tests, ["c::d", "e::f::g"]);
    assert_eq!(count_of(&found[0].verdict), Some("shown"));
    assert_eq!(count_of(&found[1].verdict), Some("open"));
    for verdict in ["", "holds?", "not applicable", "not applicable: ", "open", "deliberately different:why"] {
        assert_eq!(count_of(verdict), None, "{verdict}");
    }
    let source = "with_each_engine! {\n    a,\n    absent,\n}\nfn a(x: u8) {}\n#[test]\n/// Why.\nfn b() {}\n\
                  #[test]\n#[ignore = \"slow\"]\nfn c() {}\nfn d() {}\n    #[test]\n    fn e(\n";
    let mut tests: Vec<_> = tests_of(source).into_iter().collect();
    tests.sort_unstable();
    assert_eq!(tests, ["a", "b", "e"]);
    assert!(module_file(&["conformance"]).is_ok());
    for modules in [&["absent"][..], &["requests", "absent"], &["requests", "main"], &[], &["a", "b", "c"]] {
        assert!(module_file(modules).is_err(), "{modules:?}");
    }
}
