//! `docs/fence.md`.

use crate::cells::Cell;
use crate::rows::Row;
use std::fmt::Write;
use std::path::PathBuf;

const HEAD: &str = include_str!("head.md");

/// Whether the row is run: all are, unless `HA_TESTS_EFFECT` names one.
pub fn wanted(row: &Row) -> bool {
    std::env::var("HA_TESTS_EFFECT").is_ok_and(|effect| effect == row.effect) || all()
}

fn all() -> bool {
    std::env::var_os("HA_TESTS_EFFECT").is_none()
}

/// The table as it was found.
pub struct Page {
    major: u32,
    lines: Vec<Line>,
    broken: Vec<String>,
}

struct Line {
    /// How it begins.
    head: String,
    /// All of it; none if this server lacks what the effect needs.
    text: Option<String>,
}

fn head(row: &Row) -> String {
    format!("| {} | {} |", row.effect, row.how)
}

impl Page {
    /// Of a server of this version.
    pub fn new(major: u32) -> Self {
        Self { major, lines: Vec::new(), broken: Vec::new() }
    }

    /// A row of cells: one for each point, and one for the seal.
    pub fn add(&mut self, row: &Row, cells: &[Cell]) {
        println!("{} ({}): {cells:?}", row.effect, row.how);
        assert!(row.on.contains(&self.major), "{}: not said to be judged on {}", row.effect, self.major);
        self.broken.extend(cells.iter().filter(|cell| cell.breaks()).map(|cell| format!("{}: {cell:?}", row.effect)));
        if row.transactional && cells.contains(&Cell::Free) {
            self.broken.push(format!("{}: not held", row.effect));
        }
        let mut line = head(row);
        for cell in cells {
            let _ = write!(line, " {cell} |");
        }
        let majors: Vec<String> = row.on.iter().map(u32::to_string).collect();
        let _ = write!(line, " {} |", majors.join(", "));
        self.lines.push(Line { head: head(row), text: Some(line) });
    }

    /// This server lacks what the effect needs, as the document says.
    pub fn skip(&mut self, row: &Row) {
        assert!(!row.on.contains(&self.major), "{}: said to be judged on {}", row.effect, self.major);
        if !wanted(row) {
            return;
        }
        println!("SKIPPED: PostgreSQL {} here has not what it needs: {} ({})", self.major, row.effect, row.how);
        self.lines.push(Line { head: head(row), text: None });
    }

    /// The document; what this server lacks is as it was written before.
    fn text(&self, written: &str) -> String {
        let mut text = HEAD.to_owned();
        for line in &self.lines {
            let before = || written.lines().find(|old| old.starts_with(&line.head)).map(str::to_owned);
            if let Some(line) = line.text.clone().or_else(before) {
                let _ = writeln!(text, "{line}");
            }
        }
        text
    }

    /// Compares the document with what was found, or writes it.
    pub fn compare(&self) {
        let broken = self.broken.join("\n");
        assert!(broken.is_empty(), "acknowledged after the deadline, or refused and there:\n{broken}");
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/fence.md");
        let written = std::fs::read_to_string(&file).expect("docs/fence.md is there");
        if !all() {
            assert!(!self.lines.is_empty(), "there is no such effect");
            for line in self.lines.iter().filter_map(|line| line.text.as_ref()) {
                assert!(written.lines().any(|old| old == line), "docs/fence.md does not say {line}");
            }
            return;
        }
        let found = self.text(&written);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&file, found).expect("the document can be written");
            return;
        }
        // Line by line: the whole document would hide which effect it is.
        let only = |these: &str, those: &str, mark: char| -> String {
            let new = these.lines().filter(|line| !those.lines().any(|other| other == *line));
            new.fold(String::new(), |text, line| format!("{text}{mark} {line}\n"))
        };
        assert!(
            written == found,
            "docs/fence.md is not what was found (UPDATE_DOCS=1 writes it):\n{}{}",
            only(&written, &found, '-'),
            only(&found, &written, '+')
        );
    }
}
