//! Patroni's own command line tool against our cluster.

use ha_tests::cluster::Cluster;
use ha_tests::patroni::patronictl;
use ha_tests::plan::Plan;
use ha_tests::wait::secs;
use serde_json::Value;

#[test]
fn list_history_and_configuration() {
    let cluster = Cluster::running(Plan::short());
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let file = cluster.nodes[leader].file();
    let ctl = |words: &[&str]| patronictl(&file, words).unwrap_or_else(|error| panic!("{error}"));

    let members = || -> Vec<Value> { serde_json::from_str(&ctl(&["list", "-f", "json"])).expect("a list of members") };
    let roles: Vec<(String, String)> = members()
        .iter()
        .map(|member| (member["Member"].as_str().unwrap_or("").into(), member["Role"].as_str().unwrap_or("").into()))
        .collect();
    assert_eq!(roles.len(), 3, "{roles:?}");
    assert!(roles.contains(&(cluster.nodes[leader].name.clone(), "Leader".into())), "{roles:?}");
    assert_eq!(roles.iter().filter(|(_, role)| role == "Replica").count(), 2, "{roles:?}");
    cluster.wait("both replicas to be listed as streaming", secs(10), || {
        let streaming = members().iter().filter(|member| member["State"] == "streaming").count();
        (streaming == 2).then_some(())
    });

    let shown = ctl(&["show-config"]);
    assert!(shown.contains("ttl: 5"), "{shown}");
    let edited = ctl(&["edit-config", "-s", "ttl=8", "-s", "postgresql.parameters.work_mem=6MB", "--force"]);
    assert!(edited.contains("Configuration changed"), "{edited}");
    assert!(ctl(&["show-config"]).contains("ttl: 8"));
    cluster.wait("the setting on every node", secs(15), || {
        let everywhere = cluster
            .nodes
            .iter()
            .all(|node| node.value("SHOW work_mem").is_ok_and(|value| value.as_deref() == Some("6MB")));
        everywhere.then_some(())
    });
    assert_eq!(cluster.nodes[leader].get("/config").expect("the leader answers").json()["ttl"], 8);

    let other = cluster.other_than(leader);
    cluster.switch_over(leader, other);
    cluster.wait_healthy(secs(30));
    let history: Vec<Value> = serde_json::from_str(&ctl(&["history", "-f", "json"])).expect("a list of timelines");
    let last = history.last().expect("one timeline has ended");
    assert_eq!(last["TL"], 1, "{last}");
    assert_eq!(last["New Leader"], cluster.nodes[other].name.as_str(), "{last}");
    let topology = ctl(&["topology"]);
    assert!(topology.contains(&cluster.nodes[other].name), "{topology}");
}
