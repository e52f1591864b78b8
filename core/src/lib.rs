//! The decisions of `ha_ext`: pure, without I/O, without a clock.
//!
//! Each tick a driver takes ONE snapshot of everything ([`view::View`]), calls [`decide::decide`], and executes
//! the [`effect::Effect`]s of the [`decide::Decision`] in order. Two drivers do so: the loop worker inside the
//! postmaster and the supervisor outside it. Whoever holds the seat ([`seat`]) acts; both run this code.
#![forbid(unsafe_code)]

pub mod api;
pub mod clock;
pub mod clocks;
pub mod cluster;
pub mod config;
pub mod dcs;
pub mod decide;
pub mod effect;
pub mod failsafe;
pub mod ids;
pub mod lease;
pub mod local;
pub mod marker;
pub mod member;
pub mod memory;
pub mod outcome;
pub mod parse;
pub mod peer;
pub mod pgconf;
pub mod positions;
pub mod rule;
pub mod schedule;
pub mod seat;
pub mod settings;
#[cfg(feature = "sim")]
pub mod sim;
pub mod tags;
pub mod timeline;
pub mod view;
pub mod watchdog;
