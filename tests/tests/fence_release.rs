//! What a release build must not have: settings with which a session could move its deadline.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn contains(library: &Path, text: &str) -> Option<bool> {
    let bytes = fs::read(library).ok()?;
    Some(bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("sources can be listed").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The module does not exist in a release build, so that whatever uses it there would not compile.
#[test]
fn the_settings_of_debug_builds_are_compiled_into_debug_builds_alone() {
    let modules = fs::read_to_string(root().join("src/pg/mod.rs")).expect("a source file");
    assert!(modules.contains("#[cfg(debug_assertions)]\npub mod debug;"), "the module is not bound to debug builds");
    let cargo = fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    assert!(!cargo.contains("debug-assertions"), "a profile changes what a debug build is");
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let defining: Vec<_> = files
        .iter()
        .filter(|file| fs::read_to_string(file).expect("a source file").contains("ha_ext.debug_"))
        .collect();
    assert_eq!(defining.len(), 1, "settings of debug builds are defined elsewhere: {defining:?}");
}

#[test]
fn a_release_library_has_no_setting_that_moves_the_deadline() {
    let target = root().join("target");
    let debug = contains(&target.join("debug/libha_ext.so"), "ha_ext.debug_deadline");
    assert_ne!(debug, Some(false), "a debug build has it, or this test looks for the wrong thing");
    match contains(&target.join("release/libha_ext.so"), "ha_ext.debug_") {
        None => println!("SKIPPED: there is no release build in {}", target.display()),
        Some(found) => assert!(!found, "a release build has a setting of debug builds"),
    }
}

/// The deadline leaves zero in one function, which needs a lease; others move only that of a fence that is open.
#[test]
fn only_the_lease_opens_the_fence() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut writers = Vec::new();
    for file in files {
        let text: String = fs::read_to_string(&file).expect("a source file").split_whitespace().collect();
        for (at, _) in text.match_indices("deadline_ns.") {
            let call = &text[at + "deadline_ns.".len()..];
            if !call.starts_with("load(") {
                let (_, body) = text[..at].rsplit_once("pubfn").expect("it is in a function");
                let (name, body) = body.split_once('(').expect("which takes something");
                assert!(file.ends_with("fence.rs"), "{} moves the deadline in {name}", file.display());
                writers.push((name.to_owned(), body.to_owned(), call[..9].to_owned()));
            }
        }
    }
    let names: Vec<&str> = writers.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["open", "unbind", "extend", "limit", "close", "confirmed"]);
    for (name, body, call) in &writers {
        let only_if_open = match name.as_str() {
            "open" => body.starts_with("shared:&Shared,lease:&Lease)"),
            "unbind" => body.contains("(old>now).then_some("),
            "extend" => body.contains("(old!=0&&old<new).then_some("),
            "limit" => body.contains("(old>new&&old!=UNBOUND_NS).then_some("),
            "close" => call == "store(0,O",
            _ => body.contains("letis_open=(old!=0||!stands(Guard::Reopen))"),
        };
        assert!(only_if_open, "{name}: {body} {call}");
    }
}

/// What can be taken away in a debug build is what `make fence-mutants` tries, and what the document says.
#[test]
fn every_guard_has_a_test_that_needs_it() {
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let first = |line: &str, end: &str| line.split(end).next().map(|name| name.trim().to_owned());
    let code = read("src/fence/guards.rs");
    let (_, table) = code.split_once("guards! {\n").expect("the table of guards");
    let guards: Vec<_> = table.lines().map_while(|line| line.split('"').nth(1)).collect();
    assert!(guards.len() > 40, "{guards:?}");
    let tried = read("tests/fence_guards.txt");
    let tried: Vec<_> =
        tried.lines().filter(|line| !line.starts_with('#')).filter_map(|line| first(line, "|")).collect();
    assert_eq!(guards, tried, "tests/fence_guards.txt names other guards");
    let written = read("docs/fence-guards.md");
    let written: Vec<_> = written.lines().filter_map(|line| first(line.strip_prefix("| `")?, "`")).collect();
    assert_eq!(guards, written, "docs/fence-guards.md names other guards: make fence-mutants writes it");
}
