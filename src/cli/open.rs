//! Opens checkpoints on the device and in the number format of the session.

use std::path::Path;

use burn::tensor::Device;
use calumma::checkpoint::{self, Checkpoint};
use calumma::pipeline::Pipeline;
use calumma::{Error, Result};
use vq_tokenizer::VqTokenizer;

use super::session::Session;

/// The pipeline of the checkpoint in `dir`. `--precision` is the language model's; the image
/// tokenizer always runs in f32.
///
/// # Errors
/// Those of the device and of the checkpoint's files.
pub fn pipeline(dir: &Path, session: &Session) -> Result<Pipeline> {
    let device = session.device()?;
    let checkpoint = Checkpoint::open_as(dir, &device, session.precision().float_dtype())?;
    Pipeline::new(checkpoint, &device)
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
