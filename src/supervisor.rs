//! The worker's end of the seat: who acts for this node, and the talk with the supervisor about it.

use crate::shmem::{LEGACY_BYTES, shared};
use ha_core::clock::{Millis, Tick};
use ha_core::memory::Memory;
use ha_core::seat::{LeaveReason, ToSupervisor, ToWorker};
use ha_core::view::Seat;
use ha_core::watchdog::Running;
use ha_node::net::RestWait;
use ha_node::paths::Paths;
use ha_node::seat_socket::{Connection, FDS_MAX, RecvError, SendError};
use ha_node::supervisor_lock;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

type Link = Connection<ToSupervisor, ToWorker>;

/// How often a lost supervisor is looked for.
const LOOK_EVERY: Millis = Millis(1000);
/// The same while nobody acts for this node.
const LOOK_SOON: Millis = Millis(100);
/// A supervisor whose process lives, but which does not listen, is just being started anew.
const WAIT_FOR_RESTART: Millis = Millis(3000);

/// What the main loop has to do because of it.
#[derive(Debug)]
pub enum Turn {
    /// We act from now on, with this memory.
    Act(Box<Memory>),
    /// Just before that: the watchdog that runs.
    Watchdog(OwnedFd, Running),
    /// Nobody supervises us: we open the REST port ourselves.
    Alone,
    /// We shall leave the seat.
    Leave,
}

/// See the module.
pub struct Supervisor {
    paths: Paths,
    link: Option<Link>,
    acting: bool,
    rest: Option<TcpListener>,
    /// A copy of the watchdog that runs, for the supervisor, and whether it has got it.
    watchdog: Option<(OwnedFd, Running)>,
    watchdog_told: bool,
    look_at: Tick,
    alone_since: Option<Tick>,
}

impl Supervisor {
    /// Nothing is known yet: the seat is not ours.
    pub fn new(paths: Paths) -> Self {
        Self {
            paths,
            link: None,
            acting: false,
            rest: None,
            watchdog: None,
            watchdog_told: false,
            look_at: Tick(0),
            alone_since: None,
        }
    }

    /// Where we act, if we do.
    pub fn seat(&self) -> Option<Seat> {
        self.acting.then_some(Seat::Inside { supervised: self.link.is_some() })
    }

    /// To wait on.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(AsFd::as_fd)
    }

    /// The REST socket; a duplicate stays here for the next supervisor.
    pub fn rest(&self) -> Option<&TcpListener> {
        self.rest.as_ref()
    }

    /// We have opened the REST port.
    pub fn set_rest(&mut self, listener: TcpListener) {
        self.rest = Some(listener);
    }

    /// When a supervisor is looked for next, while there is none.
    pub fn look_at(&self) -> Option<Tick> {
        self.link.is_none().then_some(self.look_at)
    }

    /// Connects, receives, and says what follows from it.
    pub fn poll(&mut self, now: Tick, memory: &Memory) -> Vec<Turn> {
        let mut turns = Vec::new();
        if self.link.is_none() && now >= self.look_at {
            self.connect(now, memory, &mut turns);
            self.look_at = now + if self.acting { LOOK_EVERY } else { LOOK_SOON };
        }
        while let Some(received) = self.link.as_mut().map(Link::try_recv) {
            match received {
                Ok(None) => break,
                Ok(Some((ToWorker::Grant { epoch, memory, watchdog }, mut fds))) => {
                    let runs = watchdog.and_then(|running| Some((fds.pop()?, running)));
                    if let Some(fd) = fds.into_iter().next() {
                        self.rest = Some(TcpListener::from(fd));
                    }
                    // One that comes to a worker that acts already only confirms it: we know more than the supervisor.
                    if !self.acting {
                        tracing::info!("the supervisor gave us the seat, epoch {epoch}");
                        // Older than what comes with it.
                        if let Some(shared) = shared() {
                            shared.legacy.publish("");
                        }
                        self.acting = true;
                        turns.extend(runs.map(|(fd, running)| Turn::Watchdog(fd, running)));
                        turns.push(Turn::Act(memory));
                    }
                }
                Ok(Some((ToWorker::PleaseLeave, _))) => turns.push(Turn::Leave),
                Err(error) => self.cut_off(now, &error),
            }
        }
        turns
    }

    fn connect(&mut self, now: Tick, memory: &Memory, turns: &mut Vec<Turn>) {
        match Link::connect(&self.paths.control_socket()) {
            Ok(link) => {
                self.link = Some(link);
                self.alone_since = None;
                let memory = self.acting.then(|| Box::new(memory.clone()));
                let hello = ToSupervisor::Hello {
                    pid: crate::pg::process::pid(),
                    postmaster_pid: crate::pg::process::postmaster_pid(),
                    memory,
                    watchdog: self.running(),
                };
                self.watchdog_told = self.send(&hello, true);
            }
            Err(error) if self.acting => tracing::debug!("no supervisor: {error}"),
            Err(error) => {
                let since = *self.alone_since.get_or_insert(now);
                // Asked after the attempt: one that starts from here on finds a server that runs, and asks its worker first.
                let gone = match supervisor_lock::is_taken(&self.paths) {
                    Ok(taken) => !taken,
                    Err(error) => {
                        tracing::warn!("it is not known whether a supervisor runs: {error}");
                        false
                    }
                };
                if gone || now.since(since) >= WAIT_FOR_RESTART {
                    let why = if gone { "no supervisor runs" } else { "the supervisor does not listen" };
                    tracing::info!("{why} ({error}): this worker acts alone");
                    self.acting = true;
                    turns.push(Turn::Act(Box::new(inherited())));
                    turns.push(Turn::Alone);
                }
            }
        }
    }

    fn cut_off(&mut self, now: Tick, error: &RecvError) {
        self.link = None;
        // Not at once: after it took the seat from us it closes the connection, and will be there again.
        self.look_at = now + LOOK_EVERY;
        if self.acting {
            tracing::warn!("the supervisor is gone, this worker goes on alone: {error}");
        } else {
            tracing::info!("the supervisor has closed the connection: {error}");
        }
    }

    /// What the supervisor needs to go on at any moment. `false` if it did not get that; without one there is nobody to go on from it.
    pub fn beat(&mut self, memory: &Memory) -> bool {
        let listens = self.acting && self.link.is_some();
        if !listens {
            return true;
        }
        let sent = self.send(&ToSupervisor::Beat { memory: Box::new(memory.clone()), watchdog: self.running() }, false);
        self.watchdog_told |= sent;
        sent
    }

    fn running(&self) -> Option<Running> {
        self.watchdog.as_ref().map(|(_, running)| *running)
    }

    /// The supervisor is to have what we have, so that our end does not close it.
    pub fn share_watchdog(&mut self, lent: Option<(BorrowedFd<'_>, Running)>) {
        let Some((fd, running)) = lent else {
            self.watchdog = None;
            return;
        };
        match &mut self.watchdog {
            Some((_, known)) => *known = running,
            None => match fd.try_clone_to_owned() {
                Ok(copy) => (self.watchdog, self.watchdog_told) = (Some((copy, running)), false),
                Err(error) => tracing::warn!("the supervisor cannot be given the watchdog: {error}"),
            },
        }
    }

    /// We act no more. `false` without a supervisor to take over.
    pub fn leave(&mut self, reason: &LeaveReason, memory: &Memory, waits: Vec<RestWait>) -> bool {
        if !self.acting {
            return self.link.is_some();
        }
        self.acting = false;
        if self.link.is_none() {
            return false;
        }
        self.hand_on(waits);
        self.watchdog_told = false;
        let (memory, watchdog) = (Box::new(memory.clone()), self.running());
        let _ = self.send(&ToSupervisor::Leaving { reason: reason.clone(), memory, watchdog }, false);
        self.link.is_some()
    }

    /// Clients that wait for a switchover are answered by the supervisor; those it cannot be given are told here that
    /// the switchover has begun, when they are dropped.
    fn hand_on(&mut self, mut waits: Vec<RestWait>) {
        waits.truncate(FDS_MAX);
        let (fds, given): (Vec<_>, Vec<_>) = waits.iter().filter_map(RestWait::parts).unzip();
        let message = ToSupervisor::Waits(given.into_iter().cloned().collect());
        let Some(link) = self.link.as_mut().filter(|_| !fds.is_empty()) else { return };
        match link.send(&message, &fds) {
            Ok(()) => waits.into_iter().for_each(RestWait::handed_on),
            Err(error) => tracing::warn!("clients that wait for the switchover stay behind: {error}"),
        }
    }

    /// Leaves what is remembered to the next worker of this server: there is no supervisor to keep it.
    pub fn bequeath(memory: &Memory) {
        if let (Some(shared), Ok(text)) = (shared(), serde_json::to_string(memory))
            && text.len() <= LEGACY_BYTES
        {
            shared.legacy.publish(&text);
        }
    }

    fn send(&mut self, message: &ToSupervisor, with_rest: bool) -> bool {
        let Some(link) = self.link.as_mut() else { return false };
        let rest = self.rest.iter().map(AsFd::as_fd).filter(|_| with_rest);
        let watchdog = self.watchdog.iter().map(|(fd, _)| fd.as_fd()).filter(|_| with_rest || !self.watchdog_told);
        let fds: Vec<BorrowedFd<'_>> = rest.chain(watchdog).collect();
        match link.send(message, &fds) {
            Ok(()) => return true,
            // A supervisor that is stopped or slow misses a beat; it knows that.
            Err(SendError::Full) if matches!(message, ToSupervisor::Beat { .. }) => {}
            Err(error) => {
                tracing::warn!("{error}");
                self.link = None;
            }
        }
        false
    }
}

/// What the worker before us left, as long as its lease lasts, in maintenance mode, or if it has demoted this server in place. It can be taken once.
fn inherited() -> Memory {
    let Some(shared) = shared() else { return Memory::default() };
    let memory = shared.legacy.read().and_then(|text| serde_json::from_str::<Memory>(&text).ok());
    shared.legacy.publish("");
    let now = ha_node::clock::now();
    let counts = |memory: &Memory| {
        memory.paused || memory.stage.in_place() || memory.lease.is_some_and(|lease| lease.valid_at(now))
    };
    memory.filter(counts).unwrap_or_default()
}
