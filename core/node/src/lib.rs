//! What both seats of a node share: the loop worker inside Postgres and the supervisor outside it.
//!
//! A seat holder has one main thread, which runs [`driver::Driver`], and one [`net`] thread, which talks to the
//! store, to the peers and to REST clients. They meet in two queues and a wake callback; the main thread never waits.
#![forbid(unsafe_code)]

pub mod clock;
mod clock_watch;
pub mod config_file;
pub mod driver;
pub mod environment;
pub mod files;
pub mod founding;
pub mod http;
pub mod kept_ttl;
pub mod last_good;
pub mod log;
pub mod marker;
pub mod member_slots;
pub mod net;
pub mod paths;
pub mod peers;
pub mod process;
pub mod runtime;
pub mod seat_socket;
pub mod server_files;
pub mod supervisor_lock;
#[cfg(test)]
mod test_dir;
#[cfg(test)]
mod test_etcd;
pub mod watchdog;
