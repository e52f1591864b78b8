//! One node in a virtual machine: started, paused and resumed through QEMU's own protocol, and asked over a serial line.

use crate::daemon::{Daemon, Launch, run};
use crate::node::bootstrap_program;
use crate::wait::{millis, poll, secs};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the guest is on the network of the cluster.
pub const ADDRESS: &str = "10.77.0.100";
const MAC: &str = "52:54:00:77:00:64";

/// What it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// It has a clock that goes on while it is paused.
    pub clock: bool,
    /// It has a watchdog device, an i6300ESB, that resets it.
    pub watchdog: bool,
    /// Which is loaded with `nowayout`.
    pub nowayout: bool,
}

/// The virtual machine.
#[derive(Debug)]
pub struct Guest {
    protocol: BufReader<UnixStream>,
    shell: UnixStream,
    /// What it prints.
    pub console: PathBuf,
    /// How it runs.
    pub accelerator: &'static str,
    /// What QEMU has told of, and when.
    pub events: Vec<(Instant, String)>,
    _qemu: Daemon,
}

/// What is read of the guest's clocks, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// `CLOCK_BOOTTIME`.
    pub boottime: i64,
    /// The time of day.
    pub wall: i64,
    /// The hardware clock, whole seconds.
    pub hardware: Option<i64>,
}

/// KVM where it runs a kernel as it is; the kind that needs one made for it does not.
fn accelerator() -> &'static str {
    let there = |path: &str| Path::new(path).exists();
    let whole = there("/sys/module/kvm_intel") || there("/sys/module/kvm_amd");
    if whole && there("/dev/kvm") { "kvm" } else { "tcg" }
}

impl Guest {
    /// Boots it, on the bridge of the clients' side, where this thread has to be. `dir` is the node's directory, which holds its file; `files` the directory with kernel and first root.
    #[must_use]
    pub fn start(scratch: &Path, dir: &Path, files: &Path, hardware: Hardware) -> Self {
        join_network();
        let accelerator = accelerator();
        let place = |name: &str| scratch.join(name);
        let (console, protocol, shell) = (place("console.log"), place("qmp"), place("shell"));
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let without = if hardware.clock { "" } else { " initcall_blacklist=cmos_init" };
        let nowayout = if hardware.nowayout { " ha.i6300esb=nowayout=1" } else { "" };
        let append = format!(
            "console=ttyS0 quiet panic=-1 ha.dir={} ha.address={ADDRESS}/24 ha.program={}{without}{nowayout}",
            text(dir),
            bootstrap_program()
        );
        let words: &[&str] = &[
            &format!("{} -nodefaults -display none -smp 2 -m 2048 -rtc base=utc -cpu max", text(&files.join("qemu"))),
            &format!("-accel {accelerator}"),
            &format!("-kernel {} -initrd {}", text(&files.join("vmlinuz")), text(&files.join("initramfs"))),
            &format!("-serial file:{}", text(&console)),
            &format!("-serial unix:{},server=on,wait=off", text(&shell)),
            &format!("-qmp unix:{},server=on,wait=off", text(&protocol)),
            "-fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device virtio-9p-pci,fsdev=host,mount_tag=host -device virtio-rng-pci",
            "-netdev tap,id=net,ifname=tap0,script=no,downscript=no",
            &format!("-device virtio-net-pci,netdev=net,mac={MAC}"),
        ];
        let reset = if hardware.watchdog { "-device i6300esb -action watchdog=reset" } else { "-no-reboot" };
        let words = [words, &[reset]].concat();
        let mut command: Vec<String> = words.join(" ").split(' ').map(str::to_owned).collect();
        command.extend(["-append".to_owned(), append]);
        let log = place("qemu.log");
        let launch =
            Launch { command, user: None, netns: None, log: log.clone(), dir: scratch.to_owned(), env: Vec::new() };
        let qemu = Daemon::start(&launch);
        let connect = |path: &Path| {
            let connected = poll(secs(20), || UnixStream::connect(path).ok());
            connected
                .unwrap_or_else(|| panic!("QEMU does not start: {}", std::fs::read_to_string(&log).unwrap_or_default()))
        };
        let shell = connect(&shell);
        shell.set_read_timeout(Some(secs(30))).expect("a socket takes a timeout");
        let protocol = BufReader::new(connect(&protocol));
        let mut guest = Self { protocol, shell, console, accelerator, events: Vec::new(), _qemu: qemu };
        guest.answer();
        guest.ask("qmp_capabilities");
        guest.wait_up(1);
        guest
    }

    /// Waits until it has come up so many times.
    pub fn wait_up(&self, times: usize) {
        let up = poll(secs(240), || (self.printed().matches("guest: up").count() >= times).then_some(()));
        assert!(up.is_some(), "the guest does not come up:\n{}", self.printed());
    }

    /// Everything it has printed.
    #[must_use]
    pub fn printed(&self) -> String {
        let raw = std::fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&raw).into_owned()
    }

    /// The hypervisor pauses it.
    pub fn pause(&mut self) {
        self.ask("stop");
    }

    /// And lets it go on.
    pub fn resume(&mut self) {
        self.ask("cont");
    }

    fn ask(&mut self, command: &str) {
        let line = format!("{}\n", json!({ "execute": command }));
        self.protocol.get_mut().write_all(line.as_bytes()).expect("QEMU listens");
        loop {
            let answer = self.answer();
            assert!(answer["error"].is_null(), "{command}: {answer}");
            self.events.extend(event(&answer));
            if !answer["return"].is_null() {
                return;
            }
        }
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.protocol.read_line(&mut line).expect("QEMU answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// When QEMU has told of that event, if it does so in time.
    pub fn event(&mut self, name: &str, within: Duration) -> Option<Instant> {
        let end = Instant::now() + within;
        loop {
            if let Some(at) = self.events.iter().position(|(_, known)| known == name) {
                return Some(self.events.remove(at).0);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.protocol.get_ref().set_read_timeout(Some(left)).expect("a socket takes a timeout");
            let mut line = String::new();
            if self.protocol.read_line(&mut line).is_ok_and(|length| length > 0) {
                self.events.extend(serde_json::from_str(&line).ok().as_ref().and_then(event));
            }
            self.protocol.get_ref().set_read_timeout(None).expect("a socket takes none");
        }
    }

    /// Runs a command of the shell in the guest; what it prints.
    pub fn shell(&mut self, command: &str) -> String {
        const BEGIN: &str = "--begin--";
        const END: &str = "--end--";
        // Neither is to be found in the echo of the command.
        let line = format!("echo --b\"\"egin--; {command}; echo --e\"\"nd--\n");
        self.shell.write_all(line.as_bytes()).expect("the guest has a serial line");
        let mut said = Vec::new();
        let mut byte = [0_u8; 256];
        while !String::from_utf8_lossy(&said).contains(END) {
            let count = self.shell.read(&mut byte);
            let count = count.unwrap_or_else(|error| panic!("{command}: {error}: {}", String::from_utf8_lossy(&said)));
            assert!(count > 0, "the guest is gone:\n{}", self.printed());
            said.extend_from_slice(&byte[..count]);
        }
        let said = String::from_utf8_lossy(&said);
        said.split(END).next().and_then(|said| said.split(BEGIN).nth(1)).unwrap_or_default().trim().to_owned()
    }

    /// What its clocks say.
    pub fn clocks(&mut self) -> Reading {
        let said =
            self.shell("cut -d' ' -f1 /proc/uptime; chroot /host /bin/date +%s.%N; cat /sys/class/rtc/rtc0/since_epoch 2>/dev/null");
        let lines: Vec<&str> = said.split_whitespace().collect();
        let number = |index: usize| -> Option<i64> {
            let (whole, part) = lines.get(index)?.split_once('.').unwrap_or((lines.get(index)?, "0"));
            let part = format!("{part:0<3}");
            Some(whole.parse::<i64>().ok()? * 1000 + part.get(..3)?.parse::<i64>().ok()?)
        };
        let missing = || panic!("clocks of the guest: {said}");
        Reading {
            boottime: number(0).unwrap_or_else(missing),
            wall: number(1).unwrap_or_else(missing),
            hardware: number(2),
        }
    }

    /// How far each of its clocks goes while it is paused for so long.
    pub fn over_a_pause(&mut self, length: Duration) -> (Reading, Reading) {
        let before = self.clocks();
        self.pause();
        std::thread::sleep(length);
        self.resume();
        (before, self.clocks())
    }

    /// The clock its kernel counts by.
    pub fn clock_source(&mut self) -> String {
        self.shell("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
    }

    /// Those it could count by.
    pub fn clock_sources(&mut self) -> Vec<String> {
        let all = self.shell("cat /sys/devices/system/clocksource/clocksource0/available_clocksource");
        all.split_whitespace().map(str::to_owned).collect()
    }

    /// Takes another.
    pub fn count_by(&mut self, source: &str) {
        self.shell(&format!("echo {source} >/sys/devices/system/clocksource/clocksource0/current_clocksource"));
        std::thread::sleep(millis(500));
    }
}

/// What QEMU tells of by itself.
fn event(answer: &Value) -> Option<(Instant, String)> {
    Some((Instant::now(), answer["event"].as_str()?.to_owned()))
}

/// A port on the bridge of the clients' side, where this thread is.
fn join_network() {
    for words in [
        &["ip", "tuntap", "add", "tap0", "mode", "tap"][..],
        &["ip", "link", "set", "tap0", "master", "br0", "up"],
        // While the guest is paused it does not say where it is; a router would know it for longer.
        &["ip", "neigh", "replace", ADDRESS, "lladdr", MAC, "dev", "br0", "nud", "permanent"],
    ] {
        run(words).unwrap_or_else(|error| panic!("{error}"));
    }
}
