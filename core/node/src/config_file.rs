//! Reads the local configuration: a YAML file, or a directory of them.
//!
//! Patroni's files are YAML 1.1, where a bare `on` is a boolean. A bare word becomes a boolean or a number only if
//! it can be turned back into the same text, so that a password such as `0123` or `1e5` stays what was typed.

use serde_json::{Map, Number, Value};
use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

/// No configuration is larger.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Nodes of one file with its aliases written out.
const NODES_MAX: usize = 100_000;
/// Holds a whole configuration, for use without a file.
const CONFIGURATION_VARIABLE: &str = "PATRONI_CONFIGURATION";

/// Reads `path`. Of a directory, every `*.yml` and `*.yaml` is read in the order of the names and merged: mappings
/// merge, everything else is replaced by the later file.
pub fn load(path: &Path) -> Result<Value, LoadError> {
    let failed = |error: std::io::Error| LoadError::new(path, error.to_string());
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        return load_file(path);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let yaml = file.extension().is_some_and(|extension| extension == "yml" || extension == "yaml");
        if yaml && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(LoadError::new(path, "holds no *.yml and no *.yaml file".to_owned()));
    }
    files.sort();
    let mut merged = Value::Object(Map::new());
    for file in files {
        merge(&mut merged, load_file(&file)?);
    }
    Ok(merged)
}

/// Reads the file, or without one the variable `PATRONI_CONFIGURATION`; neither is an empty configuration, which
/// the environment may complete.
pub fn load_or_environment(path: Option<&Path>, environment: &BTreeMap<String, String>) -> Result<Value, LoadError> {
    match (path, environment.get(CONFIGURATION_VARIABLE)) {
        (Some(path), _) => load(path),
        (None, Some(text)) => parse(text).map_err(|message| LoadError::new(Path::new(CONFIGURATION_VARIABLE), message)),
        (None, None) => Ok(Value::Object(Map::new())),
    }
}

fn load_file(path: &Path) -> Result<Value, LoadError> {
    let failed = |error: std::io::Error| LoadError::new(path, error.to_string());
    let mut text = String::new();
    std::fs::File::open(path).map_err(failed)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(LoadError::new(path, format!("is larger than {FILE_BYTES_MAX} bytes")));
    }
    let value = parse(&text).map_err(|message| LoadError::new(path, message))?;
    match value {
        Value::Object(_) => Ok(value),
        Value::Null => Ok(Value::Object(Map::new())),
        _ => Err(LoadError::new(path, "line 1: expected a mapping that begins with scope: and name:".to_owned())),
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// The file that could not be read, and why, with line and column where there are any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub message: String,
}

impl LoadError {
    fn new(path: &Path, message: String) -> Self {
        Self { path: path.to_owned(), message }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}

impl std::error::Error for LoadError {}

/// Reads one YAML document. The error says where.
pub fn parse(text: &str) -> Result<Value, String> {
    Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 }.stream()
}

struct Reader<'a> {
    parser: Parser<'a, serde_saphyr::granit_parser::StrInput<'a>>,
    /// Nodes that an alias may repeat, with the number of nodes they are made of.
    anchors: HashMap<usize, (Value, usize)>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    /// The next event that is not a comment.
    fn next(&mut self) -> Result<(Event<'a>, Marker), String> {
        loop {
            match self.parser.next_event() {
                None => return Ok((Event::StreamEnd, Marker::default())),
                Some(Err(error)) => return Err(format!("{}: {}", place(error.marker()), error.info())),
                Some(Ok((event, span))) if is_data(&event) => return Ok((event, span.start)),
                Some(Ok(_)) => {}
            }
        }
    }

    fn stream(&mut self) -> Result<Value, String> {
        let mut document = None;
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(document.unwrap_or(Value::Null)),
                (Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd, _) => {}
                (_, at) if document.is_some() => {
                    return Err(format!("{}: expected one document, found two", place(&at)));
                }
                (event, at) => document = Some(self.node(event, at)?),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, at: Marker) -> Result<Value, String> {
        let before = self.nodes;
        self.count(1, at)?;
        let (anchor, value) = match event {
            Event::Alias(anchor) => {
                let Some((value, nodes)) = self.anchors.get(&anchor).cloned() else {
                    return Err(format!("{}: an alias to something that contains it", place(&at)));
                };
                self.count(nodes, at)?;
                return Ok(value);
            }
            Event::Scalar(text, style, anchor, tag) => (anchor, scalar(&text, style, tag.as_deref(), at)?),
            Event::SequenceStart(_, anchor, _) => (anchor, self.sequence()?),
            Event::MappingStart(_, anchor, _) => (anchor, self.mapping()?),
            _ => return Err(format!("{}: expected a value", place(&at))),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), self.nodes - before));
        }
        Ok(value)
    }

    /// Aliases of aliases can write a few lines out into gigabytes.
    fn count(&mut self, nodes: usize, at: Marker) -> Result<(), String> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX { Err(format!("{}: more than {NODES_MAX} values", place(&at))) } else { Ok(()) }
    }

    fn sequence(&mut self) -> Result<Value, String> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(items)),
                (event, at) => items.push(self.node(event, at)?),
            }
        }
    }

    fn mapping(&mut self) -> Result<Value, String> {
        let mut map = Map::new();
        let mut below = Vec::new();
        loop {
            let (name, at) = match self.next()? {
                (Event::MappingEnd, _) => break,
                (Event::Scalar(text, ..), at) => (text.into_owned(), at),
                (_, at) => return Err(format!("{}: expected a name before the colon", place(&at))),
            };
            let (event, value_at) = self.next()?;
            let value = self.node(event, value_at)?;
            if name == "<<" {
                below.push((value, value_at));
            } else if map.insert(name.clone(), value).is_some() {
                return Err(format!("{}: \"{name}\" stands here twice", place(&at)));
            }
        }
        for (value, at) in below {
            merge_below(&mut map, value, at)?;
        }
        Ok(Value::Object(map))
    }
}

/// `<<: *defaults`: what the mapping does not say itself is taken from there.
fn merge_below(map: &mut Map<String, Value>, value: Value, at: Marker) -> Result<(), String> {
    match value {
        Value::Object(from) => {
            for (name, value) in from {
                map.entry(name).or_insert(value);
            }
            Ok(())
        }
        Value::Array(items) => items.into_iter().try_for_each(|item| merge_below(map, item, at)),
        _ => Err(format!("{}: expected a mapping after <<", place(&at))),
    }
}

fn is_data(event: &Event<'_>) -> bool {
    use Event::{Alias, DocumentEnd, DocumentStart, MappingEnd, MappingStart, Scalar, SequenceEnd, SequenceStart};
    matches!(
        event,
        Event::StreamStart
            | Event::StreamEnd
            | DocumentStart(..)
            | DocumentEnd
            | Alias(_)
            | Scalar(..)
            | SequenceStart(..)
            | SequenceEnd
            | MappingStart(..)
            | MappingEnd
    )
}

fn place(at: &Marker) -> String {
    format!("line {}, column {}", at.line(), at.col() + 1)
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Marker) -> Result<Value, String> {
    match tag.map(|tag| tag.core_suffix()) {
        None if style == ScalarStyle::Plain => Ok(bare(text)),
        None | Some(Some("str")) => Ok(Value::from(text)),
        Some(Some("int" | "float" | "bool" | "null")) => Ok(bare(text)),
        Some(_) => Err(format!("{}: a tag that is not supported", place(&at))),
    }
}

/// What a word without quotes means.
fn bare(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    let number = text.parse::<i64>().map(Number::from).ok().or_else(|| Number::from_f64(text.parse().ok()?));
    match number {
        Some(number) if number.to_string() == text => Value::Number(number),
        _ => Value::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;
    use serde_json::json;
    use std::fmt::Write;

    #[test]
    fn the_documented_example_is_accepted() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples/node.yml");
        let local = load(&path).expect("good YAML");
        let (config, warnings) =
            ha_core::config::Config::from_layers(&local, &BTreeMap::new(), None).expect("a good configuration");
        assert_eq!(warnings, Vec::new());
        assert!(config.postgresql.use_pg_rewind && config.postgresql.use_slots);
    }

    #[test]
    fn bare_words_become_what_they_mean() {
        let text = "
a: on
b: 'on'
c: 30
d: 0123
e: 1.50
f: 1.5
g: 1e5
h:
i: ~
j: 12:30:45
k: !!str 5
l: [no, No, 'no', -7]
m: |
  two
  lines
n: 99999999999999999999
";
        assert_eq!(
            parse(text).expect("good YAML"),
            json!({
                "a": true, "b": "on", "c": 30, "d": "0123", "e": "1.50", "f": 1.5, "g": "1e5", "h": null, "i": null,
                "j": "12:30:45", "k": "5", "l": [false, false, "no", -7], "m": "two\nlines\n",
                "n": "99999999999999999999"
            })
        );
    }

    #[test]
    fn anchors_and_merge_keys() {
        let text = "base: &base {a: 1, b: 2}\nother:\n  <<: *base\n  b: 3\nlist: [*base]\n";
        let expected = json!({"base": {"a": 1, "b": 2}, "other": {"a": 1, "b": 3}, "list": [{"a": 1, "b": 2}]});
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn mistakes_name_their_place() {
        for (text, expected) in [
            ("a: 1\nb: [1, 2\nc: 3\n", "line 3, column 2: "),
            ("a: 1\na: 2\n", "line 2, column 1: \"a\" stands here twice"),
            ("a: 1\n---\nb: 2\n", "line 3, column 1: expected one document, found two"),
            ("? [1]\n: 2\n", "line 1, column 3: expected a name before the colon"),
            ("a:\n\t- b\n", "line 2"),
            ("a: *nowhere\n", "line 1, column 4: "),
            ("a: !secret x\n", "line 1, column 12: a tag that is not supported"),
        ] {
            let error = parse(text).expect_err("a mistake");
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn aliases_cannot_explode() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let below = format!("*a{}", level - 1);
            let _ = writeln!(text, "a{level}: &a{level} [{}]", vec![below; 10].join(", "));
        }
        let error = parse(&text).expect_err("too much");
        assert!(error.contains("more than 100000 values"), "{error}");
    }

    #[test]
    fn a_directory_is_merged_in_the_order_of_names() {
        let dir = TestDir::new("config_file");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("a writable directory");
        write("20-b.yaml", "scope: second\npostgresql:\n  listen: x:1\n");
        write("10-a.yml", "scope: first\nname: n\npostgresql:\n  data_dir: /d\n");
        write("ignored.txt", "}{");
        let expected = json!({"scope": "second", "name": "n", "postgresql": {"listen": "x:1", "data_dir": "/d"}});
        assert_eq!(load(dir.path()), Ok(expected));
        write("30-c.yml", "scope: [\n");
        let error = load(dir.path()).expect_err("a mistake").to_string();
        assert!(error.contains("30-c.yml: line 1, column 8"), "{error}");
    }

    #[test]
    fn without_a_file_the_variable_counts() {
        let environment = BTreeMap::from([("PATRONI_CONFIGURATION".to_owned(), "scope: x".to_owned())]);
        assert_eq!(load_or_environment(None, &environment), Ok(json!({"scope": "x"})));
        assert_eq!(load_or_environment(None, &BTreeMap::new()), Ok(json!({})));
        let error = load(Path::new("/nowhere/x.yml")).expect_err("no such file").to_string();
        assert!(error.starts_with("/nowhere/x.yml: No such file"), "{error}");
    }
}
