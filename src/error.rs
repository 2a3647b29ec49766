//! The errors of the library; each names the thing at fault, its value and what is allowed.

use std::path::{Path, PathBuf};

/// The result of a fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors of the library. [`Error::exit_code`] gives the program's documented exit code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file at fault.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file was read but its content is not what it should be.
    #[error("{}: {message}", path.display())]
    File {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong, and what is allowed.
        message: String,
    },
    /// A value outside its allowed range: a configuration field, a prompt, an id.
    #[error("{0}")]
    Invalid(String),
    /// The image tokenizer refused.
    #[error(transparent)]
    Vq(#[from] vq_tokenizer::Error),
    /// A device is missing or unusable.
    #[error("{0}")]
    Device(String),
    /// Training left the numbers that optimisation can use.
    #[error("training diverged at step {step}: {message}")]
    Diverged {
        /// The optimizer step that was refused.
        step: usize,
        /// Which quantity was not finite.
        message: String,
    },
    /// A signal asked a run to stop; its state was saved.
    #[error("stopped by signal {signal} after the step was saved")]
    Interrupted {
        /// The signal's number (2 for an interrupt from the keyboard, 15 for termination).
        signal: i32,
    },
}

impl Error {
    /// An [`Error::Io`] for `path`; made for `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// An [`Error::File`] for `path`.
    pub fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), message: message.into() }
    }

    /// The program's exit code: 3 data, 4 device, 5 diverged, 128 + signal when interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Io { .. } | Self::File { .. } | Self::Invalid(_) | Self::Vq(_) => 3,
            Self::Device(_) => 4,
            Self::Diverged { .. } => 5,
            Self::Interrupted { signal } => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}
