//! JSON as Python's `json.dumps` writes it: `", "` and `": "` between things, everything outside ASCII escaped,
//! fields in the order they were put in.

use serde_json::Value;
use std::fmt::Write;

/// A value whose objects keep their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Object(Vec<(String, Field)>);

#[derive(Clone, Debug, PartialEq)]
enum Field {
    Plain(Value),
    Object(Object),
    List(Vec<Object>),
}

impl Object {
    /// Adds a plain value.
    pub fn put(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.0.push((name.to_owned(), Field::Plain(value.into())));
        self
    }

    /// Adds an object.
    pub fn put_object(&mut self, name: &str, object: Object) -> &mut Self {
        self.0.push((name.to_owned(), Field::Object(object)));
        self
    }

    /// Adds a list of objects.
    pub fn put_list(&mut self, name: &str, list: Vec<Object>) -> &mut Self {
        self.0.push((name.to_owned(), Field::List(list)));
        self
    }

    /// The text.
    pub fn dump(&self) -> String {
        let mut out = String::new();
        write_object(&mut out, self);
        out
    }
}

/// The text of any value.
pub(super) fn dump(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

fn separated<T>(
    out: &mut String,
    (open, close): (char, char),
    items: impl Iterator<Item = T>,
    mut each: impl FnMut(&mut String, T),
) {
    out.push(open);
    for (at, item) in items.enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        each(out, item);
    }
    out.push(close);
}

fn write_object(out: &mut String, object: &Object) {
    separated(out, ('{', '}'), object.0.iter(), |out, (name, field)| {
        write_text(out, name);
        out.push_str(": ");
        match field {
            Field::Plain(value) => write_value(out, value),
            Field::Object(object) => write_object(out, object),
            Field::List(list) => separated(out, ('[', ']'), list.iter(), write_object),
        }
    });
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            let _ = write!(out, "{value}");
        }
        Value::String(text) => write_text(out, text),
        Value::Array(items) => separated(out, ('[', ']'), items.iter(), write_value),
        Value::Object(map) => separated(out, ('{', '}'), map.iter(), |out, (name, value)| {
            write_text(out, name);
            out.push_str(": ");
            write_value(out, value);
        }),
    }
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_looks_like_python_wrote_it() {
        let mut inner = Object::default();
        inner.put("b", 1).put("a", Value::Null);
        let mut outer = Object::default();
        outer.put("z", json!([1, "x\n", {"k": true}])).put_object("o", inner.clone()).put_list("l", vec![inner]);
        assert_eq!(
            outer.dump(),
            r#"{"z": [1, "x\n", {"k": true}], "o": {"b": 1, "a": null}, "l": [{"b": 1, "a": null}]}"#
        );
        assert_eq!(dump(&json!("ä\u{1F600}\u{7f}\"\\")), r#""\u00e4\ud83d\ude00\u007f\"\\""#);
    }
}
