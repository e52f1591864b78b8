//! Demotion and promotion again and again under load, by each of the two ways, with prepared transactions, slots and an archive; what was
//! needed is counted, and a restore from the archive shows everything.

use ha_tests::archive::Archive;
use ha_tests::census::Census;
use ha_tests::chance::{Chance, rounds};
use ha_tests::cluster::Cluster;
use ha_tests::load::{BOOKS_AGREE, Load};
use ha_tests::oracle::{Flushed, WINDOW, judge};
use ha_tests::plan::Plan;
use ha_tests::report::Report;
use ha_tests::usurper::Usurper;
use ha_tests::wait::{millis, secs};
use ha_tests::writer::Ack;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

struct Run<'a> {
    cluster: &'a Cluster,
    load: Load,
    chance: Chance,
    /// What was acknowledged and was there after its own cycle.
    kept: Vec<Ack>,
    lost: usize,
    in_place: usize,
    slowest: Duration,
}

impl Run<'_> {
    fn cycle(&mut self, number: usize, story: &str) {
        let cluster = self.cluster;
        let leader = cluster.wait_healthy(secs(60));
        self.load.wait_under_way(cluster, leader);
        let postmaster = cluster.nodes[leader].postmaster();
        let observation = cluster.observe();
        let prepare = format!("BEGIN; INSERT INTO ha_log VALUES (93, {number}); PREPARE TRANSACTION 'cycle {number}'");
        cluster.nodes[leader].sql(&prepare).expect("the leader prepares");
        cluster.wait_caught_up(leader);
        // Before the first checkpoint of its timeline a leader is stopped and started; that one takes its time.
        if number % 5 != 4 {
            cluster.nodes[leader].sql("CHECKPOINT").expect("the leader writes a checkpoint");
        }
        std::thread::sleep(millis(200) + self.chance.delay(millis(800)));
        let fault = Instant::now();
        let healed = Usurper::reign(cluster, leader, self.chance.delay(millis(800)));
        cluster.wait("a write", secs(60), || observation.writers.first_ack_connected_after(healed));
        let acked = observation.writers.acked();
        // An old leader that still acknowledges would be noticed meanwhile.
        cluster.wait("more writes", secs(20), || (observation.writers.acked() > acked + 100).then_some(()));
        let conclusion = cluster.conclude(observation);
        let healthy = healed.elapsed();
        conclusion.verdict.expect_only_unreplicated_lost(story, fault, WINDOW);
        let lost: BTreeSet<(u32, u64)> = conclusion.verdict.lost.iter().map(|ack| (ack.writer, ack.seq)).collect();
        self.kept.extend(conclusion.acks.into_iter().filter(|ack| !lost.contains(&(ack.writer, ack.seq))));
        self.lost += lost.len();
        self.slowest = self.slowest.max(conclusion.verdict.gap);
        let in_place = cluster.nodes[leader].postmaster() == postmaster;
        self.in_place += usize::from(in_place);
        println!("{story}: in place: {in_place}, healthy {} ms after the key was free", healthy.as_millis());
        let leader = cluster.wait_healthy(secs(60));
        let commit = format!("COMMIT PREPARED 'cycle {number}'");
        cluster.nodes[leader].sql(&commit).expect("what was prepared is there");
    }
}

fn cycles(method: &str) {
    let parameters = vec!["max_prepared_transactions: 10".into(), "wal_level: logical".into()];
    let postgresql = vec![format!("demote_method: {method}")];
    let (archive, mut cluster) = Archive::with_cluster(Plan { parameters, postgresql, ..Plan::short() }, 2);
    for node in &cluster.nodes {
        node.sql("SELECT pg_create_physical_replication_slot('kept')").expect("every server makes slots");
    }
    let (begun, before) = (Instant::now(), Census::take(&cluster));
    let mut run = Run {
        cluster: &cluster,
        load: Load::start(&cluster, 8),
        chance: Chance::seeded(),
        kept: Vec::new(),
        lost: 0,
        in_place: 0,
        slowest: Duration::ZERO,
    };
    let mut made = 0;
    for number in rounds("HA_TESTS_CYCLES", 2) {
        run.cycle(number, &format!("{method}, cycle {number}"));
        made += 1;
    }
    let Run { load, kept, lost, in_place, slowest, .. } = run;
    let leader = cluster.wait_healthy(secs(60));
    drop(load);
    let story = format!("demotion, demote_method {method}");
    let report = Report {
        path: &story,
        cycles: made,
        in_place,
        acked: kept.len() + lost,
        lost,
        needed: Census::take(&cluster) - before,
        gap: slowest,
        took: begun.elapsed(),
    };
    report.print(&cluster, leader);
    let server = &cluster.nodes[leader].server;
    // No later cycle took what was there after an earlier one.
    judge(&kept, &Flushed::default(), server).expect_nothing_lost(&story);
    let number = |question: &str| cluster.nodes[leader].value(question).expect("the leader can be read");
    assert_eq!(number(BOOKS_AGREE).as_deref(), Some("t"));
    assert_eq!(number("SELECT count(*) FROM ha_log WHERE writer = 93"), Some(made.to_string()));
    for node in &cluster.nodes {
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'kept'";
        assert_eq!(node.value(slots).expect("it can be read").as_deref(), Some("1"), "a slot of {} is gone", node.name);
    }
    if method == "restart" {
        assert_eq!(in_place, 0, "a server that was to be restarted was not");
    } else {
        assert!(in_place * 2 >= made, "only {in_place} of {made} demotions were in place");
    }
    archive.expect_complete(&mut cluster, leader, &story);
}

#[test]
fn in_place() {
    cycles("auto");
}

#[test]
fn by_restart() {
    cycles("restart");
}
