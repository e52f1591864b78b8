//! Real clusters, real etcd, real faults.
//!
//! The harness starts what users run: `ha_bootstrap` as user postgres, real servers, real etcd; it hurts them by signals
//! and packet filters and judges by what clients saw. One scenario per file in `tests/`. It needs root, for the other
//! user, the network namespaces and the small file systems.

pub mod archive;
pub mod bare;
pub mod base64;
pub mod census;
pub mod chance;
pub mod cluster;
pub mod daemon;
pub mod etcd;
pub mod guest;
pub mod hung_file;
pub mod load;
pub mod net;
pub mod node;
pub mod oracle;
pub mod patroni;
pub mod plan;
pub mod ports;
pub mod process;
pub mod program;
pub mod report;
pub mod rest;
pub mod scratch;
pub mod sql;
pub mod terms;
pub mod usurper;
pub mod wait;
pub mod watchdog;
pub mod wire;
pub mod writer;
