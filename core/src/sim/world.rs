//! The world: all state, virtual time, and where each event goes.

use super::client::Client;
use super::event::{Addressee, Event, Frozen, Who};
use super::judge::Judge;
use super::log::Log;
use super::net::Net;
use super::node::{Node, Process, Server};
use super::params::Params;
use super::queue::Queue;
use super::rng::Rng;
use super::schedule::Planned;
use super::store::Store;
use super::wal::Wal;
use super::{Mutant, Options};
use crate::clock::Tick;
use crate::ids::NodeName;
use crate::rule::Rule;
use crate::view::Side;
use std::collections::BTreeMap;

// Independent facts, not a state.
#[allow(clippy::struct_excessive_bools)]
pub(super) struct World {
    pub(super) now: u64,
    pub(super) rng: Rng,
    pub(super) queue: Queue,
    pub(super) params: Params,
    pub(super) plan: Vec<Planned>,
    pub(super) dumps: super::restores::Dumps,
    pub(super) mutant: Option<Mutant>,
    pub(super) nodes: Vec<Node>,
    pub(super) store: Store,
    pub(super) net: Net,
    pub(super) wal: Wal,
    pub(super) clients: Vec<Client>,
    pub(super) prepared: Vec<super::two_phase::Prepared>,
    pub(super) judge: Judge,
    pub(super) log: Log,
    /// How often each rule was the reason of a decision, in the order of `Rule::ALL`.
    pub(super) rules: Vec<u64>,
    pub(super) faults: BTreeMap<&'static str, u64>,
    pub(super) healed_at: Option<u64>,
    pub(super) over: bool,
    pub(super) events: u64,
    pub(super) digest: u64,
    /// The next node that takes the leader key finds its disk full, for so long.
    pub(super) ambush: Option<u64>,
    /// The next promotion is followed by one of those faults that `apart.rs` has.
    pub(super) undoes_promotion: bool,
    /// `ttl` is lowered at the next promise, and what was promised is put to the test.
    pub(super) forgets_ttl: bool,
    /// The machine of the next leader that comes to such a moment is paused, for so long.
    pub(super) pause_ambush: Option<(super::hypervisor::Moment, u64)>,
    /// And once more after that.
    pub(super) pause_twice: bool,
    /// After how many pauses the network keeps for a while what it has.
    pub(super) answers_held: u8,
    /// The candidate of a hand-over that crashes when the key is released.
    pub(super) doomed: Option<NodeName>,
    /// How much more often than usual requests and replies are lost.
    pub(super) outcome_trouble: u64,
    /// Numbers every incarnation, flight, connection: never given twice.
    next_number: u64,
}

impl World {
    pub(super) fn new(options: &Options) -> Self {
        // Another sequence than the one the schedule was drawn from.
        let mut rng = Rng::new(!options.schedule.seed);
        let params = options.schedule.params.clone();
        let nodes = super::genesis::nodes(&mut rng, &params);
        let clients = Client::several(&mut rng, &params);
        Self {
            now: 0,
            queue: Queue::default(),
            dumps: super::restores::Dumps::of(&options.schedule.faults),
            mutant: options.mutant,
            store: Store::new(i64::try_from(rng.between(1, 1000)).unwrap_or(1)),
            net: Net::new(nodes.len()),
            wal: Wal::default(),
            judge: Judge::default(),
            log: Log::new(options.log),
            rules: vec![0; Rule::ALL.len()],
            faults: BTreeMap::new(),
            healed_at: None,
            over: false,
            events: 0,
            digest: 0,
            outcome_trouble: 1,
            ambush: None,
            undoes_promotion: false,
            forgets_ttl: false,
            pause_ambush: None,
            pause_twice: false,
            answers_held: 0,
            prepared: Vec::new(),
            doomed: None,
            next_number: 0,
            rng,
            params,
            plan: options.schedule.faults.clone(),
            nodes,
            clients,
        }
    }

    /// Runs until the judge is satisfied or has found a violation.
    pub(super) fn run(&mut self) {
        super::genesis::begin(self);
        while !self.over && self.judge.violation.is_none() {
            let Some((at, event)) = self.queue.pop() else { break };
            self.now = self.now.max(at);
            self.events += 1;
            self.deliver(event);
            self.digest(at);
            super::judge::after_every_event(self);
        }
    }

    /// Takes what happened into the digest.
    pub(super) fn digest(&mut self, what: u64) {
        let mixed = self.digest.rotate_left(23) ^ what ^ self.rng.peek();
        self.digest = mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(super) fn later(&mut self, delay_ms: u64, event: Event) {
        self.queue.push(self.now + delay_ms, event);
    }

    pub(super) fn soon(&mut self, low_ms: u64, high_ms: u64, event: Event) {
        let delay_ms = self.rng.between(low_ms, high_ms);
        self.later(delay_ms, event);
    }

    pub(super) fn local(&self, node: usize) -> Tick {
        self.nodes[node].clock.at(self.now)
    }

    pub(super) fn process(&self, who: Who) -> &Process {
        match who.side {
            Side::Inside => &self.nodes[who.node].worker,
            Side::Outside => &self.nodes[who.node].supervisor,
        }
    }

    pub(super) fn process_mut(&mut self, who: Who) -> &mut Process {
        match who.side {
            Side::Inside => &mut self.nodes[who.node].worker,
            Side::Outside => &mut self.nodes[who.node].supervisor,
        }
    }

    /// The process if it is still the one that was meant.
    pub(super) fn living(&mut self, who: Who, life: u64) -> Option<&mut Process> {
        let process = self.process_mut(who);
        (process.alive && process.life == life).then_some(process)
    }

    pub(super) fn server(&self, node: usize) -> Option<&Server> {
        self.nodes[node].server.as_ref()
    }

    pub(super) fn say(&mut self, node: usize, text: &str) {
        if !self.log.on {
            return;
        }
        let name = self.nodes[node].name.as_str();
        self.log.line(self.now, name, text);
    }

    pub(super) fn trouble(&mut self, node: usize) {
        self.nodes[node].troubled_at = self.now;
    }

    fn deliver(&mut self, event: Event) {
        let frozen = match event.addressee() {
            Addressee::World => None,
            Addressee::Driver(who, main) => {
                let what = match (who.side, main) {
                    (Side::Inside, true) => Frozen::Main,
                    (Side::Inside, false) => Frozen::Worker,
                    (Side::Outside, _) => Frozen::Supervisor,
                };
                self.nodes[who.node].is_frozen(what).then_some(who.node)
            }
            Addressee::Machine(node) => self.nodes[node].is_frozen(Frozen::Node).then_some(node),
        };
        match frozen {
            Some(node) => self.nodes[node].parked.push((self.now, event)),
            None => self.handle(event),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick { who, life } => self.tick(who, life),
            Event::StoreArrive { who, life, flight, request, retried } => {
                self.store_arrive(who, life, flight, &request, retried);
            }
            Event::StoreAnswer { who, life, flight, answer } => self.store_answer(who, life, flight, answer),
            Event::CallTimeout { who, life, flight, reason } => self.call_timeout(who, life, flight, reason),
            Event::Watch { who, life, stream, cluster } => self.watch_event(who, life, stream, &cluster),
            Event::WatchCheck { who, life, stream } => self.watch_check(who, life, stream),
            Event::WatchConnect { who, life } => self.watch_connect(who, life),
            Event::LeaseDue(lease) => self.lease_due(lease),
            Event::WatchdogResets { node, number } => self.watchdog_resets(node, number),
            Event::PeerAsk { from, life, asked_at, to } => self.peer_ask(from, life, asked_at, to),
            Event::PeerAnswered { from, life, asked_at, to, answer } => {
                self.peer_answered(from, life, asked_at, to, *answer);
            }
            Event::PeerTimeout { from, life, asked_at } => self.peer_timeout(from, life, asked_at),
            Event::PromiseAsk { from, life, asked_at, to, created } => {
                self.promise_ask(from, life, asked_at, to, created);
            }
            Event::PromiseAnswered { from, life, asked_at, to, answer } => {
                self.promise_answered(from, life, asked_at, to, answer);
            }
            Event::PromiseTimeout { from, life, asked_at } => self.promise_timeout(from, life, asked_at),
            Event::PromiseTested { leader, member } => self.test_promise(leader, member),
            Event::ClientTry { client, attempt } => self.client_try(client, attempt),
            Event::ClientLooks { client } => self.client_looks(client),
            Event::CommitFlush(commit) => self.commit_flush(commit),
            Event::CommitAck(commit) => self.commit_ack(&commit),
            Event::SecondThoughts { revision, change } => self.changes_mind(revision, change),
            Event::Fault(number) => self.fault(number),
            Event::Thaw { node, what, number } => self.thaw(node, what, number),
            Event::Undo(undo) => self.undo(&undo),
            Event::Heal => self.heal(),
            Event::TtlKept { who, life } => self.ttl_kept(who, life),
            Event::TtlForgotten { leader } => self.ttl_forgotten(leader),
            Event::JoinedLate if self.healed_at.is_some() => {}
            Event::JoinedLate => self.joined_late(),
            Event::Judge => super::judge::liveness(self),
            other => self.handle_machine(other),
        }
    }

    fn handle_machine(&mut self, event: Event) {
        match event {
            Event::Boot { node, boot } => self.boot(node, boot),
            Event::SupervisorStart { node, boot } => self.supervisor_start(node, boot),
            Event::UnitStart { node, boot } => self.unit_start(node, boot),
            Event::WorkerStart { node, server } => self.worker_start(node, server),
            Event::WorkerExit { who, life } => self.worker_exit(who, life),
            Event::WorkerGone { node, supervisor } => self.worker_gone(node, supervisor),
            Event::Hello { node, worker, waited_ms } => self.hello(node, worker, waited_ms),
            Event::HelloMissed { node, supervisor } => self.hello_missed(node, supervisor),
            Event::LeaveMissed { node, supervisor } => self.leave_missed(node, supervisor),
            Event::Silence { node, supervisor } => self.silence(node, supervisor),
            Event::ServerReady { node, server, attempt } => self.server_ready(node, server, attempt),
            Event::Replayed { node, server } => self.replayed(node, server),
            Event::FollowApplied { node, server, upstream } => self.follow_applied(node, server, upstream.as_deref()),
            Event::PromotionDone { node, server, attempt } => self.promotion_done(node, server, attempt),
            Event::CheckpointDone { node, server, attempt, redo } => self.checkpoint_done(node, server, attempt, redo),
            Event::StopCheckpoint { node, server } => self.stop_checkpoint(node, server),
            Event::StopDone { node, server, give_up } => self.stop_done(node, server, give_up),
            Event::StopPending { node, server } => self.stop_pending(node, server),
            Event::StopFailed { node, step } => self.stop_failed(node, step),
            Event::LeftoverGone { node, server } => self.leftover_gone(node, server),
            Event::StepBegun { node, step } => self.step_begun(node, step),
            Event::StepEnd { node, step } => self.step_end(node, step),
            Event::Connect { node, server } => self.receiver_connect(node, server),
            Event::WalArrive { node, server, connection, position } => {
                self.wal_arrive(node, server, connection, position);
            }
            Event::Feedback { node, server, connection, flushed } => self.feedback(node, server, connection, flushed),
            Event::ReceiverTimeout { node, server, connection } => self.receiver_timeout(node, server, connection),
            Event::Background { node, server } => self.background(node, server),
            Event::Archiver { node, server } => self.archiver(node, server),
            Event::ReplayGoesOn { node, server, number } => self.replay_goes_on(node, server, number),
            Event::WalWriter { node, server } => self.wal_writer(node, server),
            Event::Parked { node, server, made } => self.park_file(node, server, made),
            Event::CycleBegins { node, server } => self.cycle_begins(node, server),
            Event::MachinePaused { node, lasts_ms } => self.machine_paused(node, lasts_ms),
            Event::HardwareRead { node } => self.hardware_read(node),
            Event::TimeSet { node, by_ms } => self.time_set(node, by_ms),
            // The rest was handled before.
            _ => {}
        }
    }
}
