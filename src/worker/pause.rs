//! What the loop worker waits for between two turns, and how long.

use super::{PAGE_EVERY, Worker};
use crate::pg::latch;
use crate::port::Pulse;
use ha_core::clock::{Millis, Tick};
use ha_node::clock;
use std::time::Duration;

/// The longest sleep while something may be awaited: what nobody tells us about is looked at this often.
const SLEEP_MAX: Millis = Millis(250);
/// The same when nothing is. The heartbeat must stay younger than half of the shortest `ttl`, 2.5 s.
const SLEEP_QUIET: Millis = Millis(1000);
/// A server is mostly up within this time; until then its writes wait for us to see it.
const COMING_UP: Millis = Millis(10_000);
/// How often what nobody tells us about is looked at while every client waits, and while the log is frozen.
const LOOK_OFTEN: Millis = Millis(1);
const LOOK_FROZEN: Duration = Duration::from_micros(200);

impl Worker {
    /// How long what nobody tells us about may go unseen.
    fn look_pause(&self, seen: Pulse, now: Tick, longest: Millis) -> Millis {
        if self.inside.clients_wait() {
            return LOOK_OFTEN;
        }
        match (seen.coming_up(), now.since(self.started_at) < COMING_UP) {
            (true, true) => Millis(5),
            (true, false) => Millis(50),
            (false, _) => longest,
        }
    }

    /// Sleeps until something has happened or is due.
    pub(super) fn sleep(&mut self, before: Pulse) -> Pulse {
        if self.inside.clients_wait() {
            let pulse = self.inside.pulse();
            if pulse != before {
                return pulse;
            }
        }
        // A rule that awaits something says when it looks again.
        let quiet = before.quiet() && self.next_wake.since(clock::now()) > SLEEP_QUIET;
        let longest = if quiet { SLEEP_QUIET } else { SLEEP_MAX };
        loop {
            let now = clock::now();
            let page_left = if self.page_due { PAGE_EVERY } else { SLEEP_QUIET };
            let due = self.supervisor.look_at().map_or(self.next_wake, |look_at| look_at.min(self.next_wake));
            let left = due.since(now).min(page_left).min(self.look_pause(before, now, longest)).0;
            let woken = if self.inside.watches_the_candidate() {
                // The server's own wait knows no less than a millisecond.
                std::thread::sleep(LOOK_FROZEN);
                latch::wait(self.supervisor.fd(), Duration::ZERO)
            } else {
                latch::wait(self.supervisor.fd(), Duration::from_millis(left))
            };
            self.beat();
            let pulse = self.inside.pulse();
            if woken || pulse != before || clock::now() >= due || self.page_due {
                return pulse;
            }
        }
    }
}
