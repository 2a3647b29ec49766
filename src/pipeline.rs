//! An opened checkpoint at work: text and images in, text and images out.
//!
//! What programs use: it joins the image tokenizer, the text tokenizer, the language model and the
//! generator, and knows the prompts that the checkpoint was trained on.
//!
//! ```
//! use calumma::pipeline::Pipeline;
//!
//! let device = burn::tensor::Device::flex();
//! let pipeline = Pipeline::open("checkpoints/demo".as_ref(), &device)?;
//! let image = pipeline.draw("a large red circle on a white background")?;
//! println!("{}", pipeline.ask(&image, "what color is the circle?")?); // red
//! # Ok::<(), calumma::Error>(())
//! ```

use std::path::Path;

use burn::tensor::Device;
use image::RgbImage;
use vq_tokenizer::{Codes, VqTokenizer};

mod asking;

pub use asking::{Asking, Choices, Shot};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::generate::sampling::log_probability;
use crate::generate::{EndReason, Event, GenerationConfig, GenerationMode, Generator, PromptForms};
use crate::model::ServingModel;
use crate::tokenize::{CodedSegment, Processor, Segment, StreamDecoder};

/// What happens while a prompt is continued, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum PipelineEvent {
    /// More text; whole characters, never empty.
    Text(String),
    /// An image was begun.
    ImageStart,
    /// A code of the image was drawn.
    ImageProgress {
        /// Codes that the image has by now.
        done: usize,
        /// Codes that it will have.
        total: usize,
    },
    /// An image is complete.
    Image(RgbImage),
    /// Nothing follows.
    End(EndReason),
}

/// What is said where an image is asked of a checkpoint that came without the decoder.
pub const NO_DECODER: &str = "this checkpoint has no VQGAN decoder, so it cannot draw: fetch \
    tokenizer/vqgan.ckpt and tokenizer/vqgan.yaml of the original release (or of Anole), and add them with \
    `calumma import CHECKPOINT --vqgan tokenizer/vqgan.ckpt`";

/// A checkpoint ready for work on one device.
#[derive(Debug)]
pub struct Pipeline {
    model: ServingModel,
    processor: Processor,
    vq: Option<VqTokenizer>,
    generation: GenerationConfig,
    prompts: PromptForms,
    digest: Option<String>,
}

impl Pipeline {
    /// Opens the checkpoint in the directory `dir`.
    ///
    /// # Errors
    /// When a file is missing, malformed or does not fit the others; the message names it.
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        Self::new(Checkpoint::open(dir, device)?, device)
    }

    /// Takes a checkpoint that is open already; its weights lie on `device`.
    ///
    /// # Errors
    /// When its prompt forms or generation settings are unusable.
    pub fn new(checkpoint: Checkpoint, device: &Device) -> Result<Self> {
        let Checkpoint { config, model, processor, vq, generation, prompts, digest } = checkpoint;
        prompts.validate()?;
        generation.validate()?;
        let model = ServingModel::new(config, model, device.clone());
        Ok(Self { model, processor, vq, generation, prompts, digest })
    }

    /// Continues `prompt`; `on_event` hears of every step at once, and its error ends the work.
    /// Returns what was added. Without an image tokenizer, or its decoder, no image is begun.
    ///
    /// # Errors
    /// When an image cannot be encoded, the prompt does not fit the context, `config` is out of
    /// range, or with the error of `on_event`.
    pub fn generate(
        &self,
        prompt: &[Segment],
        config: &GenerationConfig,
        on_event: impl FnMut(PipelineEvent) -> Result<()>,
    ) -> Result<Vec<Segment>> {
        let images: Vec<RgbImage> = prompt
            .iter()
            .filter_map(|segment| match segment {
                Segment::Image(image) => Some(image.clone()),
                Segment::Text(_) => None,
            })
            .collect();
        let mut codes = self.encode(&images)?.into_iter();
        let coded = |segment: &Segment| match segment {
            Segment::Text(text) => CodedSegment::Text(text.clone()),
            Segment::Image(_) => {
                CodedSegment::Image(codes.next().expect("every image was encoded"))
            }
        };
        let segments: Vec<CodedSegment> = prompt.iter().map(coded).collect();
        self.generate_from_ids(&self.processor.encode(&segments)?, config, on_event)
    }

    /// As [`generate`](Self::generate), for a prompt that is ids already, such as a chat's.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_from_ids(
        &self,
        prompt: &[u32],
        config: &GenerationConfig,
        on_event: impl FnMut(PipelineEvent) -> Result<()>,
    ) -> Result<Vec<Segment>> {
        let mut config = config.clone();
        match (config.mode, self.drawing_vq()) {
            (GenerationMode::ImageOnly, vq) => {
                vq?;
            }
            (GenerationMode::Auto, Err(_)) => config.mode = GenerationMode::TextOnly,
            _ => {}
        }
        let mut narrator = Narrator {
            pipeline: self,
            stream: self.processor.text().stream(),
            text: String::new(),
            segments: Vec::new(),
            on_event,
        };
        self.generator()?.generate(prompt, &config, |event| narrator.hear(event))?;
        Ok(narrator.segments)
    }

    /// A caption of `image`: the most likely one, with the checkpoint's other settings.
    ///
    /// # Errors
    /// As [`caption_batch`](Self::caption_batch).
    pub fn caption(&self, image: &RgbImage) -> Result<String> {
        let config = self.generation.clone().for_answers();
        self.caption_batch(std::slice::from_ref(image), &config).map(|mut texts| texts.remove(0))
    }

    /// A caption of each of `images`, all in one batch.
    ///
    /// # Errors
    /// When an image cannot be encoded or the checkpoint's prompt does not fit.
    pub fn caption_batch(
        &self,
        images: &[RgbImage],
        config: &GenerationConfig,
    ) -> Result<Vec<String>> {
        let questions = vec![""; images.len()];
        self.asking(&self.prompts.caption, &[])?.answer(images, &questions, config)
    }

    /// The most likely answer to `question` about `image`.
    ///
    /// # Errors
    /// As [`ask_batch`](Self::ask_batch).
    pub fn ask(&self, image: &RgbImage, question: &str) -> Result<String> {
        let config = self.generation.clone().for_answers();
        let image = std::slice::from_ref(image);
        self.ask_batch(image, &[question], &config).map(|mut texts| texts.remove(0))
    }

    /// The answer to each of `questions` about the image at the same place of `images`, all in
    /// one batch.
    ///
    /// # Errors
    /// When there are not as many images as questions, an image cannot be encoded or a prompt
    /// does not fit.
    pub fn ask_batch(
        &self,
        images: &[RgbImage],
        questions: &[impl AsRef<str>],
        config: &GenerationConfig,
    ) -> Result<Vec<String>> {
        self.asking(&self.prompts.ask, &[])?.answer(images, questions, config)
    }

    /// An image of `text`, with the checkpoint's settings.
    ///
    /// # Errors
    /// As [`draw_batch`](Self::draw_batch).
    pub fn draw(&self, text: &str) -> Result<RgbImage> {
        self.draw_batch(&[text], &self.generation).map(|mut images| images.remove(0))
    }

    /// An image of each of `texts`, all in one batch; the first has the seed of `config`, each
    /// of the others one more. A text given twice is drawn twice. With several `candidates` all are
    /// drawn, the further ones from seeds far from those, and each text gets the one of which the model
    /// thinks it the likeliest caption.
    ///
    /// # Errors
    /// When a prompt does not fit or `config` is out of range.
    pub fn draw_batch(
        &self,
        texts: &[impl AsRef<str>],
        config: &GenerationConfig,
    ) -> Result<Vec<RgbImage>> {
        let fill = |text: &_| {
            let text = AsRef::<str>::as_ref(text);
            self.fill(&self.prompts.draw, &[("text", text)], None)
        };
        let prompts = texts.iter().map(fill).collect::<Result<Vec<_>>>()?;
        let vq = self.drawing_vq()?;
        let rounds = config.candidates.max(1);
        let mut codes = Vec::with_capacity(rounds * texts.len());
        for round in 0..rounds as u64 {
            // Far from the seeds of other texts, so that an image depends on its own seed alone.
            let seed = config.seed.wrapping_add(round << 32);
            let config = GenerationConfig { seed, ..config.clone() };
            codes.extend(self.generator()?.draw_batch(&prompts, &config)?);
        }
        if rounds == 1 {
            return Ok(vq.decode(&codes)?);
        }
        let mut kept = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let mut best: Option<(f64, &Codes)> = None;
            for codes in codes.iter().skip(index).step_by(texts.len()) {
                let fit = self.caption_fit(codes, text.as_ref())?;
                if best.is_none_or(|(highest, _)| fit > highest) {
                    best = Some((fit, codes));
                }
            }
            kept.extend(best.map(|(_, codes)| codes.clone()));
        }
        Ok(vq.decode(&kept)?)
    }

    /// The log-probability, in nats, of `text` as a caption of the image in `codes`.
    fn caption_fit(&self, codes: &Codes, text: &str) -> Result<f64> {
        let mut row = self.fill(&self.prompts.caption, &[], Some(codes.clone()))?;
        let start = row.len();
        row.extend(self.processor.text().encode_plain(text)?);
        let logits = self.model.all_logits(&row)?;
        let of_text = logits[start - 1..].iter().zip(&row[start..]);
        Ok(of_text.map(|(logits, &id)| log_probability(logits, id)).sum())
    }

    /// The language model.
    pub fn model(&self) -> &ServingModel {
        &self.model
    }

    /// The seam between segments and ids.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// The image tokenizer.
    ///
    /// # Errors
    /// When the checkpoint came without one.
    pub fn vq(&self) -> Result<&VqTokenizer> {
        self.vq.as_ref().ok_or_else(|| {
            Error::invalid("the checkpoint has no image tokenizer, so it takes text only")
        })
    }

    /// The image tokenizer, if it can draw.
    ///
    /// # Errors
    /// When there is none or it has no decoder; says which file to add, and how.
    pub fn drawing_vq(&self) -> Result<&VqTokenizer> {
        let vq = self.vq()?;
        if vq.has_decoder() { Ok(vq) } else { Err(Error::invalid(NO_DECODER)) }
    }

    /// The settings that the checkpoint comes with.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// The prompts that the checkpoint was trained on.
    pub fn prompts(&self) -> &PromptForms {
        &self.prompts
    }

    /// A short digest of the checkpoint's files; `None` without a manifest.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The generator over ids, for work that the methods above do not cover.
    ///
    /// # Errors
    /// When model and vocabulary do not fit each other.
    pub fn generator(&self) -> Result<Generator<'_, ServingModel>> {
        let blocks = self.processor.blocks().clone();
        Generator::new(&self.model, self.processor.vocabulary(), blocks)
    }

    fn encode(&self, images: &[RgbImage]) -> Result<Vec<Codes>> {
        // A batch of no images is none for the image tokenizer.
        if images.is_empty() { Ok(Vec::new()) } else { Ok(self.vq()?.encode(images)?) }
    }

    /// The ids of a prompt form.
    fn fill(&self, form: &str, values: &[(&str, &str)], image: Option<Codes>) -> Result<Vec<u32>> {
        self.processor.encode(&asking::segments(form, values, image)?)
    }

    fn answer(&self, prompts: &[Vec<u32>], config: &GenerationConfig) -> Result<Vec<String>> {
        let rows = self.generator()?.answer_batch(prompts, config)?;
        // Stop ids show nothing as text.
        let text = |ids: &[u32]| Ok(self.processor.text().decode(ids)?.trim().to_owned());
        rows.iter().map(|row| text(&row.ids)).collect()
    }
}

/// Turns events over ids into events over text and images, and collects what they add up to.
struct Narrator<'a, F> {
    pipeline: &'a Pipeline,
    stream: StreamDecoder<'a>,
    /// Text since the last image.
    text: String,
    segments: Vec<Segment>,
    on_event: F,
}

impl<F: FnMut(PipelineEvent) -> Result<()>> Narrator<'_, F> {
    fn hear(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Text(id) => {
                let chunk = self.stream.push(id)?;
                self.say(chunk)
            }
            Event::ImageStart => {
                self.end_text()?;
                (self.on_event)(PipelineEvent::ImageStart)
            }
            Event::ImageProgress { done, total } => {
                (self.on_event)(PipelineEvent::ImageProgress { done, total })
            }
            Event::Image(codes) => {
                for image in self.pipeline.vq()?.decode(std::slice::from_ref(&codes))? {
                    self.segments.push(Segment::Image(image.clone()));
                    (self.on_event)(PipelineEvent::Image(image))?;
                }
                Ok(())
            }
            Event::End(reason) => {
                self.end_text()?;
                (self.on_event)(PipelineEvent::End(reason))
            }
        }
    }

    fn say(&mut self, chunk: String) -> Result<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.text.push_str(&chunk);
        (self.on_event)(PipelineEvent::Text(chunk))
    }

    fn end_text(&mut self) -> Result<()> {
        let rest = self.stream.finish()?;
        self.say(rest)?;
        if !self.text.is_empty() {
            self.segments.push(Segment::Text(std::mem::take(&mut self.text)));
        }
        Ok(())
    }
}
