//! Rules: stable codes with one plain sentence each. The docs' table, SQL and REST show exactly these.

use std::fmt;

macro_rules! rules {
    ($($variant:ident = $code:literal, $sentence:literal;)*) => {
        /// Why a decision was made.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rule {
            $(#[doc = $sentence] $variant,)*
        }

        impl Rule {
            /// Every rule, in the order of the table.
            pub const ALL: &'static [Rule] = &[$(Rule::$variant,)*];

            /// The stable code.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Rule::$variant => $code,)* }
            }

            /// One plain sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Rule::$variant => $sentence,)* }
            }
        }
    };
}

rules! {
    InsideNotReady = "inside.not_ready", "The worker runs, but its server is not up.";
    LeaderLeading = "leader.leading", "This node holds the lease and leads.";
    LeaderClockJumped = "leader.clock_jumped", "A clock of this machine has jumped, so time may have passed unseen; the lease is proven anew at once.";
    LeaderRenewalLate = "leader.renewal_late", "The lease passed its deadline unconfirmed; nothing is acknowledged while one more renewal is awaited.";
    LeaderLeaseOverdue = "leader.lease_overdue", "The lease could not be renewed in time; demote.";
    LeaderStoreLost = "leader.store_lost", "No lease is held and the store cannot be reached; demote.";
    LeaderLost = "leader.lost", "Another member holds the leader key; demote.";
    LeaderCannotWrite = "leader.cannot_write", "The disk of this node cannot be written; it must not lead.";
    LeaderNoWatchdog = "leader.no_watchdog", "A leader has to have a watchdog here, and it cannot be used any more; demote.";
    LeaderWatchdogDue = "leader.watchdog_due", "Nothing confirmed for so long that the watchdog is about to reset this machine; the leader gives up first.";
    LeaderForeignTimeline = "leader.foreign_timeline", "Another member owns the timeline this server is on; demote.";
    LeaderTakingBack = "leader.taking_back", "The leader key vanished and this primary is on the newest timeline; take the key again.";
    LeaderAdopting = "leader.adopting", "The leader key hangs on a lease of this node's earlier life; take it over.";
    LeaderKeyUnleased = "leader.key_without_lease", "The leader key hangs on no lease, so nobody leads by it; it is removed after one ttl.";
    LeaderKeyPutBack = "leader.key_put_back", "The leader key names this member and hangs on its lease, but it did not take that key: somebody put an earlier one back; it is removed.";
    LeaderKeyOfNamesake = "leader.key_of_namesake", "The leader key has this node's name but a lease it never held; wait until that lease ends.";
    PrimaryWaiting = "primary.waiting", "This primary holds no lease; nothing is acknowledged until the store answers.";
    PrimaryOutdated = "primary.outdated", "Another timeline was made since this primary led; demote.";
    ForeignSystemId = "start.foreign_system_id", "The data directory belongs to another cluster; this node must not take part.";
    DemotionRunning = "demotion.running", "The fence is closed and the supervisor was asked to stop the server.";
    DemotionInPlace = "demotion.in_place", "The fence is closed; the server goes on as a standby in the same postmaster.";
    DemotionCheckpointing = "demotion.checkpointing", "The fence is closed; the first checkpoint after the promotion is hastened, then the server becomes a standby in place.";
    DemotionNotInPlace = "demotion.not_in_place", "The server cannot become a standby in place, or not in time; it is stopped instead.";
    DemotionRecovering = "demotion.recovering", "The server comes up as a standby in the same postmaster; nothing is acknowledged.";
    DemotionStopping = "demotion.stopping", "The server is being told to stop.";
    DemotionDraining = "demotion.draining", "The server is stopping; its standbys receive the rest of the log.";
    DemotionCannotStop = "demotion.cannot_stop", "Not even SIGKILL ends the server; its lease is left to end, since the key is never released before.";
    DemotionStoppingAtOnce = "demotion.stopping_at_once", "The stop took too long; the server is stopped at once.";
    SwitchoverScheduled = "switchover.scheduled", "This node leads; a switchover is scheduled and waits for its time by this node's clock.";
    SwitchoverDue = "switchover.due", "The time of a scheduled switchover has come; it is asked for now, unless somebody has just changed it.";
    SwitchoverPreparing = "switchover.preparing", "A switchover was requested; a checkpoint keeps what comes after it short.";
    SwitchoverAwaitingArchive = "switchover.awaiting_archive", "A switchover was requested; WAL that is finished goes to the archive first.";
    SwitchoverParking = "switchover.parking", "The server is prepared to become a standby in place; commits go on.";
    SwitchoverSealing = "switchover.sealing", "Commits are held; those that had begun before are waited for.";
    SwitchoverFreezing = "switchover.freezing", "Commits are held and none is under way; the log is ended.";
    SwitchoverConfirming = "switchover.confirming", "Commits are held and the log has ended; the candidate receives the rest of it.";
    SwitchoverStoreLost = "switchover.store_lost", "The store went out of reach before the hand-over; held commits go on.";
    SwitchoverRejected = "switchover.rejected", "The requested switchover is not possible; nothing was changed.";
    SwitchoverCalledOff = "switchover.called_off", "The candidate did not get everything in time; this server is started again instead of handing over.";
    SwitchoverWithdrawn = "switchover.withdrawn", "The switchover request was withdrawn before the hand-over.";
    SwitchoverDone = "switchover.done", "The member that was asked for leads; the request is cleared.";
    SwitchoverHandingOver = "switchover.handing_over", "The server stops to hand over to the candidate.";
    HandOverAwaiting = "handover.awaiting", "The leader key is released; clients are held until the successor leads, and are told then.";
    HandOverReleasing = "handover.releasing", "The candidate has the whole log; nothing more is acknowledged here, and the leader key is released.";
    ReleaseWaiting = "release.waiting", "The server is down; the leader key is kept until a member has the shutdown checkpoint.";
    ReleaseHandedOver = "release.handed_over", "The candidate has the shutdown checkpoint; the leader key is released.";
    ReleaseUnknown = "release.unknown", "The leader key was given up and the answer did not come; it is given up again, and never led by.";
    ReleaseNobodyReady = "release.nobody_ready", "No member reported the shutdown checkpoint in time; the leader key is released.";
    ReleaseAfterCrash = "release.after_crash", "The server died and is not restarted as leader; the leader key is released.";
    ReleaseDataLost = "release.data_lost", "The data directory is gone or damaged; the leader key is released once no process of its server can acknowledge anything.";
    StandbyFollowing = "standby.following", "This standby streams from the leader.";
    StandbyAwaitingSuccessor = "standby.awaiting_successor", "The old leader handed over; this standby stays with it until its successor leads.";
    StandbyRepointing = "standby.repointing", "This standby is pointed at the leader.";
    StandbyNotStreaming = "standby.not_streaming", "This standby follows the leader but does not stream; peers are asked in case the leader is dying.";
    StandbyLeaderUnknown = "standby.leader_unknown", "There is a leader, but where it listens is not published yet.";
    StandbyAwaitingStore = "standby.awaiting_store", "The store has not answered yet; this standby goes on as it is.";
    StandbyStoreLost = "standby.store_lost", "The store cannot be reached; this standby goes on as it is.";
    StandbyDiverged = "standby.diverged", "This standby has WAL that the leader does not have; it stops to rejoin.";
    StandbyUnreadable = "standby.unreadable", "What this standby received last cannot be replayed and is not the leader's; its server is started anew.";
    StandbyDivergedWaiting = "standby.diverged_waiting", "This standby has WAL that the leader does not have and cannot rejoin yet.";
    StandbyComparing = "standby.comparing", "This former primary serves no reads until its log was compared with the leader's.";
    StandbyServing = "standby.serving", "The log of this former primary is part of the leader's; it serves reads again.";
    ElectionNotInitialised = "election.not_initialised", "The cluster is not initialised, and a replica never founds one.";
    ElectionNotAllowed = "election.not_allowed", "There is no leader, and this member may not lead: it is tagged `nofailover`, or its `failover_priority` is 0.";
    ElectionLagging = "election.lagging", "There is no leader, and this member lags too far behind to lead.";
    ElectionByHand = "election.by_hand", "There is no leader, and this member was promoted by hand while another led: it lacks what was written since, and has to be rewound or copied, or named.";
    ElectionOldTimeline = "election.old_timeline", "There is no leader, and this member's timeline is older than the cluster's.";
    ElectionNoWatchdog = "election.no_watchdog", "A leader has to have a watchdog here, and this member's cannot be used; one that was found unfit is tried again a minute later, since somebody may have mended it.";
    ElectionNotReady = "election.not_ready", "There is no leader, and this member is not a consistent standby yet.";
    ElectionLeavingToCandidate = "election.leaving_to_candidate", "There is no leader; the named candidate goes first.";
    ElectionAwaitingFormer = "election.awaiting_former", "The former leader handed over, has WAL that is not here, and recovers; it is given up to `ttl` to stand for election.";
    ElectionNamed = "election.named", "This member was named and has all of the old leader's WAL; it takes the key.";
    ElectionPredecessorAlive = "election.predecessor_alive", "The leader key is gone, but its lease may still be alive; wait until it has ended.";
    ElectionWalArrives = "election.wal_arrives", "There is no leader, but WAL still arrives; a leader that only lost the store is left `primary_race_backoff` to come back.";
    ElectionStoppingReceiver = "election.stopping_receiver", "There is no leader; WAL reception stops before votes are counted.";
    ElectionVoting = "election.voting", "There is no leader; the other members are asked how far they are.";
    ElectionPeerIsPrimary = "election.peer_is_primary", "There is no leader key, but a member says it is primary; wait.";
    ElectionPeerAhead = "election.peer_ahead", "There is no leader; another member is ahead and goes first.";
    ElectionAcquiring = "election.acquiring", "Nobody is ahead of this member; it takes the leader key.";
    WatchdogArming = "watchdog.arming", "This member holds the lease; its watchdog is armed before its server may write.";
    PromotionNoWatchdog = "promotion.no_watchdog", "This member holds the lease, but a leader has to have a watchdog here, and this one cannot be armed; it gives the key back.";
    PromotionClaiming = "promotion.claiming", "This member holds the lease and claims a timeline above all that it has seen.";
    PromotionStarting = "promotion.starting", "The timeline is claimed; the server is promoted.";
    PromotionRunning = "promotion.running", "The promotion is under way and cannot be cancelled.";
    PromotionHangs = "promotion.hangs", "The promotion waits for a WAL receiver that does not stop; the server is stopped, so that another may lead.";
    PromotionGivenUp = "promotion.given_up", "This member holds the lease, but may no longer lead; it gives the key back.";
    PromotionRenewing = "promotion.renewing", "Too little of the lease is left to begin a promotion; renew it first.";
    PromotionNotReady = "promotion.not_ready", "This member holds the lease, but its server is not consistent yet.";
    PauseLeading = "pause.leading", "Maintenance mode: this node leads, and goes on acknowledging if the store goes out of reach.";
    PauseStoreLost = "pause.store_lost", "Maintenance mode: the lease is over and the store out of reach; commits are acknowledged, since nobody takes over by itself.";
    PauseLeftAlone = "pause.left_alone", "Maintenance mode: this primary does not lead and is left alone; nothing is acknowledged.";
    PauseByHand = "pause.by_hand", "Maintenance mode: there is no leader, and this server was promoted by hand while another led; others may have what it lacks, so somebody has to say who leads (`ha_failover()`).";
    PauseNoElection = "pause.no_election", "Maintenance mode: there is no leader, and nobody takes over by itself.";
    PauseReleasing = "pause.releasing", "Maintenance mode: the server of this leader is no primary any more; the leader key is released.";
    PauseDown = "pause.down", "Maintenance mode: the server does not run, and is left alone.";
    PauseDiverged = "pause.diverged", "Maintenance mode: this standby would have to be stopped to rejoin, and is left alone.";
    PauseLeaving = "pause.leaving", "Maintenance mode: the supervisor ends and the server goes on.";
    ElectionAwaitingUnbound = "election.awaiting_unbound", "A former leader may acknowledge without a lease, by maintenance mode; it has to take that back, or an operator to override it.";
    ElectionPromised = "election.promised", "There is no leader key, but this member promised a leader without the store to stay away from it; wait until that is over.";
    ElectionMayHavePromised = "election.may_have_promised", "This member has forgotten what it promised a leader without the store; it stays away from the leader key for one `ttl`, or a longer one that its disk keeps for that.";
    ElectionNotInFailsafe = "election.not_in_failsafe", "There is no leader, and this member is not on the `failsafe` list, so a leader without the store may go on without asking it; it stays away from the leader key.";
    ElectionAdmitting = "election.admitting", "There is no leader, and this member is bound by no promise any more; it adds the members that joined since to the `failsafe` list, so that they may take the leader key, too.";
    FailsafeAsking = "failsafe.asking", "The store does not confirm the lease; the members are asked to stay away from the leader key.";
    FailsafeLeading = "failsafe.leading", "The lease is over and the store out of reach; commits are acknowledged for as long as every member stays away from the leader key.";
    PromotionLeaseLost = "promotion.lease_lost", "The lease was lost before the promotion began; go back to following.";
    OutsideWaitingForWorker = "outside.waiting_for_worker", "The server is up or starting; the worker will report in.";
    OutsideLeaderStarting = "outside.leader_starting", "The leader's server is starting; the lease is kept.";
    OutsideClearingLeftover = "outside.clearing_leftover", "Processes of a dead postmaster are ended before the data directory is touched.";
    OutsideStepRunning = "outside.step_running", "The supervisor is at work on the stopped server.";
    StartTimedOut = "start.timed_out", "The leader's server did not come up within `primary_start_timeout`; stop it and let another lead.";
    StartLeader = "start.leader", "This node holds the lease; its server is started.";
    StartStandby = "start.standby", "Another member leads; the server is started as its standby.";
    StartAwaitingSuccessor = "start.awaiting_successor", "This node handed over; it waits a moment for its successor before its server starts.";
    StartParked = "start.parked", "No leader is known; the server is started as a standby that follows nobody.";
    RejoinWaitingForHistory = "rejoin.waiting_for_history", "The former primary waits for the leader's history before it decides how to rejoin.";
    RejoinWaitingForLeader = "rejoin.waiting_for_leader", "This node must be rewound or copied, and the leader is not ready for that.";
    RejoinCrashRecovery = "rejoin.crash_recovery", "The server died; crash recovery runs before it may become a standby.";
    RejoinRewinding = "rejoin.rewinding", "This node has WAL that the leader does not have; it is rewound.";
    RejoinCopying = "rejoin.copying", "This node has WAL that the leader does not have; its data is replaced by a copy.";
    RejoinImpossible = "rejoin.impossible", "This node has WAL that the leader does not have, and neither rewind nor replacement is possible or allowed.";
    CopyWaitingForLeader = "copy.waiting_for_leader", "The data directory is empty; a running leader is awaited to copy from.";
    CopyRunning = "copy.running", "The data directory is copied from a member.";
    DataWaitingForStore = "data.waiting_for_store", "The store has not answered yet, and what to do with the data directory depends on it.";
    DataDamaged = "data.damaged", "The data directory is damaged; an operator must repair or remove it.";
    BootstrapRacing = "bootstrap.racing", "The cluster does not exist yet; this member tries to found it.";
    BootstrapByAnother = "bootstrap.by_another", "Another member is founding the cluster.";
    BootstrapInitialising = "bootstrap.initialising", "This member founds the cluster.";
    BootstrapFromData = "bootstrap.from_data", "The cluster does not exist yet; this member's data becomes its data.";
    BootstrapTakingKey = "bootstrap.taking_key", "The new cluster is made; this member takes the leader key.";
    BootstrapFailed = "bootstrap.failed", "Founding the cluster failed; the attempt is set aside.";
    NodeSayingGoodbye = "node.saying_goodbye", "This node was told to stop, and its member key is made to say so.";
    NodeStopped = "node.stopped", "This node was told to stop and has.";
}

impl Rule {
    /// The rule with this code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|rule| rule.code() == code)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.sentence())
    }
}
