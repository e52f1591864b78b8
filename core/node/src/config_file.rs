//! Reads the local configuration: a YAML file, or a directory of them.

use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// Reads `path`. Of a directory, every `*.yml` and `*.yaml` is read in the order of the names and merged: mappings
/// merge, everything else is replaced by the later file.
pub fn load(path: &Path) -> Result<Value, LoadError> {
    Err(LoadError { path: path.to_owned(), message: "cannot be read yet".to_owned() })
}

/// The file that could not be read, and why, with line and column where there are any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}

impl std::error::Error for LoadError {}
