//! The settings as an operator sees them: name, value, unit, origin.

use super::Origin;
use super::keys::{self, Kind};
use super::layers::Merged;
use super::parameters::{OUR_DEFAULTS, SHARED};
use super::sections::host_port;
use super::value::{self, Typed};
use std::collections::BTreeMap;

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Full path, `postgresql.use_slots`.
    pub name: String,
    /// The value as text; hidden for passwords, empty when there is none.
    pub value: String,
    /// Unit of the value, empty if it has none.
    pub unit: &'static str,
    /// Where it comes from.
    pub origin: Origin,
}

/// Every setting, by name.
pub(super) fn all(merged: &Merged) -> Vec<Listed> {
    let mut out = Vec::new();
    for key in keys::KEYS {
        if !matches!(key.kind, Kind::Parameters | Kind::Dynamic) {
            let value = merged.get(key.path).map_or_else(|| default(key), |typed| shown(key.kind, typed));
            out.push(Listed {
                name: key.path.to_owned(),
                value,
                unit: unit(key.kind),
                origin: merged.origin(key.path),
            });
        }
    }
    let defaults = SHARED.iter().map(|shared| (shared.name, shared.default)).chain(OUR_DEFAULTS.iter().copied());
    let mut parameters: BTreeMap<&str, (&str, Origin)> = defaults.map(|(k, v)| (k, (v, Origin::Default))).collect();
    parameters
        .extend(merged.parameters.iter().map(|(name, (value, origin))| (name.as_str(), (value.as_str(), *origin))));
    for (name, (value, origin)) in parameters {
        let name = format!("postgresql.parameters.{name}");
        out.push(Listed { name, value: value.to_owned(), unit: "", origin });
    }
    for (name, (value, origin)) in &merged.connection_options {
        let value = if name.ends_with("sslpassword") { HIDDEN.to_owned() } else { value.clone() };
        out.push(Listed { name: format!("postgresql.authentication.{name}"), value, unit: "", origin: *origin });
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

const HIDDEN: &str = "(hidden)";

/// The default as the value that is in force, in the unit of the column.
fn default(key: &keys::Key) -> String {
    match key.kind {
        Kind::Size => super::units::bytes(key.default).map_or_else(String::new, |bytes| bytes.to_string()),
        _ => key.default.to_owned(),
    }
}

fn unit(kind: Kind) -> &'static str {
    match kind {
        Kind::Time(_) => "s",
        Kind::Size => "B",
        _ => "",
    }
}

fn shown(kind: Kind, typed: &Typed) -> String {
    match typed {
        Typed::Bool(set) => set.to_string(),
        Typed::Number(number) => number.to_string(),
        Typed::Millis(ms) if ms % 1000 == 0 => (ms / 1000).to_string(),
        Typed::Millis(ms) => format!("{}.{:03}", ms / 1000, ms % 1000),
        Typed::Bytes(bytes) => bytes.to_string(),
        Typed::Text(_) if kind == Kind::Secret => HIDDEN.to_owned(),
        Typed::Text(text) => text.clone(),
        Typed::Address(address) => host_port(address),
        Typed::Addresses(addresses) => addresses.iter().map(host_port).collect::<Vec<_>>().join(","),
        Typed::Lines(lines) => lines.join("\n"),
        Typed::Options(options) => options.iter().map(super::CommandOption::argument).collect::<Vec<_>>().join(" "),
        Typed::Map(map) => {
            let item = |(name, value): (&String, &serde_json::Value)| {
                format!("{name}: {}", value::scalar(value).unwrap_or_default())
            };
            map.iter().map(item).collect::<Vec<_>>().join(", ")
        }
    }
}
