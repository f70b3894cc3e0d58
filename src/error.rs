//! The one error type of the engine: what was wrong, where, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use crate::hub;

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, with enough context to mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A line of an N-best list file is not what it should be.
    #[error("{}:{line}: {problem}; {hint}", path.display())]
    List { path: PathBuf, line: u64, problem: String, hint: String },

    /// A tensor of a checkpoint or an adapter is missing or has the wrong shape or type.
    #[error("{}: tensor {tensor}: expected {expected}, found {found}; {hint}", path.display())]
    Tensor { path: PathBuf, tensor: String, expected: String, found: String, hint: String },

    /// A file as a whole is not what it should be.
    #[error("{}: {problem}; {hint}", path.display())]
    File { path: PathBuf, problem: String, hint: String },

    /// A name that is no folder here, and cannot be had from the Hugging Face Hub either.
    #[error("{name}: no such folder here; on the Hugging Face Hub: {problem}")]
    Hub { name: String, problem: hub::Problem },

    /// Options that contradict each other or the data.
    #[error("{0}")]
    Usage(String),

    /// The operating system refused something.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },

    /// The loss or a score became NaN or infinite.
    #[error("{0}")]
    NotFinite(String),

    /// The GPU or its driver refused or failed.
    #[error("{0}")]
    Device(String),

    /// A service cannot be reached, or refuses.
    #[error("{0}")]
    Service(String),

    /// A signal asked the program to stop; what was done is saved.
    #[error("{0}")]
    Interrupted(String),
}

impl Error {
    /// An [`Error::Io`] for `path`; `action` completes "cannot …".
    pub fn io(path: impl AsRef<Path>, action: &'static str, source: io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), action, source }
    }

    /// An [`Error::File`] for `path`.
    pub fn file(path: impl AsRef<Path>, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::File { path: path.as_ref().to_path_buf(), problem: problem.into(), hint: hint.into() }
    }

    /// 2 where the user can mend it (input, options, paths), 1 where the program or the machine failed.
    pub fn exit_code(&self) -> u8 {
        use io::ErrorKind::*;
        match self {
            Error::List { .. } | Error::Tensor { .. } | Error::File { .. } | Error::Usage(_) => 2,
            Error::Io { source, .. } => match source.kind() {
                NotFound | PermissionDenied | IsADirectory | NotADirectory | AlreadyExists
                | ReadOnlyFilesystem | InvalidFilename => 2,
                _ => 1,
            },
            Error::Hub { problem, .. } if problem.is_the_users() => 2,
            Error::Hub { .. }
            | Error::NotFinite(_)
            | Error::Device(_)
            | Error::Service(_)
            | Error::Interrupted(_) => 1,
        }
    }
}
