//! Export of scenes as a Hugging Face image folder.

use super::dataset::Scenes;
use super::render::render;
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes the data set to the new directory `dir`: images `000000.png` and so on, and
/// `metadata.jsonl` with `file_name` and the columns of [`Scenes::columns`].
///
/// The directory appears atomically: it is written under a temporary name and then renamed.
///
/// # Errors
/// If `dir` already exists, its parent does not, or writing fails; nothing is left behind.
pub fn write_image_folder(scenes: &Scenes, dir: &Path) -> Result<()> {
    if fs::symlink_metadata(dir).is_ok() {
        return Err(Error::file(dir, "exists already; name a new directory"));
    }
    let staging = staging_path(dir)?;
    fs::create_dir(&staging).map_err(Error::io(&staging))?;
    let result = write_files(scenes, &staging)
        .and_then(|()| fs::rename(&staging, dir).map_err(Error::io(dir)));
    if result.is_err() {
        // Only the first error is reported; there may be nothing to remove.
        let _ = fs::remove_dir_all(&staging);
    }
    result
}

fn staging_path(dir: &Path) -> Result<PathBuf> {
    let Some(name) = dir.file_name() else {
        return Err(Error::file(dir, "is not a valid name for a new directory"));
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
        image.save(&path).map_err(Error::in_file(&path))?;
        let mut line = serde_json::Map::new();
        line.insert("file_name".to_owned(), Value::String(file_name));
        line.extend(scenes.columns(index));
        Ok(Value::Object(line).to_string() + "\n")
    };
    let rows: Vec<String> =
        (0..config.count).into_par_iter().map(write_one).collect::<Result<_>>()?;
    let path = dir.join("metadata.jsonl");
    fs::write(&path, rows.concat()).map_err(Error::io(&path))
}
