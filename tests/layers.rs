//! The imports of the tree, held to the layers that ARCHITECTURE.md lists.
//!
//! A file's imports are its `use` declarations and the paths in it that begin with `crate`, `super` or `self`, up to its
//! first `#[cfg(test)]`. Files of tests are left out, and `fuzzing` and
//! `simulation`, which are compiled for tests and fuzzers only.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Modules by their paths, `qcow2::alloc`, each with those it imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The layers from the top down, as ARCHITECTURE.md lists them.
fn layers() -> Vec<String> {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section =
        page.lines().skip_while(|line| *line != "## Layers").skip(1).take_while(|line| !line.starts_with("## "));
    let listed = section.filter(|line| line.starts_with("    "));
    listed.map_while(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// All files below a folder, by their modules.
fn gather(folder: &Path, module: &str, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let stem = entry.file_stem().unwrap().to_str().unwrap();
        let inside = if module.is_empty() { stem.to_owned() } else { format!("{module}::{stem}") };
        if stem.ends_with("tests") || ["fuzzing", "simulation"].contains(&stem) {
            continue;
        }
        if entry.is_dir() {
            gather(&entry, &inside, files);
        } else {
            let name = if ["mod", "lib", "main"].contains(&stem) { module.to_owned() } else { inside };
            let text = fs::read_to_string(&entry).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            files
                .entry(name)
                .or_default()
                .extend(code.lines().map(|line| line.split("//").next().unwrap().to_owned() + "\n"));
        }
    }
}

/// The paths of a `use` declaration, without its braces.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let (mut depth, mut from) = (0, 0);
    let commas = tree.char_indices().filter(|(_, char)| {
        depth += match char {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        *char == ',' && depth == 0
    });
    let ends: Vec<usize> = commas.map(|(at, _)| at).chain([tree.len()]).collect();
    for end in ends {
        let part = tree[from..end].trim();
        from = (end + 1).min(tree.len());
        match part.split_once('{') {
            Some((outer, inner)) => expand(&format!("{prefix}{outer}"), inner.trim_end_matches('}'), paths),
            None if part.is_empty() => {}
            None => paths.push(format!("{prefix}{part}")),
        }
    }
}

fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let relative = |path: &str| ["crate::", "super::", "self::"].iter().any(|root| path.starts_with(root));
    for declaration in code.split("use ").skip(1).filter(|rest| relative(rest)) {
        expand("", declaration.split(';').next().unwrap(), &mut paths);
    }
    let word = |char: char| !(char.is_alphanumeric() || char == '_' || char == ':');
    paths.extend(code.split(word).filter(|path| relative(path)).map(str::to_owned));
    paths
}

/// The module that a path of another one leads into, if that is a file of the tree.
fn resolve(path: &str, module: &str, files: &BTreeMap<String, String>) -> Option<String> {
    let mut base: Vec<&str> = module.split("::").collect();
    let mut steps: Vec<&str> = path.split("::").map(str::trim).collect();
    while let Some(first) = steps.first() {
        match *first {
            "crate" => base.clear(),
            "super" => drop(base.pop()),
            "self" => {}
            _ => break,
        }
        steps.remove(0);
    }
    base.extend(steps);
    while !base.is_empty() && !files.contains_key(&base.join("::")) {
        base.pop();
    }
    (!base.is_empty()).then(|| base.join("::")).filter(|found| found != module)
}

fn imports() -> Imports {
    let mut files = BTreeMap::new();
    gather(&root().join("src"), "", &mut files);
    let of = |module: &String, code: &String| {
        paths(code).iter().filter_map(|path| resolve(path, module, &files)).filter(|found| found != module).collect()
    };
    files
        .iter()
        .filter(|(module, _)| !module.is_empty())
        .map(|(module, code)| (module.clone(), of(module, code)))
        .collect()
}

/// All that a module reaches by its imports and theirs.
fn reached<'a>(imports: &'a Imports, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = imports.get(from).into_iter().flatten().map(String::as_str).collect();
    while let Some(module) = open.pop() {
        if reached.insert(module) {
            open.extend(imports.get(module).into_iter().flatten().map(String::as_str));
        }
    }
    reached
}

#[test]
fn no_layer_imports_one_above_it() {
    let (layers, imports) = (layers(), imports());
    let level = |module: &str| layers.iter().position(|layer| *layer == module.split("::").next().unwrap());
    let listed: BTreeSet<&str> = layers.iter().map(String::as_str).collect();
    let there: BTreeSet<&str> = imports.keys().map(|module| module.split("::").next().unwrap()).collect();
    assert_eq!(there, listed, "the layers of the tree, and those that ARCHITECTURE.md lists");
    let upwards = imports.iter().flat_map(|(module, of)| of.iter().map(move |other| (module, other)));
    let upwards: Vec<_> = upwards.filter(|(module, other)| level(other) < level(module)).collect();
    assert!(upwards.is_empty(), "imports of a layer above: {upwards:?}");
}

#[test]
fn no_two_files_import_each_other() {
    let imports = imports();
    assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 300, "the imports are not found");
    let circles: Vec<&String> =
        imports.keys().filter(|module| reached(&imports, module).contains(module.as_str())).collect();
    assert!(circles.is_empty(), "these reach themselves by what they import: {circles:?}");
}

#[test]
fn imports_are_found_in_all_the_forms_they_have() {
    let code = "use super::{a, b::{self, C}};\npub use crate::d::E as F;\nfn f() { crate::g::h(super::super::i::J) }\n";
    let found = paths(code);
    let expected =
        ["super::a", "super::b::self", "super::b::C", "crate::d::E as F", "crate::g::h", "super::super::i::J"];
    assert!(expected.iter().all(|path| found.iter().any(|found| found == path)), "{found:?}");
    let files = ["x", "x::y", "x::b", "d", "i"].map(|module| (module.to_owned(), String::new())).into();
    let into = |path| resolve(path, "x::y", &files);
    assert_eq!(into("super::b::C").as_deref(), Some("x::b"));
    assert_eq!(into("super::super::i::J").as_deref(), Some("i"));
    assert_eq!((into("self::Z"), into("super::C").as_deref()), (None, Some("x")));
}
