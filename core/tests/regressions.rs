//! Schedules that once broke an invariant, cut down to what that took: each runs to its end now.

use ha_core::sim::{Mutant, Options, Schedule, run, shrink};
use std::path::Path;

#[test]
fn what_was_once_broken_stays_mended() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no schedule is kept");
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a file");
        let schedule = Schedule::from_json(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let report = run(&Options { schedule, log: true, ..Options::of(0) });
        assert_eq!(report.broken, None, "{}: {}", path.display(), report.explain());
    }
}

/// What is left still breaks the same invariant, says so the same way every time, and survives its file.
#[test]
fn a_schedule_is_cut_down_to_what_it_takes() {
    for mutant in [Mutant::IgnorePredecessor, Mutant::LateDeadline, Mutant::FreezeSkipped] {
        let found = (1..300).map(Schedule::of).find_map(|schedule| {
            let broken = run(&Options { schedule: schedule.clone(), mutant: Some(mutant), log: false }).broken?;
            (schedule.size().0 >= 8).then_some((schedule, broken.invariant))
        });
        let (schedule, invariant) = found.expect("a seed that is broken by the mutant");
        let shrunk = shrink(&schedule, Some(mutant)).expect("it breaks");
        let broken = shrunk.report.broken.as_ref().expect("it breaks still");
        assert_eq!(broken.invariant, invariant, "{mutant:?}");
        let ((many, ..), (few, nodes, clients)) = (schedule.size(), shrunk.schedule.size());
        println!(
            "{mutant:?}: {invariant} with {many} faults, then {few}, {nodes} nodes, {clients} clients, in {} runs",
            shrunk.runs
        );
        assert!(few * 4 <= many, "{mutant:?}: {few} of {many} faults are left");
        let again = Schedule::from_json(&shrunk.schedule.json()).expect("what it writes it reads");
        assert_eq!(again, shrunk.schedule);
        let replayed = run(&Options { schedule: again, mutant: Some(mutant), log: true });
        assert_eq!(replayed.log, shrunk.report.log);
        assert_eq!(shrink(&schedule, Some(mutant)).expect("it breaks").schedule, shrunk.schedule, "not the same twice");
    }
}
