//! What the standbys have flushed and who leads, asked all the time.

use crate::history::At;
use crate::judge::Sample;
use ha_tests::cluster::Cluster;
use ha_tests::sql::{Server, Session};
use ha_tests::wait::{millis, secs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const FLUSHED: &str = "SELECT received_tli, flushed_lsn - '0/0'::pg_lsn FROM pg_stat_wal_receiver";

/// The watchers.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// One per server.
    pub fn start(servers: &[Server], origin: Instant) -> Self {
        let mut all = Self { stop: Arc::default(), samples: Arc::default(), threads: Vec::new() };
        for (node, server) in servers.iter().cloned().enumerate() {
            let (stop, samples) = (Arc::clone(&all.stop), Arc::clone(&all.samples));
            let builder = std::thread::Builder::new().name(format!("watch {node}"));
            let run = move || watch(node, &server, origin, &stop, &samples);
            all.threads.push(builder.spawn(run).expect("a thread can be started"));
        }
        all
    }

    /// Ends; what was seen.
    pub fn stop(mut self) -> Vec<Sample> {
        self.halt();
        std::mem::take(&mut *self.samples.lock().expect("the watchers have ended"))
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.halt();
    }
}

fn watch(node: usize, server: &Server, origin: Instant, stop: &AtomicBool, samples: &Mutex<Vec<Sample>>) {
    let mut session = None;
    let mut before = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(millis(50));
        let Some(open) = session.take().or_else(|| Session::open(server, secs(1)).ok()) else { continue };
        let Ok(rows) = open.query(FLUSHED, secs(1)) else { continue };
        let at = At::try_from(origin.elapsed().as_micros()).expect("a round is shorter than that");
        if let Some([Some(timeline), Some(lsn)]) = rows.first().map(Vec::as_slice)
            && let (Ok(timeline), Ok(lsn)) = (timeline.parse(), lsn.parse())
            && (timeline, lsn) != before
        {
            before = (timeline, lsn);
            samples.lock().expect("no watcher panics while holding it").push(Sample { node, timeline, lsn, at });
        }
        session = Some(open);
    }
}

/// Who leads, asked by a thread of its own: a store that is hurt answers late.
#[derive(Debug)]
pub struct LeaderWatch {
    stop: Arc<AtomicBool>,
    leader: Arc<Mutex<Option<usize>>>,
    thread: Option<JoinHandle<()>>,
}

impl LeaderWatch {
    /// Starts asking.
    pub fn start(cluster: &Cluster) -> Self {
        let (stop, leader): (Arc<AtomicBool>, Arc<Mutex<Option<usize>>>) = Default::default();
        let (etcd, key) = (cluster.etcd.attach(), cluster.key("leader"));
        let names: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&leader));
        let thread = thread(move || {
            while !stopped.load(Ordering::Relaxed) {
                // While nobody answers, the last one known counts.
                if let Ok(held) = etcd.held(&key) {
                    let index = held.and_then(|held| names.iter().position(|name| *name == held.holder));
                    *shared.lock().expect("nobody panics while holding it") = index;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self { stop, leader, thread: Some(thread) }
    }

    /// The last one known.
    pub fn last(&self) -> Option<usize> {
        *self.leader.lock().expect("nobody panics while holding it")
    }
}

impl Drop for LeaderWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A thread of no name.
pub fn thread(run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().spawn(run).expect("a thread can be started")
}
