//! Getting ready for a demotion in place, and what stands in its way.

use super::{Inside, signal};
use crate::fence;
use crate::files::{Facts, Job, Marks, Place};
use crate::pg::{process, recovery, segment_end, senders, settings, wal};
use ha_core::clock::{Millis, Tick};
use ha_core::ids::{NodeName, Timeline};
use ha_core::local::InPlace;
use ha_core::view::Seat;
use ha_node::clock;
use rustix::process::Signal;
use std::io;

/// How long a change of files may take before it is asked for again.
const PATIENCE: Millis = Millis(1000);
/// How long after its promotion a leader reloads its settings.
const EMPTY_AFTER: Millis = Millis(1000);
/// How old what the files say may be while a switchover is under way, and otherwise.
const LOOK_SOON: Millis = Millis(20);
const LOOK_EVERY: Millis = Millis(1000);

/// How long an obstacle lasts that is worth a line in the log.
const OBSTACLE_LASTS: Millis = Millis(30_000);
/// How long nobody is followed before recovery looks for more only seldom.
const REST_AFTER: Millis = Millis(10_000);

/// For how long the log is brought near the end of its segment at most: a slow network or disk ends it.
const FILL_MAX: Millis = Millis(2000);
/// How long it takes to make the files, and then to end the log.
const UNTIL_PARKED_MS: u64 = 80;
const UNTIL_FROZEN_MS: u64 = 20;
/// How far behind a standby may be that keeps up.
const KEEPS_UP_BYTES: u64 = 1 << 20;

/// How often a postmaster is woken whose archiver has something to do.
const WAKE_EVERY: Millis = Millis(2000);

/// What was asked for.
#[derive(Default)]
pub(super) struct Parking {
    /// The decision wants this server to be ready.
    wanted: bool,
    /// The log is brought near the end of its segment.
    filling: Option<Fill>,
    /// A change of the files is under way since then.
    changing: Option<Tick>,
    /// The settings were emptied, and the postmaster told, at this time.
    emptied: Option<Tick>,
    /// When that is done on a new leader.
    empty_at: Option<Tick>,
    /// What was seen when another look was asked for, and when that was.
    look_asked: Option<(u64, Tick)>,
    /// When the postmaster was last told to look whether an archiver runs.
    archiver_woken: Option<Tick>,
    /// What stands in the way.
    obstacle: Option<Obstacle>,
    /// Since when nobody is followed, and nobody is to be.
    idle_since: Option<Tick>,
}

/// The log on its way to the end of its segment: before the files are made, and again when that took so long that it has gone past it.
struct Fill {
    since: Tick,
    /// `None` when it is over.
    left: Option<segment_end::Filling>,
    again: bool,
}

/// What stands in the way of a demotion in place.
struct Obstacle {
    text: String,
    since: Tick,
    /// The log says so.
    told: bool,
}

/// Whether the candidate, and everybody whom commits wait for, has nearly everything that was written.
fn keeps_up(candidate: &NodeName) -> bool {
    let (end, _) = wal::flushed();
    let (slot, all) = (candidate.slot_name(), settings::commits_wait());
    let mut concerned = senders::standbys().into_iter().filter(|standby| all || standby.slot == slot);
    concerned.all(|standby| end.ahead_of(standby.flushed) <= KEEPS_UP_BYTES)
}

impl Inside {
    /// `candidate`: of a planned hand-over, in which the log is brought near the end of its segment first.
    pub(super) fn park(&mut self, candidate: Option<&NodeName>) {
        self.parking.wanted = true;
        self.empty_settings();
        match candidate {
            Some(candidate) => self.fill(candidate),
            // An emergency waits for nothing.
            None => self.parking.filling = None,
        }
        let filled = self.parking.filling.as_ref().is_none_or(|fill| fill.left.is_none());
        if filled && self.files.facts().place.marks != Marks::Both {
            self.change_files(Job::Park);
        }
    }

    /// A record at a time, and only while whoever has to have the end of the log keeps up: what is on its way to the candidate when commits
    /// are held is waited for by every client.
    fn fill(&mut self, candidate: &NodeName) {
        let marked = self.is_marked(&self.files.facts().place);
        let begin = || Fill { since: clock::now(), left: segment_end::Filling::begin(UNTIL_PARKED_MS), again: false };
        let fill = self.parking.filling.get_or_insert_with(begin);
        if fill.left.is_none() && marked && !fill.again {
            *fill = Fill { left: segment_end::Filling::begin(UNTIL_FROZEN_MS), again: true, ..*fill };
        }
        let Some(left) = &mut fill.left else { return };
        let slow = clock::now().since(fill.since) >= FILL_MAX;
        if slow || (keeps_up(candidate) && !left.step(&process::data_dir())) {
            fill.left = None;
        }
    }

    pub(super) fn unpark(&mut self) {
        self.parking.filling = None;
        let was_wanted = std::mem::take(&mut self.parking.wanted);
        if was_wanted {
            self.parking.changing = None;
        } else if self.files.facts().place.marks == Marks::None {
            return;
        }
        self.change_files(Job::Unpark);
    }

    /// What was prepared is gone, or was never there.
    pub fn unparked(&self) -> bool {
        self.parking.changing.is_none() && self.files.facts().place.marks == Marks::None
    }

    fn change_files(&mut self, job: Job) {
        let now = clock::now();
        if self.parking.changing.is_none_or(|since| now.since(since) >= PATIENCE) {
            self.parking.changing = Some(now);
            self.files.send(job);
        }
    }

    pub(super) fn park_ended(&mut self, what: &str, result: io::Result<()>) {
        match result {
            Ok(()) => self.parking.changing = None,
            // Asked for again when its time is over.
            Err(error) => tracing::warn!("cannot {what}: {error}"),
        }
    }

    /// `ha_ext.conf` was written: the postmaster reads it before it does anything else.
    pub(super) fn conf_written(&mut self) {
        let emptied = self.following.target.as_ref().is_some_and(|(conninfo, _)| conninfo.is_empty());
        self.parking.emptied = emptied.then(clock::now);
        signal(Signal::HUP);
    }

    /// Recovery, if it began now, would follow nobody and restore nothing.
    fn settings_are_empty(&self) -> bool {
        !self.following.writing && recovery::primary_conninfo().is_empty() && recovery::restore_command().is_empty()
    }

    /// A server that leads follows nobody anyway: done in good time, it is not waited for later. Not while the clients of the old leader
    /// arrive: every process of the server reads its settings anew.
    pub(super) fn empty_settings_soon(&mut self) {
        self.parking.empty_at = Some(clock::now() + EMPTY_AFTER);
    }

    fn empty_settings(&mut self) {
        // Of the server's own settings for subscriptions, one is for recovery as well: it was a standby at rest.
        let rests = self.following.at_rest || (self.following.target.is_none() && recovery::is_at_rest());
        let due = self.parking.empty_at.map_or(rests, |at| clock::now() >= at);
        if !due || self.following.writing {
            return;
        }
        self.parking.empty_at = None;
        let tried = self.parking.emptied.is_some_and(|at| clock::now().since(at) < Millis(10 * PATIENCE.0));
        if rests || (!self.settings_are_empty() && !tried) {
            self.follow(None);
        }
    }

    /// A standby that follows nobody for long need not look for more WAL twice a second: 15 logs each look. Whom it is to follow, or its
    /// promotion, wakes it.
    pub(super) fn rest(&mut self) {
        let idle =
            self.seat.is_some() && !self.following.at_rest && !self.promotion_runs() && self.settings_are_empty();
        if !idle || recovery::is_at_rest() {
            self.parking.idle_since = None;
            return;
        }
        let since = *self.parking.idle_since.get_or_insert_with(clock::now);
        if clock::now().since(since) >= REST_AFTER {
            self.write_conf((String::new(), None), true);
        }
    }

    /// Whether [`Inside::park`] is through.
    pub(super) fn parked(&self, place: &Place) -> bool {
        let filled = self.parking.filling.as_ref().is_none_or(|fill| fill.left.is_none() && fill.again);
        filled && self.parking.wanted && self.is_marked(place) && self.settings_are_empty()
    }

    /// A change that is under way may be the undoing of an earlier preparation.
    fn is_marked(&self, place: &Place) -> bool {
        self.parking.changing.is_none() && place.marks == Marks::Both
    }

    /// As of now, of a primary on `timeline`.
    pub(super) fn in_place(&mut self, timeline: Timeline, facts: &Facts) -> InPlace {
        self.empty_settings();
        self.look_at_place(timeline, &facts.place);
        if facts.place.archive_waiting {
            self.wake_archiver();
        }
        let obstacle = self.obstacle(&facts.place);
        self.tell_obstacle(obstacle.as_deref());
        InPlace { obstacle, parked: self.parked(&facts.place), marked: facts.place.marks != Marks::None }
    }

    /// Only of one that lasts: each start and each promotion has some that pass by themselves.
    fn tell_obstacle(&mut self, obstacle: Option<&str>) {
        let now = clock::now();
        let known = self.parking.obstacle.as_ref();
        if known.map(|known| known.text.as_str()) != obstacle {
            let told = known.is_some_and(|known| known.told);
            if told && obstacle.is_none() {
                tracing::info!("this leader can become a standby in place again");
            }
            self.parking.obstacle = obstacle.map(|text| Obstacle { text: text.to_owned(), since: now, told: false });
        }
        if let Some(known) = self.parking.obstacle.as_mut().filter(|known| !known.told)
            && now.since(known.since) >= OBSTACLE_LASTS
        {
            known.told = true;
            tracing::info!("this leader cannot become a standby in place, a switchover would stop it: {}", known.text);
        }
    }

    /// After a second start within 10 s the postmaster starts no archiver until something wakes it: this does nothing else.
    fn wake_archiver(&mut self) {
        let now = clock::now();
        if self.parking.archiver_woken.is_none_or(|at| now.since(at) >= WAKE_EVERY) {
            self.parking.archiver_woken = Some(now);
            signal(Signal::USR1);
        }
    }

    fn look_at_place(&mut self, timeline: Timeline, place: &Place) {
        let now = clock::now();
        let pause = match self.handover.switching {
            _ if self.archive_unknown(place) => Millis(0),
            true => LOOK_SOON,
            false => LOOK_EVERY,
        };
        let age = now.since(Tick(place.looked_ns / 1_000_000));
        let under_way =
            self.parking.look_asked.is_some_and(|(seen, at)| seen == place.looked_ns && now.since(at) < PATIENCE);
        if age >= pause && !under_way {
            self.parking.look_asked = Some((place.looked_ns, now));
            self.files.send(Job::LookAtPlace(timeline));
        }
    }

    /// A segment may have ended between the last look and the end of the log, and without a supervisor nobody would archive it.
    pub(super) fn archive_unknown(&self, place: &Place) -> bool {
        let alone = self.seat == Some(Seat::Inside { supervised: false });
        alone && settings::archiving() && self.frozen_at_ns().is_some_and(|frozen_at| place.looked_ns <= frozen_at)
    }

    fn obstacle(&self, place: &Place) -> Option<String> {
        let stuck = || {
            let waited = self.parking.emptied.is_some_and(|at| clock::now().since(at) >= PATIENCE);
            waited && !self.settings_are_empty()
        };
        let text = if !settings::restart_after_crash() {
            "restart_after_crash is off"
        } else if !settings::hot_standby() {
            "hot_standby is off"
        } else if place.looked_ns == 0 {
            "the data directory was not looked at yet"
        } else if place.next_history {
            "the next timeline has a history file here"
        } else if stuck() {
            "primary_conninfo or restore_command is set where ha_ext.conf cannot override it"
        } else {
            return None;
        };
        Some(text.to_owned())
    }

    pub(super) fn serve_reads(&mut self) {
        fence::serve_reads(self.shared);
        self.files.send(Job::ServeReads);
    }
}
