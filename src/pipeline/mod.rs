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
mod assembler;
mod chat;
mod choices;
mod draw;
mod edit;
mod edit_mask;
mod edit_paste;
mod generate;
mod likelihood;
mod text;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use burn::tensor::Device;
use image::RgbImage;
use vq_tokenizer::{Codes, VqTokenizer};

pub use ask::{Answer, Asking, Shot};
pub use assembler::Assembler;
pub use chat::{
    CallPiece, CallReader, Chat, ChatEvent, Exchange, Question, Reply, Tool, ToolCall, ToolResult,
    Tools,
};
pub use choices::Choices;
pub use edit::{Candidate, EditPlan, EditRequest, EditScore, Edited, Region};
pub use edit_mask::{CellMask, PixelMask};
pub use generate::PipelineEvent;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::generate::{
    Constraint, GenerationConfig, Generator, Grammar, GrammarCompiler, ServingModel, Window,
};
use crate::tokenize::{Processor, PromptTemplates, Template, TokenBytes};

/// A checkpoint ready for use on one device.
#[derive(Debug)]
pub struct Pipeline {
    model: ServingModel,
    processor: Processor,
    vq: Option<VqTokenizer>,
    generation: GenerationConfig,
    prompts: PromptTemplates,
    digest: Option<String>,
    window: Window,
    /// Made for the first stop string.
    token_bytes: OnceLock<Arc<TokenBytes>>,
    /// Made for the first grammar.
    grammars: OnceLock<GrammarCompiler>,
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
        let window = Window::Auto;
        let (token_bytes, grammars) = (OnceLock::new(), OnceLock::new());
        Ok(Self {
            model,
            processor,
            vq,
            generation,
            prompts,
            digest,
            window,
            token_bytes,
            grammars,
        })
    }

    /// The same with as many ids guessed ahead as `window` says; what is generated does not depend on it, unless
    /// [`guess_slack`](GenerationConfig::guess_slack) is above 0.
    #[must_use]
    pub fn with_window(self, window: Window) -> Self {
        Self { window, ..self }
    }

    /// How many ids are guessed ahead.
    pub fn window(&self) -> Window {
        self.window
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
        let generator = Generator::new(&self.model, self.processor.vocabulary(), blocks)?;
        Ok(generator.with_window(self.window))
    }

    /// The bytes of the ids.
    ///
    /// # Errors
    /// If the text tokenizer's decoder refuses an id.
    pub fn token_bytes(&self) -> Result<Arc<TokenBytes>> {
        if let Some(known) = self.token_bytes.get() {
            return Ok(known.clone());
        }
        let bytes = Arc::new(TokenBytes::new(self.processor.text())?);
        Ok(self.token_bytes.get_or_init(|| bytes).clone())
    }

    /// The constraint of a [`Request`](crate::generate::Request) to the texts of `grammar`.
    ///
    /// # Errors
    /// If the grammar is malformed or too large, the vocabulary cannot write its texts, or the build lacks
    /// the feature `grammar`.
    pub fn constraint(&self, grammar: &Grammar) -> Result<Box<dyn Constraint>> {
        let compiler = match self.grammars.get() {
            Some(compiler) => compiler,
            None => {
                let compiler = GrammarCompiler::new(&self.processor)?;
                self.grammars.get_or_init(|| compiler)
            }
        };
        compiler.constraint(grammar)
    }

    /// The codes of `images`; equal images are encoded once.
    fn encode(&self, images: &[RgbImage]) -> Result<Vec<Codes>> {
        // The image tokenizer refuses an empty batch.
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let (mut distinct, mut known) = (Vec::new(), HashMap::new());
        let place = |image| {
            *known.entry(image).or_insert_with(|| {
                distinct.push(RgbImage::clone(image));
                distinct.len() - 1
            })
        };
        let places: Vec<usize> = images.iter().map(place).collect();
        let codes = self.vq()?.encode(&distinct)?;
        Ok(places.into_iter().map(|place| codes[place].clone()).collect())
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
