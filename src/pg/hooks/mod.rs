//! The callbacks through which the fence sees every commit and every statement.

mod commit;
mod executor;
mod login;
mod utility;

/// Registers the callbacks. Called once, by the postmaster; its children inherit them.
pub fn install() {
    commit::install();
    utility::install();
    executor::install();
    login::install();
}
