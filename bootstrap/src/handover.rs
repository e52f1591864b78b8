//! The seat on its way to a worker that waits for it. Nothing may be left half done: a supervisor that began to leave
//! and cannot go acts on as if nobody had come, or its lease would be neither renewed nor released.

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Nobody wants the seat, or it cannot be given now.
    Keep,
    /// Begin no request to the store any more.
    Begin,
    /// The last request is still under way.
    Wait,
    /// Give the seat away.
    Grant,
    /// It was begun and cannot be done: act on.
    Stay,
}

/// Where it stands.
#[derive(Debug, Default)]
pub struct Handover {
    leaving: bool,
}

impl Handover {
    /// One step. `possible`: somebody waits for the seat, and nothing of ours is under way but requests to the store; `quiet`:
    /// not even those.
    pub fn next(&mut self, possible: bool, quiet: bool) -> Move {
        match (possible, self.leaving) {
            (false, false) => Move::Keep,
            (false, true) => {
                self.leaving = false;
                Move::Stay
            }
            (true, false) => {
                self.leaving = true;
                Move::Begin
            }
            (true, true) if !quiet => Move::Wait,
            (true, true) => {
                self.leaving = false;
                Move::Grant
            }
        }
    }

    /// The seat has come back: whatever was begun before is over.
    pub fn reset(&mut self) {
        self.leaving = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_ends_in_a_grant_or_in_going_on() {
        let mut handover = Handover::default();
        assert_eq!(handover.next(false, true), Move::Keep);
        assert_eq!(handover.next(true, true), Move::Begin);
        assert_eq!(handover.next(true, false), Move::Wait);
        assert_eq!(handover.next(true, true), Move::Grant);
        assert_eq!(handover.next(false, true), Move::Keep);

        // Told to stop, a step began, the worker is gone: while the last request is under way, or after it.
        for quiet in [false, true] {
            assert_eq!(handover.next(true, quiet), Move::Begin);
            assert_eq!(handover.next(false, quiet), Move::Stay);
            assert_eq!(handover.next(false, quiet), Move::Keep, "once");
        }
        assert_eq!(handover.next(true, true), Move::Begin);
        handover.reset();
        assert_eq!(handover.next(false, true), Move::Keep);
    }
}
