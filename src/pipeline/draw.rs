//! Images generated from texts.

use image::RgbImage;
use vq_tokenizer::Codes;

use super::Pipeline;
use crate::error::Result;
use crate::generate::{GenerationConfig, GenerationMode, Request};

impl Pipeline {
    /// An image of `text`, with the checkpoint's settings.
    ///
    /// # Errors
    /// As [`draw_batch`](Self::draw_batch).
    pub fn draw(&self, text: &str) -> Result<RgbImage> {
        self.draw_batch(&[text], &self.generation).map(|mut images| images.remove(0))
    }

    /// An image of each of `texts`, all in one batch; text `i` has the seed `config.seed + i`, so
    /// equal texts give different images. With several `candidates`, each text keeps the image for
    /// which the model gives it the highest probability as a caption.
    ///
    /// # Errors
    /// If the checkpoint cannot decode images, a prompt does not fit the context, or `config` is out
    /// of range.
    pub fn draw_batch(
        &self,
        texts: &[impl AsRef<str>],
        config: &GenerationConfig,
    ) -> Result<Vec<RgbImage>> {
        let vq = self.drawing_vq()?;
        let request = |(index, text): (u64, &_)| {
            let prompt = self.drawing_prompt(AsRef::<str>::as_ref(text), config)?;
            let seed = config.seed.wrapping_add(index);
            let config = GenerationConfig { seed, ..config.clone() };
            let negative = self.negative_ids(&config, None)?;
            Ok(Request { negative, ..Request::new(prompt, config) })
        };
        let requests = (0..).zip(texts).map(request).collect::<Result<Vec<_>>>()?;
        let mut best = Vec::with_capacity(texts.len());
        for (text, mut candidates) in texts.iter().zip(self.draw_candidates(&requests)?) {
            let kept = match candidates.len() {
                1 => 0,
                _ => highest(&self.caption_log_probabilities(&candidates, text.as_ref())?),
            };
            best.push(candidates.swap_remove(kept));
        }
        Ok(vq.decode(&best)?)
    }

    /// The ids after which an image of `text` with the settings `config` is drawn: those of the prompt and, where the
    /// prompt is to say the size, begin-image and the size.
    ///
    /// # Errors
    /// If `config` is out of range, or asks for an aspect that images do not have.
    pub fn drawing_prompt(&self, text: &str, config: &GenerationConfig) -> Result<Vec<u32>> {
        let mut prompt = self.draw_prompt(text, self.size_of(config)?)?;
        prompt.extend(self.opened_block(config)?);
        Ok(prompt)
    }

    /// The ids of the prompt that asks for an image of `text` with `[width, height]` pixels.
    pub(super) fn draw_prompt(&self, text: &str, size: [usize; 2]) -> Result<Vec<u32>> {
        self.processor.encode(&self.prompts.drawing(text, size)?)
    }

    /// Rows and columns of an image with the settings `config`.
    fn grid(&self, config: &GenerationConfig) -> Result<(usize, usize)> {
        let blocks = self.processor.blocks();
        config.aspect.map_or(Ok(blocks.grid()), |aspect| blocks.grid_of_aspect(aspect))
    }

    /// Width and height in pixels of an image of so many rows and columns of codes.
    pub(super) fn image_size(&self, (rows, columns): (usize, usize)) -> [usize; 2] {
        let side = self.vq.as_ref().map_or(1, |vq| vq.config().downsampling());
        [columns * side, rows * side]
    }

    /// Width and height in pixels of an image with the settings `config`.
    ///
    /// # Errors
    /// If they are out of range, or ask for an aspect, and images have one size or none of that shape.
    pub(super) fn size_of(&self, config: &GenerationConfig) -> Result<[usize; 2]> {
        config.validate()?;
        Ok(self.image_size(self.grid(config)?))
    }

    /// Begin-image and the size of an image with the settings `config`, if the prompt is to say it.
    fn opened_block(&self, config: &GenerationConfig) -> Result<Vec<u32>> {
        let blocks = self.processor.blocks();
        if config.aspect.is_none() && !blocks.are_sized_by_prompt() {
            return Ok(Vec::new());
        }
        let grid = self.grid(config)?;
        let begin = self.processor.vocabulary().special().begin_image;
        Ok(begin.into_iter().chain(blocks.opening(grid)?).collect())
    }

    /// The ids of the negative prompt in `config` for an image of `[width, height]` pixels, or as large as `config` says;
    /// none without one.
    pub(super) fn negative_ids(
        &self,
        config: &GenerationConfig,
        size: Option<[usize; 2]>,
    ) -> Result<Vec<u32>> {
        if config.negative_prompt.is_empty() {
            return Ok(Vec::new());
        }
        let size = size.map_or_else(|| self.size_of(config), Ok)?;
        self.processor.encode(&self.prompts.negative(&config.negative_prompt, size)?)
    }

    /// The images of each request, as many as its settings have candidates, all in one batch;
    /// candidate `k` has the seed [`candidate_seed`].
    ///
    /// # Errors
    /// If a request does not fit the context or its settings are out of range.
    pub(super) fn draw_candidates(&self, requests: &[Request]) -> Result<Vec<Vec<Codes>>> {
        let mut all = Vec::new();
        for request in requests {
            request.config.validate()?;
            all.extend((0..request.config.candidates).map(|index| {
                let mut request = request.clone();
                request.config.mode = GenerationMode::ImageOnly;
                request.config.seed = candidate_seed(request.config.seed, index);
                request
            }));
        }
        let drawn = self.generator()?.run(all, &mut |_, _| Ok(()))?;
        let mut images = drawn.into_iter().flat_map(|generated| generated.images);
        let of_one = |request: &Request| images.by_ref().take(request.config.candidates).collect();
        Ok(requests.iter().map(of_one).collect())
    }
}

/// The seed of candidate `index` of a request with `seed`: far from the seeds of other texts, so that an
/// image depends on its own seed only.
pub(super) fn candidate_seed(seed: u64, index: usize) -> u64 {
    seed.wrapping_add((index as u64) << 32)
}

/// The position of the highest of `scores`, the first one of ties; 0 without scores.
pub(super) fn highest(scores: &[f64]) -> usize {
    let mut best = 0;
    for (at, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = at;
        }
    }
    best
}
