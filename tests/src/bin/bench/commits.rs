//! CPU time of one backend per commit, to the nanosecond: what the fence adds to a writing and to a reading transaction.

use crate::Subject;
use crate::report::Report;
use ha_tests::sql::Session;
use ha_tests::wait::secs;
use std::fs;

const ROUNDS: usize = 15;

/// One loop inside the server, so that nothing but transactions is counted.
struct Loop {
    label: &'static str,
    transactions: u32,
    body: &'static str,
}

const LOOPS: [Loop; 2] = [
    Loop {
        label: "CPU per writing commit (in a procedure, asynchronous)",
        transactions: 50_000,
        body: "PERFORM txid_current()",
    },
    Loop { label: "CPU per read-only commit (in a procedure)", transactions: 200_000, body: "NULL" },
];

/// The systems in turns; Patroni's leader is a plain server.
pub fn measure(subjects: &mut [Subject], report: &mut Report) {
    for Loop { label, transactions, body } in LOOPS {
        for _ in 0..ROUNDS {
            for subject in &*subjects {
                let leader = subject.cluster.wait_healthy(secs(120));
                let session = Session::open(&subject.cluster.nodes[leader].server, secs(5)).expect("a session");
                let pid = session.value("SELECT pg_backend_pid()", secs(5)).expect("a pid").expect("not null");
                session.query("SET synchronous_commit = off", secs(5)).expect("a setting");
                let text =
                    |count: u32| format!("DO $$ BEGIN FOR i IN 1..{count} LOOP {body}; COMMIT; END LOOP; END $$");
                session.query(&text(1000), secs(60)).expect("the loop runs");
                let before = cpu_ns(&pid);
                session.query(&text(transactions), secs(60)).expect("the loop runs");
                let each = (cpu_ns(&pid) - before) / f64::from(transactions);
                report.add(label, "ns", subject.name, each);
            }
        }
    }
}

/// What the scheduler has counted for this process.
fn cpu_ns(pid: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(f64::NAN)
}
