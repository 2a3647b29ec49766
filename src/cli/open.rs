//! Checkpoints in, on the device and in the number format that were asked for.

use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, FloatDType, Tensor};
use calumma::checkpoint::Checkpoint;
use calumma::device::Precision;
use calumma::pipeline::Pipeline;
use calumma::{Error, Result};
use vq_tokenizer::VqTokenizer;

use super::session::Session;

/// The checkpoint in `dir`, ready for work. `--precision` is the language model's; the image
/// tokenizer always runs in f32.
///
/// # Errors
/// Those of the device and of the checkpoint's files.
pub fn pipeline(dir: &Path, session: &Session) -> Result<Pipeline> {
    let device = session.device()?;
    let mut checkpoint = Checkpoint::open(dir, &device)?;
    if session.precision() == Precision::Bf16 {
        checkpoint.model = checkpoint.model.map(&mut Cast(session.precision().float_dtype()));
    }
    Pipeline::new(checkpoint, &device)
}

/// The image tokenizer of a checkpoint, or one that is a directory of its own.
///
/// # Errors
/// When there is none, and those of its files.
pub fn image_tokenizer(dir: &Path, device: &Device) -> Result<VqTokenizer> {
    if !dir.is_dir() {
        return Err(Error::file(dir, "no checkpoint: the directory does not exist"));
    }
    let nested = dir.join("vq_tokenizer");
    if nested.is_dir() {
        return Ok(VqTokenizer::load(&nested, device)?);
    }
    if dir.join("tokenizer.json").exists() {
        return Err(Error::file(dir, "the checkpoint has no vq_tokenizer directory"));
    }
    Ok(VqTokenizer::load(dir, device)?)
}

struct Cast(FloatDType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.cast(self.0))
    }
}
