//! Members that freeze and die.

use crate::conformance::{TAKE, edit, kept, leader, won, written};
use crate::support::backend::options;
use crate::support::etcd::Etcd;
use crate::support::{run, timed};
use ha_core::clock::Millis;
use ha_core::dcs::{DcsCall, DcsReply, Expect, Key};
use ha_dcs::etcd3::Etcd3;
use ha_dcs::{ReadError, Store};

#[test]
fn a_frozen_member_costs_a_part_of_the_budget() {
    run(async {
        let etcd = Etcd::three().await;
        let mut store = Etcd3::connect(&options(etcd.hosts(), "a"));
        let lease = won(&mut store).await;
        etcd.freeze(0);
        let (took, lease) = timed(kept(&mut store, lease)).await;
        assert!(took < Millis(2_900), "{took}");
        // Once left, it is not asked again.
        let (took, _) = timed(kept(&mut store, lease)).await;
        assert!(took < Millis(500), "{took}");
    });
}

#[test]
fn a_dead_member_leaves_no_doubt() {
    run(async {
        let mut etcd = Etcd::three().await;
        let mut first = Etcd3::connect(&options(etcd.hosts(), "a"));
        written(&mut first, edit(Key::Initialize, "", Expect::Absent)).await;
        etcd.kill(0);
        etcd.wait_ready().await;
        // Nothing was listening there, so nothing can have happened there.
        let mut store = Etcd3::connect(&options(etcd.hosts(), "b"));
        assert_eq!(store.call(edit(Key::Initialize, "", Expect::Absent)).await, DcsReply::Conflict);
        won(&mut store).await;
        assert_eq!(first.call(TAKE).await, DcsReply::Lost);
    });
}

#[test]
fn a_store_without_quorum_is_unknown_in_time() {
    run(async {
        let etcd = Etcd::three().await;
        let mut store = Etcd3::connect(&options(etcd.hosts(), "a"));
        let lease = won(&mut store).await;
        etcd.freeze(1);
        etcd.freeze(2);
        let (took, reply) = timed(store.call(DcsCall::RenewLeader(lease))).await;
        assert!(matches!(reply, DcsReply::Unknown(_)), "{reply:?}");
        assert!((Millis(2_500)..Millis(3_500)).contains(&took), "{took}");
        let (took, read) = timed(store.snapshot()).await;
        assert!(matches!(read, Err(ReadError::Unreachable(_))), "{read:?}");
        assert!(took < Millis(3_500), "{took}");
        etcd.thaw(1);
        etcd.thaw(2);
        etcd.wait_ready().await;
        let renewed = kept(&mut store, lease).await;
        assert!(renewed.sent_at > lease.sent_at);
    });
}

#[test]
fn a_deposed_leader_of_the_store_confirms_nothing() {
    run(async {
        let etcd = Etcd::three().await;
        let old = etcd.leader().await;
        let others: Vec<usize> = (0..3).filter(|index| *index != old).collect();
        let mut hosts = vec![etcd.host(old)];
        hosts.extend(others.iter().map(|index| etcd.host(*index)));
        let mut store = Etcd3::connect(&options(hosts, "a"));
        let lease = won(&mut store).await;
        etcd.freeze(old);
        let lease = kept(&mut store, lease).await;
        // It wakes up believing that it still leads, and nobody is there to tell it otherwise.
        for index in &others {
            etcd.freeze(*index);
        }
        etcd.thaw(old);
        let mut alone = Etcd3::connect(&options(vec![etcd.host(old)], "a"));
        let reply = alone.call(DcsCall::RenewLeader(lease)).await;
        assert!(matches!(reply, DcsReply::Unknown(_)), "{reply:?}");
        let reply = store.call(DcsCall::RenewLeader(lease)).await;
        assert!(matches!(reply, DcsReply::Unknown(_)), "{reply:?}");
        for index in &others {
            etcd.thaw(*index);
        }
        etcd.wait_ready().await;
        kept(&mut store, lease).await;
    });
}

#[test]
fn a_store_that_comes_back_is_found_at_once() {
    run(async {
        let mut etcd = Etcd::single().await;
        let mut store = Etcd3::connect(&options(etcd.hosts(), "a"));
        let lease = won(&mut store).await;
        etcd.kill(0);
        let reply = store.call(DcsCall::RenewLeader(lease)).await;
        assert!(matches!(reply, DcsReply::Unknown(_)), "{reply:?}");
        let reply = store.call(TAKE).await;
        assert!(matches!(reply, DcsReply::Unknown(_)), "{reply:?}");
        etcd.spawn(0);
        etcd.wait_ready().await;
        let (took, _) = timed(kept(&mut store, lease)).await;
        assert!(took < Millis(500), "{took}");
        assert_eq!(leader(&mut store).await.as_deref(), Some("a"));
    });
}

#[test]
fn members_that_are_not_configured_are_found() {
    run(async {
        let mut etcd = Etcd::three().await;
        let mut store = Etcd3::connect(&options(vec![etcd.host(0)], "a"));
        let mut watcher = store.watcher();
        // The watcher asks for the members' addresses, for both.
        ha_dcs::Watch::next(&mut watcher).await;
        let lease = won(&mut store).await;
        etcd.kill(0);
        etcd.wait_ready().await;
        kept(&mut store, lease).await;
        assert_eq!(leader(&mut store).await.as_deref(), Some("a"));
    });
}
