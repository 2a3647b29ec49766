//! The errors of the library; each names the thing at fault, its value and the allowed range.

use std::path::{Path, PathBuf};

/// The result of a fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error's underlying error; [`source`](std::error::Error::source) returns it.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Errors of the library.
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
    /// A value is outside its allowed range: a configuration field, a prompt, an id.
    #[error("{message}")]
    Invalid {
        /// What is wrong, and what is allowed; the text of `source` included.
        message: String,
        /// The underlying error.
        source: Option<Cause>,
    },
    /// The image tokenizer failed.
    #[error(transparent)]
    Vq(#[from] vq_tokenizer::Error),
    /// A device is missing or unusable.
    #[error(transparent)]
    Device(#[from] crate::device::DeviceError),
    /// A loss or gradient became infinite or NaN.
    #[error("training diverged at step {step}: {message}")]
    Diverged {
        /// The optimizer step, which was not taken.
        step: usize,
        /// Which quantity was not finite.
        message: String,
    },
    /// A run was stopped by a signal after it saved its state.
    #[error("stopped by signal {signal} after the step was saved")]
    Interrupted {
        /// The signal's number (2 for an interrupt from the keyboard, 15 for termination).
        signal: i32,
    },
    /// A prompt leaves too little of the model's context for its continuation.
    #[error(
        "a prompt of {prompt} ids with {needed} or more to add does not fit the context of \
         {context} ids"
    )]
    PromptTooLong {
        /// Ids of the prompt.
        prompt: usize,
        /// Minimum number of ids to be added.
        needed: usize,
        /// Ids that the model's context holds.
        context: usize,
    },
    /// A prompt has more `<image>` marks than images, or a template fewer.
    #[error(
        "prompt {prompt:?} has {marks} <image> mark{} but {images} image{} given",
        if *marks == 1 { "" } else { "s" },
        if *images == 1 { " was" } else { "s were" }
    )]
    ImageCount {
        /// The prompt or its template.
        prompt: String,
        /// `<image>` marks in it.
        marks: usize,
        /// Images given.
        images: usize,
    },
    /// An image was given to, or requested from, a checkpoint without an image tokenizer.
    #[error("the checkpoint has no image tokenizer, so it takes text only")]
    NoImageTokenizer,
    /// An image was requested from a checkpoint whose image tokenizer has no decoder.
    #[error(
        "this checkpoint has no VQGAN decoder, so it cannot draw: fetch tokenizer/vqgan.ckpt and \
         tokenizer/vqgan.yaml of the original release (or of Anole), and add them with \
         `calumma import CHECKPOINT --vqgan tokenizer/vqgan.ckpt`"
    )]
    NoImageDecoder,
    /// A weight file could not be read or written, or does not hold the tensors that a model needs.
    #[error(transparent)]
    Tensors(#[from] tensor_files::Error),
    /// A directory to be created exists.
    #[error("{}: already exists; choose another path or remove it first", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// Another process writes to a directory.
    #[error(
        "{}: in use by {holder}; wait until it has ended or stop it, or choose another directory",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process, in words.
        holder: String,
    },
    /// A directory to be opened does not exist.
    #[error("{}: no checkpoint: the directory does not exist", path.display())]
    NoCheckpoint {
        /// The directory.
        path: PathBuf,
    },
    /// A checkpoint's file differs from its manifest.
    #[error("{}: {message}", path.display())]
    Manifest {
        /// The file at fault.
        path: PathBuf,
        /// The difference.
        message: String,
    },
    /// A PyTorch file holds no tensor of this name.
    #[error("{}: there is no tensor {name}", path.display())]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
    },
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

    /// The program's exit code: 3 for data, 4 device, 5 divergence, 128 + signal for an interruption.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Device(_) => 4,
            Self::Diverged { .. } => 5,
            Self::Interrupted { signal } => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            Self::Io { .. }
            | Self::File { .. }
            | Self::Invalid { .. }
            | Self::Vq(_)
            | Self::Tensors(_)
            | Self::Exists { .. }
            | Self::InUse { .. }
            | Self::NoCheckpoint { .. }
            | Self::Manifest { .. }
            | Self::NoTensor { .. }
            | Self::PromptTooLong { .. }
            | Self::ImageCount { .. }
            | Self::NoImageTokenizer
            | Self::NoImageDecoder => 3,
        }
    }
}
