//! Reading all keys of the cluster.

use super::failure::Failure;
use super::link::Link;
use super::shared::Shared;
use crate::ReadError;
use etcd_client::{GetOptions, KeyValue};
use ha_core::dcs::{RawCluster, RawKey};
use ha_core::ids::{LeaseId, Revision};

/// One linearizable read of everything under `base`.
pub(super) async fn cluster(link: &mut Link, shared: &Shared, base: &str) -> Result<RawCluster, Failure> {
    let asked = shared.asked();
    let answer = link.kv().get(base, Some(GetOptions::new().with_prefix())).await?;
    shared.check_since(answer.header(), asked)?;
    let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
    let keys = answer.kvs().iter().filter_map(|kv| Some((path(kv, base)?, raw(kv)))).collect();
    Ok(RawCluster { revision: Revision(revision), keys })
}

/// The path relative to `base`.
pub(super) fn path(kv: &KeyValue, base: &str) -> Option<String> {
    let rest = kv.key().strip_prefix(base.as_bytes())?;
    Some(String::from_utf8_lossy(rest).into_owned())
}

pub(super) fn raw(kv: &KeyValue) -> RawKey {
    RawKey {
        value: String::from_utf8_lossy(kv.value()).into_owned(),
        created: Revision(kv.create_revision()),
        modified: Revision(kv.mod_revision()),
        version: kv.version(),
        lease: (kv.lease() != 0).then(|| LeaseId(kv.lease())),
    }
}

pub(super) fn error(failure: Failure) -> ReadError {
    match failure {
        Failure::Denied(why) | Failure::Unauthenticated(why) | Failure::Foreign(why) => ReadError::Denied(why),
        other @ (Failure::NotDone(_) | Failure::Unclear(_) | Failure::LeaseGone) => {
            ReadError::Unreachable(other.to_string())
        }
    }
}
