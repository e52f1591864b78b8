//! The loop worker: one turn observes, decides, executes; between turns it waits on its latch and the supervisor's socket.

mod leave;
mod pause;

use crate::commands::Commands;
use crate::files::Files;
use crate::pg::control::ControlFile;
use crate::pg::latch::{self, LatchAddress};
use crate::pg::{process, report, settings};
use crate::port::{self, Inside};
use crate::ring::ENTRY_BYTES;
use crate::shmem::{PAGE_BYTES, Shared, shared};
use crate::sqlworker::{self, SlotOwners};
use crate::supervisor::{Supervisor, Turn};
use crate::{fence, guc, log, status};
use ha_core::clock::{Millis, Tick};
use ha_core::cluster::Initialize;
use ha_core::memory::{Memory, Stage};
use ha_core::seat::LeaveReason;
use ha_node::driver::{Driver, Event, Layers, Options, Port};
use ha_node::net::{Hooks, StoreHealth};
use ha_node::paths::Paths;
use ha_node::runtime::Died;
use ha_node::{clock, files, last_good, server_files};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the status page is written at most, and how often at least.
const PAGE_EVERY: Millis = Millis(100);
const PAGE_AGE_MAX: Millis = Millis(1000);
/// How often a REST port that is taken is tried again.
const LISTEN_EVERY: Millis = Millis(1000);

struct Worker {
    shared: &'static Shared,
    driver: Driver,
    inside: Inside,
    supervisor: Supervisor,
    commands: Commands,
    paths: Paths,
    /// The configuration file as it was read last.
    file: serde_json::Value,
    log: log::Bridge,
    /// Events before this number are in shared memory.
    events_kept: u64,
    died: Arc<AtomicBool>,
    started_at: Tick,
    next_wake: Tick,
    page_at: Tick,
    page_due: bool,
    hint: String,
    /// Whose slots there are to be.
    slots: SlotOwners,
    /// They are on the page next, and the sql worker has to be woken then.
    slots_due: bool,
    /// The REST port is ours to open, next try at.
    listen_at: Option<Tick>,
}

/// Runs the worker until it must end; the postmaster starts it anew then.
pub fn run() -> ! {
    process::become_worker();
    match Worker::start() {
        Ok(mut worker) => {
            worker.run();
            worker.log.flush();
            // Its threads would be waited for: the end of the process ends them too.
            std::mem::forget(worker);
        }
        Err(error) => {
            report::warning(&format!("ha_ext cannot start: {error}"));
            // The postmaster tries again in a second; a mistake in a file is not worth a line each time.
            latch::wait(None, Duration::from_secs(4));
        }
    }
    process::exit_for_restart()
}

impl Worker {
    fn start() -> Result<Self, String> {
        let shared = shared().ok_or("there is no shared memory")?;
        let paths = Paths::new(&process::data_dir());
        // A promotion that an earlier life of this worker asked for must not happen at some later signal.
        if let Err(error) = std::fs::remove_file(paths.promote())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(format!("the file \"promote\" cannot be removed: {error}"));
        }
        // Nobody lifts the seal of a worker that ended before it did.
        fence::unseal(shared);
        let address = LatchAddress::mine();
        shared.worker_latch.store(address.as_pointer(), Ordering::Release);
        let layers = layers(&paths)?;
        let file = layers.local.clone();
        let log = log::Bridge::install(log::level(&layers), move || address.set())?;
        let died = Arc::new(AtomicBool::new(false));
        let on_death = on_death(died.clone(), address);
        let driver = Driver::new(Options { layers, hooks: hooks(shared, address, on_death.clone()) });
        let mut driver = driver.map_err(|error| error.to_string())?;
        let earlier = shared.events.read().into_iter();
        driver.resume_events(earlier.filter_map(|(number, line)| Event::unpacked(number, &line)).collect());
        let files = Files::start(paths.clone(), settings::archiving(), on_death, Arc::new(move || address.set()));
        let files = files.map_err(|error| format!("the file thread cannot be started: {error}"))?;
        let control = ControlFile::attach().ok_or("the control file is not in shared memory")?;
        let inside = Inside::new(shared, files, control, driver.config().clone());
        if server_files::base(&paths).exists() {
            // A worker that died may have left a change undone, and this version may refuse other settings.
            inside.write_server_files();
        }
        let commands = Commands::new(shared);
        shared.worker_pid.store(process::pid(), Ordering::Release);
        let now = clock::now();
        Ok(Self {
            shared,
            driver,
            inside,
            supervisor: Supervisor::new(paths.clone()),
            commands,
            paths,
            file,
            log,
            events_kept: 0,
            died,
            started_at: now,
            next_wake: now,
            page_at: now,
            page_due: true,
            hint: String::new(),
            slots: SlotOwners::default(),
            slots_due: false,
            listen_at: None,
        })
    }

    fn run(&mut self) {
        let mut pulse = self.inside.pulse();
        loop {
            latch::reset();
            self.beat();
            if process::told_to_stop() {
                // Somebody may have ended this worker alone: then the server goes on, and so will the next worker.
                let reason = if self.server_stops() { LeaveReason::Shutdown } else { LeaveReason::WorkerLost };
                return self.leave(&reason);
            }
            if self.died.load(Ordering::Acquire) {
                return self.leave(&LeaveReason::WorkerLost);
            }
            if process::told_to_reload() {
                self.inside.read_configuration(PathBuf::from(guc::config_file()));
            }
            self.turn();
            pulse = self.sleep(pulse);
        }
    }

    /// The postmaster says so in its lock file before it tells its children.
    fn server_stops(&self) -> bool {
        let lock_file = std::fs::read_to_string(self.paths.postmaster_pid());
        lock_file.is_ok_and(|text| text.lines().nth(7).is_none_or(|status| status.trim() == "stopping"))
    }

    fn beat(&self) {
        self.shared.heartbeat_ns.store(clock::now_ns(), Ordering::Release);
    }

    fn turn(&mut self) {
        self.take_files();
        let now = clock::now();
        for turn in self.supervisor.poll(now, self.driver.memory()) {
            match turn {
                Turn::Watchdog(fd, running) => self.inside.watchdog.follow(Some(running), Some(fd)),
                Turn::Act(memory) => self.take_seat(*memory),
                Turn::Alone => self.listen_at = Some(now),
                Turn::Leave => self.leave(&LeaveReason::Shutdown),
            }
        }
        if self.listen_at.is_some_and(|at| now >= at) {
            self.listen_at = None;
            self.inside.listen();
        }
        self.inside.seat = self.supervisor.seat();
        self.name_successor();
        self.expect_promotion();
        // Whoever goes on after us must know of a release that may be under way.
        let supervisor = &mut self.supervisor;
        let ticked = self.driver.tick_telling(&mut self.inside, &mut |memory| supervisor.beat(memory));
        self.next_wake = ticked.next_wake;
        self.page_due |= ticked.rule_changed || std::mem::take(&mut self.inside.reconfigured);
        if let Some(reason) = self.inside.leaving.take() {
            self.leave(&reason);
        }
        if self.supervisor.seat().is_some() {
            self.supervisor.share_watchdog(self.inside.watchdog.lent());
        }
        self.supervisor.beat(self.driver.memory());
        self.keep_marker();
        if let Some(text) = self.inside.take_promotion_times() {
            self.driver.note("promotion", text);
        }
        self.keep_events();
        self.publish(now);
        let snapshot = self.driver.snapshot().filter(|_| self.supervisor.seat().is_some());
        self.commands.turn(&mut self.driver, snapshot.as_ref());
        self.log.flush();
    }

    fn take_files(&mut self) {
        let news = self.inside.take_files();
        // Every reload of the server's settings comes by here, our own for a new leader too: mostly nothing has changed.
        if let Some(local) = news.configuration.filter(|local| *local != self.file) {
            self.file.clone_from(&local);
            // What is wrong with it is in the error; the old one stays in force.
            match self.driver.reload(local.clone(), environment(), &mut self.inside) {
                Ok(_) => self.inside.keep_configuration(local),
                Err(error) => tracing::warn!("the configuration stays as it was: {error}"),
            }
        }
        match news.rest {
            Some(Ok(listener)) => {
                self.supervisor.set_rest(listener);
                self.serve_rest();
            }
            Some(Err(error)) => {
                tracing::warn!("the REST API cannot listen: {error}");
                self.listen_at = Some(clock::now() + LISTEN_EVERY);
            }
            None => {}
        }
    }

    /// Whom clients are sent to once this node hands over; they ask when the fence has closed.
    fn name_successor(&mut self) {
        let memory = self.driver.memory();
        let switching = memory.stage != Stage::Steady;
        let cluster = self.driver.cluster();
        let text = cluster.zip(port::candidate(memory)).map(|(cluster, name)| status::address_hint(cluster, name));
        self.inside.set_successor(switching, text.unwrap_or_default());
    }

    /// Whether a switchover to this node is asked for.
    fn expect_promotion(&mut self) {
        let me = &self.driver.config().name;
        let request = self.driver.cluster().and_then(|cluster| cluster.failover.as_ref());
        let named = request.is_some_and(|request| {
            let (leader, member) = (&request.value.leader, &request.value.member);
            leader.as_ref() != Some(me) && member.as_ref().is_none_or(|member| member == me)
        });
        self.inside.expect_promotion(named);
    }

    fn take_seat(&mut self, memory: Memory) {
        self.inside.begin_promises();
        self.driver.take_seat(memory);
        self.page_due = true;
        self.serve_rest();
    }

    fn serve_rest(&mut self) {
        match self.supervisor.rest().map(std::net::TcpListener::try_clone) {
            Some(Ok(listener)) => self.driver.serve_rest(listener),
            Some(Err(error)) => tracing::warn!("the REST API cannot be served: {error}"),
            None => {}
        }
    }

    fn keep_marker(&mut self) {
        let ours = match (self.driver.store(), self.driver.cluster()) {
            (StoreHealth::Fresh, Some(cluster)) => match cluster.initialize {
                Initialize::Done(id) => id == self.inside.system_id(),
                Initialize::Absent | Initialize::Running => false,
            },
            _ => false,
        };
        self.inside.keep_marker(self.driver.memory(), ours);
    }

    /// Leaves what was recorded to the next worker.
    fn keep_events(&mut self) {
        for event in self.driver.events().since(self.events_kept) {
            self.shared.events.put(event.number, &event.packed(ENTRY_BYTES));
        }
        self.events_kept = self.driver.events().next_number();
    }

    /// Tells backends who leads, and the views everything.
    fn publish(&mut self, now: Tick) {
        let cluster = self.driver.cluster();
        let hint = status::leader_hint(cluster.map(AsRef::as_ref), &self.driver.config().name);
        if hint != self.hint {
            self.shared.leader_hint.publish(&hint);
            self.hint = hint;
            self.page_due = true;
        }
        let slots = SlotOwners::of(&self.driver);
        if slots != self.slots {
            (self.slots, self.slots_due, self.page_due) = (slots, true, true);
        }
        let age = now.since(self.page_at);
        if self.inside.clients_wait() && age < PAGE_AGE_MAX {
            return;
        }
        let somebody_waits = self.commands.settles_now(&self.driver);
        if !somebody_waits && (age < PAGE_EVERY || (!self.page_due && age < PAGE_AGE_MAX)) {
            return;
        }
        self.page_at = now;
        self.page_due = false;
        let seat = self.supervisor.seat();
        let snapshot = self.driver.snapshot().filter(|_| seat.is_some());
        let local = snapshot.map_or_else(|| self.inside.observe(), |snapshot| snapshot.local.clone());
        self.shared.page.publish(&status::page(&self.driver, &local, seat, PAGE_BYTES));
        if std::mem::take(&mut self.slots_due) {
            sqlworker::wake(self.shared);
        }
    }
}

fn on_death(died: Arc<AtomicBool>, main: LatchAddress) -> Died {
    Arc::new(move |name: &str, why: &str| {
        tracing::error!("the thread {name} died: {why}");
        died.store(true, Ordering::Release);
        main.set();
    })
}

fn hooks(shared: &'static Shared, main: LatchAddress, died: Died) -> Hooks {
    Hooks {
        confirmed: Arc::new(move |lease| fence::confirmed(shared, lease)),
        leader_lost: Arc::new(move || fence::leader_lost(shared)),
        lease_deadline: Arc::new(move || fence::deadline(shared)),
        wake: Arc::new(move || main.set()),
        died,
    }
}

fn layers(paths: &Paths) -> Result<Layers, String> {
    let environment = environment();
    let (local, mistake) = last_good::load(paths, Path::new(&guc::config_file()), &environment)?;
    if let Some(mistake) = mistake {
        report::warning(&format!("ha_ext goes on with the configuration that was last in force: {mistake}"));
    }
    Ok(Layers { local, environment, dynamic: cached_dynamic(paths) })
}

/// The dynamic configuration as it was seen last; a copy that cannot be read is as good as none, since the store has the real one.
fn cached_dynamic(paths: &Paths) -> Option<serde_json::Value> {
    const LIMIT_BYTES: u64 = 4 * 1024 * 1024;
    let read = files::read_bounded(&paths.dynamic_config(), LIMIT_BYTES).map_err(|error| error.to_string());
    let parsed =
        read.and_then(|text| text.map(|text| serde_json::from_str(&text)).transpose().map_err(|e| e.to_string()));
    parsed.unwrap_or_else(|mistake| {
        report::warning(&format!(
            "ha_ext does not know the dynamic configuration before the store tells it anew: {mistake}"
        ));
        None
    })
}

/// `PATRONI_*` variables: a supervisor keeps them out of this server's own environment, and in a file for us.
fn environment() -> BTreeMap<String, String> {
    ha_node::environment::effective(&Paths::new(&process::data_dir())).unwrap_or_else(|error| {
        tracing::warn!("the supervisor's environment cannot be read: {error}");
        ha_node::environment::own()
    })
}
