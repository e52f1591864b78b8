//! How fast the simulator is: `failovers [SEEDS]`, on one thread. First in worlds in which leaders are lost one after the other and nothing else
//! goes wrong, then in the usual mix. All invariants are judged in both; it fails if one breaks.

use ha_core::sim::{Campaign, Schedule};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let seeds = std::env::args().nth(1).and_then(|seeds| seeds.parse().ok()).unwrap_or(100);
    let lost = Campaign::run_in(Schedule::of_failovers, 1, seeds, 1, || true);
    println!("leaders lost one after the other: {lost}\n");
    let mixed = Campaign::run(1, seeds, 1, || true);
    println!("the usual mix: {mixed}");
    for report in lost.broken.iter().chain(&mixed.broken) {
        println!("broken: seed {}: {:?}", report.seed, report.broken);
    }
    if lost.broken.is_empty() && mixed.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
