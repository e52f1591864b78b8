//! What a long run of changes of role showed, as a line of the table in `docs/testing.md`.

use crate::census::Census;
use crate::cluster::Cluster;
use std::time::Duration;

/// The columns.
pub const HEAD: &str = "| server | path | cycles | in the same postmaster | rows of the writers / of pgbench | lost | rewinds / copies / starts | longest gap | took |";

/// One run.
#[derive(Debug)]
pub struct Report<'a> {
    /// What was done.
    pub path: &'a str,
    /// How often.
    pub cycles: usize,
    /// How often the old leader's server stayed up.
    pub in_place: usize,
    /// Rows acknowledged to the writers.
    pub acked: usize,
    /// Of those: rows that are gone, however excused.
    pub lost: usize,
    /// What the nodes needed.
    pub needed: Census,
    /// The longest time without a write.
    pub gap: Duration,
    /// All of it.
    pub took: Duration,
}

impl Report<'_> {
    /// Prints it; the leader knows its version, and what pgbench has done.
    pub fn print(&self, cluster: &Cluster, leader: usize) {
        let ask = |question: &str| cluster.nodes[leader].value(question).ok().flatten().unwrap_or_default();
        let version = ask("SHOW server_version");
        let version = version.split(' ').next().unwrap_or_default();
        let pgbench = ask("SELECT count(*) FROM pgbench_history");
        let Self { path, cycles, in_place, acked, lost, needed, gap, took } = self;
        let Census { rewinds, copies, starts } = needed;
        let (gap_ms, took_s) = (gap.as_millis(), took.as_secs());
        println!("{HEAD}");
        println!(
            "| {version} | {path} | {cycles} | {in_place} | {acked} / {pgbench} | {lost} | {rewinds} / {copies} / {starts} | {gap_ms} ms | {took_s} s |"
        );
    }
}
