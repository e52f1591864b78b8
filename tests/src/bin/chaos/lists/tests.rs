//! Histories with one mistake each must be seen, and honest ones must pass.

use super::*;

fn op(client: u32, sent: At, ended: At, what: What) -> Op {
    Op { client, roaming: true, node: 0, key: 1, sent, ended, what }
}

fn acked(item: Item, position: usize, sent: At, ended: At) -> Op {
    on(1, item, position, sent, ended)
}

fn on(timeline: u32, item: Item, position: usize, sent: At, ended: At) -> Op {
    let outcome = Outcome::Acked { timeline, lsn: u64::from(item) * 100, position };
    op(1, sent, ended, What::Append { item, outcome })
}

fn unknown(item: Item, sent: At, ended: At) -> Op {
    op(2, sent, ended, What::Append { item, outcome: Outcome::Unknown })
}

fn read(timeline: u32, list: &[Item], sent: At, ended: At) -> Op {
    op(3, sent, ended, What::Read { timeline, list: list.to_vec() })
}

fn faults(ops: &[Op], last: &[Item]) -> Vec<Fault> {
    let ops: Vec<&Op> = ops.iter().collect();
    let checked = check(&ops, last);
    let found: BTreeSet<Fault> = checked.findings.iter().map(|finding| finding.fault).collect();
    found.into_iter().chain(checked.lost.iter().map(|_| Fault::Lost)).collect()
}

#[test]
fn an_honest_history_passes() {
    let ops = [
        acked(1, 0, 10, 20),
        read(1, &[1], 21, 25),
        // Both at once: either may be first.
        acked(3, 1, 30, 60),
        acked(2, 2, 31, 50),
        read(1, &[1, 3], 35, 59),
        read(1, &[1, 3, 2], 36, 58),
        read(1, &[1, 3, 2], 61, 62),
    ];
    assert_eq!(faults(&ops, &[1, 3, 2]), []);
}

#[test]
fn a_lost_append_is_seen() {
    assert_eq!(faults(&[acked(1, 0, 10, 20), acked(2, 1, 30, 40)], &[1]), [Fault::Lost]);
    assert_eq!(faults(&[acked(1, 0, 10, 20)], &[]), [Fault::Lost]);
}

#[test]
fn a_stale_read_is_seen() {
    let appended = acked(1, 0, 10, 20);
    assert_eq!(faults(&[appended.clone(), read(1, &[], 21, 25)], &[1]), [Fault::StaleRead]);
    assert_eq!(faults(&[appended.clone(), read(1, &[], 20, 25)], &[1]), [], "it began when the append ended");
    // By a server of an old timeline too.
    let ops = [appended, on(2, 2, 1, 30, 40), read(1, &[1], 50, 60)];
    assert_eq!(faults(&ops, &[1, 2]), [Fault::StaleRead]);
}

#[test]
fn a_read_that_goes_back_is_seen() {
    // Nobody was told that the append happened, but somebody saw it.
    let ops = [unknown(1, 10, 2000), read(1, &[1], 30, 40), read(1, &[], 41, 50)];
    assert_eq!(faults(&ops, &[1]), [Fault::StaleRead]);
    let ops = [unknown(1, 10, 2000), read(1, &[1], 30, 42), read(1, &[], 41, 50)];
    assert_eq!(faults(&ops, &[1]), [], "both at once");
}

#[test]
fn reordered_prefixes_are_seen() {
    let appends = [acked(1, 0, 10, 20), unknown(2, 10, 20), unknown(3, 10, 20)];
    let with = |list: &[Item]| [&appends[..], &[read(1, list, 30, 40)]].concat();
    assert_eq!(faults(&with(&[1, 3, 2]), &[1, 2, 3]), [Fault::Reordered]);
    assert_eq!(faults(&with(&[1, 2, 3]), &[1, 2, 3]), []);
    // Two reads that disagree about items that are gone.
    let two = [&appends[..], &[read(1, &[1, 2], 30, 40), read(1, &[1, 3], 30, 40)]].concat();
    assert_eq!(faults(&two, &[1]), [Fault::Reordered]);
}

#[test]
fn appends_out_of_order_are_seen() {
    assert_eq!(faults(&[acked(1, 1, 10, 20), acked(2, 0, 30, 40)], &[2, 1]), [Fault::Reordered]);
    // One that was told a place that another has in the end.
    assert_eq!(faults(&[acked(1, 1, 10, 40), acked(2, 1, 10, 40)], &[1, 2]), [Fault::Reordered]);
}

#[test]
fn items_out_of_nowhere_are_seen() {
    assert_eq!(faults(&[acked(1, 0, 10, 20)], &[1, 7]), [Fault::Phantom]);
    assert_eq!(faults(&[acked(1, 0, 10, 20)], &[1, 1]), [Fault::Reordered, Fault::Phantom]);
    let refused = op(1, 10, 20, What::Append { item: 5, outcome: Outcome::Refused });
    assert_eq!(faults(std::slice::from_ref(&refused), &[5]), [Fault::Phantom]);
    assert_eq!(faults(&[refused], &[]), []);
    assert_eq!(
        faults(&[read(1, &[1], 1, 5), unknown(1, 10, 20)], &[1]),
        [Fault::Reordered, Fault::Phantom],
        "read too early"
    );
}

#[test]
fn unknown_outcomes_may_happen_late_or_never() {
    let ops = [unknown(1, 10, 20), read(1, &[], 30, 40), acked(2, 0, 50, 60), read(1, &[2], 61, 70)];
    assert_eq!(faults(&ops, &[2]), [], "never");
    assert_eq!(faults(&ops, &[2, 1]), [], "long after its client had given up");
    assert_eq!(faults(&ops, &[1, 2]), [Fault::StaleRead, Fault::Reordered], "not before what was told to be the first");
}

#[test]
fn what_was_lost_was_linearizable_as_long_as_it_was_there() {
    // 2 and 3 are lost with timeline 1; a read there that lacks 2 after its acknowledgement is stale all the same.
    let lost = [acked(1, 0, 10, 20), acked(2, 1, 30, 40), acked(3, 2, 50, 60), on(2, 4, 1, 90, 99)];
    let seen = [&lost[..], &[read(1, &[1, 2], 41, 49), read(1, &[1, 2, 3], 61, 69)]].concat();
    assert_eq!(faults(&seen, &[1, 4]), [Fault::Lost, Fault::Lost]);
    let stale = [&lost[..], &[read(1, &[1], 41, 49)]].concat();
    assert_eq!(faults(&stale, &[1, 4]), [Fault::StaleRead, Fault::Lost, Fault::Lost]);
}

/// The reference: tries every order. The checker must agree with it on small random histories, linearizable or not.
#[test]
fn it_agrees_with_trying_every_order() {
    let mut state = 7_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut wrong = 0;
    for _ in 0..20_000 {
        let count = Item::try_from(1 + random(3)).expect("small");
        let last: Vec<Item> = (1..=count).collect();
        let mut ops: Vec<Op> = Vec::new();
        for item in 1..=count {
            let (sent, takes) = (random(12), random(8));
            let position = usize::try_from(item - 1).expect("small");
            ops.push(if random(4) == 0 {
                unknown(item, sent, sent + takes)
            } else {
                acked(item, position, sent, sent + takes)
            });
        }
        for _ in 0..random(4) {
            let (sent, takes, length) = (random(14), random(6), random(u64::from(count) + 1));
            ops.push(read(1, &last[..usize::try_from(length).expect("small")], sent, sent + takes));
        }
        let ours = faults(&ops, &last).is_empty();
        assert_eq!(ours, linearizable(&ops, &[], 0), "{}", crate::history::dump(&ops));
        wrong += usize::from(!ours);
    }
    assert!((2_000..18_000).contains(&wrong), "{wrong} of 20,000 were not linearizable: both kinds must occur");
}

/// Whether the operations that are left can follow upon a list of this length.
fn linearizable(ops: &[Op], done: &[usize], length: usize) -> bool {
    if done.len() == ops.len() {
        return true;
    }
    let end =
        |op: &Op| if matches!(op.what, What::Append { outcome: Outcome::Unknown, .. }) { At::MAX } else { op.ended };
    let left: Vec<usize> = (0..ops.len()).filter(|index| !done.contains(index)).collect();
    left.iter().any(|next| {
        let op = &ops[*next];
        let in_time = left.iter().all(|other| end(&ops[*other]) >= op.sent);
        let (fits, after) = match &op.what {
            What::Append { item, .. } => (usize::try_from(*item).expect("small") == length + 1, length + 1),
            What::Read { list, .. } => (list.len() == length, length),
        };
        in_time && fits && linearizable(ops, &[done, &[*next]].concat(), after)
    })
}
