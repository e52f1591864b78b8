//! The main loop: events in, one turn of the driver, the seat passed on or taken back.

use crate::error::{Error, Result};
use crate::handover::{Handover, Move};
use crate::hands::Hands;
use crate::load::{self, Loaded};
use crate::namesake::Namesake;
use crate::outside::Outside;
use crate::pgdata;
use crate::process::timespec;
use crate::rest_socket;
use crate::seat::Seat;
use crate::signals::Signals;
use crate::silence::Silence;
use crate::site::Site;
use crate::steps;
use ha_core::clock::{Millis, Tick};
use ha_core::decide::{keeps_seat, leaves_server};
use ha_core::effect::Step;
use ha_node::clock;
use ha_node::driver::{Driver, Options, StartError};
use ha_node::net::Hooks;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The worker of a server that ran before us looks for us in each of its loops; it may take this much longer to say
/// hello.
const HELLO_GRACE: Millis = Millis(3000);
/// How long a worker may take to leave after it was asked to; then the server is told to stop all the same.
const LEAVE_MAX: Millis = Millis(10_000);
/// Between two searches for orphans to reap, and two attempts to open the REST socket.
const CHORES: Millis = Millis(1000);

/// What a supervisor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To run the node.
    Run,
    /// To do everything up to the start of the server, which somebody else starts.
    Prepare {
        /// Give up after this long.
        at_most: Duration,
    },
}

/// The supervisor of one node.
pub struct Supervisor {
    hands: Hands,
    driver: Driver,
    seat: Seat,
    signals: Signals,
    silence: Silence,
    namesake: Namesake,
    wake: Arc<dyn Fn() + Send + Sync>,
    event: Arc<OwnedFd>,
    thread_died: Arc<AtomicBool>,
    leave_asked_at: Option<Tick>,
    handover: Handover,
    orphans: bool,
    chores_at: Tick,
    failed: bool,
    give_up_at: Option<Tick>,
}

impl Supervisor {
    /// Sets everything up; nothing is decided yet.
    pub fn new(loaded: Loaded, site: Site, version_num: u32, purpose: Purpose) -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(Error::sys(|| "making an event descriptor".to_owned()))?;
        let event = Arc::new(event);
        let ringing = Arc::clone(&event);
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            // Full means it rings already.
            let _ = rustix::io::write(&*ringing, &1_u64.to_ne_bytes());
        });
        let signals = Signals::register()?;
        let me = Some(rustix::process::getpid());
        rustix::process::set_child_subreaper(me).map_err(Error::sys(|| "becoming a subreaper".to_owned()))?;
        steps::end_step_of_predecessor(&site);
        let mut outside = Outside::new(site, Arc::clone(&wake));
        outside.find_server();
        let runs = outside.postmaster().is_some();
        if !runs {
            pgdata::clear_half_made(&outside.site)?;
        }
        let undecided_until = clock::now() + loaded.config.settings().loop_wait_ms + HELLO_GRACE;
        let seat = Seat::open(&outside.site.paths.control_socket(), runs.then_some(undecided_until))?;
        let thread_died = Arc::new(AtomicBool::new(false));
        let hooks = hooks(&wake, &thread_died);
        let driver = Driver::new(Options { layers: loaded.layers, hooks }).map_err(|error| match error {
            StartError::Config(error) => Error::Refused(error.to_string()),
            StartError::Thread(source) => Error::Io { doing: "starting the net thread".to_owned(), source },
        })?;
        let give_up_at = match purpose {
            Purpose::Run => None,
            Purpose::Prepare { at_most } => {
                outside.only_prepare();
                Some(clock::now() + Millis(u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX)))
            }
        };
        let hands = Hands { outside, acting: false, stop_requested: false, version_num };
        let now = clock::now();
        Ok(Self {
            hands,
            driver,
            seat,
            signals,
            silence: Silence::new(now),
            // A server of ours that runs is the one that would answer.
            namesake: if runs { Namesake::None } else { Namesake::unasked() },
            wake,
            event,
            thread_died,
            leave_asked_at: None,
            handover: Handover::default(),
            orphans: false,
            chores_at: now,
            failed: false,
            give_up_at,
        })
    }

    /// Runs until the node is stopped; the process's exit code.
    pub fn run(mut self) -> Result<u8> {
        loop {
            self.clear_wake();
            self.take_signals();
            self.take_seat_events();
            self.advance_namesake();
            if let Some(code) = self.exit_code() {
                return Ok(code);
            }
            let ticked = self.driver.tick(&mut self.hands);
            if let Some(code) = self.exit_code() {
                return Ok(code);
            }
            if self.thread_died.load(Ordering::Acquire) {
                return Err(Error::Refused("a thread died: see the log".to_owned()));
            }
            if self.give_up_at.is_some_and(|at| clock::now() >= at) {
                let rule = ticked.rule.map(|rule| rule.to_string()).unwrap_or_default();
                return Err(Error::Late(format!("the data directory could not be prepared in time: {rule}")));
            }
            let granted = self.pass_on_seat();
            let next = self.chores().min(if granted { clock::now() + CHORES } else { ticked.next_wake });
            // The tick may have brought the first view of the store.
            let acts_now = !self.hands.acting && !granted && self.advance_namesake();
            self.wait_until(if acts_now { clock::now() } else { next });
        }
    }

    fn exit_code(&self) -> Option<u8> {
        let code = self.hands.outside.exit_code()?;
        Some(if self.failed { 1 } else { u8::try_from(code).unwrap_or(1) })
    }

    fn clear_wake(&self) {
        let _ = rustix::io::read(&*self.event, &mut [0_u8; 8]);
    }

    fn take_signals(&mut self) {
        let arrived = self.signals.take();
        self.orphans |= arrived.child;
        if arrived.reload {
            self.reload();
        }
        if arrived.stop {
            self.stop();
        }
    }

    fn stop(&mut self) {
        let again = std::mem::replace(&mut self.hands.stop_requested, true);
        tracing::info!("told to stop");
        // What makes a new data directory is given up at once; what repairs one only if somebody insists.
        let disposable = matches!(self.hands.outside.step(), Some(Step::Initdb | Step::BaseBackup { .. }));
        if disposable || again {
            self.hands.outside.cancel_step();
        }
        if self.seat.worker().is_some_and(|worker| leaves_server(&worker.memory)) {
            tracing::info!("maintenance mode: the server goes on, and its worker acts alone");
            self.hands.outside.leave(0);
            return;
        }
        self.seat.claim();
        if self.seat.worker().is_some() && self.leave_asked_at.is_none() {
            self.leave_asked_at = Some(clock::now());
            self.seat.ask_to_leave();
        }
    }

    fn reload(&mut self) {
        let done =
            load::load(&self.hands.outside.site.config_file).map_err(|error| error.to_string()).and_then(|loaded| {
                let Loaded { layers, .. } = loaded;
                let reloaded = self.driver.reload(layers.local, layers.environment, &mut self.hands);
                reloaded.map_err(|error| error.to_string())
            });
        match done {
            Ok(_) => {
                tracing::info!("the configuration was read again");
                self.hands.outside.reload_server(self.hands.acting);
            }
            Err(error) => tracing::error!("the configuration stays as it was: {error}"),
        }
    }

    fn take_seat_events(&mut self) {
        self.hands.outside.pump();
        // Where the seat goes to the worker, clients that wait for a switchover stay with us.
        let waits = self.driver.take_rest_waits();
        if !waits.is_empty() {
            self.driver.adopt_rest_waits(waits);
        }
        let ours = self.seat.ours();
        let returned = self.seat.receive(&mut self.hands.outside);
        if ours && !self.seat.ours() {
            tracing::warn!("a worker has acted while we did not look: the seat is its own");
            self.driver.begin_leaving();
            self.driver.stop_rest();
            self.handover.reset();
            self.silence = Silence::new(clock::now());
        }
        if let Some(returned) = returned {
            tracing::info!("the seat is ours: {}", returned.reason);
            self.leave_asked_at = None;
            let in_place = returned.memory.stage.in_place();
            self.driver.take_seat(returned.memory);
            self.hands.outside.seat_taken(returned.reason, in_place.then_some(returned.worker_alive_at));
            self.handover.reset();
            self.serve_rest();
            self.driver.adopt_rest_waits(returned.waits);
        }
        let server_gone = self.hands.outside.postmaster().is_none_or(|postmaster| postmaster.ended());
        if self.seat.undecided_until().is_some_and(|until| server_gone || clock::now() >= until) {
            if server_gone {
                tracing::info!("no worker has said hello: the seat is ours");
            } else {
                tracing::warn!(
                    "the running server has no worker of ha_ext: it was started without the extension, or the worker \
                     hangs; it is left alone: stop it once, then it is started as a member"
                );
            }
            self.seat.claim();
            self.serve_rest();
        }
    }

    /// Whether a namesake stands in the way is found out before anything is done. True if we act from here on.
    fn advance_namesake(&mut self) -> bool {
        let wake = Arc::clone(&self.wake);
        let cluster = self.driver.cluster().cloned();
        self.namesake.advance(cluster.as_deref(), self.driver.config(), move || wake());
        if matches!(self.namesake, Namesake::Alive) && !self.failed {
            let name = &self.driver.config().name;
            crate::report::critical(&format!("Can't start; there is already a node named '{name}' running"));
            self.failed = true;
            self.hands.stop_requested = true;
            if self.hands.outside.postmaster().is_none() {
                self.hands.outside.leave(1);
            }
        }
        let was = self.hands.acting;
        self.hands.acting = self.seat.ours() && (self.namesake.lets_act() || self.failed);
        let acts_now = self.hands.acting && !was;
        if acts_now {
            self.serve_rest();
        }
        acts_now
    }

    /// Opens the REST socket if need be and serves it, while the seat is ours.
    fn serve_rest(&mut self) {
        if !self.seat.ours() {
            return;
        }
        if self.seat.rest().is_none() {
            match rest_socket::open(&self.driver.config().restapi) {
                Ok(listener) => self.seat.keep_rest(listener),
                Err(error) => {
                    self.seat.rest_failed(&error.to_string());
                    return;
                }
            }
        }
        if let Some(Ok(copy)) = self.seat.rest().map(std::net::TcpListener::try_clone) {
            self.driver.serve_rest(copy);
        }
    }

    /// Hands the seat to a worker that waits for it, once nothing of ours is under way. True if it is gone now.
    fn pass_on_seat(&mut self) -> bool {
        let busy = self.hands.stop_requested || self.hands.outside.busy() || keeps_seat(self.driver.memory());
        let possible = self.seat.wanted() && !busy && self.hands.acting;
        let mut next = self.handover.next(possible, self.driver.quiet());
        if next == Move::Begin {
            self.driver.begin_leaving();
            self.driver.hurry();
            self.driver.stop_rest();
            next = self.handover.next(possible, self.driver.quiet());
        }
        match next {
            Move::Grant => self.grant(),
            Move::Stay => {
                self.stay();
                false
            }
            Move::Keep | Move::Begin | Move::Wait => false,
        }
    }

    fn grant(&mut self) -> bool {
        // Whoever still waits for a switchover here is answered from here, by what the store shows.
        let waits = self.driver.take_rest_waits();
        self.driver.adopt_rest_waits(waits);
        let memory = self.driver.memory().clone();
        let granted = self.seat.grant(&memory, self.hands.outside.watchdog.lent());
        self.hands.acting = !granted;
        if granted {
            self.silence = Silence::new(clock::now());
        } else {
            self.stay();
        }
        granted
    }

    fn stay(&mut self) {
        let memory = self.driver.memory().clone();
        self.driver.take_seat(memory);
        self.serve_rest();
    }

    /// What has to be done beside the decisions; when to come again.
    fn chores(&mut self) -> Tick {
        let now = clock::now();
        let mut next = now + self.driver.settings().loop_wait_ms;
        for at in [self.seat.undecided_until(), self.give_up_at].into_iter().flatten() {
            next = next.min(at);
        }
        if let Some(worker) = self.seat.worker() {
            let watchdog = &mut self.hands.outside.watchdog;
            if worker.memory.paused {
                // Whether that worker hangs or not: it is not killed in maintenance mode.
                next = watchdog.feed_on(now).map_or(next, |at| next.min(at));
            }
            let running = watchdog.lent().map(|(_, running)| running);
            next = next.min(self.silence.watch(worker, &mut self.driver, running, now));
        }
        if let Some(asked_at) = self.leave_asked_at {
            next = next.min(asked_at + LEAVE_MAX);
            if now.since(asked_at) >= LEAVE_MAX && self.seat.worker().is_some() {
                tracing::warn!("the worker does not leave: the server is told to stop");
                if let Some(postmaster) = self.hands.outside.postmaster() {
                    let _ = postmaster.signal(Signal::INT);
                }
                self.leave_asked_at = None;
            }
        }
        let chores_due = now >= self.chores_at;
        if self.orphans && chores_due {
            self.orphans = false;
            crate::process::reap_orphans();
        }
        let rest_missing = self.hands.acting && self.seat.rest().is_none();
        if rest_missing && chores_due {
            self.serve_rest();
        }
        if chores_due {
            self.chores_at = now + CHORES;
        }
        if self.orphans || rest_missing { next.min(self.chores_at) } else { next }
    }

    fn wait_until(&mut self, next: Tick) {
        let now = clock::now();
        let left = Duration::from_millis(next.since(now).0);
        self.silence.about_to_wait(next);
        {
            let mut fds = vec![PollFd::new(&*self.event, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
            fds.extend(self.seat.fds().into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            if let Some(postmaster) = self.hands.outside.postmaster() {
                fds.push(PollFd::from_borrowed_fd(postmaster.held().as_fd(), PollFlags::IN));
            }
            // Interrupted or not: the loop looks at everything again.
            let _ = poll(&mut fds, Some(&timespec(left)));
        }
        self.silence.waited(clock::now());
    }
}

fn hooks(wake: &Arc<dyn Fn() + Send + Sync>, thread_died: &Arc<AtomicBool>) -> Hooks {
    let (flag, ring) = (Arc::clone(thread_died), Arc::clone(wake));
    Hooks {
        // Nothing that could acknowledge a commit runs under our seat.
        confirmed: Arc::new(|_| {}),
        leader_lost: Arc::new(|| {}),
        lease_deadline: Arc::new(|| Tick(0)),
        wake: Arc::clone(wake),
        died: Arc::new(move |name, why| {
            tracing::error!("the thread {name} died: {why}");
            flag.store(true, Ordering::Release);
            ring();
        }),
    }
}
