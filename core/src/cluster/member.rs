//! A member key, and what its addresses say.

use crate::ids::{LeaseId, Lsn, Timeline};
use serde::{Deserialize, Serialize};

/// One `members/<name>` key (wire.md 1.1), the fields that decisions need. The full JSON is kept for the REST API.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Member {
    /// Lease the key hangs on; `None` for a Patroni member on another kind of store.
    pub lease: Option<LeaseId>,
    /// `conn_url`: where its Postgres listens.
    pub conn_url: Option<String>,
    /// `api_url`: its REST API, with `/patroni`.
    pub api_url: Option<String>,
    /// `state`, wire.md 6.
    pub state: String,
    /// `role`, wire.md 6; `master` is read as `primary`.
    pub role: String,
    /// `timeline`, when known.
    pub timeline: Option<Timeline>,
    /// `xlog_location`.
    pub xlog_location: Option<Lsn>,
    /// `checkpoint_after_promote: false`: promoted, but the first checkpoint has not finished.
    pub checkpoint_pending: bool,
    /// `tags`.
    pub tags: crate::tags::Tags,
    /// `version`, Patroni's or the compatible number we report.
    pub version: Option<String>,
    /// `ha_ext_version`: present for members of our kind.
    pub ha_ext_version: Option<String>,
    /// The whole value as it was read.
    pub json: serde_json::Value,
}

impl Member {
    /// Host and port of its Postgres, from `conn_url`.
    #[must_use]
    pub fn postgres_address(&self) -> Option<Address> {
        Address::from_conn_url(self.conn_url.as_deref()?)
    }

    /// `watchdog_failed`, which only members of our kind write there: it may not lead.
    #[must_use]
    pub fn watchdog_failed(&self) -> bool {
        self.says("watchdog_failed")
    }

    /// `cannot_write`, which only members of our kind write there: its disk takes nothing, so it may not lead.
    #[must_use]
    pub fn cannot_write(&self) -> bool {
        self.says("cannot_write")
    }

    /// Whether anything that it says of itself keeps it from leading.
    #[must_use]
    pub fn may_lead(&self) -> bool {
        !self.tags.nofailover() && !self.watchdog_failed() && !self.cannot_write() && self.state == "running"
    }

    fn says(&self, field: &str) -> bool {
        self.json.get(field).is_some_and(|value| value == true)
    }
}

/// Where a Postgres listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Address {
    /// Reads `postgres://HOST:PORT/DBNAME`, IPv6 in brackets; `None` if it is not of that form.
    #[must_use]
    pub fn from_conn_url(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"))?;
        let authority = rest.split(['/', '?']).next()?;
        let authority = authority.rsplit('@').next()?;
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, tail) = v6.split_once(']')?;
                (host, tail.strip_prefix(':').unwrap_or("5432"))
            }
            None => authority.rsplit_once(':').unwrap_or((authority, "5432")),
        };
        if host.is_empty() {
            return None;
        }
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_conn_urls() {
        let plain = Address::from_conn_url("postgres://10.0.0.2:5433/postgres").expect("plain");
        assert_eq!((plain.host.as_str(), plain.port), ("10.0.0.2", 5433));
        let v6 = Address::from_conn_url("postgres://[fd00::1]:5432/x").expect("v6");
        assert_eq!((v6.host.as_str(), v6.port), ("fd00::1", 5432));
        assert_eq!(Address::from_conn_url("http://x:1/"), None);
        assert_eq!(Address::from_conn_url("postgres://h:port/"), None);
    }
}
