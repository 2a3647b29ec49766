//! The errors of an image tokenizer; each names the file or value at fault.

use std::path::{Path, PathBuf};

/// The result of a fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error's underlying error; [`source`](std::error::Error::source) returns it.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Errors of the image tokenizer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file at fault.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file has malformed or unsuitable content.
    #[error("{}: {message}", path.display())]
    File {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong, and what is allowed; the text of `source` included.
        message: String,
        /// The error of the parser or decoder that refused the content.
        source: Option<Cause>,
    },
    /// A value outside its allowed range (a configuration field, an image, a code).
    #[error("{message}")]
    Invalid {
        /// What is wrong, and what is allowed; the text of `source` included.
        message: String,
        /// The underlying error.
        source: Option<Cause>,
    },
    /// A weight file could not be read or written, or does not fit the configuration.
    #[error(transparent)]
    Tensors(#[from] tensor_files::Error),
    /// Decoding without a decoder.
    #[error(
        "the image tokenizer has no decoder, so it cannot draw; the original release keeps encoder and \
         decoder in tokenizer/vqgan.ckpt"
    )]
    NoDecoder,
}

impl Error {
    /// An [`Error::Io`] for `path`, for use with `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// An [`Error::File`] for `path` without a cause.
    pub fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), message: message.into(), source: None }
    }

    /// An [`Error::File`] for `path` with the message of its source, for use with `map_err`.
    pub fn in_file<E: Into<Cause>>(path: &Path) -> impl FnOnce(E) -> Self + '_ {
        move |source| {
            let source = source.into();
            let message = source.to_string();
            Self::File { path: path.to_owned(), message, source: Some(source) }
        }
    }

    /// An [`Error::File`] for `path` that reads `context: source`, for use with `map_err`.
    pub fn in_file_because<E: Into<Cause>>(
        path: &Path,
        context: impl std::fmt::Display,
    ) -> impl FnOnce(E) -> Self {
        move |source| {
            let source = source.into();
            let message = format!("{context}: {source}");
            Self::File { path: path.to_owned(), message, source: Some(source) }
        }
    }

    /// An [`Error::Invalid`] without a cause.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), source: None }
    }

    /// An [`Error::Invalid`] that reads `context: source`, for use with `map_err`.
    pub fn because<E: Into<Cause>>(context: impl std::fmt::Display) -> impl FnOnce(E) -> Self {
        move |source| {
            let source = source.into();
            Self::Invalid { message: format!("{context}: {source}"), source: Some(source) }
        }
    }
}
