//! A process that hangs at the worst moment of a switchover: clients wait for seconds, not for a lease or a start timeout.

use ha_tests::census::Census;
use ha_tests::cluster::Cluster;
use ha_tests::hung_file::HungFile;
use ha_tests::plan::Plan;
use ha_tests::process::Proc;
use ha_tests::wait::{millis, poll, secs};
use std::time::{Duration, Instant};

/// The promotion is given 3 s, the stop 2 s and what SIGQUIT may take; then comes a vote. `primary_start_timeout` is 300 s here.
const RECEIVER_COST_MAX: Duration = Duration::from_secs(20);
/// The worker is given 3 s, then its server goes through a crash cycle. With this `ttl` its lease would last for up to 28 s.
const WORKER_COST_MAX: Duration = Duration::from_secs(12);

#[test]
fn a_candidate_whose_receiver_hangs_once_it_has_everything_gives_the_key_back() {
    let cluster = Cluster::running(Plan::short());
    let from = cluster.wait_ready_to_switch();
    cluster.wait_caught_up(from);
    let to = cluster.other_than(from);
    let observation = cluster.observe();
    // The key is taken by the worker, the log is received without it: so it can be told when both have happened.
    let worker = cluster.nodes[to].worker().expect("a standby has a loop worker");
    let receiver = cluster.nodes[to].child("walreceiver").expect("a standby has a walreceiver");
    std::thread::scope(|scope| {
        let striker = scope.spawn(|| {
            assert!(cluster.saw_parked(from, secs(10)), "the switchover never came near the end of the log");
            worker.freeze();
            let announced =
                || cluster.etcd.get(&cluster.key("ha_ext/released")).is_some_and(|text| text.contains("end"));
            let released = poll(secs(4), || (cluster.leader().is_none() && announced()).then_some(()));
            receiver.freeze();
            worker.thaw();
            released
        });
        let reply = cluster.switchover(from, to);
        println!("the switchover: {reply:?}");
        striker
            .join()
            .expect("the striker does not panic")
            .expect("the key was released to a candidate that has everything");
    });
    let fault = Instant::now();
    cluster.wait("the candidate to have the key", secs(5), || (cluster.leader() == Some(to)).then_some(()));
    let first = cluster.wait("a write on another member", RECEIVER_COST_MAX, || {
        observation.writers.first_ack_sent_after(fault + millis(500))
    });
    println!("a candidate whose receiver hangs: writes again after {:?}", first.acked_at.duration_since(fault));
    assert_ne!(cluster.leader(), Some(to), "the one that hangs was elected again");
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("the candidate's receiver hangs");
    println!("a candidate whose receiver hangs: write gap {} ms", conclusion.verdict.gap.as_millis());
    let told = "promotion.hangs";
    assert!(cluster.nodes[to].server_log().contains(told), "the promotion did not hang");
}

#[test]
fn a_worker_that_hangs_while_commits_are_held_is_not_waited_for_until_its_lease_ends() {
    let cluster = Cluster::running(Plan { nodes: 2, lag_bytes_max: 64 << 20, ..Plan::short() }.default_timing());
    let from = cluster.wait_ready_to_switch();
    cluster.wait_caught_up(from);
    let worker = cluster.nodes[from].worker().expect("a leader has a loop worker");
    let observation = cluster.observe();
    // The candidate never has the end of the log, so that commits are held for a second.
    let children = cluster.nodes[from].postmaster().expect("a leader has a postmaster").children();
    let senders: Vec<Proc> = children.into_iter().filter(|child| child.command().contains("walsender")).collect();
    assert_eq!(senders.len(), 1, "one standby streams");
    cluster.nodes[from].freeze_senders();
    let fault = std::thread::scope(|scope| {
        scope.spawn(|| cluster.switchover(from, cluster.other_than(from)));
        assert!(cluster.saw_parked(from, secs(20)), "the switchover never came near the end of the log");
        cluster.wait_held(&observation);
        let fault = Instant::now();
        worker.freeze();
        // What hangs in the kernel is nothing that the worker's end could wait for.
        senders.into_iter().for_each(Proc::thaw);
        fault
    });
    let since = fault + millis(500);
    let first =
        cluster.wait("a write after the worker hung", secs(60), || observation.writers.first_ack_sent_after(since));
    let cost = first.acked_at.duration_since(fault);
    println!("a worker that hangs while commits are held: writes again after {cost:?}");
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("the worker hangs while commits are held");
    let last = conclusion.acks.iter().filter(|ack| ack.acked_at > fault && ack.acked_at < fault + secs(2)).count();
    assert_eq!(last, 0, "commits were not held: the fault came too early or too late");
    assert!(cost < WORKER_COST_MAX, "clients waited for {cost:?}");
}

/// The file thread hangs with the undoing of a first switchover before it: what is still there is no preparation for a second one.
#[test]
fn marks_that_are_about_to_be_removed_prepare_no_switchover() {
    let cluster = Cluster::running(Plan { nodes: 2, lag_bytes_max: 64 << 20, ..Plan::short() }.default_timing());
    let from = cluster.wait_ready_to_switch();
    cluster.wait_caught_up(from);
    let (to, node) = (cluster.other_than(from), &cluster.nodes[from]);
    let (before, observation) = (Census::take(&cluster), cluster.observe());
    // The candidate never has the end of the log, so that the switchover is called off after a second.
    node.freeze_senders();
    let (first, hung) = std::thread::scope(|scope| {
        let asked = scope.spawn(|| cluster.switchover(from, to));
        assert!(cluster.saw_parked(from, secs(20)), "the switchover never came near the end of the log");
        cluster.wait_held(&observation);
        let hung = HungFile::begin(node);
        (asked.join().expect("asking does not panic").expect("the leader answers"), hung)
    });
    node.thaw_senders();
    assert!(first.body.contains("did not receive the end of the log in time"), "{first:?}");
    let second = cluster.switchover(from, to).expect("the leader answers");
    assert!(second.body.contains("could not be prepared in time"), "{second:?}");
    assert_eq!(cluster.leader(), Some(from), "it handed over with marks that were about to go");
    let signal = node.data().join("standby.signal");
    assert!(signal.exists(), "the file thread did not hang");
    hung.end();
    cluster.wait("the marks to be removed", secs(10), || (!signal.exists()).then_some(()));
    cluster.switch_over(from, to);
    cluster.wait_healthy(secs(60));
    assert_eq!(Census::take(&cluster), before, "somebody was rewound, copied or started");
    cluster.conclude(observation).verdict.expect_nothing_lost("the file thread hangs");
}
