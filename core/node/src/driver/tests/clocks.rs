//! A hardware clock that jumps. It is a file here; the thread that reads it, the kernel's clocks and the store are real.

use super::*;
use crate::test_dir::TestDir;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Goes with the time of day, `ahead` seconds of it.
struct FakeHardware {
    path: PathBuf,
    ahead_s: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeHardware {
    fn start(dir: &TestDir) -> Self {
        let path = dir.path().join("since_epoch");
        let (ahead_s, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (place, ahead, told) = (path.clone(), ahead_s.clone(), end.clone());
        // Whoever finds none looks again only much later.
        std::fs::write(&path, format!("{}\n", crate::clock::wall_ms() / 1000)).expect("a writable directory");
        let thread = std::thread::Builder::new().spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let now_s = crate::clock::wall_ms() / 1000 + ahead.load(Ordering::Relaxed);
                // Never half written for whoever reads it.
                let half = place.with_extension("half");
                std::fs::write(&half, format!("{now_s}\n")).expect("a writable directory");
                std::fs::rename(&half, &place).expect("a writable directory");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { path, ahead_s, end, thread: Some(thread.expect("a thread")) }
    }
}

impl Drop for FakeHardware {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn a_pause_that_only_the_hardware_clock_knows_of_is_told_and_makes_the_node_prove_its_lease() {
    let (etcd, dir) = (TestEtcd::start(), TestDir::new("clocks"));
    let hardware = FakeHardware::start(&dir);
    let (wake, wakes) = channel();
    let hooks = hooks(wake);
    let layers = Layers { local: local(&etcd, "pg1"), ..Layers::default() };
    let mut driver = Driver::new(Options { layers, hooks: hooks.clone() }).expect("driver");
    driver.clocks = ClockWatch::start(&hardware.path, hooks.wake, hooks.died).expect("a thread");
    let mut node = Node { driver, port: BareNode::default(), wakes, ticks: 0 };
    node.until("member key", 8000, |driver, _| member_in_store(driver, "pg1"));
    let read = |driver: &Driver, _: &BareNode| driver.memory().clocks.is_some_and(|now| now.hardware_ms.is_some());
    node.until("hardware clock", 4000, read);
    let began = crate::clock::now();
    node.until("three seconds", 5000, |_, _| crate::clock::now().since(began) > Millis(3000));
    assert_eq!(node.driver.memory().clock_jumps, 0, "{:?}", node.driver.memory().clocks);

    let jumped_at = crate::clock::now();
    hardware.ahead_s.store(100, Ordering::Relaxed);
    node.until("jump", 5000, |driver, _| driver.memory().clock_jumps == 1);
    let told = node.driver.events().since(0).find(|event| event.kind == EventKind::Clock).expect("an event");
    assert_eq!(told.code, "clock.hardware");
    let ahead_s = told.text.split(' ').find_map(|word| word.parse::<f64>().ok()).unwrap_or_default();
    assert!((98.0..=102.0).contains(&ahead_s), "{}", told.text);
    let doubt = node.driver.memory().doubt.expect("a doubt");
    assert!((99_000..=103_000).contains(&doubt.unseen.0), "{doubt:?}");
    node.until("proof", 5000, |driver, _| driver.memory().kept_at > Some(jumped_at));

    // The seat comes from a side that has seen a later jump already: it is not told again, nor as one back.
    let mut memory = node.driver.memory().clone();
    let next = memory.clocks_next.as_mut().map(|next| &mut next.clocks);
    for clocks in memory.clocks.iter_mut().chain(&mut memory.clocks_lowest).chain(next) {
        clocks.hardware_ms = clocks.hardware_ms.map(|ms| ms + 50_000);
    }
    hardware.ahead_s.store(150, Ordering::Relaxed);
    node.driver.take_seat(memory);
    let began = crate::clock::now();
    node.until("two seconds", 4000, |_, _| crate::clock::now().since(began) > Millis(2000));
    assert!(node.driver.memory().clocks.is_some_and(|clocks| clocks.hardware_ms.is_some()), "it was read again");
    assert_eq!(node.driver.memory().clock_jumps, 1, "{:?}", node.driver.memory().clocks);

    // Whoever does not act has nothing to judge by it: it is not read, until the seat comes back.
    let shows = |driver: &Driver| driver.clocks.read().is_some_and(|clocks| clocks.hardware_ms.is_some());
    node.port.seatless = true;
    node.until("rest", 2000, |driver, _| !shows(driver));
    node.port.seatless = false;
    node.until("reading", 2000, |driver, _| shows(driver));
}
