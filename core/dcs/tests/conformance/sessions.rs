//! The node lease.

use super::{Backend, changed_to, eventually, kept, member, snapshot, until, won, written};
use crate::support::{clock, sleep_ms};
use ha_core::clock::Millis;
use ha_core::dcs::{DcsCall, DcsReply, Expect, Key, LEADER_PATH};
use ha_core::ids::LeaseId;
use ha_dcs::{Store, WatchEvent};

async fn alive(store: &mut impl Store, lease: LeaseId) -> bool {
    match store.call(DcsCall::CheckLease(lease)).await {
        DcsReply::LeaseAlive(alive) => alive,
        other => panic!("{other:?}"),
    }
}

async fn session(store: &mut impl Store) -> LeaseId {
    match store.call(DcsCall::KeepSession).await {
        DcsReply::SessionKept { lease, .. } => lease,
        other => panic!("{other:?}"),
    }
}

pub async fn a_lease_ends_when_nobody_keeps_it<B: Backend>(backend: &B) {
    let (mut a, _) = backend.node("a", B::TTL);
    let (mut b, mut watch) = backend.node("b", Millis(10_000));
    let lease = won(&mut a).await;
    written(&mut a, member("a", "1")).await;
    assert!(alive(&mut b, lease.id).await);
    assert_eq!(lease.ttl, B::TTL);
    // The key outlives the deadline we count with: that is what the fence stands on.
    changed_to(&mut watch, |raw| !raw.keys.contains_key(LEADER_PATH)).await;
    assert!(clock() >= lease.deadline(), "the key vanished before the deadline");
    let seen = eventually(&mut b, 1_000, |raw| !raw.keys.contains_key("members/a")).await;
    assert!(!seen.keys.contains_key(LEADER_PATH));
    assert!(!alive(&mut b, lease.id).await);
    assert!(!alive(&mut b, LeaseId(12345)).await);
    assert_eq!(a.call(DcsCall::RenewLeader(lease)).await, DcsReply::Refused);
}

pub async fn a_session_is_kept_and_resumed<B: Backend>(backend: &B) {
    let (mut a, _) = backend.node("a", B::TTL);
    let before = clock();
    let reply = a.call(DcsCall::KeepSession).await;
    let DcsReply::SessionKept { lease, sent_at, ttl } = reply else { panic!("{reply:?}") };
    assert!((before..=clock()).contains(&sent_at));
    assert_eq!(ttl, B::TTL);
    written(&mut a, member("a", "1")).await;
    for _ in 0..4 {
        sleep_ms(B::TTL.0 / 2).await;
        assert_eq!(session(&mut a).await, lease);
    }
    // The other seat goes on with it, and leads by it.
    let (mut other_seat, _) = backend.node("a", B::TTL);
    other_seat.resume_session(lease);
    assert_eq!(session(&mut other_seat).await, lease);
    let held = won(&mut other_seat).await;
    assert_eq!(held.id, lease);
    // A renewal alone is enough to hand over the lease.
    let (mut third, _) = backend.node("a", B::TTL);
    kept(&mut third, held).await;
    assert_eq!(third.session(), Some(lease));
}

pub async fn an_ended_session_is_granted_anew<B: Backend>(backend: &B) {
    let (mut a, _) = backend.node("a", B::TTL);
    let (mut b, _) = backend.node("b", Millis(10_000));
    let first = session(&mut a).await;
    a.resume_session(LeaseId(4711));
    let second = session(&mut a).await;
    assert!(second != first && second != LeaseId(4711));
    a.resume_session(LeaseId(4712));
    let lease = won(&mut a).await;
    assert_ne!(lease.id, LeaseId(4712));
    assert!(alive(&mut b, lease.id).await);
    a.resume_session(LeaseId(4713));
    written(&mut a, member("a", "1")).await;
    assert_ne!(a.session(), Some(LeaseId(4713)));
    assert_eq!(snapshot(&mut b).await.keys["members/a"].lease, a.session());
}

pub async fn a_changed_ttl_moves_the_keys<B: Backend>(backend: &B) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let (mut b, mut watch) = backend.node("b", Millis(10_000));
    let old = won(&mut a).await;
    written(&mut a, member("a", "1")).await;
    a.set_ttl(Millis(20_000));
    let new = kept(&mut a, old).await;
    assert_ne!(new.id, old.id);
    assert_eq!((new.leader_created, new.ttl), (old.leader_created, Millis(20_000)));
    assert!(new.sent_at > old.sent_at);
    let seen = snapshot(&mut b).await;
    assert_eq!(seen.keys[LEADER_PATH].lease, Some(new.id));
    assert_eq!(seen.keys[LEADER_PATH].created, old.leader_created);
    assert_eq!((seen.keys["members/a"].lease, seen.keys["members/a"].value.as_str()), (Some(new.id), "1"));
    assert!(!alive(&mut b, old.id).await);
    assert_eq!(kept(&mut a, new).await.id, new.id, "once");
    written(&mut a, member("a", "2")).await;
    written(&mut a, super::edit(Key::Status, "1", Expect::WeLead(new))).await;
    // The leader key was never away.
    until(&mut watch, |event| match event {
        WatchEvent::Changed(raw) => {
            assert_eq!(raw.keys[LEADER_PATH].value, "a");
            raw.keys.contains_key("status")
        }
        WatchEvent::Lost(why) => panic!("{why}"),
        WatchEvent::Restored => false,
    })
    .await;
}

pub async fn a_changed_ttl_moves_a_follower<B: Backend>(backend: &B) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    written(&mut a, member("a", "1")).await;
    let old = a.session().expect("a session");
    a.set_ttl(B::TTL);
    let reply = a.call(DcsCall::KeepSession).await;
    let DcsReply::SessionKept { lease, ttl, .. } = reply else { panic!("{reply:?}") };
    assert_ne!(lease, old);
    assert_eq!(ttl, B::TTL);
    assert_eq!(snapshot(&mut a).await.keys["members/a"].lease, Some(lease));
    // Another process of the node, which has not heard of that, may take the leader key on the old one just then.
    let (mut other, _) = backend.node("a", Millis(10_000));
    other.resume_session(old);
    assert_eq!(won(&mut other).await.id, old);
}
