//! Makes a stopped server an ordinary one again.

use crate::error::{Error, Result};
use crate::pgdata;
use crate::postmaster::{Postmaster, tenancy_free};
use crate::steps::conf::BASE_CONF;
use ha_node::paths::Paths;
use std::fmt::Write;
use std::path::Path;

/// Takes the marker and our part of the configuration out. Says what it did.
pub fn detach(data_dir: &Path) -> Result<Vec<String>> {
    let paths = Paths::new(data_dir);
    let dir = paths.data_dir();
    if !dir.join("PG_VERSION").exists() {
        return Err(Error::Refused(format!("{} is no data directory", dir.display())));
    }
    if let Some(postmaster) = Postmaster::adopt(dir) {
        let why = format!("the server runs (process {}): stop it, and its supervisor, first", postmaster.pid());
        return Err(Error::Refused(why));
    }
    if !tenancy_free(dir) {
        return Err(Error::Refused(format!("processes of a dead server still work in {}", dir.display())));
    }
    if paths.rewinding().exists() || paths.unfinished().exists() {
        let why = format!("{} is not whole: an earlier rewind or copy was interrupted", dir.display());
        return Err(Error::Refused(why));
    }
    let mut done = Vec::new();
    // The marker last: without it a server with our library is unfenced, with it and without configuration fenced.
    restore_configuration(&paths, &mut done)?;
    let ours = [
        paths.conf(),
        paths.dynamic_config(),
        paths.promote(),
        paths.demoted(),
        paths.founding(),
        paths.kept_ttl(),
        paths.kept_ttl_inside(),
        paths.marker(),
    ];
    for path in ours {
        if path.exists() {
            pgdata::remove_durably(&path)?;
            done.push(format!("removed {}", path.display()));
        }
    }
    if paths.standby_signal().exists() {
        done.push(format!(
            "left {}: the server starts as a standby that follows nobody",
            paths.standby_signal().display()
        ));
    }
    Ok(done)
}

fn restore_configuration(paths: &Paths, done: &mut Vec<String>) -> Result<()> {
    let main = paths.data_dir().join("postgresql.conf");
    let base = paths.data_dir().join(BASE_CONF);
    let source = if base.exists() { &base } else { &main };
    let bytes = std::fs::read(source).map_err(Error::io(|| format!("reading {}", source.display())))?;
    let text = String::from_utf8_lossy(&bytes);
    let ours_gone = without_ours(&text);
    if source == &base || ours_gone != text {
        pgdata::write_durably(&main, &ours_gone)?;
        done.push(format!("restored {}", main.display()));
    }
    pgdata::remove_durably(&base)
}

/// A configuration file without the lines that load us.
fn without_ours(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let bare = line.trim_start();
        if bare.starts_with("ha_ext.") || (bare.starts_with("include") && bare.contains("ha_ext.conf")) {
            continue;
        }
        match bare.strip_prefix("shared_preload_libraries") {
            Some(value) if bare.contains("ha_ext") => {
                let value = value.split('#').next().unwrap_or_default();
                let listed = value.trim().trim_start_matches('=').trim().trim_matches('\'');
                let kept: Vec<&str> =
                    listed.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != "ha_ext").collect();
                let _ = writeln!(out, "shared_preload_libraries = '{}'", kept.join(", "));
            }
            Some(_) | None => out.push_str(line),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::without_ours;

    #[test]
    fn our_lines_go_and_all_others_stay() {
        let text = "port = 1\nshared_preload_libraries = 'pg_stat_statements, ha_ext' # x\n\
                    include_if_exists 'ha_ext.conf'\nha_ext.config_file = '/x'\n# ha_ext is mentioned\n";
        let kept = "port = 1\nshared_preload_libraries = 'pg_stat_statements'\n# ha_ext is mentioned\n";
        assert_eq!(without_ours(text), kept);
        assert_eq!(without_ours("shared_preload_libraries = 'other'\n"), "shared_preload_libraries = 'other'\n");
    }
}
