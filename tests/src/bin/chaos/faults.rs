//! Faults on real processes, and their end.

use crate::history::At;
use crate::judge::{Request, Trouble};
use crate::packets;
use crate::requests::Wanted;
use crate::schedule::{Kind, Strike, draw};
use crate::watch::{LeaderWatch, thread};
use ha_tests::cluster::Cluster;
use ha_tests::daemon::run;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Members of etcd.
pub const STORE_MEMBERS: usize = 3;
/// A stop in good order may take so long before it is cut short.
const STOP_PATIENCE: At = 40_000_000;
/// Whoever holds a key that is deleted must be able to hear of it: nothing else goes wrong for so long before and after.
const HEARING: At = 4_000_000;

/// What ends a fault.
#[derive(Debug)]
enum Undo {
    Nothing,
    Thaw,
    Start,
    Packets { tag: String, pairs: Vec<(usize, usize)> },
    StartStore(Vec<usize>),
    ThawStore(Vec<usize>),
    Room,
}

/// A fault that lasts.
#[derive(Debug)]
struct Active {
    kind: Kind,
    node: Option<usize>,
    undo: Undo,
    until: At,
    /// When it was to end at first.
    due: At,
    trouble: usize,
}

/// The cluster and what is wrong with it.
#[derive(Debug)]
pub struct World {
    /// The cluster.
    pub cluster: Cluster,
    /// When the round began.
    pub origin: Instant,
    /// What was wrong in this round.
    pub troubles: Vec<Trouble>,
    /// Faults of all rounds.
    pub counts: BTreeMap<Kind, usize>,
    /// What else is worth a line of the report.
    pub notes: BTreeMap<&'static str, usize>,
    active: Vec<Active>,
    requests: Arc<Mutex<Vec<Request>>>,
    threads: Vec<JoinHandle<()>>,
    calm_until: At,
    leader: LeaderWatch,
    log: File,
    tags: usize,
}

impl World {
    /// A world without faults around this cluster.
    pub fn around(cluster: Cluster) -> Self {
        let log = File::create(cluster.scratch.path().join("faults.log")).expect("the scratch directory is ours");
        let leader = LeaderWatch::start(&cluster);
        Self {
            cluster,
            origin: Instant::now(),
            troubles: Vec::new(),
            counts: BTreeMap::new(),
            notes: BTreeMap::new(),
            active: Vec::new(),
            requests: Arc::default(),
            threads: Vec::new(),
            calm_until: 0,
            leader,
            log,
            tags: 0,
        }
    }

    /// A new round begins.
    pub fn begin(&mut self) {
        self.origin = Instant::now();
        self.calm_until = 0;
        self.troubles.clear();
    }

    /// Now.
    pub fn now(&self) -> At {
        At::try_from(self.origin.elapsed().as_micros()).expect("a round is shorter than that")
    }

    /// A line of the log.
    pub fn say(&mut self, text: &str) {
        let line = format!("[{:>7.3}] {text}", self.origin.elapsed().as_secs_f64());
        println!("{line}");
        let _ = writeln!(self.log, "{line}");
    }

    /// Whether faults have to wait.
    pub fn calm(&self) -> bool {
        self.now() < self.calm_until
    }

    fn name(&self, node: usize) -> String {
        self.cluster.nodes[node].name.clone()
    }

    /// One fault, unless it cannot be just now.
    pub fn strike(&mut self, strike: &Strike) {
        let mut dice = strike.dice;
        let leader = self.leader.last();
        let anybody = usize::try_from(draw(&mut dice, self.cluster.nodes.len() as u64)).unwrap_or(0);
        // The leader half of the time: that is where it hurts.
        let node = leader.filter(|_| draw(&mut dice, 2) == 0).unwrap_or(anybody);
        let role = if leader == Some(node) { " (leader)" } else { "" };
        let who = if on_node(strike.kind) { format!("{}{role}: ", self.name(node)) } else { String::new() };
        match self.inflict(strike.kind, node, leader, &mut dice) {
            Ok((undo, detail)) => {
                *self.counts.entry(strike.kind).or_default() += 1;
                let lasts =
                    if matches!(undo, Undo::Nothing) { String::new() } else { format!(" for {} ms", strike.lasts_ms) };
                self.say(&format!("{who}{}{detail}{lasts}", strike.kind));
                let until = self.now() + strike.lasts_ms * 1000;
                self.remember(strike.kind, node, undo, until);
            }
            Err(why) => self.say(&format!("{who}{}: not now, {why}", strike.kind)),
        }
    }

    fn remember(&mut self, kind: Kind, node: usize, undo: Undo, until: At) {
        let now = self.now();
        let node = on_node(kind).then_some(node);
        if !matches!(kind, Kind::Switchover | Kind::Failover) {
            let wiped = kind == Kind::LoseData;
            // The strike itself took some time.
            self.troubles.push(Trouble { node, wiped, from: now.saturating_sub(1_000_000), until: now });
        }
        if !matches!(undo, Undo::Nothing) {
            // Open until it is healed.
            let trouble = self.troubles.len() - 1;
            self.troubles[trouble].until = At::MAX;
            self.active.push(Active { kind, node, undo, until, due: until, trouble });
        }
    }

    fn inflict(
        &mut self,
        kind: Kind,
        node: usize,
        leader: Option<usize>,
        dice: &mut u64,
    ) -> Result<(Undo, String), String> {
        let plain = |undo| Ok((undo, String::new()));
        match kind {
            Kind::KillWorker | Kind::KillPostmaster | Kind::StopServer => {
                self.untouched(node)?;
                let server = &self.cluster.nodes[node];
                let victim = if kind == Kind::KillWorker { server.worker() } else { server.postmaster() };
                let signal = if kind == Kind::StopServer { Signal::INT } else { Signal::KILL };
                victim.ok_or("there is none")?.signal(signal);
                plain(Undo::Nothing)
            }
            Kind::KillSupervisor => {
                self.untouched(node)?;
                self.cluster.nodes[node].kill_supervisor();
                plain(Undo::Start)
            }
            Kind::CrashNode => {
                self.untouched(node)?;
                self.cluster.nodes[node].kill();
                plain(Undo::Start)
            }
            Kind::StopNode => {
                self.untouched(node)?;
                self.cluster.nodes[node].supervisor().ok_or("it does not run")?.signal(Signal::TERM);
                plain(Undo::Start)
            }
            Kind::LoseData => self.lose_data(node, leader).map(|()| (Undo::Start, String::new())),
            Kind::FreezeWorker | Kind::HangServer | Kind::FreezeSupervisor | Kind::FreezeNode => {
                self.freeze(kind, node).map(|()| (Undo::Thaw, String::new()))
            }
            Kind::CutFromStore
            | Kind::DeafStore
            | Kind::LostOutcomes
            | Kind::CutFromPeers
            | Kind::CutOneWay
            | Kind::Isolate
            | Kind::BadLinks
            | Kind::SplitStore => self.cut(kind, node, dice),
            Kind::KillStoreMember | Kind::FreezeStoreMember | Kind::KillStoreMajority | Kind::FreezeStoreMajority => {
                self.hurt_store(kind, dice)
            }
            Kind::DeleteLeaderKey | Kind::DeleteKeys => self.delete_keys(kind, dice).map(|what| (Undo::Nothing, what)),
            Kind::Switchover | Kind::Failover => self.request(kind, leader, dice).map(|what| (Undo::Nothing, what)),
            Kind::DiskFull => self.fill_disk(node, leader).map(|()| (Undo::Room, String::new())),
        }
    }

    /// No two faults on the processes of one node: the end of one would be the other's.
    fn untouched(&self, node: usize) -> Result<(), String> {
        let processes = |active: &&Active| matches!(active.undo, Undo::Thaw | Undo::Start | Undo::Room);
        match self.active.iter().filter(processes).find(|active| active.node == Some(node)) {
            Some(active) => Err(format!("{}", active.kind)),
            None => Ok(()),
        }
    }

    fn lose_data(&mut self, node: usize, leader: Option<usize>) -> Result<(), String> {
        // The others must have a copy, and somebody must be there to copy from.
        if leader.is_none() || leader == Some(node) || !self.active.is_empty() {
            return Err("the data may be needed".into());
        }
        let node = &mut self.cluster.nodes[node];
        node.kill();
        std::fs::remove_dir_all(node.data()).map_err(|error| error.to_string())
    }

    fn freeze(&mut self, kind: Kind, node: usize) -> Result<(), String> {
        self.untouched(node)?;
        let node = &self.cluster.nodes[node];
        let victim = match kind {
            Kind::FreezeWorker => node.worker(),
            Kind::HangServer => node.postmaster(),
            Kind::FreezeSupervisor => node.supervisor(),
            _ => {
                node.freeze();
                return Ok(());
            }
        };
        victim.ok_or("there is none")?.freeze();
        Ok(())
    }

    fn cut(&mut self, kind: Kind, node: usize, dice: &mut u64) -> Result<(Undo, String), String> {
        if kind == Kind::SplitStore {
            self.sound_store()?;
        }
        let (pairs, percent) = packets::lost(kind, node, self.cluster.nodes.len(), dice);
        self.tags += 1;
        let tag = self.tags.to_string();
        self.cluster.network.as_ref().ok_or("there is no network")?.lose(&tag, &pairs, percent);
        let detail = if percent < 100 { format!(", {percent} of 100 packets") } else { String::new() };
        Ok((Undo::Packets { tag, pairs }, detail))
    }

    fn sound_store(&self) -> Result<(), String> {
        let store = |active: &&Active| active.node.is_none();
        self.active.iter().find(store).map_or(Ok(()), |active| Err(active.kind.to_string()))
    }

    fn hurt_store(&mut self, kind: Kind, dice: &mut u64) -> Result<(Undo, String), String> {
        self.sound_store()?;
        let first = usize::try_from(draw(dice, STORE_MEMBERS as u64)).unwrap_or(0);
        let count = if matches!(kind, Kind::KillStoreMember | Kind::FreezeStoreMember) { 1 } else { 2 };
        let members: Vec<usize> = (first..first + count).map(|member| member % STORE_MEMBERS).collect();
        let detail = format!(" {members:?}");
        if matches!(kind, Kind::KillStoreMember | Kind::KillStoreMajority) {
            for member in &members {
                self.cluster.etcd.kill_member(*member);
            }
            return Ok((Undo::StartStore(members), detail));
        }
        for member in &members {
            self.cluster.etcd.freeze_member(*member, true);
        }
        Ok((Undo::ThawStore(members), detail))
    }

    fn delete_keys(&mut self, kind: Kind, dice: &mut u64) -> Result<String, String> {
        let now = self.now();
        let recent = self.troubles.iter().any(|trouble| trouble.until.saturating_add(HEARING) > now);
        if recent || !self.active.is_empty() {
            return Err("its holder may not hear of it".into());
        }
        let what: &[&str] = match (kind, draw(dice, 7)) {
            (Kind::DeleteLeaderKey, _) => &["leader"],
            (_, 0) => &["status"],
            (_, 1) => &["history"],
            (_, 2) => &["config"],
            (_, 3) => &["initialize"],
            (_, 4) => &["members/"],
            _ => &["leader", "status", "history", "config", "initialize", "failover", "members/"],
        };
        for name in what {
            let key = self.cluster.key(name);
            let mut words = vec!["del", &key];
            words.extend(name.ends_with('/').then_some("--prefix"));
            self.cluster.etcd.ctl(&words)?;
        }
        self.calm_until = self.now() + HEARING;
        Ok(if kind == Kind::DeleteKeys { format!(" {what:?}") } else { String::new() })
    }

    fn request(&mut self, kind: Kind, leader: Option<usize>, dice: &mut u64) -> Result<String, String> {
        let wish = Wanted::draw(&self.cluster, kind, leader.ok_or("nobody leads")?, dice);
        let detail = wish.to_string();
        let (origin, requests) = (self.origin, Arc::clone(&self.requests));
        self.threads.push(thread(move || {
            let request = wish.ask(origin);
            requests.lock().expect("nobody panics while holding it").push(request);
        }));
        Ok(detail)
    }

    fn fill_disk(&mut self, node: usize, leader: Option<usize>) -> Result<(), String> {
        self.untouched(node)?;
        let ballast = format!("of={}", self.cluster.nodes[node].dir.join("ballast").display());
        // dd ends with an error when the disk is full, which is the point.
        let _ = run(&["dd", "if=/dev/zero", &ballast, "bs=64k", "status=none"]);
        // The current segment has room left: the next one must be asked for.
        if let Some(leader) = leader {
            let server = self.cluster.nodes[leader].server.clone();
            self.threads.push(thread(move || {
                let _ = ha_tests::sql::query(&server, "SELECT pg_switch_wal()");
            }));
        }
        Ok(())
    }

    /// Ends the faults whose time is over, and does what a service manager does: it starts a supervisor that has ended.
    pub fn tend(&mut self) {
        let now = self.now();
        while let Some(index) = self.active.iter().position(|active| active.until <= now) {
            let active = self.active.remove(index);
            self.heal(active);
        }
        for node in 0..self.cluster.nodes.len() {
            if self.untouched(node).is_ok()
                && let Some(status) = self.cluster.nodes[node].supervisor_ended()
            {
                let text = format!("{}: its supervisor has ended ({status}) and is started again", self.name(node));
                self.say(&text);
                *self.notes.entry("supervisors that ended by themselves").or_default() += 1;
                self.cluster.nodes[node].start();
            }
        }
    }

    /// Ends all of them.
    pub fn heal_all(&mut self) {
        while !self.active.is_empty() {
            for active in std::mem::take(&mut self.active) {
                self.heal(active);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.tend();
    }

    /// Everything that was asked for has been answered.
    pub fn requests(&mut self) -> Vec<Request> {
        for thread in self.threads.drain(..) {
            thread.join().expect("a request panicked");
        }
        std::mem::take(&mut *self.requests.lock().expect("the requests have ended"))
    }

    fn heal(&mut self, active: Active) {
        let now = self.now();
        let node = active.node.unwrap_or(0);
        if active.kind == Kind::StopNode && self.cluster.nodes[node].supervisor().is_some() {
            let due = active.due.min(now);
            if now < due + STOP_PATIENCE {
                self.active.push(Active { until: now + 200_000, due, ..active });
                return;
            }
            self.say("it does not stop and is killed");
            *self.notes.entry("stops that had to be cut short").or_default() += 1;
            self.cluster.nodes[node].kill();
        }
        match &active.undo {
            Undo::Nothing => {}
            Undo::Thaw => self.cluster.nodes[node].thaw(),
            Undo::Start => self.cluster.nodes[node].start(),
            Undo::Packets { tag, pairs } => {
                if let Some(network) = &self.cluster.network {
                    network.heal_fault(tag, pairs);
                }
            }
            Undo::StartStore(members) => {
                for member in members {
                    self.cluster.etcd.start_member(*member);
                }
            }
            Undo::ThawStore(members) => {
                for member in members {
                    self.cluster.etcd.freeze_member(*member, false);
                }
            }
            Undo::Room => {
                let _ = std::fs::remove_file(self.cluster.nodes[node].dir.join("ballast"));
            }
        }
        self.troubles[active.trouble].until = now;
        let who = active.node.map_or_else(String::new, |node| format!("{}: ", self.name(node)));
        self.say(&format!("{who}{} is over", active.kind));
    }
}

/// Whether a kind hits one node (requests and the store's faults do not).
fn on_node(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::KillStoreMember
            | Kind::FreezeStoreMember
            | Kind::SplitStore
            | Kind::KillStoreMajority
            | Kind::FreezeStoreMajority
            | Kind::DeleteLeaderKey
            | Kind::DeleteKeys
            | Kind::Switchover
            | Kind::Failover
    )
}
