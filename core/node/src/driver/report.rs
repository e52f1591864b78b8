//! Says what changes: one log line and one entry of the flight recorder for each change, none for repeats.

use super::{Driver, EventKind};
use ha_core::clock::Tick;
use ha_core::clocks::Jumps;
use ha_core::decide::Decision;
use ha_core::effect::Effect;
use ha_core::local::LocalView;
use ha_core::member;

impl Driver {
    /// Records what the side that is driven has measured, in the log and in the flight recorder.
    pub fn note(&mut self, code: &str, text: String) {
        tracing::info!("{text}");
        self.events.record(EventKind::Effect, code, text);
    }

    /// One line when the rule, the role or what is done changes; repeats are not printed.
    pub(super) fn say(&mut self, decision: &Decision, local: &LocalView, now: Tick) {
        for (code, text) in decision.jumps.iter().flat_map(Jumps::told) {
            tracing::warn!("{text}");
            self.events.record(EventKind::Clock, code, text);
        }
        if self.rule != Some(decision.rule) {
            self.rule = Some(decision.rule);
            let left = decision.memory.lease.map(|lease| lease.deadline().since(now).0);
            let left = left.map(|ms| format!(" (the lease lasts {ms} ms)")).unwrap_or_default();
            let because = decision.because.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            tracing::info!("{}{because}{left}", decision.rule);
            let text = format!("{}{because}", decision.rule.sentence());
            self.events.record(EventKind::Rule, decision.rule.code(), text);
        }
        let role = member::role(local, &decision.memory);
        if role != self.role {
            let text = format!("The role changes from \"{}\" to \"{role}\".", self.role);
            tracing::info!("{text}");
            self.events.record(EventKind::Role, role, text);
            self.role = role;
        }
        let mut said = Vec::new();
        for effect in &decision.effects {
            let text = effect.to_string();
            if matches!(effect, Effect::Dcs(_) | Effect::PollPeers { .. } | Effect::AskFailsafe { .. }) {
                tracing::debug!("{text}");
                continue;
            }
            if !self.said.contains(&text) {
                tracing::info!("{text}");
                self.events.record(EventKind::Effect, decision.rule.code(), text.clone());
            }
            said.push(text);
        }
        self.said = said;
    }

    pub(super) fn fail(&mut self, text: &str) {
        if self.failure.as_deref() != Some(text) {
            tracing::warn!("{text}");
            self.events.record(EventKind::Failure, "failure", text);
            self.failure = Some(text.to_owned());
        }
    }
}
