//! A real etcd of one or three members.

use crate::base64;
use crate::daemon::{Daemon, Launch, run};
use crate::rest;
use crate::wait::{poll, secs};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Where one member listens.
#[derive(Clone, Debug)]
pub struct Place {
    /// Address.
    pub host: String,
    /// Port for clients.
    pub client_port: u16,
    /// Port for the other members.
    pub peer_port: u16,
    /// Network namespace, if not the caller's.
    pub netns: Option<String>,
}

/// The etcd cluster.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    /// The member that answered last: one that is frozen costs two seconds each time.
    preferred: AtomicUsize,
}

/// A key that hangs on a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its value.
    pub holder: String,
    /// Revision at which it was made.
    pub created: String,
    /// Its lease.
    pub lease: String,
    /// Whole seconds that the lease lives at least; negative when it is over.
    pub remaining_s: i64,
    /// How long it lives after each renewal.
    pub ttl: Duration,
}

/// No member answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// All of them refused at once: nobody else can have been answered then either.
    pub refused: bool,
}

#[derive(Debug)]
struct Member {
    place: Place,
    launch: Launch,
    daemon: Option<Daemon>,
}

impl Etcd {
    /// Starts one member per place and waits until the cluster serves.
    #[must_use]
    pub fn start(dir: &Path, places: Vec<Place>) -> Self {
        let initial: Vec<String> = places
            .iter()
            .enumerate()
            .map(|(index, place)| format!("e{index}=http://{}:{}", place.host, place.peer_port))
            .collect();
        let mut etcd = Self { members: Vec::new(), preferred: AtomicUsize::new(0) };
        for (index, place) in places.into_iter().enumerate() {
            let launch = launch(dir, index, &place, &initial.join(","));
            etcd.members.push(Member { place, launch, daemon: None });
        }
        for index in 0..etcd.members.len() {
            etcd.start_member(index);
        }
        etcd.wait_ready();
        etcd
    }

    /// The same store for a second cluster: it can ask, but not start or kill.
    #[must_use]
    pub fn attach(&self) -> Self {
        let members = self.members.iter().map(|member| Member {
            place: member.place.clone(),
            launch: member.launch.clone(),
            daemon: None,
        });
        Self { members: members.collect(), preferred: AtomicUsize::new(0) }
    }

    /// Waits until a write succeeds.
    pub fn wait_ready(&self) {
        let ready = poll(secs(30), || self.ctl(&["put", "ready", "1"]).ok());
        assert!(ready.is_some(), "etcd does not serve: {:?}", self.ctl(&["endpoint", "health"]));
    }

    /// `host:port` of every member.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("{}:{}", member.place.host, member.place.client_port)).collect()
    }

    /// Runs etcdctl.
    pub fn ctl(&self, words: &[&str]) -> Result<String, String> {
        let endpoints = format!("--endpoints={}", self.endpoints().join(","));
        let all = ["env", "ETCDCTL_API=3", "etcdctl", "--command-timeout=3s", "--dial-timeout=2s", &endpoints];
        run(&[&all[..], words].concat())
    }

    /// The value of a key; `None` when it is absent or etcd does not answer.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<String> {
        let text = self.entry(key)?["value"].as_str().and_then(base64::decode)?;
        String::from_utf8(text).ok()
    }

    /// Who holds a key, and how long its lease lives if nobody renews it; `None` when it is absent.
    pub fn held(&self, key: &str) -> Result<Option<Held>, Unreachable> {
        let found = self.gateway("/v3/kv/range", &json!({ "key": base64::encode(key.as_bytes()) }))?;
        let entry = &found["kvs"][0];
        if !entry.is_object() {
            return Ok(None);
        }
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let holder = base64::decode(&text("value")).unwrap_or_default();
        // One without a lease was put there by hand: it gives nobody any time.
        let leased = entry["lease"].is_string();
        let life = json!({ "ID": entry["lease"] });
        let life = if leased { self.gateway("/v3/lease/timetolive", &life)? } else { json!({}) };
        // The gateway leaves out what is zero.
        let seconds = |name: &str| life[name].as_str().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        Ok(Some(Held {
            holder: String::from_utf8_lossy(&holder).into_owned(),
            created: text("create_revision"),
            lease: text("lease"),
            remaining_s: seconds("TTL"),
            ttl: secs(u64::try_from(seconds("grantedTTL")).unwrap_or(0)),
        }))
    }

    /// The answer of the first member that gives one; its JSON gateway, since starting etcdctl each time would be slow.
    fn gateway(&self, path: &str, body: &Value) -> Result<Value, Unreachable> {
        let mut refused = true;
        let (endpoints, first) = (self.endpoints(), self.preferred.load(Ordering::Relaxed));
        for step in 0..endpoints.len() {
            let (begun, member) = (Instant::now(), (first + step) % endpoints.len());
            match rest::ask(&format!("http://{}", endpoints[member]), path, body) {
                Ok(reply) if reply.status == 200 => {
                    self.preferred.store(member, Ordering::Relaxed);
                    return Ok(reply.json());
                }
                Ok(_) => refused = false,
                Err(_) => refused &= begun.elapsed() < secs(1),
            }
        }
        Err(Unreachable { refused })
    }

    /// Everything etcd knows about a key.
    fn entry(&self, key: &str) -> Option<Value> {
        let body = json!({ "key": base64::encode(key.as_bytes()) });
        let entry = self.gateway("/v3/kv/range", &body).ok()?["kvs"][0].clone();
        entry.is_object().then_some(entry)
    }

    /// Every key with its value, for diagnostics.
    #[must_use]
    pub fn dump(&self) -> String {
        self.ctl(&["get", "", "--prefix"]).unwrap_or_else(|error| error)
    }

    /// Starts a member that is down; it keeps its data.
    pub fn start_member(&mut self, index: usize) {
        let member = &mut self.members[index];
        member.daemon = Some(Daemon::start(&member.launch));
    }

    /// Whether a member was started and not killed.
    #[must_use]
    pub fn runs(&self, index: usize) -> bool {
        self.members[index].daemon.is_some()
    }

    /// Kills a member.
    pub fn kill_member(&mut self, index: usize) {
        self.members[index].daemon = None;
    }

    /// Kills all of it.
    pub fn kill(&mut self) {
        for member in &mut self.members {
            member.daemon = None;
        }
    }

    /// Starts what was killed.
    pub fn restart(&mut self) {
        for index in 0..self.members.len() {
            if self.members[index].daemon.is_none() {
                self.start_member(index);
            }
        }
        self.wait_ready();
    }

    /// Freezes or thaws one member.
    pub fn freeze_member(&self, index: usize, frozen: bool) {
        if let Some(daemon) = &self.members[index].daemon {
            if frozen { daemon.process().freeze() } else { daemon.process().thaw() }
        }
    }

    /// When the lease of this key ends if nobody renews it any more. etcd tells whole seconds only, so this waits for
    /// the moment when the number changes.
    #[must_use]
    pub fn lease_end(&self, key: &str) -> Option<Instant> {
        let base = format!("http://{}", self.endpoints().first()?);
        let body = json!({ "ID": self.entry(key)?["lease"] });
        let remaining = || -> Option<u64> {
            rest::ask(&base, "/v3/lease/timetolive", &body).ok()?.json()["TTL"].as_str()?.parse().ok()
        };
        let before = remaining()?;
        poll(secs(2), || (remaining().unwrap_or(0) < before).then(|| Instant::now() + secs(before)))
    }

    /// The requests in etcd's own metrics, all members together, for comparing how much each system asks.
    #[must_use]
    pub fn requests(&self) -> u64 {
        let mut sum = 0.0;
        for endpoint in self.endpoints() {
            let text =
                rest::get(&format!("http://{endpoint}"), "/metrics").map_or_else(|_| String::new(), |reply| reply.body);
            sum += text
                .lines()
                .filter(|line| {
                    line.starts_with("grpc_server_started_total") || line.starts_with("grpc_server_msg_received_total")
                })
                .filter(|line| is_request(line))
                .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
                .sum::<f64>();
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A small count.
        let sum = sum as u64;
        sum
    }
}

/// Unary calls are counted when they start; on a stream each message is a request.
fn is_request(line: &str) -> bool {
    let stream = line.contains("grpc_type=\"bidi_stream\"") || line.contains("grpc_type=\"server_stream\"");
    stream == line.starts_with("grpc_server_msg_received_total")
}

fn launch(dir: &Path, index: usize, place: &Place, initial: &str) -> Launch {
    let client = format!("http://{}:{}", place.host, place.client_port);
    let peer = format!("http://{}:{}", place.host, place.peer_port);
    let data: PathBuf = dir.join(format!("etcd{index}"));
    let pairs = [
        ("--name", format!("e{index}")),
        ("--data-dir", data.to_string_lossy().into_owned()),
        ("--listen-client-urls", client.clone()),
        ("--advertise-client-urls", client),
        ("--listen-peer-urls", peer.clone()),
        ("--initial-advertise-peer-urls", peer),
        ("--initial-cluster", initial.to_owned()),
        ("--initial-cluster-state", "new".to_owned()),
        ("--logger", "zap".to_owned()),
        ("--log-outputs", "stderr".to_owned()),
    ];
    let mut command = vec!["etcd".to_owned()];
    for (flag, value) in pairs {
        command.extend([flag.to_owned(), value]);
    }
    Launch {
        command,
        user: None,
        netns: place.netns.clone(),
        log: dir.join(format!("etcd{index}.log")),
        dir: dir.to_path_buf(),
        env: Vec::new(),
    }
}
