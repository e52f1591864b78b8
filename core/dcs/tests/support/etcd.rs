//! A real etcd cluster of one or three members.

use super::{TempDir, free_port};
use etcd_client::Client;
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How to start it.
#[derive(Clone)]
pub struct Plan {
    /// The server; each test file says which.
    pub binary: PathBuf,
    pub members: usize,
    /// Further arguments for every member.
    pub arguments: Vec<String>,
    pub scheme: &'static str,
}

impl Default for Plan {
    fn default() -> Self {
        Self { binary: crate::server(), members: 1, arguments: Vec::new(), scheme: "http" }
    }
}

pub struct Etcd {
    plan: Plan,
    members: Vec<Member>,
    dir: TempDir,
}

struct Member {
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

impl Etcd {
    /// Starts it and waits until it serves. With TLS the caller waits.
    pub async fn start(plan: Plan) -> Self {
        let members = (0..plan.members)
            .map(|_| Member { client_port: free_port(), peer_port: free_port(), child: None })
            .collect();
        let mut etcd = Self { plan, members, dir: TempDir::new() };
        for index in 0..etcd.members.len() {
            etcd.spawn(index);
        }
        if etcd.plan.scheme == "http" {
            etcd.wait_ready().await;
        }
        etcd
    }

    pub async fn single() -> Self {
        Self::start(Plan::default()).await
    }

    pub async fn three() -> Self {
        Self::start(Plan { members: 3, ..Plan::default() }).await
    }

    /// `host:port` of every member.
    pub fn hosts(&self) -> Vec<String> {
        (0..self.members.len()).map(|index| self.host(index)).collect()
    }

    pub fn host(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.members[index].client_port)
    }

    pub fn port(&self, index: usize) -> u16 {
        self.members[index].client_port
    }

    pub fn spawn(&mut self, index: usize) {
        let initial: Vec<String> = self
            .members
            .iter()
            .enumerate()
            .map(|(number, member)| format!("e{number}=http://127.0.0.1:{}", member.peer_port))
            .collect();
        let member = &self.members[index];
        let client = format!("{}://127.0.0.1:{}", self.plan.scheme, member.client_port);
        let peer = format!("http://127.0.0.1:{}", member.peer_port);
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join(format!("e{index}.log")));
        let log = log.expect("a log file");
        // With the test's thread goes its servers, whatever ends it.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&self.plan.binary)
            .args(["--name", &format!("e{index}")])
            .arg("--data-dir")
            .arg(self.dir.path().join(format!("e{index}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &initial.join(","), "--initial-cluster-state", "new"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500", "--logger", "zap"])
            .args(&self.plan.arguments)
            .env_remove("ETCD_UNSUPPORTED_ARCH")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn();
        self.members[index].child = Some(child.expect("etcd and setpriv are installed"));
    }

    pub async fn wait_ready(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let put = async { self.tool().await?.put("ready", "1", None).await };
            match tokio::time::timeout(Duration::from_secs(2), put).await {
                Ok(Ok(_)) => return,
                other => assert!(Instant::now() < until, "etcd does not serve: {other:?}\n{}", self.logs()),
            }
            super::sleep_ms(30).await;
        }
    }

    pub fn logs(&self) -> String {
        let logs = (0..self.members.len()).map(|index| self.dir.path().join(format!("e{index}.log")));
        logs.map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect()
    }

    /// A client that is none of ours, connected to the first member that runs.
    pub async fn tool(&self) -> Result<Client, etcd_client::Error> {
        let first = self.members.iter().position(|member| member.child.is_some()).unwrap_or(0);
        Client::connect([format!("http://{}", self.host(first))], None).await
    }

    fn signal(&self, index: usize, signal: Signal) {
        let child = self.members[index].child.as_ref().expect("the member runs");
        kill_process(pid(child), signal).expect("a signal to our own child");
    }

    pub fn freeze(&self, index: usize) {
        self.signal(index, Signal::STOP);
    }

    pub fn thaw(&self, index: usize) {
        self.signal(index, Signal::CONT);
    }

    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.members[index].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sets the data of a member that does not run aside, or puts back what was set aside.
    pub fn copy_data(&self, index: usize, aside: bool) {
        let (data, copy) = (self.dir.path().join(format!("e{index}")), self.dir.path().join(format!("e{index}.copy")));
        let (from, to) = if aside { (data, copy) } else { (copy, data) };
        let _ = std::fs::remove_dir_all(&to);
        let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
        assert!(copied.success());
    }

    /// The member that leads the others.
    pub async fn leader(&self) -> usize {
        let mut tool = self.tool().await.expect("a connection");
        let leader = tool.status().await.expect("a status").leader();
        for index in 0..self.members.len() {
            let mut one = Client::connect([format!("http://{}", self.host(index))], None).await.expect("a connection");
            let status = one.status().await.expect("a status");
            if status.header().expect("a header").member_id() == leader {
                return index;
            }
        }
        panic!("nobody leads");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("not zero")
}
