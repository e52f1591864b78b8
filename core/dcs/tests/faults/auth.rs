//! Authentication: tokens that expire, permissions, passwords.

use crate::conformance::{TAKE, changed_to, kept, leader, member, won, written};
use crate::support::backend::options;
use crate::support::certs::Certs;
use crate::support::etcd::{Etcd, Plan};
use crate::support::proxy::Proxy;
use crate::support::{run, sleep_ms, timed};
use etcd_client::{Client, ConnectOptions, Permission, PermissionType};
use ha_core::clock::Millis;
use ha_core::dcs::DcsReply;
use ha_dcs::etcd3::{Etcd3, Options};
use ha_dcs::{ReadError, Store, Watch, WatchEvent};

async fn guarded(token: &[&str]) -> Etcd {
    let arguments = token.iter().map(|argument| (*argument).to_owned()).collect();
    let etcd = Etcd::start(Plan { arguments, ..Plan::default() }).await;
    let mut tool = etcd.tool().await.expect("a connection");
    tool.role_add("cluster").await.expect("a role");
    let everything_ours = Permission::new(PermissionType::Readwrite, "/service/").with_prefix();
    tool.role_grant_permission("cluster", everything_ours).await.expect("a permission");
    for (user, role) in [("root", "root"), ("ha", "cluster"), ("guest", "guest")] {
        if role != "cluster" {
            tool.role_add(role).await.expect("a role");
        }
        tool.user_add(user, "secret", None).await.expect("a user");
        tool.user_grant_role(user, role).await.expect("a grant");
    }
    tool.auth_enable().await.expect("authentication");
    etcd
}

fn as_user(hosts: Vec<String>, user: &str, password: &str) -> Options {
    Options { username: Some(user.into()), password: Some(password.into()), ..options(hosts, "a") }
}

/// A token that ends while nothing is asked, and one that ends under an open watch and an open keepalive stream.
async fn tokens_end(token: &[&str], idle_ms: u64) {
    let etcd = guarded(token).await;
    let proxy = Proxy::start(etcd.port(0)).await;
    let mut store = Etcd3::connect(&Options { discover: false, ..as_user(vec![proxy.host()], "ha", "secret") });
    let mut watch = store.watcher();
    let mut lease = won(&mut store).await;
    changed_to(&mut watch, |raw| raw.keys.contains_key("leader")).await;
    for round in 0..2 {
        sleep_ms(idle_ms).await;
        lease = kept(&mut store, lease).await;
        written(&mut store, member("a", &round.to_string())).await;
        proxy.cut();
        let seen = changed_to(&mut watch, |raw| raw.keys.contains_key("members/a")).await;
        assert_eq!(seen.keys["leader"].value, "a");
    }
    assert_eq!(leader(&mut store).await.as_deref(), Some("a"));
}

#[test]
fn signed_tokens_end() {
    run(async {
        let certs = Certs::new();
        certs.token_keys();
        let (public, private) = (certs.text("jwt.pub"), certs.text("jwt.key"));
        let token = format!("jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=2s");
        Box::pin(tokens_end(&["--auth-token", &token], 2_600)).await;
    });
}

#[test]
fn simple_tokens_end() {
    run(tokens_end(&["--auth-token-ttl", "1"], 3_000));
}

#[test]
fn a_changed_auth_store_asks_for_a_new_token() {
    run(async {
        let etcd = guarded(&[]).await;
        let mut store = Etcd3::connect(&as_user(etcd.hosts(), "ha", "secret"));
        let lease = won(&mut store).await;
        let root = ConnectOptions::new().with_user("root", "secret");
        let mut root = Client::connect([format!("http://{}", etcd.host(0))], Some(root)).await.expect("root");
        root.user_add("another", "secret", None).await.expect("a user");
        kept(&mut store, lease).await;
    });
}

#[test]
fn who_may_not_is_denied_at_once() {
    run(async {
        let etcd = guarded(&[]).await;
        for (user, password) in [("ha", "wrong"), ("nobody", "secret"), ("guest", "secret")] {
            let mut store = Etcd3::connect(&as_user(etcd.hosts(), user, password));
            let (took, reply) = timed(store.call(TAKE)).await;
            assert!(matches!(reply, DcsReply::Denied(_)), "{user}: {reply:?}");
            assert!(took < Millis(1_500), "{user}: {took}");
            let read = store.snapshot().await;
            assert!(matches!(read, Err(ReadError::Denied(_))), "{user}: {read:?}");
            let event = store.watcher().next().await;
            assert!(matches!(event, WatchEvent::Lost(_)), "{user}: {event:?}");
        }
        let mut nameless = Etcd3::connect(&options(etcd.hosts(), "a"));
        let reply = nameless.call(TAKE).await;
        assert!(matches!(reply, DcsReply::Denied(_)), "{reply:?}");
    });
}

#[test]
fn credentials_that_are_not_needed_do_no_harm() {
    run(async {
        let etcd = Etcd::single().await;
        let mut store = Etcd3::connect(&as_user(etcd.hosts(), "ha", "secret"));
        won(&mut store).await;
    });
}
