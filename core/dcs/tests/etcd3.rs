//! The etcd v3 store against the etcd of the distribution (3.4 on Debian 12).

// Each test file uses a part of what the common modules offer.
#[allow(dead_code)]
mod conformance;
mod faults;
#[allow(dead_code)]
mod support;

use std::path::PathBuf;
use support::backend::EtcdBackend;
use support::etcd::Etcd;

/// The server under test.
fn server() -> PathBuf {
    PathBuf::from("etcd")
}

fn left_out() -> bool {
    false
}

mod one_member {
    use super::*;
    suite!(async { EtcdBackend(Etcd::single().await) });
}

mod three_members {
    use super::*;
    suite!(async { EtcdBackend(Etcd::three().await) });
}
