//! What became of effects that were executed since the last tick.

use crate::clock::Tick;
use crate::dcs::{DcsCall, DcsReply};
use crate::effect::Step;

/// The result of one effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A request to the store came to an end.
    Dcs {
        /// What was asked.
        call: DcsCall,
        /// What came back.
        reply: DcsReply,
        /// When it came back.
        at: Tick,
    },
    /// A step on the stopped server came to an end.
    Step {
        /// Which.
        step: Step,
        /// What went wrong, if it did.
        result: Result<(), String>,
        /// When.
        at: Tick,
    },
    /// The supervisor got the seat back (or took it), and why.
    SeatTaken(crate::seat::LeaveReason),
}
