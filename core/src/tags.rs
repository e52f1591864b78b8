//! Tags of a member, as they stand in its configuration and in its member key.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Tags with a meaning for decisions, and the rest as it was given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tags {
    /// All tags as given, known ones included, falsy ones dropped (wire.md 1.1).
    pub all: Map<String, Value>,
}

impl Tags {
    /// Reads a JSON object; anything else is no tags.
    #[must_use]
    pub fn from_json(value: Option<&Value>) -> Self {
        Self { all: value.and_then(Value::as_object).cloned().unwrap_or_default() }
    }

    /// Whether this member may never lead. `nofailover`, when present, wins over `failover_priority` (lesson 9).
    #[must_use]
    pub fn nofailover(&self) -> bool {
        match self.boolean("nofailover") {
            Some(set) => set,
            None => self.failover_priority_raw().is_some_and(|p| p <= 0),
        }
    }

    /// Larger wins between members with equal WAL; 0 for members that may never lead, 1 by default.
    #[must_use]
    pub fn failover_priority(&self) -> i64 {
        if self.nofailover() {
            return 0;
        }
        self.failover_priority_raw().filter(|p| *p > 0).unwrap_or(1)
    }

    /// `clonefrom`: new members may copy their data from here.
    #[must_use]
    pub fn clonefrom(&self) -> bool {
        self.boolean("clonefrom").unwrap_or(false)
    }

    /// `noloadbalance`: `/replica` answers 503.
    #[must_use]
    pub fn noloadbalance(&self) -> bool {
        self.boolean("noloadbalance").unwrap_or(false)
    }

    fn failover_priority_raw(&self) -> Option<i64> {
        integer(self.all.get("failover_priority")?)
    }

    fn boolean(&self, name: &str) -> Option<bool> {
        crate::parse::boolean(self.all.get(name)?)
    }
}

/// A number, or text that is one.
pub(crate) fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tags(value: &Value) -> Tags {
        Tags::from_json(Some(value))
    }

    #[test]
    fn nofailover_wins_over_priority() {
        assert!(!tags(&json!({"nofailover": false, "failover_priority": 0})).nofailover());
        assert!(tags(&json!({"nofailover": true, "failover_priority": 5})).nofailover());
        assert!(tags(&json!({"failover_priority": 0})).nofailover());
        assert_eq!(tags(&json!({"failover_priority": "7"})).failover_priority(), 7);
        assert_eq!(tags(&json!({})).failover_priority(), 1);
        assert!(tags(&json!({"nofailover": "on"})).nofailover());
    }
}
