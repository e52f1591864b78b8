//! The live table: redrawn in place on a terminal, printed when it changes elsewhere.

use ha_tests::rest;
use ha_tests::writer::Writers;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The table and the thread that keeps it up to date.
pub struct Screen {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    nodes: Vec<(String, String)>,
    stop: AtomicBool,
    terminal: bool,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Lines of the table that is on the screen now.
    drawn: usize,
    last: String,
    counter: Option<Arc<AtomicU64>>,
}

impl Screen {
    /// Shows these nodes: name and base address of the REST API.
    pub fn start(nodes: Vec<(String, String)>) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let shared = Arc::new(Shared {
            nodes,
            stop: AtomicBool::new(false),
            terminal,
            started: Instant::now(),
            state: Mutex::default(),
        });
        let ours = Arc::clone(&shared);
        let builder = std::thread::Builder::new().name("screen".into());
        let thread = builder.spawn(move || ours.run()).expect("a thread can be started");
        Self { shared, thread: Some(thread) }
    }

    /// Shows the rate of these writers.
    pub fn watch(&self, writers: &Writers) {
        self.shared.lock().counter = Some(writers.counter());
    }

    /// Prints a line above the table.
    pub fn say(&self, line: &str) {
        let mut state = self.shared.lock();
        self.shared.erase(&mut state);
        println!("{line}");
        state.last.clear();
    }

    /// Ends the table.
    pub fn stop(mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    fn run(&self) {
        let mut before = (0, Instant::now());
        while !self.stop.load(Ordering::Relaxed) {
            let mut text = self.table();
            let mut state = self.lock();
            if let Some(counter) = &state.counter
                && self.terminal
            {
                let now = (counter.load(Ordering::Relaxed), Instant::now());
                let passed_ms = now.1.duration_since(before.1).as_millis().max(1);
                let rate = u128::from(now.0 - before.0) * 1000 / passed_ms;
                before = now;
                let _ = writeln!(text, "  {} rows acknowledged, {rate} per second", now.0);
            }
            if text != state.last {
                self.erase(&mut state);
                if !self.terminal {
                    println!("  after {:.1} s", self.started.elapsed().as_secs_f64());
                }
                print!("{text}");
                let _ = std::io::stdout().flush();
                state.drawn = if self.terminal { text.lines().count() } else { 0 };
                state.last = text;
            }
            drop(state);
            std::thread::sleep(Duration::from_millis(150));
        }
    }

    fn erase(&self, state: &mut State) {
        if self.terminal && state.drawn > 0 {
            print!("\x1b[{}A\x1b[J", state.drawn);
        }
        state.drawn = 0;
    }

    fn table(&self) -> String {
        let mut text = format!(
            "  member  role        state                     timeline{}\n",
            if self.terminal { "  lag" } else { "" }
        );
        let answers: Vec<Option<Value>> = self
            .nodes
            .iter()
            .map(|(_, rest)| {
                rest::get(rest, "/cluster").ok().filter(|reply| reply.status == 200).map(|reply| reply.json())
            })
            .collect();
        let cluster = answers.iter().flatten().next().cloned().unwrap_or(Value::Null);
        for ((name, _), answer) in self.nodes.iter().zip(&answers) {
            let known =
                cluster["members"].as_array().into_iter().flatten().find(|member| member["name"] == name.as_str());
            let field = |field: &str| known.map(|member| member[field].clone()).unwrap_or_default();
            let word = |value: Value| match value {
                Value::String(text) => text,
                Value::Null => "-".into(),
                other => other.to_string(),
            };
            let state = if answer.is_some() { word(field("state")) } else { "no answer".into() };
            let _ = writeln!(
                text,
                "  {name:<7} {:<11} {state:<25} {:>8}  {}",
                word(field("role")),
                word(field("timeline")),
                // It changes all the time.
                if self.terminal { word(field("lag")) } else { String::new() }
            );
        }
        text
    }
}
