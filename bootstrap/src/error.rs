//! What can go wrong in the supervisor, with what it was doing.

use std::fmt;
use std::io;

/// An error of the supervisor.
#[derive(Debug)]
pub enum Error {
    /// The operating system refused something.
    Io {
        /// What was being done, as a noun phrase or "opening X".
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program we ran failed.
    Program {
        /// Its name.
        program: String,
        /// How it ended.
        status: String,
        /// The last lines it printed.
        tail: String,
    },
    /// A precondition does not hold; nothing was changed.
    Refused(String),
    /// It took too long.
    Late(String),
    /// The supervisor is being stopped.
    Cancelled,
}

/// The result of most functions here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err` on I/O: `Error::io(|| format!("opening {}", path.display()))`.
    pub fn io(doing: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::Io { doing: doing(), source }
    }

    /// The same for errors of system calls.
    pub fn sys(doing: impl FnOnce() -> String) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Error::Io { doing: doing(), source: errno.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { doing, source } => write!(f, "{doing}: {source}"),
            Error::Program { program, status, tail } if tail.is_empty() => write!(f, "{program}: {status}"),
            Error::Program { program, status, tail } => write!(f, "{program}: {status}: {tail}"),
            Error::Refused(why) | Error::Late(why) => f.write_str(why),
            Error::Cancelled => f.write_str("cancelled because the supervisor is being stopped"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::Program { .. } | Error::Refused(_) | Error::Late(_) | Error::Cancelled => None,
        }
    }
}
