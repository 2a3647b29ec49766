//! Images generated from texts.

use image::RgbImage;
use vq_tokenizer::Codes;

use super::Pipeline;
use crate::error::Result;
use crate::generate::GenerationConfig;
use crate::generate::sampling::log_probability;

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
        let prompt = |text: &_| {
            let text = AsRef::<str>::as_ref(text);
            self.prompt_ids(&self.prompts.draw, &[("text", text)], vec![])
        };
        let prompts = texts.iter().map(prompt).collect::<Result<Vec<_>>>()?;
        let vq = self.drawing_vq()?;
        let rounds = config.candidates.max(1);
        let mut codes = Vec::with_capacity(rounds * texts.len());
        for round in 0..rounds as u64 {
            // Far from the seeds of other texts, so that an image depends on its own seed only.
            let seed = config.seed.wrapping_add(round << 32);
            let config = GenerationConfig { seed, ..config.clone() };
            codes.extend(self.generator()?.draw_batch(&prompts, &config)?);
        }
        if rounds == 1 {
            return Ok(vq.decode(&codes)?);
        }
        let mut best = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let candidates = codes.iter().skip(index).step_by(texts.len());
            best.extend(self.best_candidate(candidates, text.as_ref())?);
        }
        Ok(vq.decode(&best)?)
    }

    /// The image for which `text` is the most likely caption; the first one of ties.
    fn best_candidate<'c>(
        &self,
        candidates: impl Iterator<Item = &'c Codes>,
        text: &str,
    ) -> Result<Option<Codes>> {
        let mut best: Option<(f64, &Codes)> = None;
        for codes in candidates {
            let fit = self.caption_log_probability(codes, text)?;
            if best.is_none_or(|(highest, _)| fit > highest) {
                best = Some((fit, codes));
            }
        }
        Ok(best.map(|(_, codes)| codes.clone()))
    }

    /// The log-probability, in nats, of `text` as a caption of the image in `codes`.
    fn caption_log_probability(&self, codes: &Codes, text: &str) -> Result<f64> {
        let mut row = self.prompt_ids(&self.prompts.caption, &[], vec![codes.clone()])?;
        let start = row.len();
        row.extend(self.processor.text().encode_plain(text)?);
        let logits = self.model.all_logits(&row)?;
        let of_text = logits[start - 1..].iter().zip(&row[start..]);
        Ok(of_text.map(|(logits, &id)| log_probability(logits, id)).sum())
    }
}
