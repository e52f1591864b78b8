//! The server's configuration files, as `ha_core::pgconf` wants them. Written before every start.

use crate::error::{Error, Result};
use crate::pgdata;
use crate::site::Site;
use ha_core::local::Upstream;
use ha_core::pgconf;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Keeps what initdb (or the user) wrote: `postgresql.conf` includes it from now on.
pub const BASE_CONF: &str = "postgresql.base.conf";

/// Writes everything but the hand-over of the data directory itself (signals, marker).
pub fn write(site: &Site, upstream: Option<&Upstream>) -> Result<()> {
    write_static(site)?;
    pgdata::write_durably(&site.paths.conf(), &pgconf::ha_ext_conf(&site.config, upstream))
}

/// Writes what does not depend on whom the server follows.
pub fn write_static(site: &Site) -> Result<()> {
    let dir = site.data_dir();
    let main = dir.join("postgresql.conf");
    let base = dir.join(BASE_CONF);
    if !base.exists() && main.exists() {
        // A copy, not a rename: the server can be started at any moment in between.
        let text = read(&main)?;
        pgdata::write_durably(&base, &text)?;
    }
    pgdata::write_durably(&main, &pgconf::postgresql_conf(&site.config))?;
    if let Some(text) = pgconf::pg_hba(&site.config) {
        pgdata::write_durably(&dir.join("pg_hba.conf"), &text)?;
    }
    if let Some(text) = pgconf::pg_ident(&site.config) {
        pgdata::write_durably(&dir.join("pg_ident.conf"), &text)?;
    }
    let auto = dir.join("postgresql.auto.conf");
    if let Ok(text) = std::fs::read_to_string(&auto)
        && let Some(text) = pgconf::auto_conf_without_ours(&text)
    {
        pgdata::write_durably(&auto, &text)?;
    }
    write_pgpass(site)
}

/// Writes the password file, readable by us alone from its first byte.
pub fn write_pgpass(site: &Site) -> Result<()> {
    let path = &site.config.postgresql.pgpass;
    let text = pgconf::pgpass(&site.config);
    let wrong = || Error::io(|| format!("writing {}", path.display()));
    let private = std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode().trailing_zeros() >= 6);
    if private && std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let fresh = path.with_extension("ha_ext_new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh).map_err(wrong())?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(wrong())?;
    std::fs::rename(&fresh, path).map_err(wrong())
}

/// Takes our part out again, so that a server started by hand is the user's own.
pub fn detach(site: &Site) -> Result<()> {
    let dir = site.data_dir();
    let base = dir.join(BASE_CONF);
    if base.exists() {
        let text = read(&base)?;
        pgdata::write_durably(&dir.join("postgresql.conf"), &text)?;
        pgdata::remove_durably(&base)?;
    }
    pgdata::remove_durably(&site.paths.conf())
}

fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(|| format!("reading {}", path.display())))?;
    // The server takes any bytes in comments; what is not UTF-8 cannot be part of a setting of ours.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
