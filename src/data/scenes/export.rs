//! Scenes as files: a Hugging Face image folder.

use super::{Scenes, render};
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes the data set to the new directory `dir`: `000000.png` and so on, and
/// `metadata.jsonl` with `file_name` and the columns of [`Scenes::columns`].
///
/// The directory appears in one piece: everything is written beside it and renamed.
///
/// # Errors
/// When `dir` exists already or its parent does not, or on any failure to write; nothing
/// stays behind then.
pub fn write_image_folder(scenes: &Scenes, dir: &Path) -> Result<()> {
    if fs::symlink_metadata(dir).is_ok() {
        return Err(Error::file(dir, "exists already; name a new directory"));
    }
    let staging = staging_path(dir)?;
    fs::create_dir(&staging).map_err(Error::io(&staging))?;
    let result = write_files(scenes, &staging)
        .and_then(|()| fs::rename(&staging, dir).map_err(Error::io(dir)));
    if result.is_err() {
        // The first error is the one to report; there may be nothing left to remove.
        let _ = fs::remove_dir_all(&staging);
    }
    result
}

fn staging_path(dir: &Path) -> Result<PathBuf> {
    let Some(name) = dir.file_name() else {
        return Err(Error::file(dir, "is not the name of a directory that can be made"));
    };
    let mut staging = name.to_owned();
    staging.push(format!(".tmp-{}", std::process::id()));
    Ok(dir.with_file_name(staging))
}

fn write_files(scenes: &Scenes, dir: &Path) -> Result<()> {
    let config = scenes.config();
    let digits = config.count.saturating_sub(1).to_string().len().max(6);
    let write_one = |index: usize| {
        let file_name = format!("{index:0digits$}.png");
        let path = dir.join(&file_name);
        let image = render(&scenes.scene(index), config.size);
        image.save(&path).map_err(|error| Error::file(&path, error.to_string()))?;
        let mut line = serde_json::Map::new();
        line.insert("file_name".to_owned(), Value::String(file_name));
        line.extend(scenes.columns(index));
        Ok(Value::Object(line).to_string() + "\n")
    };
    let lines: Vec<String> =
        (0..config.count).into_par_iter().map(write_one).collect::<Result<_>>()?;
    let path = dir.join("metadata.jsonl");
    fs::write(&path, lines.concat()).map_err(Error::io(&path))
}
