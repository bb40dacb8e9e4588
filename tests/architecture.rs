//! ARCHITECTURE.md against the tree: dependency arrows, fenced libraries, and what must be absent.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

struct Row {
    arrows: BTreeSet<String>,
    fenced: BTreeSet<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn words(cell: &str) -> BTreeSet<String> {
    cell.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The table of crates: name → what it may depend on, and the libraries it keeps to itself.
fn table() -> BTreeMap<String, Row> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let cells = text.lines().filter(|line| line.starts_with("| moepress-")).map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        (cells[1].to_owned(), cells[3].to_owned(), words(cells[4]))
    });
    let rows: Vec<_> = cells.collect();
    let all: BTreeSet<String> = rows.iter().map(|(name, ..)| name.clone()).collect();
    let full = |words: BTreeSet<String>| {
        words.iter().map(|word| format!("moepress-{word}")).collect::<BTreeSet<_>>()
    };
    rows.iter()
        .map(|(name, arrows, fenced)| {
            let arrows = match arrows.strip_prefix("all but ") {
                Some(but) => {
                    all.difference(&full(words(but))).filter(|other| *other != name).cloned().collect()
                }
                None => full(words(arrows)),
            };
            (name.clone(), Row { arrows, fenced: fenced.clone() })
        })
        .collect()
}

/// Names in the `[dependencies]` section of a crate.
fn dependencies(name: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).unwrap();
    let section = text.split("\n[dependencies]\n").nth(1).unwrap_or("");
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    lines
        .filter_map(|line| line.split(['.', '=', ' ']).next())
        .filter(|w| !w.is_empty())
        .map(str::to_owned)
        .collect()
}

fn crates() -> BTreeSet<String> {
    let entries = fs::read_dir(root().join("crates")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_crate_is_in_the_table_and_keeps_to_its_arrows() {
    let table = table();
    assert_eq!(table.keys().cloned().collect::<BTreeSet<_>>(), crates());
    for (name, row) in &table {
        let ours =
            dependencies(name).into_iter().filter(|d| d.starts_with("moepress-")).collect::<BTreeSet<_>>();
        let wrong: Vec<_> = ours.difference(&row.arrows).collect();
        assert!(wrong.is_empty(), "{name} depends on {wrong:?}, which ARCHITECTURE.md does not allow");
    }
}

#[test]
fn the_arrows_of_the_table_have_no_cycle() {
    let table = table();
    let mut left: BTreeSet<&String> = table.keys().collect();
    while !left.is_empty() {
        let free: Vec<_> =
            left.iter().copied().filter(|n| table[*n].arrows.iter().all(|d| !left.contains(d))).collect();
        assert!(!free.is_empty(), "a cycle among {left:?}");
        free.into_iter().for_each(|name| {
            left.remove(name);
        });
    }
}

#[test]
fn fenced_libraries_stay_in_their_crate() {
    let table = table();
    for (owner, row) in &table {
        for library in &row.fenced {
            assert!(dependencies(owner).contains(library), "{owner} does not use {library}");
            for other in table.keys().filter(|other| *other != owner) {
                assert!(
                    !dependencies(other).contains(library),
                    "{other} uses {library}, which is fenced in {owner}"
                );
            }
        }
    }
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Lines outside tests that hold `word`, as `path:line`, in all crates but those whose path holds an exception.
fn uses(word: &str, exceptions: &[&str]) -> Vec<String> {
    let mut files = Vec::new();
    for name in crates() {
        sources(&root().join("crates").join(name).join("src"), &mut files);
    }
    let mut found = Vec::new();
    for path in files {
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        if exceptions.iter().any(|exception| shown.contains(exception)) || shown.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
        for (number, line) in code.lines().enumerate() {
            if line.contains(word) && !line.trim_start().starts_with("//") {
                found.push(format!("{shown}:{}", number + 1));
            }
        }
    }
    found
}

#[test]
fn what_must_be_absent_is_absent() {
    let none: Vec<String> = vec![];
    let file_layer = ["moepress-checkpoint/src/files", "moepress-checkpoint/src/memory.rs"];
    assert_eq!(uses("std::fs", &file_layer), none, "file access outside the file layer");
    assert_eq!(uses("std::process", &["moepress-cli/"]), none, "exits outside the command line");
    assert_eq!(uses("std::io::stdout", &["moepress-cli/"]), none, "prints outside the command line");
    assert_eq!(uses(".family ==", &["families/"]), none, "asks for the family outside families/");
    assert_eq!(uses("unsafe {", &["moepress-kernels/", "moepress-gpu/"]), none, "unsafe code");
}

#[test]
fn every_test_runs() {
    let mut files = Vec::new();
    sources(&root().join("crates"), &mut files);
    sources(&root().join("tests"), &mut files);
    // Put together here, so that this file is not found itself.
    let word = ["#[", "ignore"].concat();
    let found: Vec<_> =
        files.iter().filter(|path| fs::read_to_string(path).unwrap().contains(&word)).collect();
    assert!(files.len() > 100 && found.is_empty(), "tests that do not run in {found:?}");
}
