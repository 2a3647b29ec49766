//! The checkpoints of a run: written atomically, verified, found again, and deleted when they are old.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::RunConfig;
use super::safety::SpikeDetector;
use super::task::Task;
use super::trained::TRAINER_DIR;
use crate::checkpoint::{Manifest, write_directory};
use crate::error::{Error, Result};
use crate::files::{free_bytes, read_json, write_json};

/// Name of the link to the newest checkpoint.
const LATEST: &str = "latest";
/// Name of the link to the best checkpoint.
const BEST: &str = "best";
/// File of the [`LoopState`] in the directory of what only training needs.
const LOOP: &str = "loop.json";
/// Free disk space that a checkpoint requires, as a multiple of its size.
const HEADROOM: f64 = 1.1;

/// The state of the training loop in a checkpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct LoopState {
    /// Watches the loss for spikes.
    pub(super) detector: SpikeDetector,
    /// Skipped steps since the last update.
    pub(super) skipped_in_a_row: usize,
    /// Steps whose data were skipped by rewinds, over the whole run.
    pub(super) left_out: u64,
    /// The best value of `run.keep_best`, and the step of its checkpoint.
    pub(super) best: Option<(f32, usize)>,
}

/// The checkpoints of a run.
#[derive(Debug)]
pub(super) struct Checkpoints<'a> {
    run: &'a Path,
    config: &'a RunConfig,
}

impl<'a> Checkpoints<'a> {
    /// The checkpoints in the directory `run`.
    pub(super) fn new(run: &'a Path, config: &'a RunConfig) -> Self {
        Self { run, config }
    }

    /// Saves `task` as `<run>/step-NNNNNNN`, verifies the files and points `latest` at them, also
    /// `best` if the checkpoint `is_best`; then deletes all but the newest `keep` and the best.
    ///
    /// # Errors
    /// [`Error::File`] before anything is written if the disk has too little space; those of the
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
        self.check_free_space(task)?;
        if dir.exists() {
            // Left by a run that resumed from an older checkpoint because this one was damaged.
            std::fs::remove_dir_all(&dir).map_err(Error::io(&dir))?;
        }
        write_directory(&dir, |dir| {
            task.save(dir)?;
            write_json(&loop_path(dir), state)
        })?;
        Manifest::verify(&dir)?;
        set_link(&self.run.join(LATEST), &name)?;
        if is_best {
            set_link(&self.run.join(BEST), &name)?;
        }
        self.delete_old(step)
    }

    fn check_free_space<T: Task>(&self, task: &T) -> Result<()> {
        let wanted = (task.checkpoint_bytes() as f64 * HEADROOM) as u64;
        match free_bytes(self.run) {
            Some(free) if free < wanted => Err(Error::file(
                self.run,
                format!(
                    "a checkpoint takes about {wanted} bytes and the disk has {free} left; nothing was \
                     written, earlier checkpoints are intact; free space and start the run again"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Deletes all checkpoints up to `newest` but the last `keep` and the best.
    fn delete_old(&self, newest: usize) -> Result<()> {
        let best = std::fs::read_link(self.run.join(BEST)).ok().map(|name| self.run.join(name));
        let mut steps = step_directories(self.run)?;
        steps.retain(|(step, dir)| *step <= newest && Some(dir) != best.as_ref());
        for (_, old) in steps.iter().rev().skip(self.config.keep) {
            std::fs::remove_dir_all(old).map_err(Error::io(old))?;
        }
        Ok(())
    }

    /// The newest intact checkpoint of at most `most` steps, with its step.
    ///
    /// # Errors
    /// As [`newest_good_checkpoint`].
    pub(super) fn newest_good(&self, most: usize) -> Result<Option<(usize, PathBuf)>> {
        newest_good(self.run, most)
    }

    /// The loop's state in the checkpoint `dir` of `step`, from which the run continues. Corrects
    /// the links: the run may have been killed between writing a checkpoint and its link.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn resume(&self, step: usize, dir: &Path) -> Result<LoopState> {
        let mut state = read_loop(dir)?;
        set_link(&self.run.join(LATEST), &name(step))?;
        state.best = state.best.filter(|(_, best)| self.run.join(name(*best)).is_dir());
        let best = self.run.join(BEST);
        match state.best {
            Some((_, step)) => set_link(&best, &name(step))?,
            None if best.symlink_metadata().is_ok() => {
                std::fs::remove_file(&best).map_err(Error::io(&best))?;
            }
            None => {}
        }
        Ok(state)
    }

    /// Deletes the checkpoints after `step`, to which the run rewinds.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn delete_after(&self, step: usize) -> Result<()> {
        set_link(&self.run.join(LATEST), &name(step))?;
        for (later, dir) in step_directories(self.run)? {
            if later > step {
                std::fs::remove_dir_all(&dir).map_err(Error::io(&dir))?;
            }
        }
        Ok(())
    }
}

/// Directory name of the checkpoint at `step`.
fn name(step: usize) -> String {
    format!("step-{step:07}")
}

fn loop_path(dir: &Path) -> PathBuf {
    dir.join(TRAINER_DIR).join(LOOP)
}

/// The loop's state in the checkpoint `dir`; the default if it has none.
fn read_loop(dir: &Path) -> Result<LoopState> {
    let path = loop_path(dir);
    if path.exists() { read_json(&path) } else { Ok(LoopState::default()) }
}

/// Points `link` at `target`, atomically.
fn set_link(link: &Path, target: &str) -> Result<()> {
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

/// The newest intact checkpoint of a run, with its step: all files match its manifest.
///
/// # Errors
/// [`Error::Io`] if the run cannot be listed; [`Error::File`] if it has checkpoints but no intact
/// one, so that a damaged run never silently starts over.
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

/// The checkpoints of a run by step.
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
///
/// # Errors
/// [`Error::File`] if it has no form in TOML; [`Error::Io`].
pub(super) fn write_toml<T: serde::Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = toml::to_string_pretty(value).map_err(Error::in_file(path))?;
    std::fs::write(path, text).map_err(Error::io(path))
}
