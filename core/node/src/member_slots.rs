//! Which replication slots are those of members, and since when a member is missing. The names are kept on disk, because a member may be
//! taken out while the server of another is restarted, and its slot would hold WAL there for ever.

use crate::files;
use crate::paths::Paths;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

const LIMIT_BYTES: u64 = 1024 * 1024;
/// The slot of a member that is gone is kept for this long: it may be restarting, and would need a new copy without it.
pub const KEEP_GONE_MS: u64 = 30 * 60 * 1000;
/// Time in which nobody looked proves nothing: longer than this between two looks does not count.
const LOOK_MAX_MS: u64 = 60 * 1000;

/// See the module. Times are of the clock that the caller reads, in milliseconds.
#[derive(Debug)]
pub struct MemberSlots {
    paths: Paths,
    names: BTreeSet<String>,
    missing_since: BTreeMap<String, u64>,
    looked_at: Option<u64>,
}

impl MemberSlots {
    /// What an earlier process has kept; nothing if that cannot be read, for then no slot is known to be a member's.
    #[must_use]
    pub fn load(paths: Paths) -> Self {
        let text = files::read_bounded(&paths.member_slots(), LIMIT_BYTES).ok().flatten().unwrap_or_default();
        let names = serde_json::from_str(&text).unwrap_or_default();
        Self { paths, names, missing_since: BTreeMap::new(), looked_at: None }
    }

    /// These are the slots of the members there are now. It waits for the disk when one of them is new.
    pub fn see(&mut self, present: &BTreeSet<&str>, now_ms: u64) -> io::Result<()> {
        let gap = now_ms.saturating_sub(self.looked_at.replace(now_ms).unwrap_or(now_ms));
        if gap > LOOK_MAX_MS {
            self.missing_since.values_mut().for_each(|since| *since = since.saturating_add(gap));
        }
        self.missing_since.retain(|name, _| !present.contains(name.as_str()));
        for name in self.names.iter().filter(|name| !present.contains(name.as_str())) {
            self.missing_since.entry(name.clone()).or_insert(now_ms);
        }
        let known = self.names.len();
        self.names.extend(present.iter().map(|name| (*name).to_owned()));
        if self.names.len() > known { self.write() } else { Ok(()) }
    }

    /// Whether this slot was a member's that has been gone for long.
    #[must_use]
    pub fn is_abandoned(&self, slot: &str, now_ms: u64) -> bool {
        self.missing_since.get(slot).is_some_and(|since| now_ms.saturating_sub(*since) >= KEEP_GONE_MS)
    }

    /// The slot was dropped.
    pub fn forget(&mut self, slot: &str) -> io::Result<()> {
        self.names.remove(slot);
        self.missing_since.remove(slot);
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        if !self.paths.control_dir().is_dir() {
            // No supervisor ever ran here: they are known for as long as this process lives.
            return Ok(());
        }
        files::write_atomically(&self.paths.member_slots(), serde_json::to_string(&self.names)?.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks every half minute from one moment to another.
    fn look(slots: &mut MemberSlots, present: &[&str], from: u64, to: u64) {
        for now in (from..=to).step_by(30_000) {
            slots.see(&present.iter().copied().collect(), now).expect("written");
        }
    }

    #[test]
    fn a_member_that_went_while_nobody_looked_is_known_to_be_gone() {
        let directory = crate::test_dir::TestDir::new("member_slots");
        let paths = Paths::new(&directory.path().join("data"));
        std::fs::create_dir(paths.control_dir()).expect("the control directory");
        let mut slots = MemberSlots::load(paths.clone());
        look(&mut slots, &["pg2", "pg3"], 0, 60_000);

        // Another process, to which the store shows nobody for hours, and then not all at once.
        let start = 10 * KEEP_GONE_MS;
        let mut slots = MemberSlots::load(paths.clone());
        look(&mut slots, &[], start, start);
        assert!(!slots.is_abandoned("pg2", start) && !slots.is_abandoned("pg3", start));
        look(&mut slots, &["pg2"], start + 1000, start + KEEP_GONE_MS - 29_000);
        assert!(!slots.is_abandoned("pg3", start + KEEP_GONE_MS - 1));
        assert!(slots.is_abandoned("pg3", start + KEEP_GONE_MS) && !slots.is_abandoned("pg2", start + KEEP_GONE_MS));
        assert!(
            !slots.is_abandoned("of_a_user", start + KEEP_GONE_MS),
            "what was never a member's is nobody's business"
        );
        slots.forget("pg3").expect("written");
        assert_eq!(MemberSlots::load(paths.clone()).names.into_iter().collect::<Vec<_>>(), ["pg2"]);
        std::fs::write(paths.member_slots(), "[").expect("damaged");
        assert!(MemberSlots::load(paths).names.is_empty());
    }

    #[test]
    fn time_in_which_nobody_looked_does_not_count() {
        let directory = crate::test_dir::TestDir::new("member_slots_pause");
        let mut slots = MemberSlots::load(Paths::new(&directory.path().join("data")));
        look(&mut slots, &["pg2"], 0, 0);
        look(&mut slots, &[], 30_000, 60_000);
        let woken = 60_000 + 10 * KEEP_GONE_MS;
        look(&mut slots, &[], woken, woken);
        assert!(!slots.is_abandoned("pg2", woken), "the machine slept");
        look(&mut slots, &[], woken + 30_000, woken + KEEP_GONE_MS);
        assert!(slots.is_abandoned("pg2", woken + KEEP_GONE_MS));
    }
}
