//! `ALTER SYSTEM` on a standby must not decide whom it follows.

use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::wait::secs;

#[test]
fn a_standby_that_was_sent_elsewhere_comes_back() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.wait_healthy(secs(30));
    let node = &cluster.nodes[cluster.other_than(leader)];
    let timeline = cluster.timeline().expect("a healthy cluster has a timeline").to_string();
    node.sql("ALTER SYSTEM SET primary_conninfo = 'host=192.0.2.1 connect_timeout=2'").expect("altered");
    node.sql("ALTER SYSTEM SET work_mem = '11MB'").expect("altered");
    node.sql("SELECT pg_reload_conf()").expect("reloaded");
    let elsewhere =
        || node.value("SELECT count(*) FROM pg_file_settings WHERE setting LIKE '%192.0.2.1%'").ok().flatten();
    cluster.wait("the standby to stream from the leader again", secs(30), || {
        (elsewhere().as_deref() == Some("0") && node.streams_on(&timeline)).then_some(())
    });
    assert_eq!(node.value("SHOW work_mem").expect("it answers").as_deref(), Some("11MB"), "the rest is the user's own");
}
