//! The errors of tensor files; each names the file, tensor or value at fault.

use std::fmt;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

/// The result of a fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error's underlying error; [`source`](std::error::Error::source) returns it.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Errors of files of tensors.
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
    /// A file is no safetensors file, or a damaged one.
    #[error("{}: not a readable safetensors file: {message}", path.display())]
    Damaged {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong; the text of `source` included.
        message: String,
        /// The error of the parser that refused the header.
        source: Option<Cause>,
    },
    /// A requested tensor does not exist.
    #[error("{}: there is no tensor {name}", path.display())]
    NoTensor {
        /// The file that lacks it.
        path: PathBuf,
        /// Its name.
        name: String,
    },
    /// Two files hold a tensor of the same name.
    #[error("{}: tensor {name} is also in {}", path.display(), first.display())]
    Duplicate {
        /// The file that was added last.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// The file that held it already.
        first: PathBuf,
    },
    /// A tensor holds no floats of 16 to 64 bits.
    #[error("{}: tensor {name} is {dtype:?}; allowed: F64, F32, BF16, F16", path.display())]
    NotFloat {
        /// The file at fault.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Its number format.
        dtype: Dtype,
    },
    /// A source does not hold the tensors that a module needs.
    #[error("{}: {mismatch}", path.display())]
    Mismatch {
        /// The source.
        path: PathBuf,
        /// Every tensor at fault.
        mismatch: Mismatch,
    },
    /// A tensor that cannot be stored or converted.
    #[error("{message}")]
    Invalid {
        /// What is wrong, and what is allowed; the text of `source` included.
        message: String,
        /// The underlying error.
        source: Option<Cause>,
    },
    /// An error of a [`TensorSource`](crate::TensorSource) outside this crate.
    #[error(transparent)]
    Source(Cause),
}

impl Error {
    /// An [`Error::Io`] for `path`, for use with `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// An [`Error::Invalid`] without a cause.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), source: None }
    }

    /// An [`Error::Invalid`] that reads `context: source`, for use with `map_err`.
    pub(crate) fn because<E: Into<Cause>>(context: impl fmt::Display) -> impl FnOnce(E) -> Self {
        move |source| {
            let source = source.into();
            Self::Invalid { message: format!("{context}: {source}"), source: Some(source) }
        }
    }

    /// An [`Error::Source`].
    pub fn source_failed(cause: impl Into<Cause>) -> Self {
        Self::Source(cause.into())
    }
}

/// The difference between the tensors that a module needs and those of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Needed and absent.
    pub missing: Vec<String>,
    /// Present and not needed.
    pub unexpected: Vec<String>,
    /// Present in another shape.
    pub mis_shaped: Vec<ShapeMismatch>,
}

/// A tensor of another shape than needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// The tensor's name.
    pub name: String,
    /// Its shape in the source.
    pub found: Vec<usize>,
    /// The shape that the module needs.
    pub expected: Vec<usize>,
}

impl Mismatch {
    /// Whether the tensors are those that are needed.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mis_shaped.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            abridged("missing", &self.missing),
            abridged("unexpected", &self.unexpected),
            abridged("of another shape", &self.mis_shaped),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(&parts.join("; "))
    }
}

impl fmt::Display for ShapeMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} instead of {:?}", self.name, self.found, self.expected)
    }
}

/// The number of `tensors` and the first few; `None` if there are none.
fn abridged<T: fmt::Display>(what: &str, tensors: &[T]) -> Option<String> {
    const SHOWN: usize = 6;
    if tensors.is_empty() {
        return None;
    }
    let shown: Vec<String> = tensors.iter().take(SHOWN).map(T::to_string).collect();
    let more = match tensors.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!("{} tensors {what}: {}{more}", tensors.len(), shown.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_abridged() {
        let missing = (0..8).map(|i| i.to_string()).collect();
        let mismatch = Mismatch { missing, ..Mismatch::default() };
        assert_eq!(mismatch.to_string(), "8 tensors missing: 0, 1, 2, 3, 4, 5 and 2 more");
    }
}
