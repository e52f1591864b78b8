//! The callbacks through which the fence sees every commit, every statement and every answer.

mod apply;
mod commit;
mod executor;
mod functions;
mod login;
mod protocol;
mod utility;

pub use functions::exempt;

/// Registers the callbacks. Called once, by the postmaster; its children inherit them.
pub fn install() {
    commit::install();
    utility::install();
    executor::install();
    functions::install();
    protocol::install();
    login::install();
}
