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
        let requests = |(index, text): (u64, &_)| {
            let seed = config.seed.wrapping_add(index);
            let config = GenerationConfig { seed, ..config.clone() };
            self.drawing_requests(AsRef::<str>::as_ref(text), &config)
        };
        let requests = (0..).zip(texts).map(requests).collect::<Result<Vec<_>>>()?;
        let mut best = Vec::with_capacity(texts.len());
        for (text, mut candidates) in texts.iter().zip(self.draw_all(requests)?) {
            let kept = self.best_drawing(&candidates, text.as_ref())?;
            best.push(candidates.swap_remove(kept));
        }
        Ok(vq.decode(&best)?)
    }

    /// The requests whose images are the candidates for an image of `text`, of which [`best_drawing`](Self::best_drawing)
    /// finds the one to keep.
    ///
    /// # Errors
    /// If the checkpoint cannot decode images, or `config` is out of range.
    pub fn drawing_requests(&self, text: &str, config: &GenerationConfig) -> Result<Vec<Request>> {
        self.drawing_vq()?;
        let prompt = self.drawing_prompt(text, config)?;
        let negative = self.negative_ids(config, None)?;
        Ok(candidates(Request { negative, ..Request::new(prompt, config.clone()) }))
    }

    /// The number of the image of `candidates` for which the model gives `text` the highest probability as a caption.
    ///
    /// # Errors
    /// If an image does not fit the layout of image blocks, or the model fails.
    pub fn best_drawing(&self, candidates: &[Codes], text: &str) -> Result<usize> {
        match candidates.len() {
            1 => Ok(0),
            _ => Ok(highest(&self.caption_log_probabilities(candidates, text)?)),
        }
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
    pub fn size_of(&self, config: &GenerationConfig) -> Result<[usize; 2]> {
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

    /// The images of all requests, group by group, all in one batch.
    ///
    /// # Errors
    /// If a request does not fit the context or its settings are out of range.
    pub(super) fn draw_all(&self, requests: Vec<Vec<Request>>) -> Result<Vec<Vec<Codes>>> {
        let counts: Vec<usize> = requests.iter().map(Vec::len).collect();
        let all = requests.into_iter().flatten().collect();
        let drawn = self.generator()?.run(all, &mut |_, _| Ok(()))?;
        let mut images = drawn.into_iter().flat_map(|generated| generated.images);
        Ok(counts.into_iter().map(|count| images.by_ref().take(count).collect()).collect())
    }
}

/// `request` for one image with the seed of each of its candidates, see [`candidate_seed`].
pub(super) fn candidates(request: Request) -> Vec<Request> {
    let candidate = |index| {
        let mut request = request.clone();
        request.config.mode = GenerationMode::ImageOnly;
        request.config.seed = candidate_seed(request.config.seed, index);
        request
    };
    (0..request.config.candidates).map(candidate).collect()
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
