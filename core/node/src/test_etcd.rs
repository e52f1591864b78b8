//! A real etcd of its own for one test.

use crate::test_dir::TestDir;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Killed when dropped.
pub struct TestEtcd {
    child: Child,
    port: u16,
    _data: TestDir,
}

impl TestEtcd {
    /// Starts it and waits until it serves.
    pub fn start() -> Self {
        let data = TestDir::new("etcd");
        let [port, peer_port] = free_ports();
        let (url, peer_url) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(data.path())
            .args(["--name", "t", "--initial-cluster", &format!("t={peer_url}")])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd");
        let etcd = Self { child, port, _data: data };
        let began = Instant::now();
        while !etcd.try_ctl(&["endpoint", "health"]).0 {
            assert!(began.elapsed() < Duration::from_secs(20), "etcd does not serve");
            std::thread::sleep(Duration::from_millis(50));
        }
        etcd
    }

    /// `host:port`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Runs etcdctl and gives back what it prints.
    pub fn ctl(&self, args: &[&str]) -> String {
        let (ok, text) = self.try_ctl(args);
        assert!(ok, "etcdctl {args:?}: {text}");
        text
    }

    /// It answers nothing until it is thawed.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        // Its threads may go on for a moment: it is told of when all of them stand still.
        waitpid(Some(Pid::from_child(&self.child)), WaitOptions::UNTRACED).expect("etcd stops");
    }

    /// Goes on as if nothing had happened.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn try_ctl(&self, args: &[&str]) -> (bool, String) {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.host(), "--command-timeout", "2s"])
            .args(args)
            .output()
            .expect("etcdctl");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")).expect("not zero");
        kill_process(pid, signal).expect("signal");
    }
}

impl Drop for TestEtcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports that nobody listens on; both are held until both are known.
fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("its address").port())
}
