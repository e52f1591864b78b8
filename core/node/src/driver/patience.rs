//! Notices a net thread that is stuck: it owes an answer for far longer than any request may take. Nothing would ever be
//! renewed again, so the process must end.

use ha_core::clock::Millis;
use std::time::{Duration, Instant};

/// Beyond what the net thread itself allows a request.
const GRACE: Duration = Duration::from_secs(5);
/// The first look after this process was frozen finds everything overdue: the net thread gets this much to catch up.
const SECOND_LOOK: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Patience {
    busy_since: Option<Instant>,
    overdue_since: Option<Instant>,
}

impl Patience {
    /// To be asked each tick. The clock is the monotonic one, which the net thread's own deadline runs on.
    pub fn ends(&mut self, busy: bool, retry_timeout: Millis, now: Instant) -> bool {
        if !busy {
            *self = Self::default();
            return false;
        }
        let since = *self.busy_since.get_or_insert(now);
        let limit = crate::net::request_limit(retry_timeout) + GRACE;
        if now.saturating_duration_since(since) < limit {
            return false;
        }
        let overdue_since = *self.overdue_since.get_or_insert(now);
        now.saturating_duration_since(overdue_since) >= SECOND_LOOK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_only_when_the_answer_stays_away_after_a_second_look() {
        let begin = Instant::now();
        let at = |secs| begin + Duration::from_secs(secs);
        let retry_timeout = Millis(10_000);
        let mut patience = Patience::default();
        assert!(!patience.ends(true, retry_timeout, at(0)));
        assert!(!patience.ends(true, retry_timeout, at(20)));
        // Frozen for two minutes.
        assert!(!patience.ends(true, retry_timeout, at(140)));
        assert!(!patience.ends(true, retry_timeout, at(144)));
        assert!(!patience.ends(false, retry_timeout, at(144)), "it has answered");
        assert!(!patience.ends(true, retry_timeout, at(146)));
        assert!(!patience.ends(true, retry_timeout, at(180)));
        assert!(patience.ends(true, retry_timeout, at(186)));
    }
}
