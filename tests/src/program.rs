//! The programs of this crate that are no tests.

use std::process::ExitCode;

/// Runs one with what its command line asks for, or says what is wrong there.
pub fn run<W>(wish: Result<W, String>, does: impl FnOnce(&W)) -> ExitCode {
    match wish {
        Ok(wish) => {
            does(&wish);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
