//! What is known of the server: running, on its way down, or gone with all that belonged to it.

use super::Outside;
use crate::control_data;
use crate::postmaster::{PidFile, Postmaster, leftovers, tenancy_free};
use ha_core::effect::Step;
use ha_core::local::{ControlState, Server};
use ha_node::clock;
use std::sync::Arc;

impl Outside {
    pub(super) fn server(&mut self) -> Server {
        if let Some(postmaster) = self.postmaster.take_if(|postmaster| postmaster.ended()) {
            let how = postmaster.ended_how().unwrap_or_default();
            tracing::info!(pid = postmaster.pid(), how, "postgres is gone");
            self.stopping_since = None;
            self.check_leftovers = true;
        }
        if self.postmaster.is_none() && !matches!(self.step(), Some(Step::Start { .. })) {
            self.adopt();
        }
        if self.postmaster.is_some() {
            return self.alive();
        }
        match self.step() {
            Some(Step::ClearLeftover) => return Server::Leftover,
            // They have made sure themselves, and a server of theirs may be taking the lock at this moment.
            Some(
                Step::Initdb
                | Step::BaseBackup { .. }
                | Step::Rewind { .. }
                | Step::CrashRecover
                | Step::Start { .. }
                | Step::SetAside,
            ) => return Server::Down,
            Some(Step::Stop { .. } | Step::EndStragglers) | None => {}
        }
        if self.check_leftovers {
            self.check_leftovers = !self.shut_down_cleanly() && !leftovers(&self.site).is_empty();
        }
        if self.check_leftovers || !tenancy_free(self.site.data_dir()) { Server::Leftover } else { Server::Down }
    }

    /// Looks for a server that somebody else has started, if none is known.
    pub fn find_server(&mut self) {
        self.pump();
        if self.postmaster.is_none() {
            self.adopt();
        }
    }

    fn adopt(&mut self) {
        let Some(postmaster) = Postmaster::adopt(self.site.data_dir()) else { return };
        tracing::info!(pid = postmaster.pid(), "a running server is adopted");
        self.since = clock::now();
        self.postmaster = Some(Arc::new(postmaster));
    }

    fn alive(&mut self) -> Server {
        let told = matches!(self.step(), Some(Step::Stop { .. }));
        let says = PidFile::read(self.site.data_dir()).is_some_and(|file| file.status == "stopping");
        if told || says {
            let since = *self.stopping_since.get_or_insert_with(clock::now);
            return Server::Stopping { since };
        }
        self.stopping_since = None;
        Server::Starting { since: self.since }
    }

    /// A server that was shut down had no children left when its postmaster went: no need to search for them.
    fn shut_down_cleanly(&self) -> bool {
        control_data::read(self.site.data_dir())
            .is_ok_and(|file| matches!(file.control.state, ControlState::ShutDown | ControlState::ShutDownInRecovery))
    }
}
