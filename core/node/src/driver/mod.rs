//! The loop of whoever holds the seat: events -> one snapshot -> decide -> execute, in that order, each tick.
//!
//! The driver holds no rule. It keeps the [`Memory`], sends requests to the store and questions to peers through the
//! [`crate::net`] thread, and hands everything else to its [`Port`].

mod asking;
mod configuration;
mod events;
mod jitter;
mod news;
mod patience;
mod port;
mod report;
mod rest;
#[cfg(test)]
mod tests;

pub use configuration::{Layers, store_options};
pub use events::{Event, EventKind, Events};
pub use port::{Options, Port, StartError, Ticked};

use crate::clock_watch::{ClockWatch, HARDWARE_CLOCK};
use crate::net::{Command, Net, StoreHealth};
use crate::runtime::Died;
use configuration::Configuration;
use ha_core::api::Snapshot;
use ha_core::clock::{Millis, Tick};
use ha_core::cluster::Cluster;
use ha_core::config::{Config, ConfigError, Warning};
use ha_core::dcs::{DcsCall, DcsReply};
use ha_core::decide::{Decision, decide};
use ha_core::effect::Effect;
use ha_core::failsafe::{PromiseView, Question, Reply};
use ha_core::ids::NodeName;
use ha_core::local::LocalView;
use ha_core::memory::Memory;
use ha_core::outcome::Outcome;
use ha_core::peer::PeerView;
use ha_core::rule::Rule;
use ha_core::seat::PASS_ON_WITHIN;
use ha_core::settings::Settings;
use ha_core::view::{DcsView, Seat, View};
use patience::Patience;
use rest::Rest;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// See the module.
pub struct Driver {
    net: Net,
    clocks: ClockWatch,
    configuration: Configuration,
    memory: Memory,
    cluster: Option<Arc<Cluster>>,
    store: StoreHealth,
    store_answered_unix_s: u64,
    /// The request that failed last at the store, so that what is repeated is logged once.
    store_failure: Option<String>,
    peers: BTreeMap<NodeName, PeerView>,
    promises: BTreeMap<NodeName, PromiseView>,
    questions: Vec<Question>,
    outcomes: Vec<Outcome>,
    written: Vec<(u64, DcsReply)>,
    rest: Rest,
    dcs_busy: bool,
    patience: Patience,
    seated: bool,
    leaving: bool,
    rule: Option<Rule>,
    role: &'static str,
    /// Effects of the last tick but requests and questions, so that what is repeated is logged once.
    said: Vec<String>,
    failure: Option<String>,
    events: Events,
    jitter: u64,
    died: Died,
}

/// How soon to try again after an effect failed.
const RETRY_AFTER_FAILURE: Millis = Millis(1000);

impl Driver {
    /// Reads the configuration and starts the net thread. Warnings go to the log.
    pub fn new(options: Options) -> Result<Self, StartError> {
        let (wake, died) = (options.hooks.wake.clone(), options.hooks.died.clone());
        let (configuration, warnings) = Configuration::new(options.layers).map_err(StartError::Config)?;
        log_warnings(&warnings);
        let net = Net::start(crate::net::Options {
            store: configuration.store_options(),
            asker: configuration.asker(),
            hooks: options.hooks,
        })
        .map_err(StartError::Thread)?;
        let clocks = ClockWatch::start(Path::new(HARDWARE_CLOCK), wake, died.clone()).map_err(StartError::Thread)?;
        let why = "not connected yet".to_owned();
        Ok(Self {
            net,
            clocks,
            configuration,
            memory: Memory::default(),
            cluster: None,
            store: StoreHealth::Unreachable { since: crate::clock::now(), why },
            store_answered_unix_s: 0,
            store_failure: None,
            peers: BTreeMap::new(),
            promises: BTreeMap::new(),
            questions: Vec::new(),
            outcomes: Vec::new(),
            written: Vec::new(),
            rest: Rest::default(),
            dcs_busy: false,
            patience: Patience::default(),
            died,
            seated: false,
            leaving: false,
            rule: None,
            role: "",
            said: Vec::new(),
            failure: None,
            events: Events::default(),
            jitter: jitter::seed(),
        })
    }

    /// One turn of the loop.
    pub fn tick(&mut self, port: &mut impl Port) -> Ticked {
        self.tick_telling(port, &mut |_| true)
    }

    /// The same; `tell` is called with what is to be remembered just before the leader key is released, and before another leader is
    /// promised anything; it says whether that was heard. Who goes on from it leads by that key no more, whatever becomes of the request,
    /// and keeps the promise.
    pub fn tick_telling(&mut self, port: &mut impl Port, tell: &mut dyn FnMut(&Memory) -> bool) -> Ticked {
        self.take_news(port);
        // Not before: a promise counts from here, and the question was sent earlier.
        let now = port.now();
        if self.patience.ends(self.dcs_busy, self.settings().retry_timeout_ms, Instant::now()) {
            (self.died)("ha_net", "it does not end a request to the store");
        }
        self.outcomes.append(&mut port.take_outcomes());
        let Some(seat) = port.seat() else {
            self.net.acting().set(false);
            self.clocks.set_acting(false);
            self.seated = false;
            // Of requests that served the other side; its memory is what counts.
            self.outcomes.retain(|outcome| !matches!(outcome, Outcome::Dcs { .. }));
            self.questions.clear();
            return Ticked { next_wake: now + self.settings().loop_wait_ms, rule: None, rule_changed: false };
        };
        if !self.seated {
            self.seated = true;
            self.clocks.set_acting(true);
            self.events.record(EventKind::Seat, "seat.taken", "This side acts for the node from here on.");
        }
        let local = port.observe();
        let stop_requested = port.stop_requested();
        self.jitter = jitter::next(self.jitter);
        let decided = self.decide(now, seat, &local, stop_requested);
        let decision = match decided {
            Ok(decision) => decision,
            Err(refused) => {
                self.fail(&refused);
                // Its lease lapses if this lasts. Closing the fence is always allowed.
                self.net.acting().set(false);
                let _ = port.execute(&Effect::CloseFence, &self.memory);
                self.serve_awaited();
                return Ticked { next_wake: now + RETRY_AFTER_FAILURE, rule: self.rule, rule_changed: false };
            }
        };
        self.outcomes.clear();
        let rule_changed = self.rule != Some(decision.rule);
        self.say(&decision, &local, now);
        self.memory = decision.memory;
        self.net.acting().set_doubt(self.memory.doubt);
        self.clocks.set_lowest(self.memory.clocks_lowest);
        let mut effects = decision.effects;
        let told = |effect: &Effect| {
            matches!(
                effect,
                Effect::Dcs(DcsCall::ReleaseLeader { .. }) | Effect::AnswerFailsafe { reply: Reply::Accepted(_), .. }
            )
        };
        if effects.iter().any(told) && !tell(&self.memory) {
            asking::promise_nothing(&mut effects);
        }
        self.questions.clear();
        let next_wake = self.execute(port, now, decision.wake_at, &effects);
        self.publish(port.server_facts(), local, decision.rule, now, next_wake);
        self.serve_awaited();
        Ticked { next_wake, rule: Some(decision.rule), rule_changed }
    }

    /// What is remembered; it goes with the seat.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The seat comes to this side, with what the other side remembers.
    pub fn take_seat(&mut self, memory: Memory) {
        self.net.send(Command::Resume { session: memory.session, lease: memory.lease });
        self.net.forget_snapshot();
        self.clocks.forget();
        self.memory = memory;
        self.leaving = false;
        self.rule = None;
        self.said.clear();
        self.outcomes.retain(|outcome| matches!(outcome, Outcome::SeatTaken(_)));
    }

    /// Keeps the node lease alive in the store, once, while the other side has the seat but is not heard (after
    /// [`Driver::take_seat`] with its last memory). That opens no fence: only a renewal by the seat's holder does.
    pub fn keep_session(&mut self) {
        if !self.dcs_busy {
            self.dcs_busy = true;
            self.net.send(Command::Call(DcsCall::KeepSession));
        }
    }

    /// The seat is to be left: from now on no request to the store is begun. Keep ticking until [`Driver::quiet`],
    /// then pass on [`Driver::memory`] and answer `None` to [`Port::seat`].
    pub fn begin_leaving(&mut self) {
        self.leaving = true;
    }

    /// Somebody waits for the seat: after a moment the request that is under way is given up, if it may be.
    pub fn hurry(&self) {
        self.net.send(Command::GiveUpCall { after: PASS_ON_WITHIN });
    }

    /// No request to the store is under way, the end of the last one is in the memory, and REST has stopped if it was
    /// told to.
    #[must_use]
    pub fn quiet(&self) -> bool {
        !self.dcs_busy
            && !self.rest.awaited
            && !self.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Dcs { .. }))
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        self.configuration.config()
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        self.configuration.settings()
    }

    /// The dynamic configuration in force, if the store ever had one.
    #[must_use]
    pub fn dynamic(&self) -> Option<&Value> {
        self.configuration.dynamic()
    }

    /// The local file was read again (SIGHUP). With a mistake in it nothing changes.
    pub fn reload(
        &mut self,
        local: Value,
        environment: BTreeMap<String, String>,
        port: &mut impl Port,
    ) -> Result<Vec<Warning>, ConfigError> {
        let before = self.configuration.config().clone();
        let warnings = self.configuration.reload(local, environment)?;
        log_warnings(&warnings);
        self.config_changed(&before, port);
        Ok(warnings)
    }

    /// What the last tick published for the REST API; commands given in SQL are answered from the same.
    #[must_use]
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.net.snapshot()
    }

    /// The newest view of the cluster.
    #[must_use]
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// Whether the store can be followed.
    #[must_use]
    pub fn store(&self) -> &StoreHealth {
        &self.store
    }

    /// What the peers said last.
    pub fn peers(&self) -> impl Iterator<Item = &PeerView> {
        self.peers.values()
    }

    /// Goes on from what an earlier holder of this side has recorded, oldest first. Before the first tick.
    pub fn resume_events(&mut self, earlier: Vec<Event>) {
        self.events.resume(earlier);
    }

    /// The flight recorder.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Calls `use_it` with a snapshot as the next decision would get it, for
    /// [`ha_core::decide::eligibility`] and the like.
    pub fn with_view<T>(&self, now: Tick, seat: Seat, local: &LocalView, use_it: impl FnOnce(&View<'_>) -> T) -> T {
        let peers: Vec<PeerView> = self.peers.values().cloned().collect();
        let promises: Vec<PromiseView> = self.promises.values().cloned().collect();
        let dcs = match &self.store {
            StoreHealth::Fresh => self.cluster.as_deref().map(DcsView::Fresh),
            StoreHealth::Unreachable { since, .. } => {
                Some(DcsView::Unreachable { since: *since, last: self.cluster.as_deref() })
            }
        };
        let config = self.configuration.config();
        use_it(&View {
            now,
            clocks: None,
            seat,
            me: &config.name,
            scope: &config.scope,
            identity: self.configuration.identity(),
            settings: self.configuration.settings(),
            dcs: dcs.unwrap_or(DcsView::Unreachable { since: now, last: None }),
            local,
            peers: &peers,
            promises: &promises,
            questions: &self.questions,
            outcomes: &self.outcomes,
            dcs_busy: self.dcs_busy || self.leaving,
            stop_requested: false,
            jitter: (self.jitter >> 32) as u32,
        })
    }

    fn decide(&self, now: Tick, seat: Seat, local: &LocalView, stop_requested: bool) -> Result<Decision, String> {
        self.with_view(now, seat, local, |view| {
            let view = View { stop_requested, clocks: self.clocks.read(), ..*view };
            let decision = decide(&self.memory, &view);
            match decision.check(&view) {
                Ok(()) => Ok(decision),
                Err(violation) => Err(format!("refused the decision {}: {violation}", decision.rule.code())),
            }
        })
    }

    /// Executes in order and says when to look again.
    fn execute(&mut self, port: &mut impl Port, now: Tick, wake_at: Tick, effects: &[Effect]) -> Tick {
        // Never in a tight loop, never later than the loop's period.
        let next_wake = wake_at.max(now + Millis(1)).min(now + self.settings().loop_wait_ms);
        for effect in effects {
            let done = match effect {
                Effect::Dcs(_) if self.dcs_busy => Err("a request to the store is still under way".to_owned()),
                Effect::Dcs(call) => {
                    self.dcs_busy = true;
                    self.net.send(Command::Call(call.clone()));
                    Ok(())
                }
                Effect::PollPeers { targets } => {
                    self.poll(targets, now);
                    Ok(())
                }
                Effect::AskFailsafe { targets, created } => {
                    self.ask_failsafe(targets, *created, now);
                    Ok(())
                }
                Effect::AnswerFailsafe { question, reply } => {
                    self.net.send(Command::AnswerFailsafe { question: *question, reply: reply.clone() });
                    Ok(())
                }
                other => self.execute_here(port, other),
            };
            if let Err(reason) = done {
                self.fail(&format!("cannot {effect}: {reason}"));
                return next_wake.min(now + RETRY_AFTER_FAILURE);
            }
        }
        self.failure = None;
        next_wake
    }

    fn execute_here(&self, port: &mut impl Port, effect: &Effect) -> Result<(), String> {
        // A confirmation may push the deadline out only while the fence is meant to be open.
        match effect {
            Effect::OpenFence { lease } | Effect::UnbindFence { lease } => {
                let acting = self.net.acting();
                port.execute(effect, &self.memory)?;
                acting.set(true);
                if acting.is_lost(lease) {
                    acting.set(false);
                    port.execute(&Effect::CloseFence, &self.memory)?;
                    return Err("its leader key was lost a moment ago".to_owned());
                }
                Ok(())
            }
            Effect::CloseFence | Effect::Demote { .. } => {
                self.net.acting().set(false);
                port.execute(effect, &self.memory)
            }
            other => port.execute(other, &self.memory),
        }
    }
}

fn log_warnings(warnings: &[Warning]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}
