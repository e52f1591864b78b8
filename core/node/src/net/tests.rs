//! The net thread against a real etcd.

use super::*;
use crate::clock;
use crate::test_etcd::TestEtcd;
use ha_core::cluster::Released;
use ha_core::dcs::{Expect, Key, LEADER_PATH};
use ha_core::ids::Revision;
use ha_core::outcome::Outcome;
use std::sync::Condvar;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A main thread with its hooks.
struct Main {
    net: Net,
    news: News,
    waked: Arc<(Mutex<bool>, Condvar)>,
    confirmed: Arc<Mutex<Option<Lease>>>,
    lost: Arc<AtomicU32>,
}

fn options(etcd: &TestEtcd, name: &str) -> ha_dcs::etcd3::Options {
    let mut options = ha_dcs::etcd3::Options::new(vec![etcd.host()], "batman", NodeName::new(name), clock::now);
    options.ttl = Millis(5000);
    options.retry_timeout = Millis(1000);
    options
}

impl Main {
    fn start(etcd: &TestEtcd, name: &str) -> Self {
        let waked = Arc::new((Mutex::new(false), Condvar::new()));
        let confirmed = Arc::new(Mutex::new(None));
        let lost = Arc::new(AtomicU32::new(0));
        let (wake, told, counted) = (waked.clone(), confirmed.clone(), lost.clone());
        let hooks = Hooks {
            confirmed: Arc::new(move |lease| *told.lock().expect("lock") = Some(*lease)),
            leader_lost: Arc::new(move || {
                counted.fetch_add(1, Ordering::SeqCst);
            }),
            lease_deadline: Arc::new(|| Tick(0)),
            wake: Arc::new(move || {
                *wake.0.lock().expect("lock") = true;
                wake.1.notify_all();
            }),
            died: Arc::new(|name, why| panic!("{name} died: {why}")),
        };
        let store = options(etcd, name);
        let net =
            Net::start(super::Options { store, asker: Asker::new("demo".to_owned(), None), hooks }).expect("thread");
        Self { net, news: News::default(), waked, confirmed, lost }
    }

    /// Waits for wakes, and for nothing else, until `done` is satisfied with all news so far.
    fn until<T>(&mut self, what: &str, within_ms: u64, done: impl Fn(&mut News) -> Option<T>) -> T {
        let deadline = clock::now() + Millis(within_ms);
        loop {
            let News { cluster, health, outcomes, peers, written, .. } = self.net.take_news();
            self.news.cluster = cluster.or(self.news.cluster.take());
            self.news.health = health.or(self.news.health.take());
            self.news.outcomes.extend(outcomes);
            self.news.peers.extend(peers);
            self.news.written.extend(written);
            if let Some(result) = done(&mut self.news) {
                return result;
            }
            let left = deadline.since(clock::now());
            assert!(left.0 > 0, "no {what} within {within_ms} ms: {:?}", self.news);
            let guard = self.waked.0.lock().expect("lock");
            let wait = Duration::from_millis(left.0);
            let (mut guard, _) = self.waked.1.wait_timeout_while(guard, wait, |waked| !*waked).expect("lock");
            *guard = false;
        }
    }

    fn call(&mut self, call: &DcsCall) -> DcsReply {
        self.net.send(Command::Call(call.clone()));
        let outcome = self.until("reply", 8000, |news| news.outcomes.pop());
        let Outcome::Dcs { call: answered, reply, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(&answered, call);
        reply
    }

    fn acquire(&mut self) -> Lease {
        let kept = self.call(&DcsCall::KeepSession);
        assert!(matches!(kept, DcsReply::SessionKept { .. }), "{kept:?}");
        let won = self.call(&DcsCall::AcquireLeader { seen: Revision(i64::MAX), claim: None, edition: None });
        let DcsReply::Won(lease) = won else { panic!("{won:?}") };
        lease
    }

    fn confirmed(&self) -> Option<Lease> {
        self.confirmed.lock().expect("lock").take()
    }

    fn wait_fresh(&mut self) {
        self.until("view of the cluster", 5000, |news| (news.health == Some(StoreHealth::Fresh)).then_some(()));
    }
}

#[test]
fn a_lease_is_won_renewed_confirmed_and_lost_to_a_deleted_key() {
    let etcd = TestEtcd::start();
    let mut main = Main::start(&etcd, "pg1");
    main.wait_fresh();
    let lease = main.acquire();
    assert_eq!(main.confirmed(), None, "the fence is not meant to be open yet");
    main.until("leader in the view", 2000, |news| {
        news.cluster.as_ref()?.leader.as_ref().filter(|leader| leader.created == lease.leader_created).cloned()
    });

    main.net.acting().set(true);
    let kept = main.call(&DcsCall::RenewLeader(lease));
    let DcsReply::Kept(renewed) = kept else { panic!("{kept:?}") };
    assert!(renewed.sent_at > lease.sent_at && renewed.id == lease.id);
    assert_eq!(main.confirmed(), Some(renewed), "the hook was called before the main thread was woken");
    assert_eq!(main.lost.load(Ordering::SeqCst), 0);

    etcd.ctl(&["del", &format!("/service/batman/{LEADER_PATH}")]);
    main.until("view without a leader", 1000, |news| news.cluster.as_ref()?.leader.is_none().then_some(()));
    assert_eq!(main.lost.load(Ordering::SeqCst), 1, "the hook was called before the main thread was woken");
    assert_eq!(main.call(&DcsCall::RenewLeader(lease)), DcsReply::Refused);
    assert_eq!(main.confirmed(), None);
    assert_eq!(main.lost.load(Ordering::SeqCst), 1);
}

#[test]
fn another_node_sees_the_release_by_its_watch_and_takes_over() {
    let etcd = TestEtcd::start();
    let (mut first, mut second) = (Main::start(&etcd, "pg1"), Main::start(&etcd, "pg2"));
    second.wait_fresh();
    let lease = first.acquire();
    assert!(matches!(second.call(&DcsCall::KeepSession), DcsReply::SessionKept { .. }));
    assert_eq!(
        second.call(&DcsCall::AcquireLeader { seen: Revision(i64::MAX), claim: None, edition: None }),
        DcsReply::Lost
    );
    second.until("leader", 1000, |news| news.cluster.as_ref()?.leader.clone());
    let announce = Released::by(NodeName::new("pg1"), lease.id, lease.leader_created);
    assert_eq!(
        first.call(&DcsCall::ReleaseLeader { lease, announce: announce.clone(), status: None }),
        DcsReply::Released
    );
    let released = second.until("release", 1000, |news| {
        let cluster = news.cluster.as_ref()?;
        cluster.leader.is_none().then(|| cluster.released.clone())
    });
    assert_eq!(released, Some(announce));
    assert!(matches!(
        second.call(&DcsCall::AcquireLeader { seen: Revision(i64::MAX), claim: None, edition: None }),
        DcsReply::Won(_)
    ));
}

#[test]
fn a_frozen_store_is_noticed_and_its_return_too() {
    let etcd = TestEtcd::start();
    let mut main = Main::start(&etcd, "pg1");
    main.wait_fresh();
    let lease = main.acquire();
    main.net.acting().set(true);
    let frozen_at = clock::now();
    etcd.freeze();
    let reply = main.call(&DcsCall::RenewLeader(lease));
    assert!(matches!(reply, DcsReply::Unknown(_)), "{reply:?}");
    assert_eq!(main.confirmed(), None, "an unknown end confirms nothing");
    let since = main.until("loss of the watch", 15_000, |news| match &news.health {
        Some(StoreHealth::Unreachable { since, .. }) => Some(*since),
        _ => None,
    });
    assert!(since >= frozen_at);
    etcd.thaw();
    main.wait_fresh();
    let reply = main.call(&DcsCall::KeepSession);
    assert!(matches!(reply, DcsReply::SessionKept { .. }), "{reply:?}");
}

#[test]
fn a_command_writes_beside_the_requests_of_decisions() {
    let etcd = TestEtcd::start();
    let mut main = Main::start(&etcd, "pg1");
    main.wait_fresh();
    let edit =
        |value: &str, expect| KeyEdit { key: Key::Failover, value: Some(value.to_owned()), expect, leased: false };
    main.net.send(Command::Write { ticket: 1, edit: edit("{\"member\":\"pg2\"}", Expect::Absent) });
    let (ticket, reply) = main.until("written", 3000, |news| news.written.pop());
    assert!(matches!(reply, DcsReply::Written(_)), "{reply:?}");
    assert_eq!(ticket, 1);
    main.until("failover request", 1000, |news| news.cluster.as_ref()?.failover.clone());
    main.net.send(Command::Write { ticket: 2, edit: edit("{}", Expect::Unchanged(Revision(1))) });
    assert_eq!(main.until("written", 3000, |news| news.written.pop()), (2, DcsReply::Conflict));
}

#[test]
fn a_session_goes_on_in_another_process_of_the_same_node() {
    let etcd = TestEtcd::start();
    let mut inside = Main::start(&etcd, "pg1");
    inside.wait_fresh();
    let lease = inside.acquire();
    drop(inside);
    let mut outside = Main::start(&etcd, "pg1");
    outside.wait_fresh();
    outside.net.send(Command::Resume { session: Some(lease.id), lease: Some(lease) });
    let kept = outside.call(&DcsCall::RenewLeader(lease));
    assert!(matches!(kept, DcsReply::Kept(kept) if kept.id == lease.id), "{kept:?}");
    // A changed ttl moves the keys to another lease of ours, which is no loss.
    outside.net.send(Command::Timing { ttl: Millis(9000), retry_timeout: Millis(1000) });
    let kept = outside.call(&DcsCall::RenewLeader(lease));
    let DcsReply::Kept(moved) = kept else { panic!("{kept:?}") };
    assert!(moved.id != lease.id && moved.leader_created == lease.leader_created, "{moved:?}");
    outside.until("leader on the new lease", 2000, |news| {
        news.cluster.as_ref()?.leader.as_ref().filter(|leader| leader.lease == moved.id).cloned()
    });
    assert_eq!(outside.lost.load(Ordering::SeqCst), 0);
}

#[test]
fn peers_are_asked_at_once_and_each_answer_wakes() {
    let etcd = TestEtcd::start();
    let mut main = Main::start(&etcd, "pg1");
    // Two that accept and say nothing: one after the other would take four seconds.
    let silent = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("listen"));
    let mut targets = vec![(NodeName::new("refused"), "http://127.0.0.1:1/patroni".to_owned())];
    for (number, listener) in silent.iter().enumerate() {
        let address = listener.local_addr().expect("address");
        targets.push((NodeName::new(format!("silent{number}")), format!("http://{address}/patroni")));
    }
    main.net.send(Command::Poll { targets, asked_at: Tick(77) });
    let first = main.until("first answer", 1000, |news| news.peers.pop());
    assert_eq!((first.name.as_str(), first.asked_at), ("refused", Tick(77)));
    main.until("other answers", 3000, |news| (news.peers.len() == 2).then_some(()));
}

#[test]
fn a_vital_task_that_panics_is_reported() {
    let (tell, told) = std::sync::mpsc::channel();
    let died: Died = Arc::new(move |name: &str, why: &str| {
        let _ = tell.send(format!("{name}: {why}"));
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        spawn_vital(&died, async { panic!("out of order") });
        tokio::time::sleep(Duration::from_millis(50)).await;
    });
    assert_eq!(told.try_recv().as_deref(), Ok("ha_net: out of order"));
}
