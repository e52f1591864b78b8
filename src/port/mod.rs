//! The inside seat's eyes and hands: what this server looks like, and what it is told to do. No policy.

mod handover;
mod observe;
mod park;
mod promises;
mod promotion;
mod times;

pub use handover::candidate;
pub use observe::Pulse;

use crate::fence;
use crate::files::{Done, Files, Job};
use crate::pg::control::ControlFile;
use crate::pg::{process, settings, wal};
use crate::shmem::Shared;
use ha_core::api::ServerFacts;
use ha_core::clock::{Millis, Tick};
use ha_core::config::Config;
use ha_core::effect::{DemoteMethod, Effect};
use ha_core::ids::{Lsn, Timeline};
use ha_core::local::{LocalView, Marker, PendingSetting, Upstream};
use ha_core::marker;
use ha_core::memory::{Memory, Stage};
use ha_core::outcome::Outcome;
use ha_core::pgconf;
use ha_core::seat::LeaveReason;
use ha_core::view::Seat;
use ha_node::clock;
use ha_node::driver::Port;
use ha_node::paths::Paths;
use ha_node::watchdog::Watchdog;
use handover::Handover;
use park::Parking;
use promises::Promises;
use promotion::Promotion;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

/// See the module.
pub struct Inside {
    /// Where we act; kept up to date by the main loop.
    pub seat: Option<Seat>,
    /// The decision wants the seat to be left.
    pub leaving: Option<LeaveReason>,
    /// This machine's watchdog, if it runs.
    pub watchdog: Watchdog,
    shared: &'static Shared,
    files: Files,
    control: ControlFile,
    config: Arc<Config>,
    started_at: Tick,
    following: Following,
    /// History was asked for.
    history_of: Timeline,
    marker_asked: Option<Marker>,
    /// The mark of a bootstrap was asked to be removed.
    founded_asked: bool,
    promotion: Promotion,
    /// Where the last checkpoint began when another was asked for, and when that was.
    checkpoint_asked: Option<(Lsn, Tick)>,
    /// Settings that wait for a restart, and of which version.
    pending: (u64, BTreeMap<String, PendingSetting>),
    /// The seat is being left.
    ending: bool,
    parking: Parking,
    handover: Handover,
    /// The configuration has changed.
    pub reconfigured: bool,
    promises: Promises,
}

/// What came from the file thread for the main loop.
#[derive(Default)]
pub struct FileNews {
    /// The configuration was read again.
    pub configuration: Option<Value>,
    /// The REST port was opened, or not.
    pub rest: Option<std::io::Result<TcpListener>>,
}

/// Whom we were told to follow.
#[derive(Default)]
struct Following {
    /// The newest target, with the connection string it amounts to.
    target: Option<(String, Option<Upstream>)>,
    /// It is not written yet.
    writing: bool,
    /// Nobody is followed, and recovery looks for more only seldom.
    at_rest: bool,
}

impl Inside {
    /// Everything that can be had at start.
    pub fn new(shared: &'static Shared, files: Files, control: ControlFile, config: Arc<Config>) -> Self {
        Self {
            seat: None,
            leaving: None,
            watchdog: Watchdog::new(&config.watchdog, Paths::new(&process::data_dir()).watchdog()),
            shared,
            files,
            control,
            config,
            started_at: clock::now(),
            following: Following::default(),
            history_of: Timeline(0),
            marker_asked: None,
            founded_asked: false,
            promotion: Promotion::default(),
            checkpoint_asked: None,
            pending: (0, BTreeMap::new()),
            ending: false,
            parking: Parking::default(),
            handover: Handover::default(),
            reconfigured: false,
            promises: Promises::default(),
        }
    }

    /// Asks for the configuration file to be read again.
    pub fn read_configuration(&self, path: PathBuf) {
        self.files.send(Job::Configuration(path));
    }

    /// Keeps a configuration that is in force now, for a start after a crash.
    pub fn keep_configuration(&self, local: Value) {
        self.files.send(Job::KeepConfiguration(local));
    }

    /// A request that comes while a checkpoint runs would begin another one right after it, and a stop would wait for
    /// that: it is repeated only once the last one has shown, or should have.
    fn ask_for_checkpoint(&mut self) {
        const PATIENCE: Millis = Millis(30_000);
        let (redo, now) = (self.control.read().redo, clock::now());
        if self.checkpoint_asked.is_some_and(|(before, at)| before == redo && now.since(at) < PATIENCE) {
            return;
        }
        self.checkpoint_asked = Some((redo, now));
        wal::request_checkpoint();
    }

    /// Asks for the REST port to be opened.
    pub fn listen(&self) {
        self.files.send(Job::Listen(self.config.restapi.listen.clone()));
    }

    /// Goes on with what the file thread has done.
    pub fn take_files(&mut self) -> FileNews {
        let mut news = FileNews::default();
        for done in self.files.take_done() {
            match done {
                Done::Followed(Ok(())) => {
                    self.following.writing = false;
                    self.conf_written();
                }
                Done::Followed(Err(error)) => {
                    self.following = Following::default();
                    tracing::warn!("ha_ext.conf cannot be written: {error}");
                }
                Done::ServerFiles => {
                    tracing::info!("the server reads its configuration again");
                    signal(Signal::HUP);
                }
                Done::Parked(result) => self.park_ended("prepare a demotion in place", result),
                Done::Unparked(result) => self.park_ended("undo the preparation of a demotion in place", result),
                Done::Promoted { lease, result } => self.promote(&lease, result),
                Done::TtlKept(number, result) => self.ttl_kept(number, result),
                Done::Failed(text) => {
                    self.marker_asked = None;
                    self.founded_asked = false;
                    tracing::warn!("cannot write or read {text}");
                }
                Done::Listening(result) => news.rest = Some(result),
                Done::Configuration(Ok(value)) => news.configuration = Some(value),
                Done::Configuration(Err(text)) => tracing::warn!("the configuration stays as it was: {text}"),
            }
        }
        news
    }

    /// From now on only what closes the fence is done.
    pub fn begin_leaving(&mut self) {
        self.ending = true;
        self.forget_promotion();
    }

    /// The seat was left.
    pub fn end_leaving(&mut self) {
        self.ending = false;
        self.leaving = None;
    }

    /// Writes the marker when this node's lease is another, once it is certain that this is the cluster's data.
    pub fn keep_marker(&mut self, memory: &Memory, ours: bool) {
        if !ours || self.seat.is_none() {
            return;
        }
        if self.files.facts().founding.is_some() && !std::mem::replace(&mut self.founded_asked, true) {
            self.files.send(Job::Founded);
        }
        let known = self.files.facts().marker;
        let wanted = Marker {
            scope: self.config.scope.clone(),
            system_id: self.control.read().control.system_id,
            member: self.config.name.clone(),
            lease: marker::lease_to_name(known.as_ref(), &self.config.name, memory),
        };
        if known.as_ref() != Some(&wanted) && self.marker_asked.as_ref() != Some(&wanted) {
            self.marker_asked = Some(wanted.clone());
            self.files.send(Job::Marker(wanted));
        }
    }

    /// The system identifier of this data directory.
    pub fn system_id(&mut self) -> ha_core::ids::SystemId {
        self.control.read().control.system_id
    }

    /// Brings the running server's files in line with the configuration.
    pub fn write_server_files(&self) {
        let parameters = &self.config.postgresql.parameters;
        let refused = parameters.iter().filter(|(name, value)| !settings::acceptable(name, value));
        let refused: BTreeSet<String> = refused.map(|(name, _)| name.clone()).collect();
        for name in &refused {
            let value = &parameters[name];
            tracing::warn!("postgresql.parameters.{name}: the server refuses \"{value}\"; it is left out");
        }
        self.files.send(Job::ServerFiles(self.config.clone(), refused));
    }

    fn follow(&mut self, upstream: Option<&Upstream>) {
        let conninfo = upstream.map(|upstream| pgconf::primary_conninfo(&self.config, upstream)).unwrap_or_default();
        let target = (conninfo, upstream.cloned());
        if !self.following.writing || self.following.at_rest || self.following.target.as_ref() != Some(&target) {
            self.write_conf(target, false);
        }
    }

    fn write_conf(&mut self, target: (String, Option<Upstream>), at_rest: bool) {
        let upstream = target.1.as_ref();
        let rest = if at_rest { pgconf::AT_REST } else { "" };
        let text = pgconf::ha_ext_conf(&self.config, upstream) + rest;
        self.following = Following { target: Some(target), writing: true, at_rest };
        self.files.send(Job::Follow(text));
    }
}

impl Port for Inside {
    fn seat(&self) -> Option<Seat> {
        self.seat
    }

    fn observe(&mut self) -> LocalView {
        self.local_view()
    }

    fn execute(&mut self, effect: &Effect, memory: &Memory) -> Result<(), String> {
        if self.ending && !matches!(effect, Effect::CloseFence) {
            return Ok(());
        }
        match effect {
            Effect::OpenFence { lease } => {
                fence::open(self.shared, lease);
                self.promotion_is_over();
                self.empty_settings_soon();
                Ok(())
            }
            Effect::ExtendFence { until } => {
                fence::extend(self.shared, *until);
                Ok(())
            }
            Effect::LimitFence { until } => {
                fence::limit(self.shared, *until);
                Ok(())
            }
            Effect::UnbindFence { .. } => {
                fence::unbind(self.shared);
                Ok(())
            }
            Effect::CloseFence => {
                self.close_fence(memory);
                Ok(())
            }
            Effect::Promote { lease, timeline, skip } => {
                self.ask_for_promotion(*timeline, skip, *lease);
                Ok(())
            }
            Effect::PressOn(pressure) => {
                promotion::press_on(*pressure);
                Ok(())
            }
            Effect::Checkpoint => {
                self.ask_for_checkpoint();
                Ok(())
            }
            Effect::Follow { upstream } => {
                self.follow(upstream.as_ref());
                Ok(())
            }
            Effect::Park => {
                let candidate = match &memory.stage {
                    Stage::Sealing { candidate, .. } => Some(candidate),
                    _ => None,
                };
                self.park(candidate);
                Ok(())
            }
            Effect::Unpark => {
                self.unpark();
                Ok(())
            }
            Effect::Seal => {
                self.seal();
                Ok(())
            }
            Effect::Unseal => {
                self.unseal();
                Ok(())
            }
            Effect::Freeze => {
                self.freeze();
                Ok(())
            }
            Effect::ServeReads => {
                self.serve_reads();
                Ok(())
            }
            Effect::Demote { reason, method } => {
                self.close_fence(memory);
                match method {
                    DemoteMethod::InPlace => self.demote_in_place(reason),
                    DemoteMethod::Restart => {
                        self.leaving = Some(reason.clone());
                        Ok(())
                    }
                }
            }
            Effect::ArmWatchdog { .. } | Effect::FeedWatchdog { .. } | Effect::DisarmWatchdog => {
                self.watchdog.execute(effect);
                Ok(())
            }
            Effect::KeepTtl { ttl } => {
                self.keep_ttl(*ttl);
                Ok(())
            }
            Effect::Dcs(_)
            | Effect::PollPeers { .. }
            | Effect::AskFailsafe { .. }
            | Effect::AnswerFailsafe { .. }
            | Effect::Run(_)
            | Effect::Exit { .. } => Err("it is not for the worker to do".to_owned()),
        }
    }

    fn take_outcomes(&mut self) -> Vec<Outcome> {
        Vec::new()
    }

    fn server_facts(&self) -> ServerFacts {
        ServerFacts { version_num: wal::version_num(), started_at_unix_us: Some(wal::postmaster_started_unix_us()) }
    }

    fn reconfigured(&mut self, config: &Arc<Config>, dynamic: Option<&Value>) {
        self.config = config.clone();
        self.watchdog.configure(&config.watchdog);
        self.reconfigured = true;
        // Before the copy for the next start: a worker that ends in between then finds the change anew.
        self.write_server_files();
        if let Some(dynamic) = dynamic {
            self.files.send(Job::Dynamic(dynamic.clone()));
        }
    }
}

/// Sends a signal to the postmaster.
pub fn signal(signal: Signal) {
    if let Err(error) = process::signal_postmaster(signal) {
        tracing::warn!("cannot signal the postmaster: {error}");
    }
}
