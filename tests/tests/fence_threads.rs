//! The worker's network thread alone, while its main thread hangs: it may close the fence, and never opens it.

use ha_tests::bare::Bare;
use ha_tests::process::Proc;
use ha_tests::sql::SqlError;
use ha_tests::wait::{millis, secs};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Instant;

/// One thread of a process stands still, and the others go on, until this is dropped.
struct Hung {
    tracer: Child,
    _input: ChildStdin,
}

/// A signal would stop all of them: only a tracer can stop one.
const TRACER: &str = "
import ctypes, os, sys
libc, thread = ctypes.CDLL(None), int(sys.argv[1])
seize, interrupt, all_kinds = 0x4206, 0x4207, 0x40000000
assert libc.ptrace(seize, thread, None, None) == 0, 'it cannot be traced'
assert libc.ptrace(interrupt, thread, None, None) == 0, 'it cannot be stopped'
os.waitpid(thread, all_kinds)
print('stopped', flush=True)
sys.stdin.read()
";

impl Hung {
    /// The main thread of this process.
    fn main_thread(process: Proc) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", TRACER, &process.pid.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut tracer = command.spawn().expect("python can be started");
        let input = tracer.stdin.take().expect("it was asked for");
        let mut said = String::new();
        BufReader::new(tracer.stdout.take().expect("it was asked for"))
            .read_line(&mut said)
            .expect("it says something");
        assert_eq!(said, "stopped\n", "the thread was not stopped");
        Self { tracer, _input: input }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // A thread without its tracer goes on.
        let _ = self.tracer.kill();
        let _ = self.tracer.wait();
    }
}

fn refused(bare: &Bare) -> bool {
    match bare.run("INSERT INTO kept VALUES (1)") {
        Ok(_) => false,
        Err(SqlError::Refused { code, .. }) if code == "25006" => true,
        other => panic!("neither answered nor refused: {other:?}"),
    }
}

#[test]
fn a_lost_leader_key_closes_the_fence_without_the_main_thread() {
    let mut bare = Bare::fresh();
    let etcd = bare.lead();
    bare.must("CREATE TABLE kept (i integer)");
    let hung = Hung::main_thread(bare.worker());
    assert!(!refused(&bare), "the lease lives");
    etcd.ctl(&["del", "/service/fence/leader"]).expect("etcd deletes keys");
    let deleted = Instant::now();
    while !refused(&bare) {
        // The lease itself would have lasted for another 3 s at least.
        assert!(deleted.elapsed() < secs(2), "the key is gone, and commits are acknowledged");
        std::thread::sleep(millis(10));
    }
    println!("refused {} ms after the key was deleted", deleted.elapsed().as_millis());
    drop(hung);
}

#[test]
fn a_late_confirmation_does_not_open_a_closed_fence() {
    let mut bare = Bare::fresh();
    let etcd = bare.lead();
    bare.must("CREATE TABLE kept (i integer)");
    let operator = bare.session();
    etcd.freeze_member(0, true);
    // By now a renewal is under way.
    std::thread::sleep(millis(1300));
    let hung = Hung::main_thread(bare.worker());
    let since = Instant::now();
    operator.query("SET ha_ext.debug_gate = 'demote'", secs(5)).expect("a debug build can close the fence");
    etcd.freeze_member(0, false);
    // The main thread was there less than half a ttl ago, so that its silence is no reason.
    let writer = operator;
    while since.elapsed() < millis(2500) {
        let answer = writer.query("INSERT INTO kept VALUES (2)", secs(5));
        assert!(
            answer.is_err(),
            "the network thread opened the fence {} ms after it was closed",
            since.elapsed().as_millis()
        );
        std::thread::sleep(millis(20));
    }
    drop(hung);
}
