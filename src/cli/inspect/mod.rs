//! `calumma inspect`: describes a file or directory.

mod adapter;
mod checkpoint;
mod recipe;
mod run;
mod shards;
mod summary;
mod tensors;

use std::path::{Path, PathBuf};

use calumma::data::ImageFolder;
use calumma::{Error, Result};
use clap::Args;
use serde_json::{Value, json};

use super::images;
use super::session::{Session, name};

/// Arguments of `inspect`.
#[derive(Args)]
pub struct InspectArgs {
    /// Checkpoint, adapter, original release, run, token shards, recipe (.toml), generated image (.png) or
    /// .safetensors file
    path: PathBuf,
}

/// Describes `path`.
///
/// # Errors
/// If its kind is unknown or it is damaged.
pub fn run(args: &InspectArgs, session: &Session) -> Result<()> {
    let path = &args.path;
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    if let Some(files) = shards::find(path)? {
        return shards::show(path, &files, session);
    }
    if metadata.is_dir() {
        return directory(path, session);
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    match extension.as_str() {
        "toml" => recipe::show(path, session),
        "png" => image(path, session),
        "safetensors" => tensors::show(path, session),
        _ => Err(Error::file(
            path,
            "unknown kind of file; allowed: a checkpoint, adapter or run directory, .toml, .png, .safetensors",
        )),
    }
}

fn directory(path: &Path, session: &Session) -> Result<()> {
    if path.join("adapter_config.json").is_file() {
        adapter::show(path, session)
    } else if path.join("config.json").is_file() {
        checkpoint::show(path, session)
    } else if ImageFolder::has_metadata(path) {
        Err(Error::file(path, "is a data set; use `calumma data inspect`"))
    } else if path.join("params.json").is_file() || path.join("models").is_dir() {
        checkpoint::show_release(path, session)
    } else {
        run::show(path, session)
    }
}

fn image(path: &Path, session: &Session) -> Result<()> {
    let (width, height, made_by) = images::read_metadata(path)?;
    session.line(format_args!("{}: PNG of {width}x{height} pixels", path.display()))?;
    match &made_by {
        Value::Object(made_by) => {
            for (key, value) in made_by {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                session.line(format_args!("  {key}: {text}"))?;
            }
        }
        _ => session.line("  no note on how it was made")?,
    }
    session.object(&json!({
        "kind": "image",
        "path": name(path),
        "width": width,
        "height": height,
        "made_by": made_by,
    }))
}
