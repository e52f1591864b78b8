//! What an etcd v3 store needs to know. Plain data; filled by whoever reads the configuration.

use ha_core::clock::{Millis, Tick};
use ha_core::ids::NodeName;
use std::fmt;
use std::path::PathBuf;

/// `http` or `https`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Plain text.
    #[default]
    Http,
    /// TLS.
    Https,
}

impl Protocol {
    /// The scheme of a URL.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Https => "https",
        }
    }
}

/// Everything an [`super::Etcd3`] needs to know.
#[derive(Clone)]
pub struct Options {
    /// `host:port` of each configured member; IPv6 in brackets.
    pub hosts: Vec<String>,
    /// How to talk to them.
    pub protocol: Protocol,
    /// User name, if authentication is on.
    pub username: Option<String>,
    /// Password of that user.
    pub password: Option<String>,
    /// PEM file with the authorities that may have signed the members' certificates; the system's when absent.
    pub cacert: Option<PathBuf>,
    /// PEM file with our certificate chain.
    pub cert: Option<PathBuf>,
    /// PEM file with our private key; when absent it is read from `cert`.
    pub key: Option<PathBuf>,
    /// First part of every key's path, `service` by default.
    pub namespace: String,
    /// Name of the cluster: second part of every key's path.
    pub scope: String,
    /// This node: value of the leader key.
    pub name: NodeName,
    /// Time to live of the node lease (etcd counts in whole seconds; rounded up).
    pub ttl: Millis,
    /// Budget of one call, all retries included.
    pub retry_timeout: Millis,
    /// Longest time one request may take at one member; a fraction of the budget when absent.
    pub request_timeout: Option<Millis>,
    /// Longest time a connection may take to come up; the request's time when absent.
    pub connect_timeout: Option<Millis>,
    /// Whether members that are not configured are found through the member list. Off where the hosts are proxies
    /// (Patroni's `use_proxies`).
    pub discover: bool,
    /// The driver's clock (`CLOCK_BOOTTIME`): leases are counted on it.
    pub clock: fn() -> Tick,
}

impl Options {
    /// The defaults for one cluster: plain HTTP, `ttl` 30 s, `retry_timeout` 10 s, namespace `service`.
    #[must_use]
    pub fn new(hosts: Vec<String>, scope: impl Into<String>, name: NodeName, clock: fn() -> Tick) -> Self {
        Self {
            hosts,
            protocol: Protocol::Http,
            username: None,
            password: None,
            cacert: None,
            cert: None,
            key: None,
            namespace: "service".to_owned(),
            scope: scope.into(),
            name,
            ttl: Millis::from_secs(30),
            retry_timeout: Millis::from_secs(10),
            request_timeout: None,
            connect_timeout: None,
            discover: true,
            clock,
        }
    }

    /// The path all keys of the cluster start with: `/<namespace>/<scope>/`, repeated slashes collapsed.
    #[must_use]
    pub fn base_path(&self) -> String {
        let parts = self.namespace.split('/').chain(self.scope.split('/')).filter(|part| !part.is_empty());
        let mut path = String::from("/");
        for part in parts {
            path.push_str(part);
            path.push('/');
        }
        path
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("hosts", &self.hosts)
            .field("protocol", &self.protocol)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "(hidden)"))
            .field("base_path", &self.base_path())
            .field("name", &self.name)
            .field("ttl", &self.ttl)
            .field("retry_timeout", &self.retry_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(namespace: &str, scope: &str) -> Options {
        let mut options = Options::new(vec![], scope, NodeName::new("n"), || Tick(0));
        options.namespace = namespace.to_owned();
        options
    }

    #[test]
    fn slashes_collapse() {
        assert_eq!(options("service", "batman").base_path(), "/service/batman/");
        assert_eq!(options("//a//b/", "/batman/").base_path(), "/a/b/batman/");
        assert_eq!(options("/", "batman").base_path(), "/batman/");
    }

    #[test]
    fn the_password_is_not_shown() {
        let mut options = options("service", "batman");
        options.password = Some("geheim".into());
        assert!(!format!("{options:?}").contains("geheim"));
    }
}
