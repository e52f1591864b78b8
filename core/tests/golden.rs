//! Golden tables for `decide`: a snapshot in a few lines of text, and the decision it must lead to.
//!
//! Each file under `golden/` holds cases for one group of rules. `UPDATE_GOLDEN=1` writes what the code decides now; the
//! rule that a case is about stands in its headline and is checked always. The language is described in `golden/README.md`.

mod golden {
    pub mod case;
    pub mod parts;
    pub mod world;
}

use golden::case::{Case, parse};
use ha_core::rule::Rule;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder of golden files")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "txt"))
        .collect();
    files.sort();
    files
}

fn cases(path: &Path) -> Vec<Case> {
    let text = std::fs::read_to_string(path).expect("a readable golden file");
    parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn decisions_are_as_recorded() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for path in files() {
        let mut text = String::new();
        for case in cases(&path) {
            let decided = case.decide().unwrap_or_else(|error| panic!("{}: {}: {error}", path.display(), case.title));
            if decided.rule != case.rule {
                wrong.push(format!("{}: {} was decided by {}", case.rule, case.title, decided.rule));
            }
            if !update && decided.text != case.expected {
                wrong.push(format!("{}: {}\n{}\ninstead of\n{}", case.rule, case.title, decided.text, case.expected));
            }
            text.push_str(&case.written(&decided.text));
        }
        if update {
            // In one go: the other test reads the same files.
            let half = path.with_extension("half");
            std::fs::write(&half, text).expect("a writable folder");
            std::fs::rename(&half, &path).expect("a writable golden file");
        }
    }
    assert!(wrong.is_empty(), "{} decisions differ:\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn every_rule_has_a_case() {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for case in files().iter().flat_map(|path| cases(path)) {
        *counts.entry(case.rule).or_default() += 1;
    }
    let missing: Vec<&str> =
        Rule::ALL.iter().map(|rule| rule.code()).filter(|code| !counts.contains_key(*code)).collect();
    assert!(missing.is_empty(), "rules without a golden case: {missing:?}");
    let unknown: Vec<&String> = counts.keys().filter(|code| Rule::from_code(code).is_none()).collect();
    assert!(unknown.is_empty(), "cases for rules that do not exist: {unknown:?}");
}
