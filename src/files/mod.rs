//! The file thread: whatever waits for a disk happens here, in order, so that the main thread never does.

mod empty_segment;
mod place;
mod promote;

pub use place::{Marks, Place};
pub use promote::Job as PromotionJob;

use crate::placeholders;
use ha_core::clock::Millis;
use ha_core::cluster::Address;
use ha_core::config::Config;
use ha_core::ids::{Lsn, SystemId, Timeline};
use ha_core::lease::Lease;
use ha_core::local::Marker;
use ha_core::pgconf;
use ha_core::timeline::parse_history_file;
use ha_node::paths::Paths;
use ha_node::runtime::{self, Died};
use ha_node::{clock, config_file, files, founding, kept_ttl, last_good, marker, server_files};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What the main thread asks for.
#[derive(Debug)]
pub enum Job {
    /// Write `ha_ext.conf`.
    Follow(String),
    /// Write the server's configuration, without the parameters it would refuse.
    ServerFiles(Arc<Config>, BTreeSet<String>),
    /// Write `patroni.dynamic.json`.
    Dynamic(Value),
    /// Write the marker.
    Marker(Marker),
    /// This directory's cluster is founded.
    Founded,
    /// Make everything ready for a demotion in place.
    Park,
    /// Undo that.
    Unpark,
    /// Recovery admits reads from now on.
    ServeReads,
    /// Look at what matters for a demotion in place, on a primary on this timeline.
    LookAtPlace(Timeline),
    /// Read the history of this timeline.
    History(Timeline),
    /// Read the configuration file.
    Configuration(PathBuf),
    /// Keep this configuration for the next start.
    KeepConfiguration(Value),
    /// Keep for how long promises may last, unless the seat was given up since it was taken for the time of this number.
    KeepTtl(u64, Millis),
    /// Open a listening socket (a name may have to be looked up).
    Listen(Address),
}

/// What has been done.
#[derive(Debug)]
pub enum Done {
    /// `ha_ext.conf` was written.
    Followed(io::Result<()>),
    /// The server's configuration was written, and there is something new in it.
    ServerFiles,
    /// [`Job::Park`] has ended.
    Parked(io::Result<()>),
    /// [`Job::Unpark`] has ended.
    Unparked(io::Result<()>),
    /// `promote` is there.
    Promoted {
        /// The proof that we may.
        lease: Lease,
        /// How it went.
        result: io::Result<()>,
    },
    /// [`Job::KeepTtl`] of this number has ended.
    TtlKept(u64, io::Result<()>),
    /// Something else failed.
    Failed(String),
    /// The configuration was read.
    Configuration(Result<Value, String>),
    /// The socket is open.
    Listening(io::Result<TcpListener>),
}

/// What the files say, as of the last look.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The marker.
    pub marker: Option<Marker>,
    /// Ancestors of the timeline that was asked for last.
    pub history: Vec<(Timeline, Lsn)>,
    /// When that file was written, ISO 8601 with zone.
    pub history_at: Option<String>,
    /// That timeline.
    pub history_of: Timeline,
    /// Why the disk cannot be written.
    pub cannot_write: Option<String>,
    /// System identifier of a directory that was made to found a cluster, which nobody has seen yet.
    pub founding: Option<SystemId>,
    /// What matters for a demotion in place.
    pub place: Place,
}

type Wake = Arc<dyn Fn() + Send + Sync>;

/// The main thread's end.
pub struct Files {
    jobs: Sender<Job>,
    promotions: Sender<PromotionJob>,
    segments: Sender<Option<u64>>,
    done: Receiver<Done>,
    facts: Arc<Mutex<Facts>>,
    /// Which number [`Job::KeepTtl`] must have; held while it is carried out.
    keeps: Arc<Mutex<u64>>,
}

impl Files {
    /// Starts the threads. They look at the marker before this returns. `archiving`: the server archives its log.
    pub fn start(paths: Paths, archiving: bool, died: Died, wake: Wake) -> io::Result<Self> {
        let (jobs, receiver) = channel();
        let (promotions, promotion_jobs) = channel();
        let (segments, wanted_segments) = channel();
        let (sender, done) = channel();
        let facts = Arc::new(Mutex::new(Facts::default()));
        let (promotion_paths, promotion_done, promotion_wake) = (paths.clone(), sender.clone(), wake.clone());
        let segment_paths = paths.clone();
        let keeps = Arc::new(Mutex::new(0));
        let mut thread =
            Thread { paths, archiving, facts: facts.clone(), keeps: keeps.clone(), done: sender, wake, full_since: 0 };
        thread.read_marker();
        thread.facts().founding = founding::read(&thread.paths)?;
        runtime::spawn("ha_file", died.clone(), move || thread.run(&receiver))?;
        let promote = move || promote::run(&promotion_paths, &promotion_jobs, &promotion_done, &promotion_wake);
        runtime::spawn("ha_promote", died.clone(), promote)?;
        runtime::spawn("ha_segment", died, move || empty_segment::run(&segment_paths, &wanted_segments))?;
        Ok(Self { jobs, promotions, segments, done, facts, keeps })
    }

    /// The seat has come or goes: nothing that was asked for before is kept from here on, when another process may write. For that an
    /// attempt that is under way is waited for. Gives the number for what is asked for from now on.
    pub fn forget_kept_ttl(&self) -> u64 {
        let mut number = self.keeps.lock().unwrap_or_else(PoisonError::into_inner);
        *number += 1;
        *number
    }

    /// Asks for a promotion, or for none.
    pub fn send_promotion(&self, job: PromotionJob) {
        // As below.
        let _ = self.promotions.send(job);
    }

    /// Keeps an empty segment of the log, of this size, or none.
    pub fn keep_segment(&self, bytes: Option<u64>) {
        // As below.
        let _ = self.segments.send(bytes);
    }

    /// Asks for something.
    pub fn send(&self, job: Job) {
        // It fails only when the thread is gone, which `died` has told the process already.
        let _ = self.jobs.send(job);
    }

    /// What has ended since the last call.
    pub fn take_done(&self) -> Vec<Done> {
        self.done.try_iter().collect()
    }

    /// What the files say.
    pub fn facts(&self) -> Facts {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Thread {
    paths: Paths,
    archiving: bool,
    facts: Arc<Mutex<Facts>>,
    keeps: Arc<Mutex<u64>>,
    done: Sender<Done>,
    wake: Wake,
    /// Probes that failed in a row.
    full_since: u32,
}

/// How often the disk is tried and the marker read. Each try waits for the disk, and costs more than all else this thread does.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The same after a failure, which counts only when it is repeated.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Thread {
    fn run(&mut self, jobs: &Receiver<Job>) {
        let mut look_at = clock::now_ns();
        loop {
            let wait = Duration::from_nanos(look_at.saturating_sub(clock::now_ns()));
            match jobs.recv_timeout(wait) {
                Ok(job) => self.execute(job),
                Err(RecvTimeoutError::Timeout) => {
                    self.read_marker();
                    self.probe();
                    let pause = if self.full_since == 0 { LOOK_EVERY } else { LOOK_AGAIN };
                    look_at = clock::now_ns() + u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX / 2);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn execute(&mut self, job: Job) {
        let done = match job {
            Job::Follow(text) => Some(Done::Followed(self.follow(&text))),
            Job::ServerFiles(config, named) => {
                let refused = server_files::refused_by_running(&self.paths, &config, &named);
                match server_files::write(&self.paths, &config, &refused) {
                    Ok(changed) => changed.then_some(Done::ServerFiles),
                    Err(error) => Some(Done::Failed(format!("the server's configuration: {error}"))),
                }
            }
            Job::Dynamic(value) => {
                let path = self.paths.dynamic_config();
                failed("patroni.dynamic.json", files::write_atomically(&path, value.to_string().as_bytes()))
            }
            Job::Marker(new) => {
                let result = marker::write(&self.paths.marker(), &new);
                self.read_marker();
                failed("the marker", result)
            }
            Job::Founded => {
                let result = founding::end(&self.paths);
                if result.is_ok() {
                    self.facts().founding = None;
                }
                failed("the mark of a bootstrap", result)
            }
            Job::Park => Some(Done::Parked(self.changed_place(place::park(&self.paths)))),
            Job::Unpark => Some(Done::Unparked(self.changed_place(place::unpark(&self.paths)))),
            Job::ServeReads => failed("the mark of a demotion", place::serve_reads(&self.paths)),
            Job::LookAtPlace(timeline) => {
                let failure = self.look_at_place(timeline);
                if failure.is_none() {
                    return;
                }
                failure
            }
            Job::History(timeline) => {
                failed("a history file", self.read_history(timeline).and(placeholders::fill(&self.paths, timeline)))
            }
            Job::Configuration(path) => {
                Some(Done::Configuration(config_file::load(&path).map_err(|error| error.to_string())))
            }
            Job::KeepConfiguration(local) => failed("the configuration", last_good::keep(&self.paths, &local)),
            Job::KeepTtl(number, ttl) => Some(Done::TtlKept(number, self.keep_ttl(number, ttl))),
            Job::Listen(address) => Some(Done::Listening(listen(&address))),
        };
        if let Some(done) = done {
            // Nobody listens only when the process is about to end.
            let _ = self.done.send(done);
        }
        (self.wake)();
    }

    fn keep_ttl(&self, number: u64, ttl: Millis) -> io::Result<()> {
        let wanted = self.keeps.lock().unwrap_or_else(PoisonError::into_inner);
        if *wanted == number { kept_ttl::keep(&self.paths, ttl) } else { Err(io::Error::other("the seat was left")) }
    }

    fn follow(&self, text: &str) -> io::Result<()> {
        files::write_atomically(&self.paths.conf(), text.as_bytes())?;
        // What somebody wrote with ALTER SYSTEM would override it. A file in another encoding is left alone.
        let auto = self.paths.data_dir().join("postgresql.auto.conf");
        let theirs = match std::fs::read_to_string(&auto) {
            Ok(theirs) => theirs,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => return Ok(()),
            Err(error) => return Err(error),
        };
        match pgconf::auto_conf_without_ours(&theirs) {
            Some(without) => files::write_atomically(&auto, without.as_bytes()),
            None => Ok(()),
        }
    }

    /// Wakes the main thread only if there is something new, or if it waits for it.
    fn look_at_place(&self, timeline: Timeline) -> Option<Done> {
        match place::look(&self.paths, timeline, self.archiving, clock::now_ns()) {
            Ok(seen) => {
                let mut facts = self.facts();
                let known = Place { looked_ns: seen.looked_ns, ..facts.place.clone() };
                let news = known != seen || facts.place.looked_ns == 0;
                facts.place = seen;
                drop(facts);
                if news {
                    (self.wake)();
                }
                None
            }
            Err(error) => Some(Done::Failed(format!("what a demotion in place depends on: {error}"))),
        }
    }

    /// What was seen before a change is not what is there. One that failed may be half there.
    fn changed_place(&self, result: io::Result<()>) -> io::Result<()> {
        let seen = Marks::look(&self.paths)?;
        self.facts().place.marks = if result.is_err() && seen == Marks::Both { Marks::One } else { seen };
        result
    }

    fn read_history(&self, timeline: Timeline) -> io::Result<()> {
        const LIMIT_BYTES: u64 = 1024 * 1024;
        let path = self.paths.timeline_history(timeline);
        let text = files::read_bounded(&path, LIMIT_BYTES)?;
        let history = text.map(|text| parse_history_file(&text)).unwrap_or_default();
        let written = std::fs::metadata(&path).and_then(|file| file.modified()).ok();
        let since_1970 = written.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let mut facts = self.facts();
        facts.history = history;
        facts.history_at =
            since_1970.and_then(|time| i64::try_from(time.as_micros()).ok()).map(ha_core::api::time::iso);
        facts.history_of = timeline;
        Ok(())
    }

    fn read_marker(&mut self) {
        match marker::read(&self.paths.marker()) {
            Ok(found) => self.facts().marker = found,
            // The last good one stays.
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// A leader whose disk is full or broken is of no use, however well it holds its lease.
    fn probe(&mut self) {
        let path = self.paths.data_dir().join("ha_ext.probe");
        let result = std::fs::File::create(&path).and_then(|mut file| {
            file.write_all(&[0; 8192])?;
            file.sync_all()
        });
        let _ = std::fs::remove_file(&path);
        self.full_since = if result.is_ok() { 0 } else { self.full_since.saturating_add(1) };
        // Once may be the moment in which the server itself has just made room.
        let failure = result.err().filter(|_| self.full_since > 1);
        let before = self.facts().cannot_write.is_some();
        let now = failure.is_some();
        self.facts().cannot_write = failure.map(|error| error.to_string());
        if before != now {
            (self.wake)();
        }
    }

    fn facts(&self) -> std::sync::MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listen(address: &Address) -> io::Result<TcpListener> {
    let host = match address.host.as_str() {
        "" | "*" => "0.0.0.0",
        host => host,
    };
    TcpListener::bind((host, address.port))
}

fn failed(what: &str, result: io::Result<()>) -> Option<Done> {
    result.err().map(|error| Done::Failed(format!("{what}: {error}")))
}
