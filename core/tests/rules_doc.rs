//! `docs/rules.md` is generated from [`Rule::ALL`]; `UPDATE_DOCS=1 cargo test -p ha_core --test rules_doc` rewrites it.

use ha_core::rule::Rule;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

fn table() -> String {
    let mut out = String::from(
        "# Rules\n\nEvery decision names the rule it was made by. The view `ha_rules` shows which is in force, `ha_events` \
         when it changed, and the server's log both.\n\n| code | meaning |\n|---|---|\n",
    );
    let group = |rule: &Rule| rule.code().split('.').next();
    let mut rules = Rule::ALL.to_vec();
    // Those of one situation together, in the order in which situations first occur.
    rules.sort_by_key(|rule| Rule::ALL.iter().position(|first| group(first) == group(rule)));
    for rule in rules {
        writeln!(out, "| `{}` | {} |", rule.code(), rule.sentence()).expect("writing to a string");
    }
    out
}

#[test]
fn the_table_of_rules_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rules.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, table()).expect("docs/rules.md can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, table(), "docs/rules.md is stale: run UPDATE_DOCS=1 cargo test -p ha_core --test rules_doc");
}

#[test]
fn codes_are_unique_and_sentences_are_sentences() {
    let codes: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.code()).collect();
    assert_eq!(codes.len(), Rule::ALL.len());
    for rule in Rule::ALL {
        assert!(rule.sentence().ends_with('.'), "{rule}");
        assert_eq!(Rule::from_code(rule.code()), Some(*rule));
    }
}
