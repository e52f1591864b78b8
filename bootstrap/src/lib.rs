//! The supervisor of `ha_ext`: the outside seat of a node, and everything that can only be done while the server
//! is down.
#![forbid(unsafe_code)]

pub mod checks;
pub mod cli;
pub mod control_data;
pub mod detach;
pub mod error;
pub mod handover;
pub mod hands;
pub mod load;
pub mod namesake;
pub mod outside;
pub mod pgdata;
pub mod postmaster;
pub mod process;
pub mod report;
pub mod rest_client;
pub mod rest_socket;
pub mod seat;
pub mod signals;
pub mod silence;
pub mod site;
pub mod status;
pub mod steps;
pub mod supervisor;
