//! What etcd, the network and an operator can do to the store.

pub mod answers;
pub mod auth;
pub mod members;
pub mod tls;
pub mod watch;
