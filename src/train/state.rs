//! Checkpoints of a run on disk: written whole or not at all, found again, thinned out.

use std::path::{Path, PathBuf};

use super::config::RunConfig;
use super::run::{LoopState, Task};
use crate::checkpoint::{Manifest, write_directory};
use crate::error::{Error, Result};
use crate::files::{free_bytes, read_json, write_json};

/// Name of the link to the newest checkpoint.
const LATEST: &str = "latest";
/// Name of the link to the best checkpoint.
const BEST: &str = "best";
/// The loop's own part of a checkpoint.
const LOOP: &str = "trainer/loop.json";
/// A checkpoint is begun only where so many times its size are free.
const ROOM: f64 = 1.1;

/// The checkpoints of a run.
#[derive(Debug)]
pub(super) struct Checkpoints<'a> {
    run: &'a Path,
    config: &'a RunConfig,
}

impl<'a> Checkpoints<'a> {
    pub(super) fn new(run: &'a Path, config: &'a RunConfig) -> Self {
        Self { run, config }
    }

    /// Saves `task` as `<run>/step-NNNNNNN`, checks what was written, points `latest` at it, and `best`
    /// if it `is_best`; then deletes all but the newest `keep` checkpoints and the best.
    ///
    /// # Errors
    /// [`Error::File`] when the disk has too little room, before anything is written; those of the
    /// file system.
    pub(super) fn save<T: Task>(
        &self,
        task: &T,
        step: usize,
        state: &LoopState,
        is_best: bool,
    ) -> Result<()> {
        let name = name(step);
        let dir = self.run.join(&name);
        self.check_room(task)?;
        if dir.exists() {
            // Left by a run that went on from an older checkpoint because this one was damaged.
            std::fs::remove_dir_all(&dir).map_err(Error::io(&dir))?;
        }
        write_directory(&dir, |dir| {
            task.save(dir)?;
            write_json(&dir.join(LOOP), state)
        })?;
        Manifest::verify(&dir)?;
        point(&self.run.join(LATEST), &name)?;
        if is_best {
            point(&self.run.join(BEST), &name)?;
        }
        self.thin_out(step)
    }

    fn check_room<T: Task>(&self, task: &T) -> Result<()> {
        let wanted = (task.checkpoint_bytes() as f64 * ROOM) as u64;
        match free_bytes(self.run) {
            Some(free) if free < wanted => Err(Error::file(
                self.run,
                format!(
                    "a checkpoint takes about {wanted} bytes and the disk has {free} left; nothing was \
                     written, earlier checkpoints are whole; make room and start the run again"
                ),
            )),
            _ => Ok(()),
        }
    }

    fn thin_out(&self, newest: usize) -> Result<()> {
        let best = std::fs::read_link(self.run.join(BEST)).ok().map(|name| self.run.join(name));
        let mut steps = step_directories(self.run)?;
        steps.retain(|(step, dir)| *step <= newest && Some(dir) != best.as_ref());
        for (_, old) in steps.iter().rev().skip(self.config.keep) {
            std::fs::remove_dir_all(old).map_err(Error::io(old))?;
        }
        Ok(())
    }

    /// The newest checkpoint of at most `most` steps whose files are all as its manifest says.
    ///
    /// # Errors
    /// As [`newest_good_checkpoint`].
    pub(super) fn newest_good(&self, most: usize) -> Result<Option<(usize, PathBuf)>> {
        newest_good(self.run, most)
    }

    /// The loop's part of the checkpoint in `dir`, which the run goes on from. The links are set right: an
    /// end of the run may have come between a checkpoint and its link.
    pub(super) fn take_up(&self, step: usize, dir: &Path) -> Result<LoopState> {
        let mut state = read_loop(dir)?;
        point(&self.run.join(LATEST), &name(step))?;
        state.best = state.best.filter(|(_, best)| self.run.join(name(*best)).is_dir());
        let best = self.run.join(BEST);
        match state.best {
            Some((_, step)) => point(&best, &name(step))?,
            None if best.symlink_metadata().is_ok() => {
                std::fs::remove_file(&best).map_err(Error::io(&best))?;
            }
            None => {}
        }
        Ok(state)
    }

    /// Deletes the checkpoints after `step`, to which the run goes back.
    pub(super) fn forget_after(&self, step: usize) -> Result<()> {
        point(&self.run.join(LATEST), &name(step))?;
        for (later, dir) in step_directories(self.run)? {
            if later > step {
                std::fs::remove_dir_all(&dir).map_err(Error::io(&dir))?;
            }
        }
        Ok(())
    }
}

/// What the checkpoint at `step` is called.
fn name(step: usize) -> String {
    format!("step-{step:07}")
}

/// The loop's own part of the checkpoint in `dir`.
fn read_loop(dir: &Path) -> Result<LoopState> {
    let path = dir.join(LOOP);
    if path.exists() { read_json(&path) } else { Ok(LoopState::default()) }
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
    newest_good(run, usize::MAX)
}

fn newest_good(run: &Path, most: usize) -> Result<Option<(usize, PathBuf)>> {
    let mut newest_problem = None;
    for (step, dir) in step_directories(run)?.into_iter().rev().filter(|(step, _)| *step <= most) {
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
