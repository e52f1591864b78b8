//! The outside seat's hands and eyes: observes data directory and process table, runs steps. No policy.

mod server;

use crate::pgdata;
use crate::postmaster::{PidFile, Postmaster};
use crate::process::Cancel;
use crate::site::Site;
use crate::steps::{self, Context};
use ha_core::clock::{Millis, Tick};
use ha_core::effect::{Effect, Step, StopMode};
use ha_core::local::{DataDir, LocalView, Marker};
use ha_core::memory::Memory;
use ha_core::outcome::Outcome;
use ha_core::seat::LeaveReason;
use ha_node::clock;
use ha_node::watchdog::Watchdog;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// From a step's thread to the main thread.
#[derive(Debug)]
pub enum Event {
    /// A step has started a postmaster; it is not known yet whether it comes up.
    Spawned(Arc<Postmaster>),
    /// A step is over.
    Ended {
        /// Which one, counted.
        number: u64,
        /// What it was.
        step: Step,
        /// How it went.
        result: Result<(), String>,
    },
}

/// The step that runs.
struct Running {
    number: u64,
    step: Step,
    cancel: Cancel,
}

/// This node, seen from outside the server.
pub struct Outside {
    /// Where everything is; replaced when the configuration changes.
    pub site: Site,
    /// This machine's watchdog, if it runs.
    pub watchdog: Watchdog,
    postmaster: Option<Arc<Postmaster>>,
    /// Since when the postmaster has been known, or its worker lost.
    since: Tick,
    stopping_since: Option<Tick>,
    /// The server is on its way to recovery in the same postmaster: children from before this moment are in its way.
    demoted_at: Option<Tick>,
    /// A postmaster is gone and it is not known yet whether all its children are.
    check_leftovers: bool,
    running: Option<Running>,
    steps_begun: u64,
    outcomes: Vec<Outcome>,
    exit: Option<i32>,
    prepare_only: bool,
    /// The dynamic configuration in force.
    dynamic: Option<serde_json::Value>,
    /// What was last said about a damaged data directory.
    damage: Option<String>,
    /// What was last said about a file that keeps how long promises may last, and what is counted on of it after a failed attempt to write it.
    kept_mistake: Option<String>,
    kept_at_most: Option<Millis>,
    events: (Sender<Event>, Receiver<Event>),
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Outside {
    /// A node of which nothing is known yet.
    #[must_use]
    pub fn new(site: Site, wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self {
            watchdog: Watchdog::new(&site.config.watchdog, site.paths.watchdog()),
            site,
            postmaster: None,
            since: clock::now(),
            stopping_since: None,
            demoted_at: None,
            check_leftovers: true,
            running: None,
            steps_begun: 0,
            outcomes: Vec::new(),
            exit: None,
            prepare_only: false,
            dynamic: None,
            damage: None,
            kept_mistake: None,
            kept_at_most: None,
            events: channel(),
            wake,
        }
    }

    /// Servers are not started: what their start needs is made ready, then this process ends. If one runs already,
    /// there is nothing to do.
    pub fn only_prepare(&mut self) {
        self.prepare_only = true;
        if self.postmaster.is_some() {
            tracing::info!("the server runs: there is nothing to prepare");
            self.exit = Some(0);
        }
    }

    /// The postmaster, dead or alive, as far as it is known.
    #[must_use]
    pub fn postmaster(&self) -> Option<&Arc<Postmaster>> {
        self.postmaster.as_ref()
    }

    /// Set once the decision is to end this process.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        self.exit
    }

    /// The step that runs.
    #[must_use]
    pub fn step(&self) -> Option<&Step> {
        self.running.as_ref().map(|running| &running.step)
    }

    /// A step runs, or the end of one has not been taken into account yet.
    #[must_use]
    pub fn busy(&self) -> bool {
        self.running.is_some() || !self.outcomes.is_empty()
    }

    /// Ends this process with a code, without a decision: nothing was begun.
    pub fn leave(&mut self, code: i32) {
        self.exit = Some(code);
    }

    /// When the postmaster started, microseconds since 1970.
    #[must_use]
    pub fn started_at_unix_us(&self) -> Option<i64> {
        self.postmaster.as_ref()?;
        PidFile::read(self.site.data_dir()).map(|file| file.started_unix_s.saturating_mul(1_000_000))
    }

    /// Keeps the dynamic configuration for a start without the store, and for the worker of the next server.
    pub fn keep_dynamic(&mut self, dynamic: Option<&serde_json::Value>, acting: bool) {
        self.dynamic = dynamic.cloned();
        let Some(dynamic) = dynamic else { return };
        // Else the worker does, or the step that runs.
        if !acting || !self.site.data_dir().join("PG_VERSION").exists() || self.running.is_some() {
            return;
        }
        if let Err(error) = pgdata::write_durably(&self.site.paths.dynamic_config(), &dynamic.to_string()) {
            tracing::warn!(%error, "the dynamic configuration could not be kept");
        }
    }

    /// Makes the server read its configuration, written anew if the seat is ours: else its worker does that, who knows
    /// the store better.
    pub fn reload_server(&self, acting: bool) {
        let Some(postmaster) = &self.postmaster else { return };
        let written = if acting { steps::conf::write_static(&self.site) } else { Ok(()) };
        if let Err(error) = written.and_then(|()| postmaster.signal(Signal::HUP)) {
            tracing::warn!(%error, "the server could not be told about its configuration");
        }
    }

    /// Tells the step that runs, if any, to stop.
    pub fn cancel_step(&self) {
        if let Some(running) = &self.running {
            running.cancel.cancel();
        }
    }

    /// The seat came back, and why. `demoted_at`: with a server that goes on as a standby in the same postmaster, whose worker was
    /// last known to be alive at that moment.
    pub fn seat_taken(&mut self, reason: LeaveReason, demoted_at: Option<Tick>) {
        self.since = clock::now();
        self.demoted_at = demoted_at;
        self.outcomes.push(Outcome::SeatTaken(reason));
    }

    /// Takes in what the steps' threads have reported.
    pub fn pump(&mut self) {
        while let Ok(event) = self.events.1.try_recv() {
            match event {
                Event::Spawned(postmaster) => {
                    tracing::info!(pid = postmaster.pid(), "postgres started");
                    self.since = clock::now();
                    self.stopping_since = None;
                    self.postmaster = Some(postmaster);
                }
                Event::Ended { number, step, result } => self.step_ended(number, step, result),
            }
        }
    }

    fn step_ended(&mut self, number: u64, step: Step, result: Result<(), String>) {
        // A step that was overtaken by a sharper one has no say any more.
        if self.running.as_ref().is_none_or(|running| running.number != number) {
            return;
        }
        self.running = None;
        match &result {
            Ok(()) => tracing::info!("done: {step}"),
            Err(why) => tracing::warn!("failed: {step}: {why}"),
        }
        if matches!(step, Step::Stop { .. }) && result.is_err() {
            self.stopping_since = None;
        }
        if self.prepare_only && matches!(step, Step::Start { .. }) {
            tracing::info!("the server may be started now");
            self.exit = Some(i32::from(result.is_err()));
        }
        self.outcomes.push(Outcome::Step { step, result, at: clock::now() });
    }

    /// One snapshot.
    pub fn look(&mut self) -> LocalView {
        self.pump();
        let server = self.server();
        let data = pgdata::observe(&self.site);
        self.report_damage(&data);
        let history = match &data {
            DataDir::Present(control) => {
                pgdata::history(&self.site, control.timeline.max(control.min_recovery_timeline))
            }
            DataDir::Empty | DataDir::Damaged { .. } => Vec::new(),
        };
        let founding = pgdata::is_founding(&self.site, &data);
        LocalView {
            data,
            server,
            marker: self.marker(),
            history,
            step_running: self.step().cloned(),
            cannot_write: None,
            history_at: None,
            pending_restart: BTreeMap::new(),
            founding,
            watchdog: self.watchdog.view(),
            kept_ttl: self.kept_ttl(),
        }
    }

    /// What a failed attempt may have left is not counted on.
    fn kept_ttl(&mut self) -> Millis {
        let (kept, mistake) = ha_node::kept_ttl::read(&self.site.paths);
        if let Some(mistake) = mistake.filter(|mistake| self.kept_mistake.as_ref() != Some(mistake)) {
            tracing::warn!("{mistake}: it counts as {kept}");
            self.kept_mistake = Some(mistake);
        }
        self.kept_at_most.map_or(kept, |at_most| kept.min(at_most))
    }

    fn keep_ttl(&mut self, ttl: Millis) {
        let before = self.kept_ttl();
        match ha_node::kept_ttl::keep(&self.site.paths, ttl) {
            Ok(()) => self.kept_at_most = None,
            Err(error) => {
                tracing::warn!("for how long promises may last cannot be kept: {error}");
                self.kept_at_most = Some(before.min(ttl));
            }
        }
    }

    /// Says why a data directory is of no use, once: the rule that follows from it cannot.
    fn report_damage(&mut self, data: &DataDir) {
        let damage = match data {
            DataDir::Damaged { reason, .. } if self.running.is_none() => Some(reason.clone()),
            DataDir::Damaged { .. } => return,
            DataDir::Empty | DataDir::Present(_) => None,
        };
        if let Some(reason) = &damage
            && damage != self.damage
        {
            tracing::warn!("{} is damaged: {reason}", self.site.data_dir().display());
        }
        self.damage = damage;
    }

    /// The marker. One that cannot be read proves nothing: a leader key is then adopted only after a full TTL.
    #[must_use]
    pub fn marker(&self) -> Option<Marker> {
        match ha_node::marker::read(&self.site.paths.marker()) {
            Ok(marker) => marker,
            Err(error) => {
                tracing::debug!(%error, "no marker can be read");
                None
            }
        }
    }

    /// Carries out one effect; steps go on by themselves.
    pub fn carry_out(&mut self, effect: &Effect, memory: &Memory) -> Result<(), String> {
        if self.watchdog.execute(effect) {
            return Ok(());
        }
        match effect {
            Effect::Run(step) => self.begin(step, memory),
            Effect::Exit { code } => {
                self.exit = Some(*code);
                Ok(())
            }
            Effect::KeepTtl { ttl } => {
                self.keep_ttl(*ttl);
                Ok(())
            }
            // Nothing runs outside that could acknowledge anything.
            Effect::CloseFence => Ok(()),
            Effect::Dcs(_)
            | Effect::PollPeers { .. }
            | Effect::AskFailsafe { .. }
            | Effect::AnswerFailsafe { .. }
            | Effect::ExtendFence { .. }
            | Effect::LimitFence { .. }
            | Effect::OpenFence { .. }
            | Effect::UnbindFence { .. }
            | Effect::Promote { .. }
            | Effect::PressOn(_)
            | Effect::Checkpoint
            | Effect::Park
            | Effect::Unpark
            | Effect::Seal
            | Effect::Unseal
            | Effect::Freeze
            | Effect::ServeReads
            | Effect::ArmWatchdog { .. }
            | Effect::FeedWatchdog { .. }
            | Effect::DisarmWatchdog
            | Effect::Follow { .. }
            | Effect::Demote { .. } => Err(format!("not to be done outside the server: {effect}")),
        }
    }

    fn begin(&mut self, step: &Step, memory: &Memory) -> Result<(), String> {
        if let Some(running) = &self.running {
            if running.step == *step {
                return Ok(());
            }
            let overtakes = matches!(
                (&running.step, step),
                (Step::Stop { mode: StopMode::Fast }, Step::Stop { mode: StopMode::Immediate })
                    | (Step::EndStragglers, Step::Stop { .. })
            );
            if !overtakes {
                return Err(format!("another step runs: {}", running.step));
            }
        }
        let cancel = Cancel::new().map_err(|error| error.to_string())?;
        self.steps_begun += 1;
        let number = self.steps_begun;
        let context = Context {
            site: self.site.clone(),
            cancel: cancel.clone(),
            postmaster: self.postmaster.clone(),
            demoted_at: self.demoted_at,
            marker_lease: ha_core::marker::lease_to_name(self.marker().as_ref(), &self.site.config.name, memory),
            background: false,
            prepare_only: self.prepare_only,
            dynamic: self.dynamic.clone(),
            events: self.events.0.clone(),
            wake: Arc::clone(&self.wake),
        };
        tracing::info!("begun: {step}");
        let own = step.clone();
        // Not through `ha_node::runtime`: what a step starts must not inherit blocked signals.
        let thread = std::thread::Builder::new().name("ha_step".to_owned()).spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| steps::perform(&own, &context)));
            let result = match result {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(panic) => Err(ha_node::runtime::panic_text(panic.as_ref()).to_owned()),
            };
            context.tell(Event::Ended { number, step: own, result });
        });
        thread.map_err(|error| format!("no thread for a step: {error}"))?;
        self.running = Some(Running { number, step: step.clone(), cancel });
        Ok(())
    }

    /// What came to an end since the last call.
    pub fn outcomes(&mut self) -> Vec<Outcome> {
        self.pump();
        std::mem::take(&mut self.outcomes)
    }
}
