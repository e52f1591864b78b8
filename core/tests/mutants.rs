//! Proof that the simulated world can see: each deliberately broken variant must break an invariant.

use ha_core::sim::{Mutant, Options, run};

/// Seeds each mutant is given.
const SEEDS: u64 = 300;

fn caught(mutant: Mutant) -> Option<(u64, &'static str)> {
    (1..=SEEDS).find_map(|seed| {
        let report = run(&Options { seed, mutant: Some(mutant) });
        Some((seed, report.broken?.invariant))
    })
}

#[test]
fn every_mutant_is_caught() {
    let mut survivors = Vec::new();
    for mutant in Mutant::ALL {
        match caught(mutant) {
            Some((seed, invariant)) => println!("{mutant:?}: {invariant} at seed {seed}"),
            None => survivors.push(mutant),
        }
    }
    assert!(survivors.is_empty(), "not caught within {SEEDS} seeds: {survivors:?}");
}
