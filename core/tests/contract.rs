//! The order contract of effects: decisions that break it must not pass [`Decision::check`].

use ha_core::clock::{Millis, Tick};
use ha_core::clocks::Clocks;
use ha_core::cluster::{Cluster, FailoverRequest, LeaderKey, Released, Versioned};
use ha_core::dcs::{DcsCall, Expect, Key, KeyEdit};
use ha_core::decide::{Decision, Violation};
use ha_core::effect::{DemoteMethod, Effect};
use ha_core::failsafe::{Failsafe, Given, Promised, Reply};
use ha_core::ids::{LeaseId, Lsn, NodeName, Revision, Timeline};
use ha_core::lease::Lease;
use ha_core::local::{DataDir, InPlace, LocalView, PrimaryView, Seal, Server, StandbyConnection, StandbyView};
use ha_core::member::Identity;
use ha_core::memory::{Memory, Stage};
use ha_core::rule::Rule;
use ha_core::seat::LeaveReason;
use ha_core::settings::Settings;
use ha_core::view::{DcsView, Seat, View};
use std::collections::BTreeMap;
use std::sync::Arc;

const NOW: Tick = Tick(100_000);
/// What the disk keeps of promises.
const KEPT: Millis = Millis(30_000);
const END: Lsn = Lsn(1000);
/// `NOW` by the time of day, and a request that is scheduled for then.
const AT: &str = "1970-01-01T00:01:40Z";
const SCHEDULED: Revision = Revision(91);

fn lease() -> Lease {
    Lease::confirmed(LeaseId(5), Revision(50), Tick(99_000), Millis(30_000))
}

/// A server that has done everything right so far: prepared, its log ended, and n2 has all of it.
fn frozen() -> PrimaryView {
    let standby = StandbyConnection { slot: "n2".to_owned(), streaming: true, flushed: END, replayed: END };
    PrimaryView {
        timeline: Timeline(1),
        flushed: END,
        checkpointed: true,
        standbys: vec![standby],
        fence_open: true,
        seal: Seal::Frozen { at: END },
        in_place: InPlace { obstacle: None, parked: true, marked: true },
        ..PrimaryView::default()
    }
}

fn handing_over(since: Tick) -> Memory {
    let stage = Stage::HandingOver { candidate: NodeName::new("n2"), at: END, timeline: Timeline(1), since };
    Memory { lease: Some(lease()), stage, ..Memory::default() }
}

fn demoting() -> Memory {
    let stage = Stage::Demoting { candidate: None, release: false, since: NOW, down_since: None, in_place: true };
    Memory { stage, ..Memory::default() }
}

fn release() -> Effect {
    let announce = Released {
        end: Some(END),
        timeline: Some(Timeline(1)),
        candidate: Some(NodeName::new("n2")),
        ..Released::by(NodeName::new("n1"), LeaseId(5), Revision(50))
    };
    Effect::Dcs(DcsCall::ReleaseLeader { lease: lease(), announce, status: None })
}

fn in_place(reason: LeaveReason) -> Vec<Effect> {
    vec![Effect::CloseFence, Effect::Demote { reason, method: DemoteMethod::InPlace }]
}

fn verdict(seat: Seat, server: Server, memory: Memory, effects: Vec<Effect>) -> Result<(), Violation> {
    judged(&Settings::default(), seat, server, memory, effects)
}

fn judged(
    settings: &Settings,
    seat: Seat,
    server: Server,
    memory: Memory,
    effects: Vec<Effect>,
) -> Result<(), Violation> {
    let mut cluster = Cluster { revision: Revision(100), ..Cluster::default() };
    cluster.leader = Some(LeaderKey { name: NodeName::new("n2"), lease: LeaseId(9), created: Revision(90) });
    let scheduled = FailoverRequest { scheduled_at: Some(AT.to_owned()), ..FailoverRequest::default() };
    cluster.failover = Some(Versioned { value: scheduled, revision: SCHEDULED });
    let local = LocalView {
        data: DataDir::Empty,
        server,
        marker: None,
        history: Vec::new(),
        history_at: None,
        step_running: None,
        cannot_write: None,
        pending_restart: BTreeMap::new(),
        founding: false,
        watchdog: ha_core::watchdog::WatchdogView::default(),
        kept_ttl: KEPT,
    };
    let (me, identity) = (NodeName::new("n1"), Identity::default());
    let view = View {
        now: NOW,
        clocks: Some(Clocks { wall_ms: 0, awake_ms: 0, hardware_ms: None }),
        seat,
        me: &me,
        scope: "demo",
        identity: &identity,
        settings,
        dcs: DcsView::Fresh(&cluster),
        local: &local,
        peers: &[],
        promises: &[],
        questions: &[],
        outcomes: &[],
        dcs_busy: false,
        stop_requested: false,
        jitter: 0,
    };
    Decision { rule: Rule::LeaderLeading, memory, effects, wake_at: NOW, because: None, jumps: None }.check(&view)
}

fn inside(primary: PrimaryView, memory: Memory, effects: Vec<Effect>) -> Result<(), Violation> {
    verdict(Seat::Inside { supervised: true }, Server::Primary(primary), memory, effects)
}

#[test]
fn a_running_server_gives_its_key_up_only_when_its_log_has_ended_and_the_candidate_has_it() {
    let closed = || vec![Effect::CloseFence, release()];
    assert_eq!(inside(frozen(), handing_over(NOW), closed()), Ok(()));
    let open = inside(frozen(), handing_over(NOW), vec![release()]);
    assert_eq!(open, Err(Violation::ReleaseBeforeConfirmed), "the fence is open");
    let holding = PrimaryView { seal: Seal::Holding { in_flight: 0 }, ..frozen() };
    assert_eq!(inside(holding, handing_over(NOW), closed()), Err(Violation::ReleaseBeforeConfirmed));
    let mut lacks = frozen();
    lacks.standbys[0].flushed = Lsn(999);
    assert_eq!(inside(lacks.clone(), handing_over(NOW), closed()), Err(Violation::ReleaseBeforeConfirmed));
    assert_eq!(inside(lacks, handing_over(Tick(99_000)), closed()), Ok(()), "asked for once more");
    let steady = Memory { lease: Some(lease()), ..Memory::default() };
    assert_eq!(inside(frozen(), steady, closed()), Err(Violation::ReleaseBeforeDemotion));
}

#[test]
fn from_outside_a_key_goes_once_no_fence_can_be_open() {
    let starting = || Server::Starting { since: Tick(99_000) };
    let memory = |fence_until| Memory { lease: Some(lease()), fence_until, ..demoting() };
    let from_outside = |memory| verdict(Seat::Outside, starting(), memory, vec![Effect::CloseFence, release()]);
    assert_eq!(from_outside(memory(None)), Ok(()));
    assert_eq!(from_outside(memory(Some(Tick(100_001)))), Err(Violation::ReleaseBeforeDemotion));
    let steady = Memory { lease: Some(lease()), ..Memory::default() };
    assert_eq!(from_outside(steady), Err(Violation::ReleaseBeforeDemotion), "it may come up as a primary");
}

#[test]
fn after_the_release_there_is_no_way_back() {
    let back = [
        Effect::OpenFence { lease: lease() },
        Effect::Unseal,
        Effect::Unpark,
        Effect::Dcs(DcsCall::RenewLeader(lease())),
    ];
    for effect in back {
        assert_eq!(inside(frozen(), handing_over(NOW), vec![effect.clone()]), Err(Violation::BackAfterRelease));
        let forgotten = Memory { stage: Stage::Steady, released: Some(Revision(50)), ..handing_over(NOW) };
        assert_eq!(inside(frozen(), forgotten, vec![effect.clone()]), Err(Violation::BackAfterRelease));
        let another = Memory { stage: Stage::Steady, released: Some(Revision(49)), ..handing_over(NOW) };
        assert_eq!(inside(frozen(), another, vec![effect]), Ok(()), "an earlier key of this node");
    }
}

#[test]
fn a_demotion_in_place_is_prepared_and_a_planned_one_comes_after_the_release() {
    let emergency = || in_place(LeaveReason::LeaseLost);
    assert_eq!(inside(frozen(), demoting(), emergency()), Ok(()));
    let unprepared = [
        PrimaryView { in_place: InPlace { parked: false, ..frozen().in_place }, ..frozen() },
        PrimaryView { in_place: InPlace { obstacle: Some("full".to_owned()), ..frozen().in_place }, ..frozen() },
        PrimaryView { checkpointed: false, ..frozen() },
    ];
    for primary in unprepared {
        assert_eq!(inside(primary, demoting(), emergency()), Err(Violation::UnpreparedInPlace));
    }
    assert_eq!(inside(frozen(), Memory::default(), emergency()), Err(Violation::UnpreparedInPlace));
    let planned = || in_place(LeaveReason::Switchover);
    assert_eq!(inside(frozen(), handing_over(NOW), planned()), Ok(()));
    let held = Memory { lease: Some(lease()), ..demoting() };
    assert_eq!(inside(frozen(), held, planned()), Err(Violation::UnpreparedInPlace), "the key is not given up");
    let open = vec![Effect::Demote { reason: LeaveReason::LeaseLost, method: DemoteMethod::InPlace }];
    assert_eq!(inside(frozen(), demoting(), open), Err(Violation::DemotionBeforeSeal));
}

#[test]
fn the_log_ends_when_no_commit_is_under_way() {
    let sealed = |seal| inside(PrimaryView { seal, ..frozen() }, Memory::default(), vec![Effect::Freeze]);
    assert_eq!(sealed(Seal::Holding { in_flight: 0 }), Ok(()));
    assert_eq!(sealed(Seal::Holding { in_flight: 1 }), Err(Violation::FreezeBeforeSeal));
    assert_eq!(sealed(Seal::Open), Err(Violation::FreezeBeforeSeal));
}

#[test]
fn reads_are_admitted_after_the_comparison() {
    let standby =
        StandbyView { timeline: Timeline(1), consistent: true, reads_withheld: true, ..StandbyView::default() };
    let seat = Seat::Inside { supervised: true };
    // Nothing is known of the leader that the key names.
    let unknown = verdict(seat, Server::Standby(standby), Memory::default(), vec![Effect::ServeReads]);
    assert_eq!(unknown, Err(Violation::ReadsBeforeComparison));
}

/// Two other members, one of which has promised until tick `end`.
fn promised_until(end: u64) -> Memory {
    let members = ["n1", "n2", "n3"].map(|name| (NodeName::new(name), String::new()));
    let given = |lasts: u64| Given { asked_at: Tick(0), counts_from: Tick(0), lasts: Millis(lasts) };
    let failsafe = Failsafe {
        map: Some(Arc::new(Versioned { value: members.into(), revision: Revision(7) })),
        written: Some(Revision(7)),
        given: [(NodeName::new("n2"), given(900_000)), (NodeName::new("n3"), given(end))].into(),
        ..Failsafe::default()
    };
    Memory { lease: Some(lease()), failsafe, ..Memory::default() }
}

#[test]
fn a_fence_is_kept_open_no_longer_than_every_member_promised() {
    let extend = |memory: Memory, until: u64| {
        let settings = Settings { failsafe_mode: true, ..Settings::default() };
        let seat = Seat::Inside { supervised: true };
        judged(
            &settings,
            seat,
            Server::Primary(PrimaryView::default()),
            memory,
            vec![Effect::ExtendFence { until: Tick(until) }],
        )
    };
    let end = promised_until(130_000).failsafe.until(&NodeName::new("n1"), NOW, Millis(30_000)).expect("promised");
    assert_eq!(extend(promised_until(130_000), end.0), Ok(()));
    assert_eq!(extend(promised_until(130_000), end.0 + 1), Err(Violation::ExtendedUnpromised));
    let mut without = promised_until(130_000);
    without.failsafe.given.clear();
    assert_eq!(extend(without, NOW.0 + 1), Err(Violation::ExtendedUnpromised));
    let lost = Memory { lease: None, ..promised_until(130_000) };
    assert_eq!(extend(lost, NOW.0 + 1), Err(Violation::ExtendedUnpromised), "the key is not ours");
    let off = inside(PrimaryView::default(), promised_until(130_000), vec![Effect::ExtendFence { until: end }]);
    assert_eq!(off, Err(Violation::ExtendedUnpromised), "failsafe mode is off");
}

#[test]
fn nothing_is_promised_for_longer_than_is_kept_on_disk() {
    let settings = Settings { failsafe_mode: true, ..Settings::default() };
    let seat = Seat::Inside { supervised: true };
    let decides = |memory: &Memory, effect: Effect| {
        judged(&settings, seat, Server::Standby(StandbyView::default()), memory.clone(), vec![effect])
    };
    let promise = |lasts| Effect::AnswerFailsafe { question: 1, reply: Reply::Accepted(Millis(lasts)) };
    assert_eq!(decides(&Memory::default(), promise(KEPT.0)), Ok(()));
    assert_eq!(decides(&Memory::default(), promise(KEPT.0 + 1)), Err(Violation::PromiseNotKept));

    let keep = |ttl| Effect::KeepTtl { ttl: Millis(ttl) };
    let owes = |until: u64, complete_since: u64| {
        let promised = [(NodeName::new("n2"), Promised { until: Tick(until), created: None })].into();
        let complete_since = Some(Tick(complete_since));
        Memory { failsafe: Failsafe { promised, complete_since, ..Failsafe::default() }, ..Memory::default() }
    };
    let long_ago = NOW.0 - KEPT.0;
    assert_eq!(decides(&owes(NOW.0 + 5000, long_ago), keep(5000)), Ok(()));
    assert_eq!(decides(&owes(NOW.0 + 5001, long_ago), keep(5000)), Err(Violation::PromiseNotKept), "it is owed");
    assert_eq!(decides(&owes(0, long_ago + 1), keep(5000)), Err(Violation::PromiseNotKept), "it may be owed");
    assert_eq!(decides(&owes(NOW.0 + 60_000, NOW.0), keep(60_000)), Ok(()), "more may be kept at any time");
}

#[test]
fn nobody_takes_the_key_against_a_promise() {
    let promised = |until: u64| {
        let promised = [(NodeName::new("n2"), Promised { until: Tick(until), created: None })].into();
        Memory { failsafe: Failsafe { promised, ..Failsafe::default() }, ..Memory::default() }
    };
    let seat = Seat::Inside { supervised: true };
    for call in [
        DcsCall::AcquireLeader { seen: Revision(100), claim: None, edition: None },
        DcsCall::AdoptLeader { old: LeaseId(5), created: Revision(50), edition: None },
    ] {
        let take = |until| {
            verdict(seat, Server::Standby(StandbyView::default()), promised(until), vec![Effect::Dcs(call.clone())])
        };
        assert_eq!(take(NOW.0 + 1), Err(Violation::PromiseBroken));
        assert_eq!(take(NOW.0), Ok(()));
    }
}

#[test]
fn what_is_scheduled_is_asked_for_at_its_time_before_it_is_begun() {
    let ask = |due: &str| {
        let value = Some(format!(r#"{{"leader":"n1","ha_ext_due":"{due}"}}"#));
        let edit = KeyEdit { key: Key::Failover, value, expect: Expect::Unchanged(SCHEDULED), leased: false };
        inside(PrimaryView::default(), Memory::default(), vec![Effect::Dcs(DcsCall::Write(edit))])
    };
    assert_eq!(ask(AT), Ok(()));
    assert_eq!(ask("1970-01-01T00:01:40.001Z"), Err(Violation::BeforeItsTime));
    assert_eq!(ask("soon"), Err(Violation::BeforeItsTime));
    let (candidate, since, sealed_at, frozen_at) = (NodeName::new("n2"), NOW, None, None);
    let begin = |request| {
        let stage = Stage::Sealing { request, candidate: candidate.clone(), since, sealed_at, frozen_at };
        inside(PrimaryView::default(), Memory { stage, ..Memory::default() }, Vec::new())
    };
    assert_eq!(begin(SCHEDULED), Err(Violation::BeforeItsTime));
    assert_eq!(begin(Revision(92)), Ok(()));
}
