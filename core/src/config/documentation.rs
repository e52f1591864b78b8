//! The tables of `docs/configuration.md`, from the same table that checks the configuration.

use super::keys::{KEYS, Kind, Layer, NOT_BUILT};
use super::parameters::{Accepts, OUR_DEFAULTS, OURS, SHARED};
use std::fmt::Write;

/// What stands in `docs/configuration.md` below its first marker.
#[must_use]
pub fn tables() -> String {
    let mut out = String::new();
    keys(&mut out);
    parameters(&mut out);
    not_built(&mut out);
    out
}

fn keys(out: &mut String) {
    out.push_str("## Keys\n\n| key | value | default | set in | variable | meaning |\n|---|---|---|---|---|---|\n");
    for key in KEYS {
        let layer = match key.layer {
            Layer::Local => "file",
            Layer::Store => "store",
            Layer::Any => "store, file",
        };
        let env = if key.env.is_empty() { String::new() } else { format!("`PATRONI_{}`", key.env) };
        let value = match key.kind {
            Kind::Secret => "text, never shown".to_owned(),
            kind => kind.expected(),
        };
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {layer} | {env} | {} |",
            key.path,
            value.replace('|', "\\|"),
            key.default,
            key.about
        );
    }
    out.push_str(
        "\n`postgresql.authentication.{superuser,replication,rewind}` also take libpq's `sslmode`, `sslkey`, \
         `sslpassword`, `sslcert`, `sslrootcert`,\n`sslcrl`, `sslcrldir`, `sslnegotiation`, `gssencmode` and \
         `channel_binding` (`PATRONI_REPLICATION_SSLMODE`, ...). Older names `master_start_timeout`\nand \
         `master_stop_timeout` are read as `primary_...`.\n\n",
    );
}

fn parameters(out: &mut String) {
    out.push_str(
        "## Server parameters\n\nThese must be equal on all members, so only the dynamic configuration sets them; \
         a value that is not accepted falls back to the default with a warning.\n\n\
         | parameter | default | accepted |\n|---|---|---|\n",
    );
    for shared in SHARED {
        let accepts = match shared.accepts {
            Accepts::AtLeast(min) => format!("at least {min}"),
            Accepts::MegabytesAtLeast(min) => format!("at least {min}MB"),
            Accepts::Word(words) => words.join(", "),
        };
        let _ = writeln!(out, "| `{}` | {} | {accepts} |", shared.name, shared.default);
    }
    out.push_str("\nDefaults of ours that any layer may change:");
    for (name, value) in OUR_DEFAULTS {
        let _ = write!(out, " `{name} = {value}`");
    }
    out.push_str(
        ".\n`shared_preload_libraries` always begins with `ha_ext`; libraries of yours follow it.\n\n\
         Never taken from the configuration, with a warning if they stand there:\n\n| parameter | why |\n|---|---|\n",
    );
    for (name, why) in OURS {
        let _ = writeln!(out, "| `{name}` | {why} |");
    }
    out.push('\n');
}

fn not_built(out: &mut String) {
    out.push_str(
        "## Known, but not built yet\n\nPatroni has these keys; here they are accepted with a warning that names them \
         and have no effect (no warning if\nthe value asks for nothing, such as `off` or an empty list).\n\n\
         | key | what happens instead |\n|---|---|\n",
    );
    for entry in NOT_BUILT {
        let below = if entry.path == "log" { " (all but `log.level`)" } else { "" };
        let _ = writeln!(out, "| `{}`{below} | {} |", entry.path, entry.instead);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: &str = "<!-- generated from core/src/config/keys.rs -->\n";

    #[test]
    fn the_documentation_has_every_key() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let text = std::fs::read_to_string(path).expect("docs/configuration.md");
        let (above, below) = text.split_once(MARKER).expect("the marker");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, format!("{above}{MARKER}{}", tables())).expect("docs/configuration.md");
            return;
        }
        assert!(
            below == tables(),
            "docs/configuration.md is stale: run UPDATE_DOCS=1 cargo test -p ha_core documentation"
        );
    }
}
