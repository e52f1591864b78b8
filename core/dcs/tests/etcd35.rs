//! The etcd v3 store against etcd 3.5, which `scripts/etcd35.sh` fetches.
//!
//! Where it cannot be had these tests fail. `HA_ETCD35=skip` leaves them out on purpose, `HA_ETCD35=/path/to/etcd` names a server.

// Each test file uses a part of what the common modules offer.
#[allow(dead_code)]
mod conformance;
mod faults;
#[allow(dead_code)]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use support::backend::EtcdBackend;
use support::etcd::Etcd;

/// The server under test.
fn server() -> PathBuf {
    static SERVER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match SERVER.get_or_init(find) {
        Ok(path) => path.clone(),
        Err(why) => panic!("no etcd 3.5: {why}\nHA_ETCD35=skip leaves these tests out"),
    }
}

fn find() -> Result<PathBuf, String> {
    if let Ok(path) = std::env::var("HA_ETCD35") {
        return Ok(PathBuf::from(path));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/etcd35.sh");
    let output = Command::new(&script).output().map_err(|error| format!("{}: {error}", script.display()))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn left_out() -> bool {
    std::env::var("HA_ETCD35").is_ok_and(|value| value == "skip")
}

mod one_member {
    use super::*;
    suite!(async { EtcdBackend(Etcd::single().await) });
}

mod three_members {
    use super::*;
    suite!(async { EtcdBackend(Etcd::three().await) });
}
