//! Proof that the simulated world can see: each deliberately broken variant must break an invariant. `SIM_MUTANT=Name` tries one.

use ha_core::sim::{Mutant, Options, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seeds each mutant is given.
const SEEDS: u64 = 600;

/// The first seed that breaks with the mutant and does not without it.
fn caught(mutant: Mutant) -> Option<(u64, &'static str)> {
    (1..=SEEDS).find_map(|seed| {
        let broken = run(&Options { mutant: Some(mutant), ..Options::of(seed) }).broken?;
        let sound = run(&Options::of(seed)).broken.is_none();
        sound.then_some((seed, broken.invariant))
    })
}

#[test]
fn every_mutant_is_caught() {
    let mut survivors = Vec::new();
    let only = std::env::var("SIM_MUTANT").ok();
    for mutant in
        Mutant::ALL.into_iter().filter(|mutant| only.as_ref().is_none_or(|name| *name == format!("{mutant:?}")))
    {
        match caught(mutant) {
            Some((seed, invariant)) => println!("{mutant:?}: {invariant} at seed {seed}"),
            None => survivors.push(mutant),
        }
    }
    assert!(survivors.is_empty(), "not caught within {SEEDS} seeds: {survivors:?}");
}
