//! The seat as the supervisor sees it: who holds it, the control socket, and the REST socket that goes along.

use crate::error::{Error, Result};
use crate::outside::Outside;
use crate::process::Held;
use ha_core::clock::Tick;
use ha_core::memory::Memory;
use ha_core::seat::{LeaveReason, ToSupervisor, ToWorker};
use ha_core::watchdog::Running;
use ha_node::clock;
use ha_node::net::RestWait;
use ha_node::seat_socket::{Connection, Listener, RecvError};
use rustix::fd::{AsFd, BorrowedFd};
use std::net::TcpListener;
use std::path::Path;

type Link = Connection<ToWorker, ToSupervisor>;

/// Connections that have not said hello: no more are kept.
const STRANGERS_MAX: usize = 4;

/// A worker that has said hello.
pub struct Worker {
    link: Link,
    process: Held,
    /// What it remembers, as of its last beat.
    pub memory: Memory,
    /// When it was last heard.
    pub heard_at: Tick,
}

impl Worker {
    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Held {
        &self.process
    }
}

/// Who acts for this node.
enum Holder {
    /// A server was running when we came: its worker may hold the seat. It has until then to say so.
    Undecided { until: Tick },
    /// We do. A worker that came up waits for the seat.
    Us { waiting: Option<Worker> },
    /// The worker does.
    Worker(Worker),
}

/// The seat came back.
pub struct Returned {
    /// Why.
    pub reason: LeaveReason,
    /// What is to be remembered.
    pub memory: Memory,
    /// When its worker was last known to be alive.
    pub worker_alive_at: Tick,
    /// Clients of its REST that wait for a switchover.
    pub waits: Vec<RestWait>,
}

/// The seat.
pub struct Seat {
    listener: Listener,
    strangers: Vec<Link>,
    holder: Holder,
    epoch: u64,
    rest: Option<TcpListener>,
    /// Why it could not be opened, as the log says.
    rest_error: Option<String>,
    waits: Vec<RestWait>,
}

impl Seat {
    /// Opens the control socket. `undecided_until`: a server runs already and may be acting.
    pub fn open(socket: &Path, undecided_until: Option<Tick>) -> Result<Self> {
        let listener = Listener::bind(socket).map_err(Error::io(|| format!("listening on {}", socket.display())))?;
        let holder = match undecided_until {
            Some(until) => Holder::Undecided { until },
            None => Holder::Us { waiting: None },
        };
        Ok(Self { listener, strangers: Vec::new(), holder, epoch: 0, rest: None, rest_error: None, waits: Vec::new() })
    }

    /// We act.
    #[must_use]
    pub fn ours(&self) -> bool {
        matches!(self.holder, Holder::Us { .. })
    }

    /// A worker has come up and waits for the seat.
    #[must_use]
    pub fn wanted(&self) -> bool {
        matches!(self.holder, Holder::Us { waiting: Some(_) })
    }

    /// The worker that holds the seat.
    pub fn worker(&mut self) -> Option<&mut Worker> {
        match &mut self.holder {
            Holder::Worker(worker) => Some(worker),
            Holder::Undecided { .. } | Holder::Us { .. } => None,
        }
    }

    /// Until when it is open who acts.
    #[must_use]
    pub fn undecided_until(&self) -> Option<Tick> {
        match self.holder {
            Holder::Undecided { until } => Some(until),
            Holder::Us { .. } | Holder::Worker(_) => None,
        }
    }

    /// Nobody has claimed the seat: it is ours.
    pub fn claim(&mut self) {
        if matches!(self.holder, Holder::Undecided { .. }) {
            self.holder = Holder::Us { waiting: None };
        }
    }

    /// The REST socket, once it is open.
    #[must_use]
    pub fn rest(&self) -> Option<&TcpListener> {
        self.rest.as_ref()
    }

    /// The REST socket cannot be opened: one line for as long as that lasts for the same reason.
    pub fn rest_failed(&mut self, error: &str) {
        if self.rest_error.as_deref() != Some(error) {
            tracing::warn!(%error, "the REST API cannot be served; it is tried again every second");
            self.rest_error = Some(error.to_owned());
        }
    }

    /// Keeps the REST socket.
    pub fn keep_rest(&mut self, listener: TcpListener) {
        if self.rest_error.take().is_some() {
            tracing::info!("the REST API is served now");
        }
        self.rest = Some(listener);
    }

    /// What the main loop waits on.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.listener.as_fd()];
        fds.extend(self.strangers.iter().map(AsFd::as_fd));
        match &self.holder {
            Holder::Us { waiting: Some(worker) } | Holder::Worker(worker) => fds.push(worker.link.as_fd()),
            Holder::Us { waiting: None } | Holder::Undecided { .. } => {}
        }
        fds
    }

    /// Takes in everything that was sent. `Some` when the seat has come back.
    pub fn receive(&mut self, outside: &mut Outside) -> Option<Returned> {
        self.accept(outside);
        let returned = self.listen_to_worker(outside);
        self.greet(outside);
        returned
    }

    fn accept(&mut self, outside: &mut Outside) {
        loop {
            let link: Link = match self.listener.accept() {
                Ok(Some(link)) => link,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "the control socket cannot accept");
                    return;
                }
            };
            outside.find_server();
            let peer = link.peer_pid().unwrap_or(0);
            // Anybody with our user id can connect, a program that a session runs too; a child of the postmaster
            // that says hello can only be the worker.
            let child = outside.postmaster().is_some_and(|postmaster| postmaster.is_parent_of(peer));
            if !child || self.strangers.len() >= STRANGERS_MAX {
                tracing::warn!(
                    peer,
                    "a connection to the control socket was refused: it is no child of our postmaster"
                );
                continue;
            }
            self.strangers.push(link);
        }
    }

    /// Reads the hellos.
    fn greet(&mut self, outside: &mut Outside) {
        for mut link in std::mem::take(&mut self.strangers) {
            match link.try_recv() {
                Ok(None) => self.strangers.push(link),
                Ok(Some((ToSupervisor::Hello { pid, postmaster_pid, memory, watchdog }, mut fds))) => {
                    let known = outside.postmaster().is_some_and(|known| known.pid() == postmaster_pid);
                    let process = Held::open(pid).filter(|_| link.peer_pid().ok() == Some(pid) && known);
                    let Some(process) = process else {
                        tracing::warn!(pid, "a worker with false papers was refused");
                        continue;
                    };
                    let runs = watchdog.and_then(|_| fds.pop());
                    if let Some(fd) = fds.into_iter().next()
                        && self.rest.is_none()
                    {
                        self.rest = Some(TcpListener::from(fd));
                    }
                    let acted = memory.is_some();
                    if acted {
                        outside.watchdog.follow(watchdog, runs);
                    }
                    let memory = memory.map(|memory| *memory).unwrap_or_default();
                    self.welcome(Worker { link, process, memory, heard_at: clock::now() }, acted);
                }
                Ok(Some(_)) => tracing::warn!("a connection that does not begin with a hello was dropped"),
                Err(error) => tracing::debug!(%error, "a connection ended before its hello"),
            }
        }
    }

    fn welcome(&mut self, mut worker: Worker, acted: bool) {
        tracing::info!(pid = worker.process.id.pid, acted, "the worker has said hello");
        match &mut self.holder {
            // It has been acting all along, while we were not there or did not look, and knows more than we do.
            Holder::Undecided { .. } | Holder::Us { .. } if acted => {
                self.epoch += 1;
                let memory = Box::new(worker.memory.clone());
                let grant = ToWorker::Grant { epoch: self.epoch, memory, watchdog: None };
                if let Err(error) = worker.link.send(&grant, &[]) {
                    tracing::warn!(%error, "the worker cannot be answered");
                    return;
                }
                self.holder = Holder::Worker(worker);
            }
            Holder::Undecided { .. } | Holder::Us { .. } => self.holder = Holder::Us { waiting: Some(worker) },
            // A second one, while the first still holds the seat: its connection will show its end in a moment.
            Holder::Worker(_) => tracing::warn!("another worker holds the seat: this one must come again"),
        }
    }

    fn listen_to_worker(&mut self, outside: &mut Outside) -> Option<Returned> {
        loop {
            let (worker, holds) = match &mut self.holder {
                Holder::Worker(worker) => (worker, true),
                Holder::Us { waiting: Some(worker) } => (worker, false),
                Holder::Us { waiting: None } | Holder::Undecided { .. } => return None,
            };
            match worker.link.try_recv() {
                Ok(None) => return None,
                Ok(Some((message, fds))) => {
                    let before = worker.heard_at;
                    worker.heard_at = clock::now();
                    match message {
                        ToSupervisor::Beat { memory, watchdog } => {
                            worker.memory = *memory;
                            if holds {
                                outside.watchdog.follow(watchdog, fds.into_iter().next());
                            }
                        }
                        ToSupervisor::Waits(waits) => {
                            self.waits.extend(fds.into_iter().zip(waits).map(|(fd, wait)| RestWait::new(fd, wait)));
                        }
                        ToSupervisor::Leaving { reason, memory, watchdog } => {
                            if holds {
                                outside.watchdog.follow(watchdog, fds.into_iter().next());
                            }
                            // It may have left a moment after it said so.
                            let worker_alive_at = if worker.process.ended() { before } else { worker.heard_at };
                            self.holder = Holder::Us { waiting: None };
                            let waits = std::mem::take(&mut self.waits);
                            return holds.then_some(Returned { reason, memory: *memory, worker_alive_at, waits });
                        }
                        ToSupervisor::Hello { .. } => tracing::warn!("the worker says hello twice"),
                    }
                }
                Err(error) => {
                    if !matches!(error, RecvError::Closed) {
                        tracing::warn!(%error, "the worker is cut off");
                    }
                    let (memory, worker_alive_at) = (worker.memory.clone(), worker.heard_at);
                    self.holder = Holder::Us { waiting: None };
                    let waits = std::mem::take(&mut self.waits);
                    let reason = LeaveReason::WorkerLost;
                    return holds.then_some(Returned { reason, memory, worker_alive_at, waits });
                }
            }
        }
    }

    /// Gives the seat to the worker that waits for it, with what is to be remembered.
    pub fn grant(&mut self, memory: &Memory, watchdog: Option<(BorrowedFd<'_>, Running)>) -> bool {
        let Holder::Us { waiting } = &mut self.holder else { return false };
        let Some(mut worker) = waiting.take() else { return false };
        self.epoch += 1;
        let running = watchdog.map(|(_, running)| running);
        let grant = ToWorker::Grant { epoch: self.epoch, memory: Box::new(memory.clone()), watchdog: running };
        let rest = self.rest.iter().map(AsFd::as_fd);
        let fds: Vec<BorrowedFd<'_>> = rest.chain(watchdog.map(|(fd, _)| fd)).collect();
        if let Err(error) = worker.link.send(&grant, &fds) {
            tracing::warn!(%error, "the seat cannot be handed over");
            return false;
        }
        worker.memory = memory.clone();
        worker.heard_at = clock::now();
        tracing::info!(epoch = self.epoch, "the worker has the seat");
        self.holder = Holder::Worker(worker);
        true
    }

    /// Asks the worker to leave.
    pub fn ask_to_leave(&mut self) {
        if let Holder::Worker(worker) = &mut self.holder
            && let Err(error) = worker.link.send(&ToWorker::PleaseLeave, &[])
        {
            tracing::warn!(%error, "the worker cannot be asked to leave");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_core::ids::LeaseId;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn worker(session: i64) -> (Worker, Connection<ToSupervisor, ToWorker>) {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None).expect("a pair");
        let memory = Memory { session: Some(LeaseId(session)), ..Memory::default() };
        let process = Held::open(std::process::id().cast_signed()).expect("this process");
        let link = Connection::from_fd(ours).expect("a link");
        let worker = Worker { link, process, memory, heard_at: clock::now() };
        (worker, Connection::from_fd(theirs).expect("its end"))
    }

    fn seat(name: &str, undecided_until: Option<Tick>) -> Seat {
        let dir = std::env::temp_dir().join(format!("ha_bootstrap_seat_{name}_{}", std::process::id()));
        let seat = Seat::open(&dir.join("control.sock"), undecided_until).expect("a seat");
        std::fs::remove_dir_all(dir).expect("cleaned");
        seat
    }

    #[test]
    fn a_worker_that_has_acted_keeps_the_seat_whatever_we_thought() {
        for (name, undecided_until) in [("undecided", Some(clock::now())), ("ours", None)] {
            let mut seat = seat(name, undecided_until);
            let (worker, mut its_end) = worker(7);
            seat.welcome(worker, true);
            assert!(!seat.ours() && !seat.wanted());
            assert_eq!(seat.worker().expect("it holds the seat").memory.session, Some(LeaseId(7)));
            let (ToWorker::Grant { memory, .. }, _) = its_end.try_recv().expect("open").expect("an answer") else {
                panic!("it was not confirmed");
            };
            assert_eq!(memory.session, Some(LeaseId(7)), "its own memory counts");
        }
    }

    #[test]
    fn a_worker_that_has_just_begun_waits_until_we_are_ready() {
        let mut seat = seat("waits", None);
        let (worker, mut its_end) = worker(7);
        seat.welcome(worker, false);
        assert!(seat.ours() && seat.wanted());
        assert!(its_end.try_recv().expect("open").is_none());
        let ours = Memory { session: Some(LeaseId(8)), ..Memory::default() };
        assert!(seat.grant(&ours, None));
        let (ToWorker::Grant { memory, .. }, _) = its_end.try_recv().expect("open").expect("the seat") else {
            panic!("no grant");
        };
        assert_eq!(memory.session, Some(LeaseId(8)), "what the supervisor remembers goes along");
    }
}
