//! What the numbers were measured on.

use std::fs;

/// One line about processor, memory, kernel and versions.
pub fn description() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, name)| name.trim())
        .to_owned();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_gib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
        / 1024;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let postgres = ha_tests::daemon::run(&[&ha_tests::plan::bin_dir().join("postgres").to_string_lossy(), "--version"]);
    let etcd = ha_tests::daemon::run(&["etcd", "--version"]);
    let first = |text: Result<String, String>| text.unwrap_or_default().lines().next().unwrap_or("").to_owned();
    format!("{model}, {cores} cores, {memory_gib} GiB, Linux {}; {}; {}", kernel.trim(), first(postgres), first(etcd))
}

/// The load average of the last minute.
pub fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or("?").to_owned()
}
