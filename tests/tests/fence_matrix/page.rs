//! `docs/fence.md`.

use crate::cells::Cell;
use crate::rows::Row;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

const HEAD: &str = include_str!("head.md");

/// The table as it was found.
#[derive(Default)]
pub struct Page {
    lines: Vec<(String, String)>,
    skipped: Vec<String>,
    broken: Vec<String>,
}

impl Page {
    /// A row of cells: one for each point, and one for the seal.
    pub fn add(&mut self, row: &Row, cells: &[Cell]) {
        println!("{} ({}): {cells:?}", row.effect, row.how);
        self.broken.extend(cells.iter().filter(|cell| cell.breaks()).map(|cell| format!("{}: {cell:?}", row.effect)));
        if row.transactional && cells.contains(&Cell::Free) {
            self.broken.push(format!("{}: not held", row.effect));
        }
        let mut line = format!("| {} | {} |", row.effect, row.how);
        for cell in cells {
            let _ = write!(line, " {cell} |");
        }
        self.lines.push((row.effect.to_owned(), line));
    }

    /// This server lacks what the effect needs.
    pub fn skip(&mut self, effect: &str) {
        self.skipped.push(effect.to_owned());
    }

    fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        for (_, line) in &self.lines {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    /// Compares the document with what was found, or writes it.
    pub fn compare(&self) {
        let broken = self.broken.join("\n");
        assert!(broken.is_empty(), "acknowledged after the deadline, or refused and there:\n{broken}");
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/fence.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            assert!(self.skipped.is_empty(), "this server cannot write the document: it lacks {:?}", self.skipped);
            std::fs::write(&file, self.text()).expect("the document can be written");
            return;
        }
        let written = std::fs::read_to_string(&file).expect("docs/fence.md is there");
        if self.skipped.is_empty() {
            assert_eq!(written, self.text(), "docs/fence.md is not what was found: UPDATE_DOCS=1 writes it");
            return;
        }
        // The rows that this server has must be as written.
        let mut left: BTreeMap<&str, usize> = BTreeMap::new();
        for line in written.lines() {
            *left.entry(line).or_default() += 1;
        }
        for (effect, line) in &self.lines {
            let count = left.get_mut(line.as_str()).filter(|count| **count > 0);
            *count.unwrap_or_else(|| panic!("{effect}: docs/fence.md does not say {line}")) -= 1;
        }
    }
}
