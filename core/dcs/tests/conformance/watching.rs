//! Following the keys.

use super::{Backend, changed_to, edit, member, released, snapshot, won, written};
use crate::support::sleep_ms;
use ha_core::clock::Millis;
use ha_core::dcs::{DcsReply, Expect, Key, LEADER_PATH};
use ha_dcs::{Store, Watch, WatchEvent};
use std::time::Duration;

pub async fn the_watch_begins_with_what_is_there(backend: &impl Backend) {
    let (mut a, mut watch) = backend.node("a", Millis(10_000));
    backend.tool_put("config", "{}").await;
    let WatchEvent::Changed(first) = watch.next().await else { panic!("it begins with the state") };
    assert_eq!(first, snapshot(&mut a).await);
}

pub async fn the_watch_tells_every_change(backend: &impl Backend) {
    let (mut a, _) = backend.node("a", Millis(10_000));
    let (_, mut watch) = backend.node("b", Millis(10_000));
    assert!(matches!(watch.next().await, WatchEvent::Changed(raw) if raw.keys.is_empty()));
    let lease = won(&mut a).await;
    let seen = changed_to(&mut watch, |raw| raw.keys.contains_key(LEADER_PATH)).await;
    assert_eq!(seen.keys[LEADER_PATH].created, lease.leader_created);
    assert_eq!(seen.keys[LEADER_PATH].lease, Some(lease.id));
    assert_eq!(a.call(released("a", lease)).await, DcsReply::Released);
    let seen = changed_to(&mut watch, |raw| !raw.keys.contains_key(LEADER_PATH)).await;
    assert!(seen.keys.contains_key("ha_ext/released"), "released and announced in one step");
    let revision = written(&mut a, member("a", "1")).await;
    let seen = changed_to(&mut watch, |raw| raw.keys.contains_key("members/a")).await;
    assert_eq!((seen.keys["members/a"].modified, seen.revision), (revision, revision));
}

pub async fn the_watch_agrees_with_the_snapshot(backend: &impl Backend) {
    let (mut a, mut watch) = backend.node("a", Millis(10_000));
    assert!(matches!(watch.next().await, WatchEvent::Changed(_)));
    for number in 0..20 {
        written(&mut a, member("a", &number.to_string())).await;
        if number % 3 == 0 {
            backend.tool_put("status", &number.to_string()).await;
        }
        if number % 5 == 0 {
            backend.tool_delete("status").await;
        }
    }
    let now = snapshot(&mut a).await;
    let seen = changed_to(&mut watch, |raw| raw.revision >= now.revision).await;
    assert_eq!(seen, now);
}

pub async fn the_watch_is_cancel_safe(backend: &impl Backend) {
    let (mut a, mut watch) = backend.node("a", Millis(10_000));
    assert!(matches!(watch.next().await, WatchEvent::Changed(_)));
    let mut seen = 0;
    for number in 0..30 {
        let expect = if number == 0 { Expect::Absent } else { last(&mut a).await };
        written(&mut a, edit(Key::Status, &number.to_string(), expect)).await;
        // Given up again and again, as a loop that waits for several things does.
        while tokio::time::timeout(Duration::from_millis(3), watch.next()).await.is_ok() {
            seen += 1;
        }
    }
    sleep_ms(200).await;
    while tokio::time::timeout(Duration::from_millis(50), watch.next()).await.is_ok() {
        seen += 1;
    }
    assert_eq!(seen, 30);
}

async fn last(store: &mut impl Store) -> Expect {
    Expect::Unchanged(snapshot(store).await.keys["status"].modified)
}
