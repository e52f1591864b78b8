//! The sql worker: what needs a database connection. Today that is the physical slots of the other members, and the settings
//! that wait for a restart.

use crate::pg::latch::{self, LatchAddress};
use crate::pg::{hooks, process, report, sql, wal};
use crate::shmem::{PENDING_BYTES, Shared, shared};
use ha_core::clock::{Millis, Tick};
use ha_core::ids::{Lsn, NodeName};
use ha_core::local::PendingSetting;
use ha_node::clock;
use ha_node::driver::Driver;
use ha_node::member_slots::MemberSlots;
use ha_node::paths::Paths;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long the slots may go unseen: the loop worker wakes this one when the members change.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The same while the page says too little, and after a failure.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often slots that nobody uses here are moved forward at most.
const ADVANCE_EVERY: Millis = Millis(9_000);

/// What this worker goes by. The loop worker wakes it when that has changed on the page.
#[derive(Default, PartialEq, Eq)]
pub struct SlotOwners {
    members: Vec<NodeName>,
    use_slots: bool,
    pause: bool,
}

impl SlotOwners {
    /// As of now.
    pub fn of(driver: &Driver) -> Self {
        let cluster = driver.cluster();
        let settings = driver.settings();
        Self {
            members: cluster.map(|cluster| cluster.members.keys().cloned().collect()).unwrap_or_default(),
            use_slots: settings.use_slots,
            pause: settings.pause,
        }
    }
}

/// Wakes this worker, if there is one.
pub fn wake(shared: &Shared) {
    if let Some(latch) = LatchAddress::from_pointer(shared.sql_latch.load(Ordering::Acquire)) {
        latch.set();
    }
}

/// A member, as the status page shows it.
struct Member {
    slot: String,
    lsn: Option<Lsn>,
}

struct Page {
    database: String,
    use_slots: bool,
    pause: bool,
    members: Vec<Member>,
}

/// Runs the worker until it is told to stop.
pub fn run() -> ! {
    process::become_worker();
    hooks::exempt();
    let Some(shared) = shared() else { process::exit_for_restart() };
    shared.sql_latch.store(LatchAddress::mine().as_pointer(), Ordering::Release);
    // Which database there is to connect to, the loop worker knows.
    let database = loop {
        match page(shared) {
            Some(page) => break page.database,
            None => {
                pause(LOOK_AGAIN);
            }
        }
    };
    sql::connect(&database);
    let mut slots = Slots::new();
    let mut pending = Pending::default();
    loop {
        pending.publish(shared);
        let page = page(shared);
        if let Some(page) = page.as_ref().filter(|page| page.use_slots && !page.pause) {
            slots.reconcile(page);
        }
        let settled = page.is_some() && pending.known && slots.failure.is_none();
        // Only then something can begin to wait, or cease to.
        pending.known &= !pause(if settled { LOOK_EVERY } else { LOOK_AGAIN });
    }
}

/// Settings that wait for a restart.
#[derive(Default)]
struct Pending {
    /// The loop worker has been told.
    known: bool,
    failure: Option<String>,
}

impl Pending {
    /// Tells the loop worker, if there may be something new.
    fn publish(&mut self, shared: &Shared) {
        if self.known {
            return;
        }
        let found = match sql::pending_restart() {
            Ok(found) => found,
            Err(error) => {
                if self.failure.as_ref() != Some(&error) {
                    report::warning(&format!("ha_ext: cannot find out which settings wait for a restart: {error}"));
                    self.failure = Some(error);
                }
                return;
            }
        };
        let mut pending: BTreeMap<String, PendingSetting> = found.into_iter().collect();
        let mut text = serde_json::to_string(&pending).unwrap_or_default();
        while text.len() > PENDING_BYTES && pending.pop_last().is_some() {
            text = serde_json::to_string(&pending).unwrap_or_default();
        }
        shared.pending_restart.publish(&text);
        if let Some(latch) = LatchAddress::from_pointer(shared.worker_latch.load(Ordering::Acquire)) {
            latch.set();
        }
        (self.known, self.failure) = (true, None);
    }
}

/// Sleeps until it is woken, at most for so long. True if the server's settings were read again.
fn pause(at_most: Duration) -> bool {
    latch::wait(None, at_most);
    latch::reset();
    if process::told_to_stop() {
        process::exit_for_restart();
    }
    let reloaded = process::told_to_reload();
    latch::check_for_interrupts();
    reloaded
}

fn page(shared: &Shared) -> Option<Page> {
    let page: Value = serde_json::from_str(&shared.page.read()?).ok()?;
    let me = page.get("name")?.as_str()?;
    let others = page.get("members")?.as_array()?.iter();
    let others = others.filter(|member| member.get("member").and_then(Value::as_str) != Some(me));
    let member = |member: &Value| {
        let lsn = member.get("lsn").and_then(Value::as_str).and_then(|lsn| lsn.parse().ok());
        Some(Member { slot: member.get("slot")?.as_str()?.to_owned(), lsn })
    };
    Some(Page {
        database: page.get("database")?.as_str()?.to_owned(),
        use_slots: page.get("use_slots")?.as_bool()?,
        pause: page.get("pause")?.as_bool()?,
        members: others.filter_map(member).collect(),
    })
}

/// What is remembered about slots.
struct Slots {
    /// Those of members we have seen: only these are ever dropped.
    members: MemberSlots,
    advanced_at: Tick,
    failure: Option<String>,
}

impl Slots {
    fn new() -> Self {
        let members = MemberSlots::load(Paths::new(&process::data_dir()));
        Self { members, advanced_at: Tick(0), failure: None }
    }

    fn reconcile(&mut self, page: &Page) {
        match self.try_reconcile(page) {
            Ok(()) => self.failure = None,
            Err(error) if self.failure.as_ref() != Some(&error) => {
                report::warning(&format!("ha_ext: replication slots: {error}"));
                self.failure = Some(error);
            }
            Err(_) => {}
        }
    }

    fn try_reconcile(&mut self, page: &Page) -> Result<(), String> {
        let now = clock::now();
        let there = sql::physical_slots()?;
        for member in &page.members {
            let is_there = |slots: &[sql::Slot]| slots.iter().any(|slot| slot.name == member.slot);
            if is_there(&there) {
                continue;
            }
            match sql::create_slot(&member.slot) {
                Ok(()) => report::log(&format!("ha_ext: created the replication slot \"{}\"", member.slot)),
                // A member that copies from here makes its own.
                Err(_) if is_there(&sql::physical_slots()?) => {}
                Err(error) => return Err(error),
            }
        }
        let present = page.members.iter().map(|member| member.slot.as_str()).collect();
        let kept = self.members.see(&present, now.0);
        self.drop_gone(&there, now)?;
        if now.since(self.advanced_at) >= ADVANCE_EVERY {
            self.advanced_at = now;
            advance(page, &there)?;
        }
        kept.map_err(|error| format!("the names of the members' slots cannot be kept: {error}"))
    }

    fn drop_gone(&mut self, there: &[sql::Slot], now: Tick) -> Result<(), String> {
        for slot in there {
            if slot.active || !self.members.is_abandoned(&slot.name, now.0) {
                continue;
            }
            sql::drop_slot(&slot.name)?;
            report::log(&format!("ha_ext: dropped the replication slot \"{}\": its member is gone", slot.name));
            self.members
                .forget(&slot.name)
                .map_err(|error| format!("the names of the members' slots cannot be kept: {error}"))?;
        }
        Ok(())
    }
}

/// On a standby nobody uses the slots, but after a change of leader they must be there and hold enough: they follow what the
/// members have reached, never beyond our own replay.
fn advance(page: &Page, there: &[sql::Slot]) -> Result<(), String> {
    if wal::phase() != wal::Phase::Standby {
        return Ok(());
    }
    let (replayed, _) = wal::replayed();
    for slot in there.iter().filter(|slot| !slot.active) {
        let Some(member) = page.members.iter().find(|member| member.slot == slot.name) else { continue };
        let target = member.lsn.unwrap_or_default().min(replayed);
        let held = slot.restart_lsn.and_then(|lsn| u64::try_from(lsn).ok());
        if held.is_some_and(|held| target > Lsn(held)) {
            sql::advance_slot(&slot.name, &target.to_string())?;
        }
    }
    Ok(())
}
