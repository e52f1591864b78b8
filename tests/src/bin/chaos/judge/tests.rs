//! Losses that must be seen, losses that are allowed, and two leaders.

use super::*;

fn append(node: usize, item: u32, timeline: u32, position: usize, at_ms: u64) -> Op {
    let outcome = Outcome::Acked { timeline, lsn: u64::from(item) * 100, position };
    let what = What::Append { item, outcome };
    Op { client: 1, roaming: true, node, key: 1, sent: at_ms * 1000 - 500, ended: at_ms * 1000, what }
}

/// n1 appends 1 to 4 on timeline 1, n2 appends 5 on timeline 2, which begins at `fork` with the first `kept` of them.
fn story(fork: u64, kept: u32) -> Facts {
    let mut ops: Vec<Op> = (1..=4).map(|item| append(0, item, 1, item as usize - 1, u64::from(item) * 10)).collect();
    ops.push(append(1, 5, 2, kept as usize, 100));
    let last: Vec<u32> = (1..=kept).chain([5]).collect();
    Facts {
        origin: Instant::now(),
        ops,
        last: BTreeMap::from([(1, last)]),
        servers: vec!["a".into(), "b".into(), "c".into()],
        chain: BTreeMap::from([(1, fork)]),
        timeline: 2,
        flushed: Vec::new(),
        terms: Terms::default(),
        troubles: vec![Trouble { node: Some(0), wiped: false, from: 45_000, until: 99_000 }],
        requests: Vec::new(),
        lag_bytes_max: 1000,
    }
}

/// Without the complaint that nobody held a lease, which all of these would raise.
fn said(facts: &Facts) -> Vec<String> {
    let findings = judge(facts).findings.into_iter().map(|finding| finding.text);
    findings.filter(|text| !text.contains("before its first lease")).collect()
}

fn expect(facts: &Facts, words: &str) {
    let said = said(facts);
    assert!(said.iter().any(|text| text.contains(words)), "{said:?}");
}

#[test]
fn the_last_moment_may_be_lost_with_its_leader() {
    let facts = story(250, 2);
    assert_eq!(said(&facts), [""; 0]);
    let verdict = judge(&facts);
    assert_eq!((verdict.lost, verdict.lost_bytes, verdict.acked), (2, 150, 5));
    assert_eq!(verdict.changes.len(), 1);
    assert_eq!(said(&story(500, 4)), [""; 0]);
}

#[test]
fn what_ends_before_the_fork_may_not_be_lost() {
    expect(&story(400, 2), "before the fork");
}

#[test]
fn what_the_elected_had_may_not_be_lost() {
    let mut facts = story(250, 2);
    facts.flushed.push(Sample { node: 1, timeline: 1, lsn: 399, at: 40_000 });
    assert_eq!(said(&facts), [""; 0], "whether 3 ended before 399 nobody knows");
    facts.flushed.push(Sample { node: 1, timeline: 1, lsn: 400, at: 40_000 });
    expect(&facts, "which was elected");
}

#[test]
fn what_somebody_sound_had_may_not_be_lost() {
    let mut facts = story(250, 2);
    facts.flushed.push(Sample { node: 2, timeline: 1, lsn: 400, at: 40_000 });
    expect(&facts, "nothing was wrong");
    facts.troubles.push(Trouble { node: Some(2), wiped: false, from: 50_000, until: 60_000 });
    assert_eq!(said(&facts), [""; 0], "it could not be asked");
}

#[test]
fn nothing_may_be_lost_in_a_planned_switchover() {
    let mut facts = story(250, 2);
    let request = Request { switchover: true, asked: 39_000, answered: 120_000, status: 200 };
    facts.requests.push(request.clone());
    assert_eq!(said(&facts), [""; 0], "something else was wrong too");
    facts.troubles.clear();
    expect(&facts, "planned switchover");
    facts.requests = vec![Request { status: 503, ..request }];
    assert_eq!(said(&facts), [""; 0], "it was refused");
}

#[test]
fn what_is_far_behind_the_fork_may_not_be_lost() {
    let mut facts = story(250, 2);
    let far = append(0, 99_999, 1, 4, 42);
    facts.ops.push(far);
    expect(&facts, "more than a standby that is elected may lack");
}

#[test]
fn what_is_older_than_the_trouble_may_not_be_lost() {
    let mut facts = story(250, 2);
    let later = |at: At| at + 30_000_000;
    facts.ops[4].sent = later(facts.ops[4].sent);
    facts.ops[4].ended = later(facts.ops[4].ended);
    facts.troubles = vec![Trouble { node: Some(0), wiped: false, from: later(0), until: At::MAX }];
    let mut last = append(0, 6, 1, 0, 30_050);
    last.key = 2;
    facts.ops.push(last);
    facts.last.insert(2, vec![6]);
    expect(&facts, "before anything went wrong");
    facts.troubles[0].from = 1_000_000;
    assert!(said(&facts).iter().all(|text| !text.contains("before anything")), "it was wrong for long");
}

#[test]
fn nothing_is_lost_without_a_change_of_leader() {
    let mut facts = story(250, 2);
    facts.ops.retain(|op| op.node == 0);
    facts.timeline = 1;
    facts.last = BTreeMap::from([(1, vec![1, 2])]);
    expect(&facts, "without a change of leader");
}

#[test]
fn two_leaders_are_seen() {
    let mut facts = story(500, 4);
    facts.ops.push(append(0, 6, 1, 4, 130));
    expect(&facts, "acknowledged on timeline 1");
}

#[test]
fn an_acknowledgement_without_a_lease_is_seen() {
    let facts = story(500, 4);
    assert!(judge(&facts).findings.iter().all(|finding| finding.fault == Fault::TwoLeaders));
    assert!(!judge(&facts).findings.is_empty(), "nobody ever held the key");
}
