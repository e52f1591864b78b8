//! What can only be done while the server is down. Each step is one thread; it holds no policy: which step runs,
//! and what follows, is decided elsewhere.

pub mod archive;
pub mod basebackup;
pub mod conf;
pub mod half_record;
pub mod initdb;
pub mod leftover;
pub mod parameters;
pub mod recovery;
pub mod rewind;
pub mod set_aside;
pub mod start_stop;
pub mod stragglers;

use crate::error::{Error, Result};
use crate::outside::Event;
use crate::pgdata;
use crate::postmaster::{PidFile, Postmaster};
use crate::process::{Cancel, Held, Note, Ran, run};
use crate::site::Site;
use ha_core::clock::Tick;
use ha_core::effect::Step;
use ha_core::ids::LeaseId;
use ha_core::local::Marker;
use ha_node::process::ProcessId;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// How long the parent of a dead postmaster is waited for.
const REAPED_MAX: Duration = Duration::from_secs(2);

/// What a step works with.
#[derive(Clone)]
pub struct Context {
    /// Where everything is.
    pub site: Site,
    /// Told when the supervisor is stopped.
    pub cancel: Cancel,
    /// The postmaster, for the steps that stop it or its children.
    pub postmaster: Option<Arc<Postmaster>>,
    /// Its children from before this moment belong to the server as it was before its demotion in place.
    pub demoted_at: Option<Tick>,
    /// The lease that the marker shall name.
    pub marker_lease: Option<LeaseId>,
    /// Beside other steps, and left alone when the supervisor ends.
    pub background: bool,
    /// Make everything ready for a start, but start nothing.
    pub prepare_only: bool,
    /// The dynamic configuration in force, if it came from the store.
    pub dynamic: Option<serde_json::Value>,
    /// To the main thread.
    pub events: Sender<Event>,
    /// Wakes the main thread after an event was sent.
    pub wake: Arc<dyn Fn() + Send + Sync>,
}

/// Runs a step to its end.
pub fn perform(step: &Step, context: &Context) -> Result<()> {
    if !matches!(step, Step::EndStragglers | Step::Stop { .. }) {
        archive::end_beside_recovery();
    }
    match step {
        Step::Initdb => initdb::perform(context),
        Step::BaseBackup { from } => basebackup::perform(context, from),
        Step::Rewind { from } => rewind::perform(context, from),
        Step::CrashRecover => recovery::perform(context),
        Step::Start { role } => start_stop::start(context, role),
        Step::Stop { mode } => start_stop::stop(context, *mode),
        Step::ClearLeftover => leftover::perform(context),
        Step::EndStragglers => stragglers::perform(context),
        Step::SetAside => set_aside::perform(context),
    }
}

impl Context {
    /// Runs a program to its end; an error unless it succeeds.
    pub fn run(&self, command: &mut Command, input: &str) -> Result<Ran> {
        let name = command.get_program().to_string_lossy().into_owned();
        let name = name.rsplit('/').next().unwrap_or_default().to_owned();
        run(command, input, &self.cancel, self)?.checked(&name)
    }

    /// Tells the main thread something.
    pub fn tell(&self, event: Event) {
        // The main thread is gone only when the process ends.
        let _ = self.events.send(event);
        (self.wake)();
    }

    /// Says in the data directory to whom it belongs.
    pub fn write_marker(&self) -> Result<()> {
        let control = crate::control_data::read(self.site.data_dir())?.control;
        let marker = Marker {
            scope: self.site.config.scope.clone(),
            system_id: control.system_id,
            member: self.site.config.name.clone(),
            lease: self.marker_lease,
        };
        let path = self.site.paths.marker();
        if ha_node::marker::read(&path).is_ok_and(|old| old.as_ref() == Some(&marker)) {
            return Ok(());
        }
        ha_node::marker::write(&path, &marker).map_err(Error::io(|| format!("writing {}", path.display())))
    }

    /// Refuses to touch a data directory in which a server may still be at work.
    pub fn needs_stopped_server(&self) -> Result<()> {
        let dir = self.site.data_dir();
        if let Some(postmaster) = Postmaster::adopt(dir) {
            return Err(Error::Refused(format!("a server runs in {} (process {})", dir.display(), postmaster.pid())));
        }
        if !crate::postmaster::tenancy_free(dir) {
            return Err(Error::Refused(format!("processes of a server still work in {}", dir.display())));
        }
        if let Some(pid) = crate::postmaster::single_user(dir) {
            return Err(Error::Refused(format!("a single-user server runs in {} (process {pid})", dir.display())));
        }
        self.needs_no_program_left()?;
        wait_until_reaped(dir);
        // The server believes its old pid file if any process has that id now: after a restart of a container the
        // ids come round again, and a zombie counts too. We know better.
        pgdata::remove_durably(&self.site.paths.postmaster_pid())
    }

    /// Refuses to work beside a program of an earlier supervisor that SIGKILL has not ended.
    pub fn needs_no_program_left(&self) -> Result<()> {
        let Some(left) = left_running(&self.site) else { return Ok(()) };
        let what = "a program of an earlier supervisor was killed and has not ended (a disk that hangs?)";
        let dir = self.site.data_dir().display();
        Err(Error::Refused(format!("{what}: process {} still works in {dir}", left.id.pid)))
    }

    /// Removes what would make the next start something else than what we want: a promotion that was triggered
    /// but not seen, what was prepared for a demotion in place, and the files that choose a kind of recovery.
    pub fn clear_signals(&self) -> Result<()> {
        pgdata::remove_durably(&self.site.paths.demoted())?;
        pgdata::remove_durably(&self.site.paths.promote())?;
        pgdata::remove_durably(&self.site.paths.standby_signal())?;
        pgdata::remove_durably(&self.site.paths.recovery_signal())
    }
}

impl Note for Context {
    fn running(&self, process: Option<ProcessId>) {
        if self.background {
            return;
        }
        let path = self.site.step_note();
        let done = match process {
            Some(id) => serde_json::to_vec(&id).map_err(Into::into).and_then(|text| std::fs::write(&path, text)),
            None => std::fs::remove_file(&path),
        };
        if let Err(error) = done {
            tracing::debug!(%error, "the note about a running step could not be changed");
        }
    }
}

/// A dead postmaster whose parent has not yet asked for its end still has its id, and so its socket's lock file counts for the next
/// server. The parent is another process: it takes a moment.
fn wait_until_reaped(data_dir: &Path) {
    let Some(file) = PidFile::read(data_dir) else { return };
    let end = Instant::now() + REAPED_MAX;
    while crate::process::stat(file.pid).is_some_and(|stat| stat.state == 'Z') && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The program of a step that another supervisor began, if it still runs.
fn left_running(site: &Site) -> Option<Held> {
    let id = serde_json::from_slice::<ProcessId>(&std::fs::read(site.step_note()).ok()?).ok()?;
    Held::open(id.pid).filter(|held| held.id == id && !held.ended())
}

/// Ends what a step of an earlier supervisor left running: it would go on writing behind our back.
pub fn end_step_of_predecessor(site: &Site) {
    if let Some(held) = left_running(site) {
        let pid = held.id.pid;
        tracing::warn!(pid, "a program that an earlier supervisor started still runs: it is killed");
        crate::process::kill_group(pid);
        if !held.wait_end(std::time::Duration::from_secs(10)) {
            // The note stays: no step begins beside it, in this supervisor or the next.
            tracing::error!(
                pid,
                "it still runs 10 s after SIGKILL: nothing is done to the data directory before it ends"
            );
            return;
        }
    }
    let _ = std::fs::remove_file(site.step_note());
}
