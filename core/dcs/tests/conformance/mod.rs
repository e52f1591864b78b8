//! What every store must do, whatever it is made of. A store joins by implementing [`Backend`] and calling
//! [`suite`](crate::suite) in its own test file.

pub mod edits;
pub mod leadership;
pub mod sessions;
pub mod watching;

use crate::support::sleep_ms;
use ha_core::clock::Millis;
use ha_core::cluster::Released;
use ha_core::dcs::{DcsCall, DcsReply, Expect, Key, KeyEdit, LEADER_PATH, RawCluster};
use ha_core::ids::{NodeName, Revision};
use ha_core::lease::Lease;
use ha_dcs::{Store, Watch, WatchEvent};
use std::time::Duration;

/// Takes the leader key whatever was seen before.
pub const TAKE: DcsCall = DcsCall::AcquireLeader { seen: Revision(i64::MAX), claim: None, edition: None };

/// One real server (or cluster of servers) of the store under test, empty at first.
pub trait Backend {
    type Store: Store;
    type Watch: Watch;

    /// The smallest time to live the store grants, rounded up to what a test can wait for.
    const TTL: Millis;

    /// A node of the cluster. `ttl` and a `retry_timeout` of 3 s.
    fn node(&self, name: &str, ttl: Millis) -> (Self::Store, Self::Watch);

    /// What an operator's tool does behind our back: writes a key of the cluster, without a lease.
    async fn tool_put(&self, path: &str, value: &str);

    /// Deletes a key of the cluster.
    async fn tool_delete(&self, path: &str);
}

/// The tests of the suite, one `#[test]` each.
#[macro_export]
macro_rules! suite {
    ($start:expr) => {
        $crate::suite!(@cases $start,
            leadership: one_of_two_wins, acquiring_again_finds_our_own_key, renewing_counts_from_sending,
                renewing_never_creates, an_overwritten_key_is_lost, a_deleted_and_remade_key_is_lost,
                adopting_keeps_the_create_revision, adopting_needs_what_was_seen, taking_is_recorded,
                an_old_view_takes_nothing,
                a_record_that_was_put_back_is_another_writing,
                the_key_and_a_timeline_are_taken_together_or_not_at_all, only_a_key_without_a_lease_is_removed, releasing_announces,
                releasing_a_foreign_key_does_nothing;
            edits: absent_is_won_once, unchanged_is_compare_and_swap, only_the_leader_writes_as_leader,
                our_member_key_comes_back, leased_keys_vanish, paths_are_relative;
            sessions: a_lease_ends_when_nobody_keeps_it, a_session_is_kept_and_resumed, an_ended_session_is_granted_anew,
                a_changed_ttl_moves_the_keys, a_changed_ttl_moves_a_follower;
            watching: the_watch_begins_with_what_is_there, the_watch_tells_every_change,
                the_watch_agrees_with_the_snapshot, the_watch_is_cancel_safe;
        );
    };
    (@cases $start:expr, $($module:ident: $($case:ident),*;)*) => {
        $($(
            #[test]
            fn $case() {
                $crate::support::run(async {
                    let backend = $start.await;
                    $crate::conformance::$module::$case(&backend).await;
                });
            }
        )*)*
    };
}

pub async fn won(store: &mut impl Store) -> Lease {
    match store.call(TAKE).await {
        DcsReply::Won(lease) => lease,
        other => panic!("the key was free, but: {other:?}"),
    }
}

pub async fn kept(store: &mut impl Store, lease: Lease) -> Lease {
    match store.call(DcsCall::RenewLeader(lease)).await {
        DcsReply::Kept(lease) => lease,
        other => panic!("the key is ours, but: {other:?}"),
    }
}

pub fn released(name: &str, lease: Lease) -> DcsCall {
    let created = lease.leader_created;
    let announce = Released::by(NodeName::new(name), lease.id, created);
    DcsCall::ReleaseLeader { lease, announce, status: Some(r#"{"optime":5}"#.to_owned()) }
}

pub fn edit(key: Key, value: &str, expect: Expect) -> DcsCall {
    DcsCall::Write(KeyEdit { key, value: Some(value.to_owned()), expect, leased: false })
}

pub fn delete(key: Key, expect: Expect) -> DcsCall {
    DcsCall::Write(KeyEdit { key, value: None, expect, leased: false })
}

pub fn member(name: &str, value: &str) -> DcsCall {
    let key = Key::Member(NodeName::new(name));
    DcsCall::Write(KeyEdit { key, value: Some(value.to_owned()), expect: Expect::Own, leased: true })
}

pub async fn written(store: &mut impl Store, call: DcsCall) -> Revision {
    match store.call(call.clone()).await {
        DcsReply::Written(revision) => revision,
        other => panic!("{call:?} should be written, but: {other:?}"),
    }
}

pub async fn snapshot(store: &mut impl Store) -> RawCluster {
    store.snapshot().await.expect("the store answers")
}

pub async fn value(store: &mut impl Store, path: &str) -> Option<String> {
    snapshot(store).await.keys.get(path).map(|key| key.value.clone())
}

pub async fn leader(store: &mut impl Store) -> Option<String> {
    value(store, LEADER_PATH).await
}

/// The next event that shows what is waited for.
pub async fn until(watch: &mut impl Watch, what: impl Fn(&WatchEvent) -> bool) -> WatchEvent {
    let wait = async {
        loop {
            let event = watch.next().await;
            if what(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the event comes")
}

/// The next cluster that has a property.
pub async fn changed_to(watch: &mut impl Watch, what: impl Fn(&RawCluster) -> bool) -> RawCluster {
    match until(watch, |event| matches!(event, WatchEvent::Changed(raw) if what(raw))).await {
        WatchEvent::Changed(raw) => raw,
        WatchEvent::Lost(_) | WatchEvent::Restored => unreachable!("only Changed was waited for"),
    }
}

/// Polls until a condition holds.
pub async fn eventually<S: Store>(store: &mut S, limit_ms: u64, what: impl Fn(&RawCluster) -> bool) -> RawCluster {
    let mut waited = 0;
    loop {
        let now = snapshot(store).await;
        if what(&now) {
            return now;
        }
        assert!(waited < limit_ms, "not within {limit_ms} ms: {now:?}");
        sleep_ms(50).await;
        waited += 50;
    }
}
