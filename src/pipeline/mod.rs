//! An opened checkpoint: text and images in, text and images out.
//!
//! The interface for programs. It joins the image tokenizer, the text tokenizer, the language model
//! and the generator, and knows the prompts that the checkpoint was trained on.
//!
//! ```
//! use calumma::device::DeviceSpec;
//! use calumma::pipeline::Pipeline;
//!
//! let device = DeviceSpec::Cpu.open()?;
//! let pipeline = Pipeline::open("checkpoints/demo".as_ref(), &device)?;
//! let image = pipeline.draw("a large red circle on a white background")?;
//! println!("{}", pipeline.ask(&image, "what color is the circle?")?); // red
//! # Ok::<(), calumma::Error>(())
//! ```

mod ask;
mod chat;
mod choices;
mod draw;
mod generate;

use std::path::Path;

use burn::tensor::Device;
use image::RgbImage;
use vq_tokenizer::{Codes, VqTokenizer};

pub use ask::{Asking, Shot};
pub use chat::{Chat, ChatEvent, Exchange, Question, Reply};
pub use choices::Choices;
pub use generate::PipelineEvent;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::generate::{GenerationConfig, Generator, ServingModel};
use crate::tokenize::{Processor, PromptTemplates, Template};

/// A checkpoint ready for use on one device.
#[derive(Debug)]
pub struct Pipeline {
    model: ServingModel,
    processor: Processor,
    vq: Option<VqTokenizer>,
    generation: GenerationConfig,
    prompts: PromptTemplates,
    digest: Option<String>,
}

impl Pipeline {
    /// Opens the checkpoint in the directory `dir`.
    ///
    /// # Errors
    /// If a file is missing, malformed or does not fit the others; the message names it.
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        Self::new(Checkpoint::open(dir, device)?, device)
    }

    /// The pipeline of an opened checkpoint, whose weights are on `device`.
    ///
    /// # Errors
    /// If its prompt templates or generation settings are unusable.
    pub fn new(checkpoint: Checkpoint, device: &Device) -> Result<Self> {
        let Checkpoint { config, model, processor, vq, generation, prompts, digest } = checkpoint;
        prompts.validate()?;
        generation.validate()?;
        let model = ServingModel::new(config, model, device.clone());
        Ok(Self { model, processor, vq, generation, prompts, digest })
    }

    /// The language model.
    pub fn model(&self) -> &ServingModel {
        &self.model
    }

    /// The processor between segments and ids.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// The image tokenizer.
    ///
    /// # Errors
    /// [`Error::NoImageTokenizer`] if the checkpoint has none.
    pub fn vq(&self) -> Result<&VqTokenizer> {
        self.vq.as_ref().ok_or(Error::NoImageTokenizer)
    }

    /// The image tokenizer, if it can decode.
    ///
    /// # Errors
    /// [`Error::NoImageTokenizer`] or [`Error::NoImageDecoder`], which says which file to add.
    pub fn drawing_vq(&self) -> Result<&VqTokenizer> {
        self.vq().and_then(|vq| if vq.has_decoder() { Ok(vq) } else { Err(Error::NoImageDecoder) })
    }

    /// The generation settings of the checkpoint.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// The prompt templates that the checkpoint was trained on.
    pub fn prompts(&self) -> &PromptTemplates {
        &self.prompts
    }

    /// A short digest of the checkpoint's files; `None` without a manifest.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The generator over ids, for what the other methods do not cover.
    ///
    /// # Errors
    /// If model and vocabulary do not fit each other.
    pub fn generator(&self) -> Result<Generator<'_, ServingModel>> {
        let blocks = self.processor.blocks().clone();
        Generator::new(&self.model, self.processor.vocabulary(), blocks)
    }

    /// The codes of `images`.
    fn encode(&self, images: &[RgbImage]) -> Result<Vec<Codes>> {
        // The image tokenizer refuses an empty batch.
        if images.is_empty() { Ok(Vec::new()) } else { Ok(self.vq()?.encode(images)?) }
    }

    /// The ids of a prompt template with `values` and `images`.
    fn prompt_ids(
        &self,
        template: &str,
        values: &[(&str, &str)],
        images: Vec<Codes>,
    ) -> Result<Vec<u32>> {
        self.processor.encode(&Template::prompt(template)?.fill(values, images)?)
    }
}
