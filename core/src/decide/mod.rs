//! The one decision function.

use crate::effect::Effect;
use crate::memory::Memory;
use crate::rule::Rule;
use crate::view::View;

/// What to do now, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The reason.
    pub rule: Rule,
    /// What to remember until the next tick.
    pub memory: Memory,
    /// What to execute, in this order; after a failure stop and observe again.
    pub effects: Vec<Effect>,
}

/// Decides. Pure: no clock, no I/O, no logging, no randomness. Same input, same output.
#[must_use]
pub fn decide(memory: &Memory, _view: &View<'_>) -> Decision {
    Decision { rule: Rule::LeaderLeading, memory: memory.clone(), effects: Vec::new() }
}
