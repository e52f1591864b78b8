//! What commits write into shared memory: a line of their own, and nothing that they share.
//!
//! The server's memory is read from outside, at the address that the server itself tells.

use ha_tests::bare::{Bare, in_background};
use ha_tests::daemon::run;
use ha_tests::plan::bin_dir;
use ha_tests::process::Proc;
use ha_tests::sql;
use ha_tests::wait::{poll, secs};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// One process's line of the commits that are under way.
const LINE_BYTES: usize = 128;

/// An area of shared memory.
struct Area {
    memory: File,
    from: u64,
    length: usize,
}

impl Area {
    /// As the server knows it by name.
    fn of(bare: &Bare, name: &str) -> Self {
        let text = |column: &str| format!("SELECT {column} FROM pg_shmem_allocations WHERE name = '{name}'");
        let number = |column: &str| -> u64 {
            let value = sql::value(&bare.server, &text(column)).expect("a view").expect("an area of that name");
            value.parse().expect("a number")
        };
        let postmaster = bare.postmaster();
        let memory = File::open(format!("/proc/{}/mem", postmaster.pid)).expect("root may read memory");
        let length = usize::try_from(number("size")).expect("it fits");
        Self { memory, from: segment(postmaster) + number("off"), length }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length];
        self.memory.read_exact_at(&mut bytes, self.from).expect("the memory can be read");
        bytes
    }

    /// The state of each process that is not idle.
    fn marks(&self) -> Vec<u8> {
        self.bytes().chunks(LINE_BYTES).map(|line| line[0]).filter(|state| *state != 0).collect()
    }
}

/// Where the server's main shared memory begins: it is its largest shared mapping.
fn segment(postmaster: Proc) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{}/maps", postmaster.pid)).expect("root may read it");
    let shared = maps.lines().filter(|line| line.contains("rw-s")).filter_map(|line| {
        let (from, to) = line.split_once(' ')?.0.split_once('-')?;
        let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
        Some((to - from, from))
    });
    shared.max().expect("a server has shared memory").1
}

/// Where two reads differ.
fn differences(before: &[u8], after: &[u8]) -> Vec<usize> {
    (0..before.len()).filter(|at| before[*at] != after[*at]).collect()
}

#[test]
fn busy_clients_write_no_line_that_they_share() {
    let mut bare = Bare::fresh();
    let _etcd = bare.lead();
    bare.must("CREATE EXTENSION ha_ext; CREATE TABLE busy (i integer)");
    bare.must("SELECT ha_patch_config('{\"ttl\": 60}')");
    let long = poll(secs(20), || {
        let left = "SELECT deadline > now() + interval '30 s' FROM ha_lease";
        sql::value(&bare.server, left).ok().flatten().filter(|long| long == "t")
    });
    long.expect("the lease is as long as it was told to be");
    let shared = Area::of(&bare, "ha_ext");
    let worker = bare.worker();
    let other = bare.postmaster().children().into_iter().find(|child| child.command().contains("ha_ext sql"));
    let other = other.expect("the sql worker runs");
    // They write their own: that they live, and what they find.
    worker.freeze();
    other.freeze();
    let before = shared.bytes();
    assert_eq!(before[4..8], worker.pid.to_ne_bytes(), "this is the memory that is meant");
    let script = bare.scratch.path().join("busy.sql");
    fs::write(&script, "INSERT INTO busy VALUES (1);\n").expect("a script can be written");
    let (program, script) = (bin_dir().join("pgbench"), script.to_string_lossy().into_owned());
    let port = bare.server.port.to_string();
    let program = program.to_string_lossy().into_owned();
    let words =
        ["-n", "-c", "16", "-j", "2", "-T", "4", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-f", &script];
    run(&[&[program.as_str()], &words[..], &["postgres"]].concat()).expect("nobody is refused");
    let after = shared.bytes();
    let rows = sql::value(&bare.server, "SELECT count(*) FROM busy").expect("a read").expect("a count");
    let rows: usize = rows.parse().expect("a number");
    println!("{rows} commits of 16 clients; {} bytes compared", before.len());
    assert!(rows > 500, "only {rows} commits");
    assert_eq!(differences(&before, &after), Vec::<usize>::new(), "commits write what all of them read");
    // What a change of role writes is seen, so the comparison is of what matters.
    let operator = bare.session();
    operator.query("SET ha_ext.debug_gate = 'seal'", secs(5)).expect("a debug build can seal");
    assert_ne!(differences(&before, &shared.bytes()), Vec::<usize>::new(), "a seal is not seen");
    operator.query("SET ha_ext.debug_gate = 'none'", secs(5)).expect("a debug build can lift a seal");
    other.thaw();
    worker.thaw();
}

#[test]
fn each_commit_is_counted_on_a_line_of_its_own() {
    const PASSED: u8 = 1;
    const HELD: u8 = 2;
    let mut bare = Bare::fresh();
    let _etcd = bare.lead();
    bare.must("CREATE TABLE counted (i integer)");
    let marks = Area::of(&bare, "ha_ext marks");
    assert_eq!(marks.from % 64, 0, "lines begin where the processor's do");
    assert_eq!(marks.length % LINE_BYTES, 0, "and are as long");
    let third = bare.session();
    let pid = third.value("SELECT pg_backend_pid()", secs(5)).expect("a query").expect("a pid");
    bare.reload("synchronous_standby_names", "nobody");
    let passed =
        [bare.session(), bare.session()].map(|session| in_background(session, "INSERT INTO counted VALUES (1)"));
    let both = poll(secs(10), || (marks.marks() == [PASSED, PASSED]).then_some(()));
    both.unwrap_or_else(|| panic!("two wait for a standby: {:?}", marks.marks()));
    bare.worker().freeze();
    let operator = bare.session();
    operator.query("SET ha_ext.debug_gate = 'seal'", secs(5)).expect("a debug build can seal");
    let held = in_background(third, "INSERT INTO counted VALUES (2)");
    let all = poll(secs(3), || {
        let mut found = marks.marks();
        found.sort_unstable();
        (found == [PASSED, PASSED, HELD]).then_some(())
    });
    all.unwrap_or_else(|| panic!("and one is held: {:?}", marks.marks()));
    operator.query(&format!("SELECT pg_cancel_backend({pid})"), secs(5)).expect("a signal");
    held.join().expect("the thread ends").expect_err("it is cancelled");
    // The client is told before the transaction is undone.
    let gone = poll(secs(5), || (marks.marks() == [PASSED, PASSED]).then_some(()));
    gone.unwrap_or_else(|| panic!("a commit that failed is counted no more: {:?}", marks.marks()));
    operator.query("SET ha_ext.debug_gate = 'none'", secs(5)).expect("a debug build can lift a seal");
    bare.worker().thaw();
    bare.append("postgresql.conf", "synchronous_standby_names = ''\n");
    bare.postmaster().signal(rustix::process::Signal::HUP);
    for client in passed {
        client.join().expect("the thread ends").expect("it is answered");
    }
    assert_eq!(marks.marks(), Vec::<u8>::new(), "nothing is under way any more");
}
