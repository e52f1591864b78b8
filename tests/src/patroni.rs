//! Patroni from a virtual environment, for patronictl and for comparison.

use crate::daemon::run;
use crate::scratch::Scratch;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where `scripts/patroni.sh` put it.
fn venv() -> PathBuf {
    std::env::var_os("HA_PATRONI_VENV")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/patroni"), PathBuf::from)
}

/// The same, where user postgres can read it: a checkout need not be such a place.
fn readable_venv() -> &'static Path {
    static READABLE: OnceLock<(PathBuf, Option<Scratch>)> = OnceLock::new();
    let (path, _) = READABLE.get_or_init(|| {
        let venv = venv();
        let program = venv.join("bin/patroni").to_string_lossy().into_owned();
        let as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"];
        if run(&[&as_postgres[..], &["test", "-r", &program]].concat()).is_ok() {
            return (venv, None);
        }
        let scratch = Scratch::new();
        let copy = scratch.path().join("patroni");
        let (from, to) = (venv.to_string_lossy().into_owned(), copy.to_string_lossy().into_owned());
        run(&["cp", "-a", &from, &to]).unwrap_or_else(|error| panic!("{error}"));
        (copy, Some(scratch))
    });
    path
}

fn words(venv: &Path, program: &str) -> Vec<String> {
    let bin = venv.join("bin");
    assert!(bin.join(program).exists(), "no {program} in {}: run scripts/patroni.sh", bin.display());
    // Through the interpreter, since a script's first line names the place where it was installed.
    [bin.join("python"), bin.join(program)].iter().map(|path| path.to_string_lossy().into_owned()).collect()
}

/// The command line that begins one of its programs, for user postgres.
#[must_use]
pub fn command(program: &str) -> Vec<String> {
    words(readable_venv(), program)
}

/// Runs patronictl with a node's file.
pub fn patronictl(file: &Path, arguments: &[&str]) -> Result<String, String> {
    let program = words(&venv(), "patronictl");
    let file = file.to_string_lossy().into_owned();
    let mut all: Vec<&str> = program.iter().map(String::as_str).collect();
    all.extend(["-c", &file]);
    all.extend(arguments);
    run(&all)
}
