//! Answers that are late, lost, or not from our store.

use crate::conformance::{TAKE, edit, kept, leader, member, released, snapshot, won, written};
use crate::support::backend::{only_through, options};
use crate::support::etcd::Etcd;
use crate::support::proxy::Proxy;
use crate::support::{clock, run, sleep_ms, timed};
use ha_core::clock::Millis;
use ha_core::dcs::{DcsCall, DcsReply, Expect, Key, KeyEdit, LAST_LEADER_PATH, LEADER_PATH};
use ha_core::ids::Timeline;
use ha_core::lease::Lease;
use ha_dcs::etcd3::{Etcd3, Options};
use ha_dcs::{ReadError, Store, Watch, WatchEvent};
use std::time::Duration;

/// The first host is reached through the proxy, the second directly: what is stuck at the first is repeated at the second.
async fn behind_a_proxy(etcd: &Etcd) -> (Proxy, Etcd3) {
    let proxy = Proxy::start(etcd.port(0)).await;
    let mut store = Etcd3::connect(&options(vec![proxy.host(), etcd.host(0)], "a"));
    let reply = store.call(DcsCall::KeepSession).await;
    assert!(matches!(reply, DcsReply::SessionKept { .. }), "{reply:?}");
    (proxy, store)
}

#[test]
fn a_lost_answer_is_unknown_and_then_ours() {
    run(async {
        let etcd = Etcd::single().await;
        let proxy = Proxy::start(etcd.port(0)).await;
        let mut store = Etcd3::connect(&only_through(proxy.host(), "a"));
        store.call(DcsCall::KeepSession).await;
        proxy.hold_answers(true);
        let (took, reply) = timed(store.call(TAKE)).await;
        assert!(matches!(reply, DcsReply::Unknown(_)), "{reply:?}");
        assert!(took < Millis(3_500), "{took}");
        let mut witness = Etcd3::connect(&options(etcd.hosts(), "b"));
        let made = snapshot(&mut witness).await.keys[LEADER_PATH].created;
        proxy.hold_answers(false);
        assert_eq!(won(&mut store).await.leader_created, made);
    });
}

#[test]
fn an_acquisition_whose_answer_is_lost_is_recognised() {
    run(async {
        let etcd = Etcd::single().await;
        let (proxy, mut store) = behind_a_proxy(&etcd).await;
        proxy.hold_answers(true);
        let lease = won(&mut store).await;
        assert_eq!(leader(&mut store).await.as_deref(), Some("a"));
        // The lease may be used by the attempt that was given up: it is replaced, and the leader key goes along.
        let new = kept(&mut store, lease).await;
        assert_ne!(new.id, lease.id);
        assert_eq!(new.leader_created, lease.leader_created);
        assert_eq!(kept(&mut store, new).await.id, new.id);
    });
}

type Expected = fn(&DcsReply) -> bool;

#[test]
fn a_write_whose_answer_is_lost_is_never_a_proven_failure() {
    run(async {
        let etcd = Etcd::single().await;
        let expectations: [(DcsCall, Expected); 4] = [
            // Two bootstraps would write the same: nobody knows whose it is.
            (edit(Key::Initialize, "", Expect::Absent), |reply| matches!(reply, DcsReply::Unknown(_))),
            (edit(Key::TimelineClaim(Timeline(2)), "mine", Expect::Absent), |reply| {
                matches!(reply, DcsReply::Written(_))
            }),
            (member("a", "1"), |reply| matches!(reply, DcsReply::Written(_))),
            (
                DcsCall::Write(KeyEdit {
                    key: Key::Failover,
                    value: Some(String::new()),
                    expect: Expect::Absent,
                    leased: true,
                }),
                |reply| matches!(reply, DcsReply::Written(_)),
            ),
        ];
        for (call, expected) in expectations {
            let (proxy, mut store) = behind_a_proxy(&etcd).await;
            proxy.hold_answers(true);
            let reply = store.call(call.clone()).await;
            assert!(expected(&reply), "{call:?}: {reply:?}");
        }
    });
}

#[test]
fn a_late_acquisition_does_not_bring_the_key_back() {
    run(async {
        let etcd = Etcd::single().await;
        for delivered_first in [false, true] {
            let (proxy, mut store) = behind_a_proxy(&etcd).await;
            proxy.hold_then_lose_requests();
            let lease = won(&mut store).await;
            assert_eq!(store.call(released("a", lease)).await, DcsReply::Released);
            if delivered_first {
                // The request that was given up arrives after all.
                proxy.hold_requests(false);
                sleep_ms(200).await;
            }
            let reply = store.call(DcsCall::KeepSession).await;
            assert!(matches!(reply, DcsReply::SessionKept { lease: id, .. } if id != lease.id), "{reply:?}");
            proxy.hold_requests(false);
            sleep_ms(200).await;
            assert_eq!(leader(&mut store).await, None, "delivered before the lease was replaced: {delivered_first}");
        }
    });
}

/// A leader whose move to another lease was given up and is still under way, and the proxy that holds it back.
async fn with_a_move_under_way(etcd: &Etcd) -> (Proxy, Etcd3, Lease) {
    let (first, second) = (Proxy::start(etcd.port(0)).await, Proxy::start(etcd.port(0)).await);
    let hosts = vec![first.host(), second.host()];
    let mut store = Etcd3::connect(&Options { discover: false, ..options(hosts, "a") });
    let lease = won(&mut store).await;
    let lease = kept(&mut store, lease).await;
    // The only request of a renewal that names this record is the move. It cannot be repeated at the second host.
    first.hold_then_lose_from(LAST_LEADER_PATH);
    second.refuse(true);
    store.set_ttl(Millis(12_000));
    let renewed = kept(&mut store, lease).await;
    assert!(first.holds_requests(), "the move was sent");
    assert_eq!((renewed.id, renewed.ttl), (lease.id, Millis(10_000)), "it counts for the shorter of both");
    second.refuse(false);
    (first, store, renewed)
}

#[test]
fn a_late_move_to_another_lease_leaves_a_renewed_key_where_it_is() {
    run(async {
        let etcd = Etcd::single().await;
        let mut witness = Etcd3::connect(&options(etcd.hosts(), "b"));
        for by_another_process in [false, true] {
            let (proxy, mut store, lease) = with_a_move_under_way(&etcd).await;
            let before = snapshot(&mut witness).await.keys[LEADER_PATH].clone();
            let mut renewing = if by_another_process {
                Etcd3::connect(&options(etcd.hosts(), "a"))
            } else {
                // Nothing is left to be done: the setting is as it was.
                store.set_ttl(Millis(10_000));
                store
            };
            let renewed = kept(&mut renewing, lease).await;
            assert_eq!(renewed.id, lease.id);
            let renewed_key = snapshot(&mut witness).await.keys[LEADER_PATH].clone();
            assert_eq!((renewed_key.created, &renewed_key.value), (before.created, &before.value));
            proxy.hold_requests(false);
            sleep_ms(300).await;
            let after = snapshot(&mut witness).await.keys[LEADER_PATH].clone();
            assert_eq!(after.lease, Some(renewed.id), "by another process: {by_another_process}");
            // Once is enough.
            let renewed = kept(&mut renewing, renewed).await;
            assert_eq!(snapshot(&mut witness).await.keys[LEADER_PATH], after);
            assert_eq!(renewing.call(released("a", renewed)).await, DcsReply::Released);
        }
    });
}

#[test]
fn a_late_move_to_another_lease_is_followed_by_the_next_renewal() {
    run(async {
        let etcd = Etcd::single().await;
        let (proxy, mut store, lease) = with_a_move_under_way(&etcd).await;
        proxy.hold_requests(false);
        sleep_ms(300).await;
        let mut witness = Etcd3::connect(&options(etcd.hosts(), "b"));
        let moved = snapshot(&mut witness).await.keys[LEADER_PATH].lease;
        assert_ne!(moved, Some(lease.id));
        let renewed = kept(&mut store, lease).await;
        assert_eq!((Some(renewed.id), renewed.ttl), (moved, Millis(12_000)));
        assert_eq!(renewed.leader_created, lease.leader_created);
    });
}

#[test]
fn whoever_only_keeps_the_lease_of_the_other_side_leaves_its_leader_key_there() {
    run(async {
        let etcd = Etcd::single().await;
        let mut store = Etcd3::connect(&options(etcd.hosts(), "a"));
        let lease = won(&mut store).await;
        written(&mut store, member("a", "1")).await;
        let before = snapshot(&mut store).await;
        // By a shorter lease the key would end before the fence of the other side closes.
        let mut other_side = Etcd3::connect(&Options { ttl: Millis(5_000), ..options(etcd.hosts(), "a") });
        other_side.resume_session(lease.id);
        let reply = other_side.call(DcsCall::KeepSession).await;
        assert!(matches!(reply, DcsReply::SessionKept { lease: id, .. } if id == lease.id), "{reply:?}");
        assert_eq!(snapshot(&mut store).await.keys, before.keys);
        let renewed = kept(&mut store, lease).await;
        assert_eq!(renewed.id, lease.id);
        assert_eq!(store.call(released("a", renewed)).await, DcsReply::Released);
        let reply = other_side.call(DcsCall::KeepSession).await;
        assert!(matches!(reply, DcsReply::SessionKept { lease: id, .. } if id != lease.id), "{reply:?}");
    });
}

#[test]
fn the_first_renewal_of_a_process_writes_the_leader_key_as_it_is() {
    run(async {
        let etcd = Etcd::single().await;
        let mut store = Etcd3::connect(&options(etcd.hosts(), "a"));
        let lease = won(&mut store).await;
        let made = snapshot(&mut store).await.keys[LEADER_PATH].clone();
        let lease = kept(&mut store, lease).await;
        assert_eq!(snapshot(&mut store).await.keys[LEADER_PATH], made);
        // The seat comes from the other side, which may have given up a move.
        store.resume_session(lease.id);
        let lease = kept(&mut store, lease).await;
        let written = snapshot(&mut store).await.keys[LEADER_PATH].clone();
        assert!(written.modified > made.modified, "{written:?}");
        assert_eq!((written.created, written.lease, &written.value), (made.created, made.lease, &made.value));
        kept(&mut store, lease).await;
        assert_eq!(snapshot(&mut store).await.keys[LEADER_PATH], written);
    });
}

#[test]
fn a_late_member_record_does_not_undo_a_newer_one() {
    run(async {
        let etcd = Etcd::single().await;
        let (proxy, mut store) = behind_a_proxy(&etcd).await;
        written(&mut store, member("a", "1")).await;
        proxy.hold_then_lose_requests();
        written(&mut store, member("a", "2")).await;
        written(&mut store, member("a", "3")).await;
        proxy.hold_requests(false);
        sleep_ms(200).await;
        assert_eq!(snapshot(&mut store).await.keys["members/a"].value, "3");
    });
}

#[test]
fn every_request_of_a_switchover_is_one_round_trip() {
    run(async {
        let etcd = Etcd::single().await;
        let proxy = Proxy::start(etcd.port(0)).await;
        let mut a = Etcd3::connect(&only_through(proxy.host(), "a"));
        let lease = won(&mut a).await;
        let lease = kept(&mut a, lease).await;
        proxy.delay(Duration::from_millis(150));
        // Two round trips would take 600 ms.
        let limit = Millis(550);
        let before = clock();
        let (took, lease) = timed(kept(&mut a, lease)).await;
        assert!(took < limit, "renew: {took}");
        assert!(lease.sent_at.since(before) < Millis(100), "counted from sending, not from the answer");
        let (took, _) = timed(written(&mut a, edit(Key::Status, "1", Expect::WeLead(lease)))).await;
        assert!(took < limit, "write: {took}");
        let (took, reply) = timed(a.call(released("a", lease))).await;
        assert!(took < limit && reply == DcsReply::Released, "release: {took} {reply:?}");
        let before = clock();
        let (took, lease) = timed(won(&mut a)).await;
        assert!(took < limit, "acquire: {took}");
        assert!(lease.sent_at.since(before) < Millis(100), "counted from sending, not from the answer");
        let before = clock();
        let reply = a.call(DcsCall::KeepSession).await;
        let DcsReply::SessionKept { sent_at, .. } = reply else { panic!("{reply:?}") };
        assert!(sent_at.since(before) < Millis(100), "counted from sending, not from the answer");
    });
}

#[test]
fn another_cluster_is_refused_until_it_is_accepted() {
    run(async {
        let (ours, other) = (
            Etcd::single().await,
            Etcd::start(crate::support::etcd::Plan {
                // The cluster id is computed from what the members are told at their start.
                arguments: vec!["--initial-cluster-token".to_owned(), "other".to_owned()],
                ..Default::default()
            })
            .await,
        );
        let proxy = Proxy::start(ours.port(0)).await;
        let mut store = Etcd3::connect(&only_through(proxy.host(), "a"));
        let lease = won(&mut store).await;
        proxy.retarget(other.port(0));
        let reply = store.call(DcsCall::RenewLeader(lease)).await;
        assert!(matches!(&reply, DcsReply::Denied(why) if why.contains("etcd cluster")), "{reply:?}");
        let read = store.snapshot().await;
        assert!(matches!(&read, Err(ReadError::Denied(why)) if why.contains("etcd cluster")), "{read:?}");
        store.accept_new_cluster();
        let reply = store.call(DcsCall::RenewLeader(lease)).await;
        assert_eq!(reply, DcsReply::Refused, "the new store does not know us");
        won(&mut store).await;
    });
}

#[test]
fn an_earlier_state_of_the_same_cluster_is_refused_until_it_is_accepted() {
    run(async {
        let mut etcd = Etcd::single().await;
        let mut store = Etcd3::connect(&options(etcd.hosts(), "a"));
        let mut watch = store.watcher();
        let lease = won(&mut store).await;
        etcd.kill(0);
        etcd.copy_data(0, true);
        etcd.spawn(0);
        etcd.wait_ready().await;
        for number in 0..20 {
            etcd.tool().await.expect("a connection").put("other", number.to_string(), None).await.expect("a write");
        }
        let lease = kept(&mut store, lease).await;
        etcd.kill(0);
        etcd.copy_data(0, false);
        // The raft term grows with each start, and is no lower than it was.
        etcd.spawn(0);
        etcd.wait_ready().await;
        etcd.kill(0);
        etcd.spawn(0);
        etcd.wait_ready().await;
        let reply = store.call(DcsCall::RenewLeader(lease)).await;
        assert!(matches!(&reply, DcsReply::Denied(why) if why.contains("earlier state")), "{reply:?}");
        let read = store.snapshot().await;
        assert!(matches!(&read, Err(ReadError::Denied(why)) if why.contains("earlier state")), "{read:?}");
        // Nor does a watch begin there.
        let lost = async {
            loop {
                if let WatchEvent::Lost(why) = watch.next().await {
                    break why;
                }
            }
        };
        let why = tokio::time::timeout(Duration::from_secs(20), lost).await.expect("a watch that was lost");
        assert!(why.contains("earlier state"), "{why}");
        store.accept_new_cluster();
        assert!(store.snapshot().await.is_ok());
    });
}

#[test]
fn a_stuck_connection_is_replaced() {
    run(async {
        let etcd = Etcd::single().await;
        let proxy = Proxy::start(etcd.port(0)).await;
        let mut store = Etcd3::connect(&only_through(proxy.host(), "a"));
        let lease = won(&mut store).await;
        proxy.hold_answers(true);
        let renew = async { store.call(DcsCall::RenewLeader(lease)).await };
        let heal = async {
            sleep_ms(1_000).await;
            proxy.cut();
            proxy.hold_answers(false);
        };
        let (renewed, ()) = both(renew, heal).await;
        assert!(matches!(renewed, DcsReply::Kept(_)), "{renewed:?}");
    });
}

pub async fn both<A, B: 'static>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (Box::pin(a), Box::pin(b));
    let mut done = None;
    let first = std::future::poll_fn(|context| {
        if done.is_none()
            && let std::task::Poll::Ready(value) = b.as_mut().poll(context)
        {
            done = Some(value);
        }
        a.as_mut().poll(context)
    })
    .await;
    let second = match done {
        Some(value) => value,
        None => b.await,
    };
    (first, second)
}
