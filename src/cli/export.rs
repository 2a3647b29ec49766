//! `calumma export`: a checkpoint without its training state, in a chosen layout and number format.

use std::path::{Path, PathBuf};

use calumma::checkpoint::adapter::WeightedAdapter;
use calumma::checkpoint::{Conversion, Layout, Manifest, SHARD_SIZE, meta, write_directory};
use calumma::{Error, Result};
use clap::{Args, ValueEnum};
use serde_json::json;
use tensor_files::StoredDtype;

use super::open;
use super::session::{Session, name};
use super::sizes;

/// Arguments of `export`.
#[derive(Args)]
pub struct ExportArgs {
    /// Directory of a checkpoint or an image tokenizer
    checkpoint: PathBuf,
    /// Directory to create
    dest: PathBuf,
    /// Layout: names of files and tensors
    #[arg(long, value_enum, default_value_t = LayoutArg::Calumma)]
    layout: LayoutArg,
    /// Number format of the weights [default: as they are]; f16 also applies to the image tokenizer, bf16
    /// never does
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Largest size of a weight file, such as 900MB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = sizes::parse_bytes)]
    max_shard_size: u64,
    /// Adapter directory in PEFT's layout to merge into the weights, with its weight in the sum; -1 takes a merged one
    /// out again; repeatable
    #[arg(long, value_name = "DIR[=WEIGHT]")]
    merge: Vec<WeightedAdapter>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
    F16,
}

#[derive(Clone, Copy, ValueEnum)]
enum LayoutArg {
    /// As training writes it, with the image tokenizer in its own folder
    Calumma,
    /// As Hugging Face has it, with the image tokenizer among the language model's tensors; its channels must
    /// be multiples of 32 in every level, else transformers cannot open it
    Hf,
    /// As in the original release
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

/// Exports the checkpoint.
///
/// # Errors
/// Those of the checkpoint's files; if `dest` exists.
pub fn run(args: &ExportArgs, session: &Session) -> Result<()> {
    if is_image_tokenizer(&args.checkpoint) {
        return image_tokenizer(args, session);
    }
    let layout = match args.layout {
        LayoutArg::Calumma => Layout::Calumma,
        LayoutArg::Hf => Layout::HuggingFace,
        LayoutArg::Meta => return meta_layout(args, session),
    };
    let conversion = Conversion {
        dtype: args.dtype.map(StoredDtype::from),
        shard_size: args.max_shard_size,
        adapters: args.merge.clone(),
        ..Conversion::to(layout)
    };
    if let Some(parent) = args.dest.parent() {
        std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
    }
    if let Some(remark) = conversion.run(&args.checkpoint, &args.dest)? {
        session.note(remark);
    }
    let manifest = Manifest::of(&args.dest)?;
    let size: u64 = manifest.files.values().map(|file| file.size).sum();
    let (dest, number) = (args.dest.display(), manifest.files.len());
    session.line(format_args!("{dest}: {number} files, {}", sizes::bytes(size as f64)))?;
    session.object(&json!({ "path": name(&args.dest), "bytes": size, "digest": manifest.digest() }))
}

/// Exports in the layout of the original release, which fixes files and number format.
fn meta_layout(args: &ExportArgs, session: &Session) -> Result<()> {
    if args.dtype.is_some() || args.max_shard_size != SHARD_SIZE || !args.merge.is_empty() {
        return Err(Error::invalid(
            "--layout meta keeps weights and number format and has one file per model-parallel part; omit \
             --dtype, --max-shard-size and --merge",
        ));
    }
    meta::export(&args.checkpoint, &args.dest)?;
    session.line(format_args!("{}", args.dest.display()))?;
    session.object(&json!({ "path": name(&args.dest) }))
}

/// Whether `dir` is a bare image tokenizer, without a language model.
fn is_image_tokenizer(dir: &Path) -> bool {
    dir.join("config.json").is_file()
        && dir.join("preprocessor_config.json").is_file()
        && !dir.join("tokenizer.json").exists()
        && !dir.join("generation_config.json").exists()
}

/// Exports a bare image tokenizer, which has a single layout.
fn image_tokenizer(args: &ExportArgs, session: &Session) -> Result<()> {
    if !matches!(args.layout, LayoutArg::Calumma) {
        let message = "is an image tokenizer, which has one layout; omit --layout";
        return Err(Error::file(&args.checkpoint, message));
    }
    if !args.merge.is_empty() {
        let message = "is an image tokenizer, which has no adapters; omit --merge";
        return Err(Error::file(&args.checkpoint, message));
    }
    let dtype = match args.dtype {
        Some(Dtype::Bf16) => {
            // Rounding to the 8 significant bits of bf16 changes many codes, to the 11 of f16 few.
            let message = "--dtype is bf16; allowed for an image tokenizer: f32, f16";
            return Err(Error::invalid(message));
        }
        dtype => dtype.map_or(StoredDtype::F32, StoredDtype::from),
    };
    let device = session.device_in_f32("an image tokenizer")?;
    let vq = open::image_tokenizer(&args.checkpoint, &device)?;
    write_directory(&args.dest, |dir| Ok(vq.save_as(dir, dtype)?))?;
    session.line(format_args!("{}: the image tokenizer", args.dest.display()))?;
    session.object(&json!({ "path": name(&args.dest), "kind": "image tokenizer" }))
}
