//! The files of an image folder, without those that `datasets` does not look at.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::files::{self, Listing};
use super::unused::Tally;
use crate::error::{Error, Result};

/// Names of directories that hold splits. Source: `data_files.py` of `datasets`.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// A directory and the files below it.
pub(super) struct Folder {
    dir: PathBuf,
    listing: Listing,
}

impl Folder {
    /// Lists the directory `dir`, without hidden files and directories and without directories such as
    /// `__MACOSX` or `__pycache__`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn list(dir: &Path) -> Result<Self> {
        let mut listing = files::walk(dir)?;
        let is_visible = |path: &PathBuf| is_visible(path.strip_prefix(dir).unwrap_or(path));
        listing.files.retain(is_visible);
        listing.repeated.retain(is_visible);
        Ok(Self { dir: dir.to_owned(), listing })
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files in order; links that lead nowhere are among them.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.listing.files.iter()
    }

    /// The split that the file at `path` belongs to by the first directory below this one.
    pub(super) fn split_of(&self, path: &Path) -> Option<&'static str> {
        let below = path.strip_prefix(&self.dir).ok()?.parent()?;
        let first = below.components().next()?.as_os_str().to_str()?;
        SPLITS.iter().find(|(_, names)| names.contains(&first)).map(|(split, _)| *split)
    }

    /// Refuses files of several splits, which are not one data set.
    ///
    /// # Errors
    /// If `paths` belong to more than one split.
    pub(super) fn refuse_splits<'a>(&self, paths: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
        let splits: BTreeSet<&str> = paths.filter_map(|path| self.split_of(path)).collect();
        if splits.len() < 2 {
            return Ok(());
        }
        let splits: Vec<&str> = splits.into_iter().collect();
        let message = format!(
            "holds the splits {}; name the directory of one, or several with a comma between them",
            splits.join(", ")
        );
        Err(Error::file(&self.dir, message))
    }

    /// Why the file at `path`, which is neither an image nor metadata, is not used.
    pub(super) fn reason(&self, path: &Path) -> String {
        match ending(path).as_str() {
            "" => "files without an ending are neither images nor metadata".to_owned(),
            "zip" | "tar" | "gz" | "tgz" => "archives in an image folder are not read".to_owned(),
            ending => format!(".{ending} files are neither images nor metadata"),
        }
    }

    /// Counts the directories that could not be listed, and those that are listed under another name.
    pub(super) fn add_unreadable(&self, tally: &mut Tally) {
        for (path, error) in &self.listing.unreadable {
            let reason = format!("directories that cannot be listed: {error}");
            tally.add(|| path.display().to_string(), reason);
        }
        for path in &self.listing.repeated {
            let reason = "directories that are listed already under another name";
            tally.add(|| path.display().to_string(), reason);
        }
    }
}

/// Whether `datasets` looks at a file with this path below the directory.
fn is_visible(path: &Path) -> bool {
    let starts_with = |name: &OsStr, start: &[u8]| name.as_encoded_bytes().starts_with(start);
    let is_hidden = path.iter().any(|name| starts_with(name, b"."));
    let is_special = path.parent().is_some_and(|dir| dir.iter().any(|d| starts_with(d, b"__")));
    !is_hidden && !is_special
}

/// The ending of a file's name in lower case, without the dot.
pub(super) fn ending(path: &Path) -> String {
    path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default()
}
