//! The manual pages and docs/cli.md, which are made of one source.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use vhost_user_zbd::cli;

use crate::made;

fn here(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_page_in_docs_is_what_the_generator_makes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    made::write(folder.path()).expect("the pages");
    let made = fs::read_to_string(folder.path().join("cli.md")).expect("cli.md");
    assert!(
        here("docs/cli.md") == made,
        "docs/cli.md is old: run cargo run --example pages -- target/pages && cp target/pages/cli.md docs"
    );
}

#[test]
fn every_manual_page_has_the_sections_that_a_reader_looks_for() {
    let folder = tempfile::tempdir().expect("temporary folder");
    made::write(folder.path()).expect("the pages");
    let program = cli::command();
    let commands = program.get_subcommands().map(|command| format!("vhost-user-zbd-{}.1", command.get_name()));
    let sections = ["NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES"];
    for (page, more) in commands
        .map(|page| (page, vec!["OPTIONS", "EXIT STATUS"]))
        .chain([("vhost-user-zbd.1".to_owned(), vec!["OPTIONS", "EXIT STATUS", "FILES", "ENVIRONMENT"])])
        .chain([("vhost-user-zbd.conf.5".to_owned(), vec!["SETTINGS", "FILES"])])
    {
        let text = fs::read_to_string(folder.path().join(&page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        let found: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        for section in sections.iter().chain(&more).chain(&["SEE ALSO"]) {
            assert!(found.contains(section), "{page} has no {section}: {found:?}");
        }
    }
    let create = fs::read_to_string(folder.path().join("vhost-user-zbd-create.1")).expect("a page");
    for preset in ["zns", "smr", "btrfs\\-small", "short\\-last", "tight"] {
        assert!(create.lines().any(|line| line.starts_with(preset)), "no {preset} among the presets: {create}");
    }
}

#[test]
fn the_page_of_the_conf_file_has_the_settings_of_the_sample() {
    let setting = |line: &str| line.split_once('=').map(|(name, _)| name.to_owned());
    let is_name = |name: &String| !name.is_empty() && name.chars().all(|one| one.is_ascii_uppercase() || one == '_');
    let sample = here("systemd/sample.conf");
    let sample: BTreeSet<String> =
        sample.lines().filter_map(|line| setting(line.strip_prefix('#')?)).filter(is_name).collect();
    let page = here("packaging/manual/conf.md");
    let page: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("* `")?.split_once("`: ").map(|(name, _)| name.to_owned()))
        .filter(is_name)
        .collect();
    assert_eq!(page, sample);
}
