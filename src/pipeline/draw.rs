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
            let prompt = self.draw_prompt(AsRef::<str>::as_ref(text))?;
            let seed = config.seed.wrapping_add(index);
            Ok(Request::new(prompt, GenerationConfig { seed, ..config.clone() }))
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

    /// The ids of the prompt that asks for an image of `text`.
    pub(super) fn draw_prompt(&self, text: &str) -> Result<Vec<u32>> {
        self.prompt_ids(&self.prompts.draw, &[("text", text)], vec![])
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
