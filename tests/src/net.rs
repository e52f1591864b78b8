//! Machines without machines: one network namespace per node and one for the clients, on a bridge.
//!
//! Every topology uses the same addresses, since no two of them can see each other or the host.

use crate::daemon::run;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The network of one cluster.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    hosts: Vec<Host>,
    home: File,
}

/// One machine of it.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its namespace.
    pub netns: String,
    /// Its address.
    pub address: String,
}

impl Network {
    /// Builds a network of `hosts` machines and moves the calling thread, and with it what that thread starts, to the
    /// clients' side of it.
    #[must_use]
    pub fn enter(hosts: usize) -> Self {
        let home = File::open("/proc/thread-self/ns/net").expect("the own namespace can be opened");
        let prefix = format!("hx{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut network = Self { prefix, hosts: Vec::new(), home };
        network.build(hosts);
        move_to(&network.clients());
        network
    }

    fn build(&mut self, hosts: usize) {
        let clients = self.clients();
        ip(&["netns", "add", &clients]);
        let inside = ["netns", "exec", clients.as_str(), "ip"];
        let client_ip = |words: &[&str]| ip(&[&inside[..], words].concat());
        client_ip(&["link", "set", "lo", "up"]);
        client_ip(&["link", "add", "br0", "type", "bridge"]);
        client_ip(&["addr", "add", "10.77.0.254/24", "dev", "br0"]);
        client_ip(&["link", "set", "br0", "up"]);
        for number in 1..=hosts {
            let netns = format!("{}-{number}", self.prefix);
            let address = format!("10.77.0.{number}");
            let port = format!("v{number}");
            ip(&["netns", "add", &netns]);
            self.hosts.push(Host { netns: netns.clone(), address: address.clone() });
            client_ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &netns]);
            client_ip(&["link", "set", &port, "master", "br0", "up"]);
            let inside = ["netns", "exec", netns.as_str(), "ip"];
            for words in [
                &["link", "set", "lo", "up"][..],
                &["addr", "add", &format!("{address}/24"), "dev", "eth0"],
                &["link", "set", "eth0", "up"],
            ] {
                ip(&[&inside[..], words].concat());
            }
            nft(&netns, "add table inet cuts");
            for way in ["input", "output"] {
                nft(
                    &netns,
                    &format!("add chain inet cuts {way} {{ type filter hook {way} priority 0; policy accept; }}"),
                );
            }
        }
    }

    fn clients(&self) -> String {
        format!("{}-c", self.prefix)
    }

    /// The machine with this index.
    #[must_use]
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// What `from` sends to `to` does not arrive any more.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        let rule = format!("add rule inet cuts input ip saddr {} drop", self.hosts[from].address);
        nft(&self.hosts[to].netns, &rule);
    }

    /// Nothing passes between the two.
    pub fn cut(&self, one: usize, other: usize) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Cuts the clients off from a machine, both ways.
    pub fn cut_clients(&self, host: usize) {
        nft(&self.hosts[host].netns, "add rule inet cuts input ip saddr 10.77.0.254 drop");
    }

    /// Nothing passes between a machine and one that is not of this network.
    pub fn cut_stranger(&self, host: usize, address: &str) {
        let netns = &self.hosts[host].netns;
        nft(netns, &format!("add rule inet cuts input ip saddr {address} drop"));
        nft(netns, &format!("add rule inet cuts output ip daddr {address} drop"));
    }

    /// A fault of its own, to be healed by [`Network::heal_fault`] while others go on: of what `from` sends, so many of a
    /// hundred packets do not arrive at `to`.
    pub fn lose(&self, fault: &str, pairs: &[(usize, usize)], percent: u32) {
        let mut rules: BTreeMap<usize, String> = BTreeMap::new();
        for (from, to) in pairs {
            let table = format!("inet fault_{fault}");
            let script = rules.entry(*to).or_insert_with(|| {
                format!("add table {table}\nadd chain {table} input {{ type filter hook input priority 0; policy accept; }}\n")
            });
            let luck = if percent < 100 { format!("numgen random mod 100 < {percent}") } else { String::new() };
            let _ = writeln!(script, "add rule {table} input ip saddr {} {luck} drop", self.hosts[*from].address);
        }
        for (to, script) in rules {
            nft(&self.hosts[to].netns, &script);
        }
    }

    /// Ends a fault.
    pub fn heal_fault(&self, fault: &str, pairs: &[(usize, usize)]) {
        for to in pairs.iter().map(|(_, to)| *to).collect::<BTreeSet<usize>>() {
            nft(&self.hosts[to].netns, &format!("delete table inet fault_{fault}"));
        }
    }

    /// Heals every cut.
    pub fn heal(&self) {
        for host in &self.hosts {
            nft(&host.netns, "flush table inet cuts");
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Failures here would hide the test's own; `scripts/clean-tests.sh` removes what is left.
        let _ = move_into_link_name_space(self.home.as_fd(), Some(LinkNameSpaceType::Network));
        for host in &self.hosts {
            let _ = run(&["ip", "netns", "del", &host.netns]);
        }
        let _ = run(&["ip", "netns", "del", &self.clients()]);
    }
}

fn move_to(netns: &str) {
    let target = File::open(format!("/run/netns/{netns}")).expect("the namespace was just made");
    move_into_link_name_space(target.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may change namespaces");
}

fn ip(words: &[&str]) {
    run(&[&["ip"], words].concat()).unwrap_or_else(|error| panic!("{error}"));
}

fn nft(netns: &str, rule: &str) {
    run(&["ip", "netns", "exec", netns, "nft", rule]).unwrap_or_else(|error| panic!("{error}"));
}
