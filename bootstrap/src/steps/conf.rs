//! The server's configuration files, as `ha_core::pgconf` wants them. Written before every start.

use crate::error::{Error, Result};
use crate::pgdata;
use crate::site::Site;
use ha_core::local::Upstream;
use ha_core::pgconf;
use ha_node::server_files;

pub use ha_core::pgconf::BASE_CONF;

/// Writes everything but the hand-over of the data directory itself (signals, marker).
pub fn write(site: &Site, upstream: Option<&Upstream>) -> Result<()> {
    write_static(site)?;
    // The running server might be writing this one itself.
    let auto = site.data_dir().join("postgresql.auto.conf");
    if let Ok(text) = std::fs::read_to_string(&auto)
        && let Some(text) = pgconf::auto_conf_without_ours(&text)
    {
        pgdata::write_durably(&auto, &text)?;
    }
    pgdata::write_durably(&site.paths.conf(), &pgconf::ha_ext_conf(&site.config, upstream))
}

/// Writes what does not depend on whom the server follows.
pub fn write_static(site: &Site) -> Result<()> {
    let refused = server_files::still_refused(&site.paths, &site.config);
    server_files::write(&site.paths, &site.config, &refused)
        .map(|_| ())
        .map_err(Error::io(|| format!("writing the server's configuration in {}", site.data_dir().display())))
}

/// Writes the password file.
pub fn write_pgpass(site: &Site) -> Result<()> {
    let path = &site.config.postgresql.pgpass;
    server_files::write_pgpass(&site.config).map_err(Error::io(|| format!("writing {}", path.display())))
}
