//! Every kind of durable or outside effect, while the lease of its session ends at an exact point, and under a seal.
//!
//! What is expected is what `docs/fence.md` says: that file is written by this scenario (`UPDATE_DOCS=1`) and compared otherwise.
//! Whatever it says, nothing may be acknowledged after the deadline, and nothing that was refused may be there.

mod cells;
mod maintenance;
mod others;
mod page;
mod replication;
mod rows;

use cells::Cell;
use ha_tests::bare::Bare;
use ha_tests::etcd::Etcd;

/// A leader with everything the rows need.
fn leader() -> (Bare, Etcd) {
    let mut bare = Bare::fresh();
    bare.append("postgresql.conf", "wal_level = logical\nlog_min_messages = warning\nautovacuum = off\n");
    let etcd = bare.lead();
    for statement in rows::CONTENTS.iter().chain(maintenance::CONTENTS) {
        bare.must(statement);
    }
    (bare, etcd)
}

/// The row at every point.
fn all(bare: &Bare, row: &rows::Row, page: &mut page::Page) {
    if page::wanted(row) {
        let mut found: Vec<Cell> = cells::POINTS.iter().map(|point| cells::at(bare, row, point)).collect();
        found.push(cells::under_seal(bare, row));
        page.add(row, &found);
    }
}

#[test]
fn every_effect_at_every_point() {
    let (mut bare, _etcd) = leader();
    let contrib = bare.run("CREATE EXTENSION dblink; CREATE EXTENSION postgres_fdw").is_ok();
    let major = bare.major();
    let mut page = page::Page::new(major);
    for row in rows::ROWS.iter().chain(maintenance::ROWS).chain(replication::ROWS) {
        if row.on.contains(&major) { all(&bare, row, &mut page) } else { page.skip(row) }
    }
    others::rows(&mut bare, contrib, &mut page);
    page.compare();
}
