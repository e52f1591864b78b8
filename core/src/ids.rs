//! Newtypes for every identifier, so that a timeline can never be passed where a revision belongs.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of a member, unique within its cluster. Case is kept. Shared, since every snapshot names all members.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(from = "String")]
pub struct NodeName(Arc<str>);

impl From<String> for NodeName {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl Serialize for NodeName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl NodeName {
    /// Takes any text: what may be a name is checked where configuration is read.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The physical replication slot of this member: lower case, `-` and `.` become `_`, any other
    /// character `uXXXX` (decimal code point), cut at 63 characters (wire.md 4, item 7).
    #[must_use]
    pub fn slot_name(&self) -> String {
        let plain = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_');
        if self.0.len() <= 63 && self.0.bytes().all(plain) {
            return self.as_str().to_owned();
        }
        let mut slot = String::with_capacity(self.0.len());
        for c in self.0.to_lowercase().chars() {
            match c {
                'a'..='z' | '0'..='9' | '_' => slot.push(c),
                '-' | '.' => slot.push('_'),
                other => {
                    use fmt::Write;
                    let _ = write!(slot, "u{:04}", u32::from(other));
                }
            }
        }
        slot.truncate(63);
        slot
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A position in the write-ahead log, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// How far `self` is ahead of `other`, 0 if it is not.
    #[must_use]
    pub fn ahead_of(self, other: Lsn) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseLsnError(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(wrong)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| wrong())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| wrong())?;
        Ok(Lsn(u64::from(high) << 32 | u64::from(low)))
    }
}

/// The text was not an LSN of the form `X/X`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseLsnError(String);

impl fmt::Display for ParseLsnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is not an LSN of the form X/X", self.0)
    }
}

impl std::error::Error for ParseLsnError {}

/// A timeline of the write-ahead log; the first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl Timeline {
    /// Whether `self` is newer than `local`, and not out of all proportion: such a number comes from a damaged key. It
    /// must neither take leadership away nor make a promotion skip everything up to it.
    #[must_use]
    pub fn is_plausibly_after(self, local: Timeline) -> bool {
        const AHEAD_MAX: u32 = 100;
        self > local && self.0 - local.0 <= AHEAD_MAX
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The database system identifier that `initdb` made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A lease (etcd), session (Consul, `ZooKeeper`) or the like in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A revision of a key or of the whole store; grows with every write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub i64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_names_follow_the_fixed_mapping() {
        assert_eq!(NodeName::new("Pg-1.example").slot_name(), "pg_1_example");
        assert_eq!(NodeName::new("a b").slot_name(), "au0032b");
        assert_eq!(NodeName::new("x".repeat(80)).slot_name().len(), 63);
    }

    #[test]
    fn lsn_text_round_trips() {
        let lsn: Lsn = "16/B374D848".parse().expect("a valid LSN");
        assert_eq!(lsn, Lsn(0x16_B374_D848));
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert!("16B374D848".parse::<Lsn>().is_err());
        assert!("1/1FFFFFFFF".parse::<Lsn>().is_err());
    }
}
