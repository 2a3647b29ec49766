//! Checkpoints of a run on disk: written whole or not at all, found again, thinned out.

use std::path::{Path, PathBuf};

use super::Task;
use crate::checkpoint::{Manifest, write_directory};
use crate::error::{Error, Result};

/// Name of the link to the newest checkpoint.
const LATEST: &str = "latest";

/// Saves `task` as `<run>/step-NNNNNNN`, points `latest` at it and deletes all but `keep` checkpoints.
pub(super) fn save<T: Task>(task: &T, run: &Path, step: usize, keep: usize) -> Result<()> {
    let name = format!("step-{step:07}");
    let dir = run.join(&name);
    if dir.exists() {
        // Left by a run that went on from an older checkpoint because this one was damaged.
        std::fs::remove_dir_all(&dir).map_err(Error::io(&dir))?;
    }
    write_directory(&dir, |dir| task.save(dir))?;
    Manifest::verify(&dir)?;
    point(&run.join(LATEST), &name)?;
    let mut steps = step_directories(run)?;
    steps.retain(|(other, _)| *other <= step);
    for (_, old) in steps.iter().rev().skip(keep) {
        std::fs::remove_dir_all(old).map_err(Error::io(old))?;
    }
    Ok(())
}

/// Replaces the link `link` by one to `target`, atomically.
fn point(link: &Path, target: &str) -> Result<()> {
    let fresh = link.with_extension("tmp");
    if fresh.symlink_metadata().is_ok() {
        std::fs::remove_file(&fresh).map_err(Error::io(&fresh))?;
    }
    symlink(target, &fresh).map_err(Error::io(&fresh))?;
    std::fs::rename(&fresh, link).map_err(Error::io(link))
}

#[cfg(unix)]
fn symlink(target: &str, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &str, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_dir(target, link)
}

/// The checkpoint that `latest` points to.
pub fn latest_checkpoint(run: &Path) -> Option<PathBuf> {
    let target = std::fs::read_link(run.join(LATEST)).ok()?;
    Some(run.join(target))
}

/// The newest checkpoint of a run whose files are all as its manifest says, with its step.
///
/// # Errors
/// [`Error::Io`] when the run cannot be listed; [`Error::File`] when it has checkpoints and none is
/// intact, so that a damaged run is never silently begun anew.
pub fn newest_good_checkpoint(run: &Path) -> Result<Option<(usize, PathBuf)>> {
    let mut newest_problem = None;
    for (step, dir) in step_directories(run)?.into_iter().rev() {
        match Manifest::verify(&dir) {
            Ok(()) => return Ok(Some((step, dir))),
            Err(problem) => newest_problem = newest_problem.or(Some(problem)),
        }
    }
    newest_problem.map_or(Ok(None), Err)
}

/// The checkpoints of a run in the order of their steps.
fn step_directories(run: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(run).map_err(Error::io(run))? {
        let path = entry.map_err(Error::io(run))?.path();
        let step = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix("step-")?.parse::<usize>().ok());
        if let Some(step) = step.filter(|_| path.is_dir()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Writes `value` as TOML.
pub(super) fn write_toml<T: serde::Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = toml::to_string_pretty(value).map_err(|e| Error::file(path, e.to_string()))?;
    std::fs::write(path, text).map_err(Error::io(path))
}
