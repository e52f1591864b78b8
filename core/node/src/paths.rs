//! Where the files of one node are. Names only; nothing here touches the disk.

use ha_core::ids::Timeline;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The paths that belong to one data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    data_dir: PathBuf,
    control_dir: PathBuf,
}

impl Paths {
    /// For a data directory, which must be given as an absolute path (a trailing slash does no harm).
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        // `components` drops trailing slashes and `.`, so that both seats derive the same names.
        let data_dir: PathBuf = data_dir.components().collect();
        let mut name = OsString::from(".");
        name.push(data_dir.file_name().unwrap_or_default());
        name.push(".ha_ext");
        let control_dir = data_dir.parent().unwrap_or(Path::new("/")).join(name);
        Self { data_dir, control_dir }
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The directory (0700) beside the data directory for what must survive its replacement.
    #[must_use]
    pub fn control_dir(&self) -> &Path {
        &self.control_dir
    }

    /// The socket on which the supervisor listens for the worker.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.control_dir.join("control.sock")
    }

    /// Present while a watchdog that this node has started was not stopped.
    #[must_use]
    pub fn watchdog(&self) -> PathBuf {
        self.control_dir.join("watchdog")
    }

    /// Locked by the supervisor: two of one data directory must not both run.
    #[must_use]
    pub fn supervisor_lock(&self) -> PathBuf {
        self.control_dir.join("supervisor.lock")
    }

    /// Present while a copy, a rewind or an initdb runs: the data directory is not whole. It lies outside it because those programs
    /// remove from there what their source does not have.
    #[must_use]
    pub fn unfinished(&self) -> PathBuf {
        self.control_dir.join("unfinished")
    }

    /// Present from before initdb until the store shows that this directory's cluster is founded: until then nothing was
    /// ever acknowledged in it.
    #[must_use]
    pub fn founding(&self) -> PathBuf {
        self.control_dir.join("founding")
    }

    /// `postgresql.conf` as of the last start that succeeded.
    #[must_use]
    pub fn started_conf(&self) -> PathBuf {
        self.control_dir.join("started.conf")
    }

    /// The local configuration that was last in force.
    #[must_use]
    pub fn last_good(&self) -> PathBuf {
        self.control_dir.join("configuration.json")
    }

    /// For how long promises may be given, in milliseconds.
    #[must_use]
    pub fn kept_ttl(&self) -> PathBuf {
        self.control_dir.join("promise_ttl")
    }

    /// The same where there is no control directory.
    #[must_use]
    pub fn kept_ttl_inside(&self) -> PathBuf {
        self.data_dir.join("ha_ext.promise_ttl")
    }

    /// Names of replication slots that are those of members.
    #[must_use]
    pub fn member_slots(&self) -> PathBuf {
        self.control_dir.join("member_slots.json")
    }

    /// `PATRONI_*` variables of the supervisor, for the worker.
    #[must_use]
    pub fn environment(&self) -> PathBuf {
        self.control_dir.join("environment.json")
    }

    /// This data directory belongs to a cluster.
    #[must_use]
    pub fn marker(&self) -> PathBuf {
        self.data_dir.join("ha_ext.marker")
    }

    /// Recovery settings that we write; included last by `postgresql.conf`.
    #[must_use]
    pub fn conf(&self) -> PathBuf {
        self.data_dir.join("ha_ext.conf")
    }

    /// Present while a rewind or a copy runs: found at start, the directory is damaged.
    #[must_use]
    pub fn rewinding(&self) -> PathBuf {
        self.data_dir.join("ha_ext.rewinding")
    }

    /// The dynamic configuration as last seen in the store.
    #[must_use]
    pub fn dynamic_config(&self) -> PathBuf {
        self.data_dir.join("patroni.dynamic.json")
    }

    /// Makes a standby promote at the next SIGUSR1 to the postmaster.
    #[must_use]
    pub fn promote(&self) -> PathBuf {
        self.data_dir.join("promote")
    }

    /// Makes a server start as a standby.
    #[must_use]
    pub fn standby_signal(&self) -> PathBuf {
        self.data_dir.join("standby.signal")
    }

    /// Makes a server restore from an archive when it starts.
    #[must_use]
    pub fn recovery_signal(&self) -> PathBuf {
        self.data_dir.join("recovery.signal")
    }

    /// This server was demoted in place, and its WAL was not compared with its successor's yet: it serves no reads.
    #[must_use]
    pub fn demoted(&self) -> PathBuf {
        self.data_dir.join("ha_ext.demoted")
    }

    /// The postmaster's lock file.
    #[must_use]
    pub fn postmaster_pid(&self) -> PathBuf {
        self.data_dir.join("postmaster.pid")
    }

    /// The history file of a timeline.
    #[must_use]
    pub fn timeline_history(&self, timeline: Timeline) -> PathBuf {
        self.data_dir.join("pg_wal").join(format!("{:08X}.history", timeline.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_seats_derive_the_same_names() {
        let paths = Paths::new(Path::new("/srv/pg/data/"));
        assert_eq!(paths, Paths::new(Path::new("/srv/pg/./data")));
        assert_eq!(paths.control_socket(), Path::new("/srv/pg/.data.ha_ext/control.sock"));
        assert_eq!(paths.timeline_history(Timeline(26)), Path::new("/srv/pg/data/pg_wal/0000001A.history"));
    }
}
