//! Opens checkpoints on the device and in the number format of the session.

use std::path::Path;

use burn::tensor::Device;
use calumma::checkpoint::adapter::WeightedAdapter;
use calumma::checkpoint::{self, Checkpoint};
use calumma::pipeline::Pipeline;
use calumma::{Error, Result};
use clap::Args;
use vq_tokenizer::VqTokenizer;

use super::session::Session;

/// The adapters of a checkpoint to be opened.
#[derive(Args, Clone, Debug, Default)]
pub struct AdapterArgs {
    /// Adapter directory in PEFT's layout, merged into the weights, with its weight in the sum; repeatable
    #[arg(long, value_name = "DIR[=WEIGHT]")]
    adapter: Vec<WeightedAdapter>,
}

/// The checkpoint in `dir` with adapters. `--precision` is the language model's; the image tokenizer always runs in
/// f32.
///
/// # Errors
/// Those of the files of checkpoint and adapters.
pub fn checkpoint(
    dir: &Path,
    adapters: &AdapterArgs,
    device: &Device,
    session: &Session,
) -> Result<Checkpoint> {
    Checkpoint::open_with(dir, device, session.precision().float_dtype(), &adapters.adapter)
}

/// The pipeline of the checkpoint in `dir` with adapters.
///
/// # Errors
/// Those of the device, and of [`checkpoint`].
pub fn pipeline(dir: &Path, adapters: &AdapterArgs, session: &Session) -> Result<Pipeline> {
    let device = session.device()?;
    Pipeline::new(checkpoint(dir, adapters, &device, session)?, &device)
}

impl From<Vec<WeightedAdapter>> for AdapterArgs {
    fn from(adapter: Vec<WeightedAdapter>) -> Self {
        Self { adapter }
    }
}

/// The image tokenizer in `dir`: of a checkpoint, or on its own.
///
/// # Errors
/// If there is none, and those of its files.
pub fn image_tokenizer(dir: &Path, device: &Device) -> Result<VqTokenizer> {
    checkpoint::require_directory(dir)?;
    if !dir.join("tokenizer.json").exists() {
        return Ok(VqTokenizer::load(dir, device)?);
    }
    checkpoint::image_tokenizer(dir, device)?.ok_or_else(|| {
        Error::file(
            dir,
            "the checkpoint has no image tokenizer: neither a vq_tokenizer directory nor its tensors",
        )
    })
}
