//! CPU time of one backend, to the nanosecond: what the fence adds to a commit, to a statement and to a message.

use crate::report::Report;
use crate::{Subject, in_turns};
use ha_tests::sql::Session;
use ha_tests::wait::secs;
use std::fs;

const ROUNDS: usize = 15;

/// One request that does the same thing so many times, so that nothing else is counted.
struct Loop {
    label: &'static str,
    times: u32,
    text: fn(u32) -> String,
}

const LOOPS: [Loop; 4] = [
    Loop {
        label: "CPU per writing commit (in a procedure, asynchronous)",
        times: 50_000,
        text: |times| in_procedure(times, "PERFORM txid_current()"),
    },
    Loop {
        label: "CPU per read-only commit (in a procedure)",
        times: 200_000,
        text: |times| in_procedure(times, "NULL"),
    },
    Loop {
        label: "CPU per read-only statement, with its answer of three messages",
        times: 10_000,
        text: |times| "SELECT 1;".repeat(times as usize),
    },
    Loop {
        label: "CPU per message (rows of one query)",
        times: 200_000,
        text: |times| format!("SELECT 1 FROM generate_series(1, {times})"),
    },
];

fn in_procedure(times: u32, body: &str) -> String {
    format!("DO $$ BEGIN FOR i IN 1..{times} LOOP {body}; COMMIT; END LOOP; END $$")
}

/// The systems in turns; Patroni's leader is a plain server.
pub fn measure(subjects: &mut [Subject], report: &mut Report) {
    for Loop { label, times, text } in LOOPS {
        for round in 0..ROUNDS {
            for subject in in_turns(subjects, round) {
                let leader = subject.cluster.wait_healthy(secs(120));
                let session = Session::open(&subject.cluster.nodes[leader].server, secs(5)).expect("a session");
                let pid = session.value("SELECT pg_backend_pid()", secs(5)).expect("a pid").expect("not null");
                session.query("SET synchronous_commit = off", secs(5)).expect("a setting");
                session.query(&text(1000), secs(60)).expect("the loop runs");
                let before = cpu_ns(&pid);
                session.query(&text(times), secs(60)).expect("the loop runs");
                let each = (cpu_ns(&pid) - before) / f64::from(times);
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
