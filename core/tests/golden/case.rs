//! Golden files as text: comments, headline, input lines, `----`, expected lines.

use super::world::{self, Decided};

/// One case.
#[derive(Debug, Default)]
pub struct Case {
    /// Comment lines before it.
    pub before: String,
    /// The rule it is about.
    pub rule: String,
    /// What it says in words.
    pub title: String,
    /// Its input.
    pub input: Vec<String>,
    /// What must come out.
    pub expected: String,
}

impl Case {
    pub fn decide(&self) -> Result<Decided, String> {
        world::decide(&self.input)
    }

    /// The case as it stands in the file, with this outcome.
    pub fn written(&self, outcome: &str) -> String {
        let input = self.input.join("\n");
        let input = if input.is_empty() { input } else { format!("{input}\n") };
        format!("{}== {}: {}\n{input}----\n{outcome}\n", self.before, self.rule, self.title)
    }
}

pub fn parse(text: &str) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    let mut before = String::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let Some(headline) = line.strip_prefix("== ") else {
            if !line.is_empty() && !line.starts_with('#') {
                return Err(format!("line {}: neither a comment nor a headline: {line}", number + 1));
            }
            if !line.is_empty() {
                before.push_str(line);
                before.push('\n');
            }
            continue;
        };
        let (rule, title) =
            headline.split_once(": ").ok_or_else(|| format!("line {}: `== rule: title`", number + 1))?;
        let mut case = Case {
            before: std::mem::take(&mut before),
            rule: rule.to_owned(),
            title: title.to_owned(),
            ..Case::default()
        };
        for (_, line) in lines.by_ref() {
            if line == "----" {
                break;
            }
            case.input.push(line.to_owned());
        }
        while let Some((_, line)) = lines.next_if(|(_, line)| !line.is_empty() && !line.starts_with("== ")) {
            case.expected.push_str(line);
            case.expected.push('\n');
        }
        cases.push(case);
    }
    Ok(cases)
}
