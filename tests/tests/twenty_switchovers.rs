//! Twenty switchovers in a row while pgbench writes with eight clients.

use ha_tests::cluster::Cluster;
use ha_tests::load::{BOOKS_AGREE, Load};
use ha_tests::plan::Plan;
use ha_tests::wait::secs;

#[test]
fn under_pgbench_nothing_is_lost() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    Load::tables(&cluster, 5);
    cluster.wait_caught_up(leader);
    let mut load = Load::start(&cluster, 8);
    let observation = cluster.observe();
    let first = cluster.timeline().expect("a healthy cluster has a timeline");
    for round in 0..20 {
        let from = cluster.wait_healthy(secs(60));
        load.keep_up();
        let to = cluster.other_than(from);
        println!("switchover {round}: {}", cluster.switch_over(from, to));
    }
    let leader = cluster.wait_healthy(secs(60));
    drop(load);
    assert_eq!(cluster.timeline(), Some(first + 20));
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_nothing_lost("20 switchovers under pgbench");
    println!("longest write gap {} ms over {} rows", conclusion.verdict.gap.as_millis(), conclusion.verdict.acked);

    assert_eq!(cluster.nodes[leader].value(BOOKS_AGREE).expect("the leader can be read").as_deref(), Some("t"));
}
