//! Questions to the other members, and promises.

use super::Driver;
use crate::net::Command;
use ha_core::clock::{Millis, Tick};
use ha_core::effect::Effect;
use ha_core::failsafe::{PromiseAnswer, PromiseView, Reply};
use ha_core::ids::{NodeName, Revision};
use ha_core::peer::{PeerAnswer, PeerView};
use serde_json::json;

/// Answers of peers older than this are of no use to anybody.
const PEER_ANSWERS_KEPT: Millis = Millis::from_secs(300);
impl Driver {
    pub(super) fn poll(&mut self, targets: &[(NodeName, String)], now: Tick) {
        self.peers.retain(|_, view| now.since(view.asked_at) < PEER_ANSWERS_KEPT);
        for (name, _) in targets {
            let pending = PeerView { name: name.clone(), asked_at: now, answer: PeerAnswer::Pending };
            self.peers.insert(name.clone(), pending);
        }
        self.net.send(Command::Poll { targets: targets.to_vec(), asked_at: now });
    }

    pub(super) fn ask_failsafe(&mut self, targets: &[(NodeName, String)], created: Revision, now: Tick) {
        for (name, _) in targets {
            let open = PromiseView { name: name.clone(), asked_at: now, created, answer: PromiseAnswer::Pending };
            self.promises.insert(name.clone(), open);
        }
        let identity = self.configuration.identity();
        let body = json!({
            "name": self.config().name.as_str(), "conn_url": identity.conn_url, "api_url": identity.api_url,
            "ha_ext": {"created": created.0, "scope": self.config().scope.as_str()},
        });
        self.net.send(Command::AskFailsafe { targets: targets.to_vec(), created, asked_at: now, body });
    }
}

/// Whoever acts for this node next may not have heard of it.
pub(super) fn promise_nothing(effects: &mut [Effect]) {
    for effect in effects {
        if let Effect::AnswerFailsafe { reply: reply @ Reply::Accepted(_), .. } = effect {
            *reply = Reply::Refused("the supervisor does not listen".to_owned());
        }
    }
}
