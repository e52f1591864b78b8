//! What `docs/edge-cases.md` names is there: rules, golden cases, scenarios, invariants.

use ha_core::rule::Rule;
use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn page() -> String {
    fs::read_to_string(root().join("docs/edge-cases.md")).expect("the page is there")
}

fn golden_headlines() -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = fs::read_dir(dir).expect("a folder").filter_map(|entry| Some(entry.ok()?.path()));
    let files = files.filter(|path| path.extension().is_some_and(|ext| ext == "txt"));
    let texts: Vec<String> = files.map(|path| fs::read_to_string(path).expect("a text")).collect();
    let headlines = texts.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("== "));
    headlines.collect::<Vec<_>>().join("\n")
}

/// Every second piece between two marks, of the rows of tables.
fn marked(page: &str, mark: char) -> Vec<String> {
    let rows = page.lines().filter(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split(mark).skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn what_the_page_names_is_there() {
    let (page, headlines) = (page(), golden_headlines());
    let quoted = marked(&page, '"');
    assert!(quoted.len() > 60, "{} golden cases are named", quoted.len());
    for words in quoted {
        assert!(headlines.contains(&words), "no golden case says \"{words}\"");
    }
    let mut rules = 0;
    for code in marked(&page, '`') {
        if Path::new(&code).extension().is_some_and(|extension| extension == "rs") {
            let found = [root().join("tests/tests").join(&code), root().join(&code)].iter().any(|path| path.is_file());
            assert!(found, "there is no {code}");
        } else if code.contains('.') && !code.contains(['/', ' ', ':']) && code != "postmaster.pid" {
            assert!(Rule::from_code(&code).is_some(), "no rule is called {code}");
            rules += 1;
        }
    }
    assert!(rules > 50, "{rules} rules are named");
}

#[test]
fn every_invariant_it_names_is_one() {
    let invariants = fs::read_to_string(root().join("docs/invariants.md")).expect("the page is there");
    let page = page();
    let named = page.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| {
        word.strip_prefix('I')
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    });
    for name in named {
        assert!(invariants.contains(&format!("| {name} |")), "there is no invariant {name}");
    }
}
