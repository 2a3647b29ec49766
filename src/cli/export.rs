//! `calumma export`: a checkpoint without its training state, in the number format asked for.

use std::path::{Path, PathBuf};

use calumma::checkpoint::{Checkpoint, DOCUMENTS, Manifest, Parts, meta, write_directory};
use calumma::device::DeviceSpec;
use calumma::{Error, Result};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use vq_tokenizer::weights::{self, StoredDtype};

use super::session::{Session, name};
use super::sizes;

/// What, where to, and how.
#[derive(Args)]
pub struct ExportArgs {
    /// A checkpoint's directory
    checkpoint: PathBuf,
    /// The directory to make
    dest: PathBuf,
    /// Number format of the weights; the image tokenizer takes f16 along, but never bf16
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// Names of files and tensors
    #[arg(long, value_enum, default_value_t = Layout::Hf)]
    layout: Layout,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
    F16,
}

#[derive(Clone, Copy, ValueEnum)]
enum Layout {
    /// Ours and Hugging Face's
    Hf,
    /// The original release's; the weights keep their format
    Meta,
}

impl From<Dtype> for StoredDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
            Dtype::F16 => Self::F16,
        }
    }
}

/// Writes the release.
///
/// # Errors
/// Those of the checkpoint's files; when `dest` exists.
pub fn run(args: &ExportArgs, session: &Session) -> Result<()> {
    if let Layout::Meta = args.layout {
        meta::export(&args.checkpoint, &args.dest)?;
        session.line(format_args!("{}", args.dest.display()))?;
        return session.object(&json!({ "path": name(&args.dest) }));
    }
    let device = DeviceSpec::Cpu.open().map_err(|e| Error::Device(e.to_string()))?;
    if Manifest::read(&args.checkpoint)?.is_some() {
        Manifest::verify(&args.checkpoint)?;
    }
    let checkpoint = Checkpoint::open(&args.checkpoint, &device)?;
    let generation = generation(&args.checkpoint)?;
    let parts = Parts {
        config: &checkpoint.config,
        weights: Some(weights::collect(&checkpoint.model)),
        dtype: args.dtype.into(),
        processor: &checkpoint.processor,
        vq: checkpoint.vq.as_ref(),
        generation: &generation,
    };
    if let Some(parent) = args.dest.parent() {
        std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
    }
    write_directory(&args.dest, |dir| {
        parts.write(dir)?;
        copy_documents(&args.checkpoint, dir)
    })?;
    let manifest = Manifest::of(&args.dest)?;
    let size: u64 = manifest.files.values().map(|file| file.size).sum();
    let (dest, number) = (args.dest.display(), manifest.files.len());
    session.line(format_args!("{dest}: {number} files, {}", sizes::bytes(size as f64)))?;
    session.object(&json!({ "path": name(&args.dest), "bytes": size, "digest": manifest.digest() }))
}

/// What the checkpoint says about sampling.
fn generation(dir: &Path) -> Result<Map<String, Value>> {
    let path = dir.join("generation_config.json");
    if !path.exists() {
        return Ok(Map::new());
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    serde_json::from_str(&text).map_err(|e| Error::file(&path, e.to_string()))
}

fn copy_documents(from: &Path, to: &Path) -> Result<()> {
    for name in DOCUMENTS {
        let path = from.join(name);
        if path.is_file() {
            std::fs::copy(&path, to.join(name)).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}
