//! The real server over loopback, with clients that behave and clients that do not.

mod bounds;
mod handover;
mod protocol;

use super::{Backend, LocalFuture, MovedWait, Server};
use crate::{clock, runtime};
use ha_core::api::{LiveNow, ServerFacts, Snapshot};
use ha_core::clock::{Millis, Tick};
use ha_core::cluster::{Cluster, FailoverRequest, LeaderKey, Member, Versioned};
use ha_core::config::Config;
use ha_core::dcs::{DcsReply, KeyEdit};
use ha_core::ids::{LeaseId, NodeName, Revision};
use ha_core::lease::Lease;
use ha_core::local::{DataDir, LocalView, PrimaryView, Server as Postgres};
use ha_core::memory::Memory;
use ha_core::rule::Rule;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// A node for the server to ask: it leads, and its store is a cluster in memory.
#[derive(Clone)]
struct Node {
    cluster: Arc<Mutex<Cluster>>,
    edits: Arc<Mutex<Vec<KeyEdit>>>,
    changed: Arc<watch::Sender<u64>>,
}

impl Node {
    fn new() -> Self {
        let lease = LeaseId(7);
        let mut cluster = Cluster { revision: Revision(1), ..Cluster::default() };
        cluster.leader = Some(LeaderKey { name: NodeName::new("pg1"), lease, created: Revision(1) });
        cluster.config = Some(Versioned { value: json!({"ttl": 30}), revision: Revision(1) });
        for name in ["pg1", "pg2"] {
            let member = Member { state: "running".to_owned(), ..Member::default() };
            cluster.members.insert(NodeName::new(name), member.into());
        }
        let changed = Arc::new(watch::channel(0).0);
        Self { cluster: Arc::new(Mutex::new(cluster)), edits: Arc::default(), changed }
    }

    fn change(&self, change: impl FnOnce(&mut Cluster)) {
        let mut cluster = self.cluster.lock().expect("no test panicked with it");
        cluster.revision = Revision(cluster.revision.0 + 1);
        change(&mut cluster);
        self.changed.send_modify(|count| *count += 1);
    }

    fn lead(&self, name: &str) {
        self.change(|cluster| {
            if let Some(leader) = &mut cluster.leader {
                leader.name = NodeName::new(name);
            }
        });
    }
}

struct TestBackend {
    node: Node,
    config: Arc<Config>,
}

impl Backend for TestBackend {
    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        let now = clock::now();
        Some(Arc::new(Snapshot {
            config: self.config.clone(),
            settings: self.config.settings(),
            last_good_dynamic: None,
            local: LocalView {
                data: DataDir::Empty,
                server: Postgres::Primary(PrimaryView::default()),
                marker: None,
                history: Vec::new(),
                step_running: None,
                cannot_write: None,
                history_at: None,
                pending_restart: BTreeMap::new(),
                founding: false,
                watchdog: ha_core::watchdog::WatchdogView::default(),
                kept_ttl: ha_core::clock::Millis(0),
            },
            memory: Memory {
                lease: Some(Lease::confirmed(LeaseId(7), Revision(1), now, Millis(30_000))),
                ..Memory::default()
            },
            cluster: Some(Arc::new(self.node.cluster.lock().expect("no test panicked with it").clone())),
            cluster_fresh: true,
            dcs_last_seen_unix_s: 0,
            server: ServerFacts::default(),
            rule: Rule::LeaderLeading,
            ticked_at: now,
            next_tick_by: now,
        }))
    }

    fn live(&self) -> LiveNow {
        let now = clock::now();
        LiveNow { now, lease_deadline: Tick(now.0 + 10_000), unix_ms: 0 }
    }

    fn write(&self, edit: KeyEdit) -> LocalFuture<DcsReply> {
        let revision = |cluster: &mut Cluster| cluster.revision;
        let mut at = Revision(0);
        self.node.change(|cluster| {
            at = revision(cluster);
            let request = edit.value.as_deref().and_then(|text| serde_json::from_str::<FailoverRequest>(text).ok());
            if edit.key == ha_core::dcs::Key::Failover {
                cluster.failover = request.map(|value| Versioned { value, revision: at });
                cluster.failover_revision = Some(at);
            }
        });
        self.node.edits.lock().expect("no test panicked with it").push(edit);
        Box::pin(async move { DcsReply::Written(at) })
    }

    fn fresh(&self) -> LocalFuture<Result<Cluster, String>> {
        let cluster = self.node.cluster.lock().expect("no test panicked with it").clone();
        Box::pin(async move { Ok(cluster) })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.node.changed.subscribe()
    }
}

enum Tell {
    Adopt(MovedWait),
    Stop(std::sync::mpsc::Sender<super::Stopped>),
}

/// A server on a thread of its own. Dropping it drops the server.
struct Running {
    address: SocketAddr,
    tell: Option<mpsc::UnboundedSender<Tell>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(node: &Node) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a free port"), node)
    }

    fn on(listener: TcpListener, node: &Node) -> Self {
        let address = listener.local_addr().expect("it is bound");
        let (tell, mut told) = mpsc::unbounded_channel();
        let node = node.clone();
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                let backend: Rc<dyn Backend> = Rc::new(backend(node));
                let mut server = Some(Server::start(listener, backend.clone()).expect("it starts"));
                while let Some(tell) = told.recv().await {
                    match tell {
                        Tell::Adopt(moved) => super::adopt(moved, backend.clone()),
                        Tell::Stop(stopped) => {
                            let server = server.take().expect("it runs");
                            let _ = stopped.send(server.stop().expect("it stops"));
                        }
                    }
                }
                drop(server);
                // What is under way may end.
                tokio::time::sleep(Duration::from_millis(200)).await;
            });
        };
        let died: runtime::Died = Arc::new(|name, text| eprintln!("{name} died: {text}"));
        let thread = runtime::spawn("rest-test", died, body).expect("a thread");
        Self { address, tell: Some(tell), thread: Some(thread) }
    }

    fn tell(&self, tell: Tell) {
        let _ = self.tell.as_ref().expect("it runs").send(tell);
    }

    fn stop(&self) -> super::Stopped {
        let (sender, stopped) = std::sync::mpsc::channel();
        self.tell(Tell::Stop(sender));
        stopped.recv_timeout(Duration::from_secs(5)).expect("it stops at once")
    }

    fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        Client { stream, unread: Vec::new() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tell = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn backend(node: Node) -> TestBackend {
    let local = json!({
        "scope": "demo", "name": "pg1",
        "restapi": {"listen": "127.0.0.1:1", "http_extra_headers": {"X-Extra": "yes", "bad name": "x"}},
        "etcd3": {"host": "127.0.0.1:2379"},
        "postgresql": {
            "listen": "127.0.0.1:1", "data_dir": "/d/pg1",
            "authentication": {"replication": {"username": "repl"}}
        }
    });
    let (config, _) = Config::from_layers(&local, &BTreeMap::new(), None).expect("a good configuration");
    TestBackend { node, config: Arc::new(config) }
}

/// A raw connection.
struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// An answer as it came.
#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Client {
    fn send(&mut self, text: &str) -> &mut Self {
        self.stream.write_all(text.as_bytes()).expect("the server reads");
        self
    }

    /// One answer with a length.
    fn receive(&mut self) -> Got {
        let head_end = loop {
            if let Some(at) = self.unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.more() > 0, "the connection was closed within an answer");
        };
        let head = String::from_utf8(self.unread.drain(..head_end).collect()).expect("text");
        let lower = head.to_lowercase();
        let length = lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |text| text.trim().parse().expect("a length"));
        while self.unread.len() < length {
            assert!(self.more() > 0, "the connection was closed within a body");
        }
        let body = String::from_utf8(self.unread.drain(..length).collect()).expect("text");
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("a status");
        Got { status, head, body }
    }

    fn more(&mut self) -> usize {
        let mut buffer = [0; 4096];
        let count = self.stream.read(&mut buffer).expect("an answer in time");
        self.unread.extend_from_slice(&buffer[..count]);
        count
    }

    /// How long until the server closes the connection; what it still says is skipped.
    fn closed_after(&mut self) -> Duration {
        let begin = Instant::now();
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return begin.elapsed(),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return begin.elapsed(),
                Err(error) => panic!("the connection stays open: {error}"),
            }
        }
    }
}
