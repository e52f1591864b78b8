//! Follows all keys of the cluster: one linearizable read, then a watch from the next revision on.
//!
//! A watch that was cancelled, compacted away, cut off or fell silent is never trusted for another moment: the
//! keys are read anew and a new watch begins there, at the next member.

use super::budget::quiet_time;
use super::failure::Failure;
use super::link::Link;
use super::members::Members;
use super::options::Options;
use super::read;
use super::shared::Shared;
use crate::{Watch, WatchEvent};
use etcd_client::{EventType, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use ha_core::clock::Millis;
use ha_core::dcs::RawCluster;
use ha_core::ids::Revision;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Pause after a round in which no member answered. Short, since everybody waits for the store then.
const PAUSE: Duration = Duration::from_millis(100);
/// How often the members' addresses are asked for.
const DISCOVER_EVERY: Duration = Duration::from_mins(10);

/// Follows the cluster's keys, on its own connection.
pub struct Watcher {
    options: Options,
    base: String,
    shared: Arc<Shared>,
    members: Members,
    stream: Option<Stream>,
    /// The cluster as it was told last.
    told: Option<RawCluster>,
    lost: bool,
    failures: usize,
    pending: VecDeque<WatchEvent>,
    discovered_at: Option<Instant>,
}

/// A watch that is up, and the keys as it has shown them so far.
struct Stream {
    asks: WatchRequestSender,
    answers: WatchResponseStream,
    cluster: RawCluster,
    /// The last sign of life, or the moment one was asked for.
    marked_at: Instant,
    /// A sign of life was asked for at that moment.
    asked: bool,
}

/// Why a watch is over.
struct Over {
    failure: Failure,
    /// Opening it anew at the same member, with a new token, may do.
    authenticate: bool,
}

impl Watcher {
    pub(super) fn new(options: Options, shared: Arc<Shared>) -> Self {
        Self {
            base: options.base_path(),
            members: Members::new(Arc::clone(&shared)),
            options,
            shared,
            stream: None,
            told: None,
            lost: false,
            failures: 0,
            pending: VecDeque::new(),
            discovered_at: None,
        }
    }

    /// How long one member may take to be read and to begin a watch.
    fn patience(&self) -> Duration {
        quiet_time(self.shared.ttl()).clamp(Duration::from_millis(500), Duration::from_secs(2))
    }

    async fn synchronise(&mut self) {
        let limit = self.patience();
        let opened = match tokio::time::timeout(limit, self.open()).await {
            Ok(opened) => opened,
            Err(_) => Err(Failure::NotDone(format!("no watch within {} ms", limit.as_millis()))),
        };
        match opened {
            Ok(stream) => {
                self.failures = 0;
                self.shared.announce_answer();
                self.tell(&stream.cluster);
                self.stream = Some(stream);
            }
            Err(failure) => self.failed(failure, limit).await,
        }
    }

    async fn open(&mut self) -> Result<Stream, Failure> {
        let limit = self.patience();
        let (base, shared) = (self.base.as_str(), &self.shared);
        let link = self.members.link(&self.options, limit).await?;
        let cluster = read::cluster(link, shared, base).await?;
        if self.options.discover && self.discovered_at.is_none_or(|at| at.elapsed() >= DISCOVER_EVERY) {
            discover(link, shared).await;
            self.discovered_at = Some(Instant::now());
        }
        let from = cluster.revision.0 + 1;
        let options = WatchOptions::new().with_prefix().with_start_revision(from).with_progress_notify();
        let (asks, mut answers) = link.watch().watch(base, Some(options)).await?.split();
        let first = answers.message().await?;
        let first = first.ok_or_else(|| Failure::Unclear("the watch was closed at once".to_owned()))?;
        shared.check(first.header())?;
        if first.canceled() {
            return Err(cancelled(&first).failure);
        }
        Ok(Stream { asks, answers, cluster, marked_at: Instant::now(), asked: false })
    }

    async fn failed(&mut self, failure: Failure, limit: Duration) {
        tracing::debug!(target: "ha_dcs", "etcd watch: {failure}");
        if matches!(failure, Failure::Unauthenticated(_))
            && let Ok(link) = self.members.link(&self.options, limit).await
            && matches!(tokio::time::timeout(limit, link.authenticate()).await, Ok(Ok(())))
            && self.failures == 0
        {
            self.failures = 1;
            return;
        }
        self.members.move_on();
        self.failures += 1;
        if self.failures >= self.members.count() {
            if !self.lost {
                self.lost = true;
                self.pending.push_back(WatchEvent::Lost(failure.to_string()));
            }
            if self.failures.is_multiple_of(self.members.count().max(1)) && self.pending.is_empty() {
                self.shared.pause(PAUSE).await;
            }
        }
    }

    /// What the next events are after a fresh read.
    fn tell(&mut self, cluster: &RawCluster) {
        let keys_changed = self.told.as_ref().is_none_or(|told| told.keys != cluster.keys);
        if self.lost || keys_changed {
            self.pending.push_back(WatchEvent::Changed(cluster.clone()));
            self.told = Some(cluster.clone());
        }
        if self.lost {
            self.lost = false;
            self.shared.announce_return();
            self.pending.push_back(WatchEvent::Restored);
        }
    }

    async fn follow(&mut self) {
        let ttl = self.shared.ttl();
        let Some(stream) = &mut self.stream else { return };
        match stream.next(&self.shared, &self.base, ttl).await {
            Ok(false) => {}
            Ok(true) => {
                let cluster = stream.cluster.clone();
                self.tell(&cluster);
            }
            Err(over) => {
                tracing::info!(target: "ha_dcs", "etcd watch begins anew: {}", over.failure);
                self.stream = None;
                if over.authenticate {
                    self.failed(over.failure, quiet_time(ttl)).await;
                } else {
                    self.members.move_on();
                }
            }
        }
    }
}

impl Watch for Watcher {
    async fn next(&mut self) -> WatchEvent {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return event;
            }
            if self.stream.is_some() {
                Box::pin(self.follow()).await;
            } else {
                Box::pin(self.synchronise()).await;
            }
        }
    }
}

impl Stream {
    /// Waits for the next message; asks for a sign of life in a silence. True if keys changed. Cancel safe: the
    /// silence is counted from a moment that is remembered.
    async fn next(&mut self, shared: &Shared, base: &str, ttl: Millis) -> Result<bool, Over> {
        let answer_time = quiet_time(ttl);
        let limit = if self.asked { answer_time } else { ask_after(ttl) };
        let Ok(message) = tokio::time::timeout_at(self.marked_at + limit, self.answers.message()).await else {
            if self.asked {
                return Err(over(Failure::Unclear(format!("no sign of life within {} ms", limit.as_millis()))));
            }
            self.marked_at = Instant::now();
            self.asked = true;
            let asked = tokio::time::timeout(answer_time, self.asks.request_progress()).await;
            return match asked {
                Ok(Ok(())) => Ok(false),
                Ok(Err(error)) => Err(over(error.into())),
                Err(_) => Err(over(Failure::Unclear("the watch takes no requests".to_owned()))),
            };
        };
        let answer = message.map_err(|error| over(error.into()))?;
        let answer = answer.ok_or_else(|| over(Failure::Unclear("the watch was closed".to_owned())))?;
        shared.check(answer.header()).map_err(over)?;
        if answer.canceled() {
            return Err(cancelled(&answer));
        }
        self.marked_at = Instant::now();
        self.asked = false;
        Ok(apply(&mut self.cluster, &answer, base))
    }
}

/// How long a watch may be silent before it is asked for a sign of life. With a long `ttl` the pings of the
/// connection find a frozen member in a third of it, at no cost to the store; they cannot go more often than every
/// six seconds, so with a short one the watch itself is asked.
fn ask_after(ttl: Millis) -> Duration {
    if ttl >= Millis::from_secs(20) { Duration::from_millis(ttl.0) } else { quiet_time(ttl) }
}

/// Brings the keys up to date. All changes of one revision come in one message.
fn apply(cluster: &mut RawCluster, answer: &WatchResponse, base: &str) -> bool {
    let mut changed = false;
    for event in answer.events() {
        let Some(kv) = event.kv() else { continue };
        let Some(path) = read::path(kv, base) else { continue };
        match event.event_type() {
            EventType::Put => cluster.keys.insert(path, read::raw(kv)),
            EventType::Delete => cluster.keys.remove(&path),
        };
        cluster.revision = cluster.revision.max(Revision(kv.mod_revision()));
        changed = true;
    }
    changed
}

async fn discover(link: &mut Link, shared: &Shared) {
    // The addresses are a convenience: without permission to ask, the configured hosts do.
    if let Ok(answer) = link.client.member_list().await
        && shared.check(answer.header()).is_ok()
    {
        shared.discover(answer.members().iter().flat_map(|member| member.client_urls().iter().cloned()));
    }
}

fn over(failure: Failure) -> Over {
    let authenticate = matches!(failure, Failure::Unauthenticated(_));
    Over { failure, authenticate }
}

fn cancelled(answer: &WatchResponse) -> Over {
    let why = match (answer.compact_revision(), answer.cancel_reason()) {
        (0, "") => "cancelled by the store".to_owned(),
        (0, reason) => format!("cancelled by the store: {reason}"),
        (compacted, _) => format!("the history before revision {compacted} was compacted"),
    };
    let authenticate = ["permission denied", "auth token", "auth store"].iter().any(|part| why.contains(part));
    let failure = if authenticate { Failure::Unauthenticated(why) } else { Failure::Unclear(why) };
    Over { failure, authenticate }
}
