//! Where everything of this node lies: what every step needs, derived from the configuration once.

use crate::error::{Error, Result};
use ha_core::config::Config;
use ha_node::paths::Paths;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// One node's places and configuration. Cheap to clone: a step takes one along.
#[derive(Clone, Debug)]
pub struct Site {
    /// The configuration in force when it was made.
    pub config: Arc<Config>,
    /// The YAML, absolute: the server reads the same one.
    pub config_file: PathBuf,
    /// The files of this data directory.
    pub paths: Paths,
}

impl Site {
    /// Derives the places.
    #[must_use]
    pub fn new(config: Arc<Config>, config_file: PathBuf) -> Self {
        let paths = Paths::new(&config.postgresql.data_dir);
        Self { config, config_file, paths }
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.paths.data_dir()
    }

    /// A program of the server's installation.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        match &self.config.postgresql.bin_dir {
            Some(dir) => dir.join(name),
            None => PathBuf::from(name),
        }
    }

    /// A command that connects somewhere: it finds its passwords in the file we wrote, and never asks.
    #[must_use]
    pub fn client(&self, name: &str) -> Command {
        let mut command = Command::new(self.program(name));
        command.env("PGPASSFILE", &self.config.postgresql.pgpass);
        for variable in ["PGOPTIONS", "PGSERVICE", "PGSERVICEFILE", "PGPASSWORD", "PGHOST", "PGPORT", "PGUSER"] {
            command.env_remove(variable);
        }
        command.env_remove("PGDATABASE").env_remove("PGDATA");
        command
    }

    /// A command that works on the data directory itself.
    #[must_use]
    pub fn local(&self, name: &str) -> Command {
        let mut command = Command::new(self.program(name));
        command.env_remove("PGDATA");
        command
    }

    /// The mark that says a copy or rewind is under way.
    #[must_use]
    pub fn unfinished_mark(&self) -> PathBuf {
        self.paths.unfinished()
    }

    /// Output of the server until its own log takes over.
    #[must_use]
    pub fn server_log(&self) -> PathBuf {
        self.paths.control_dir().join("postgres.log")
    }

    /// The program that a step runs now, for the supervisor that comes after us.
    #[must_use]
    pub fn step_note(&self) -> PathBuf {
        self.paths.control_dir().join("step.pid")
    }

    /// WAL that could not be archived before it would have been removed.
    #[must_use]
    pub fn unarchived(&self) -> PathBuf {
        self.paths.control_dir().join("unarchived")
    }

    /// Makes the control directory, for us alone.
    pub fn make_control_dir(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        let dir = self.paths.control_dir();
        if dir.is_dir() {
            return Ok(());
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(Error::io(|| format!("making the directory {}", dir.display())))
    }
}
