//! Multiple choice: the most likely of given answers.

use image::RgbImage;

use super::Pipeline;
use super::ask::Asking;
use crate::error::{Error, Result};

/// The answers to choose from, encoded once.
#[derive(Clone, Debug)]
pub struct Choices {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    /// The divisor of each log-probability.
    lengths: Vec<f64>,
}

impl Choices {
    /// The choices `texts`. If one is the beginning of another, the separator that ends an answer
    /// counts with all of them. `by_length` compares log-probabilities per byte of text, as
    /// lm-evaluation-harness's `acc_norm` does: short choices are likely whatever the image, so
    /// choices of different lengths need it.
    ///
    /// # Errors
    /// If there is no choice, or an empty one.
    pub fn new(pipeline: &Pipeline, texts: Vec<String>, by_length: bool) -> Result<Self> {
        let encode = |choice: &String| pipeline.processor.text().encode_plain(choice);
        let mut ids = texts.iter().map(encode).collect::<Result<Vec<_>>>()?;
        if ids.is_empty() || ids.iter().any(Vec::is_empty) {
            let message = "nothing to choose from, or an empty choice; each needs some text";
            return Err(Error::invalid(message));
        }
        // In order, a choice is directly followed by those that begin with it.
        let mut sorted: Vec<&Vec<u32>> = ids.iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.windows(2).any(|pair| pair[1].starts_with(pair[0])) {
            let special = pipeline.processor.vocabulary().special();
            let end = special.sep.unwrap_or(special.eos);
            ids.iter_mut().for_each(|choice| choice.push(end));
        }
        let length = |text: &String| if by_length { text.len() as f64 } else { 1.0 };
        let lengths = texts.iter().map(length).collect();
        Ok(Self { texts, ids, lengths })
    }

    /// The texts of the choices.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }
}

impl Asking<'_> {
    /// For `questions[i]` about `images[i]`, the most likely of `choices`: the one with the highest
    /// sum of log-probabilities of its ids, as in lm-evaluation-harness's `acc`, or of that sum per
    /// byte; the first one of ties.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    pub fn choose(
        &self,
        images: &[RgbImage],
        questions: &[impl AsRef<str>],
        choices: &Choices,
    ) -> Result<Vec<String>> {
        let prompts = self.prompts(images, questions)?;
        let best = |prompt: &Vec<u32>| -> Result<String> {
            let mut best: Option<(f64, usize)> = None;
            let fits = self.pipeline.model.log_probabilities(prompt, &choices.ids)?;
            let fits = fits.into_iter().zip(&choices.lengths).map(|(fit, length)| fit / length);
            for (number, fit) in fits.enumerate() {
                if best.is_none_or(|(highest, _)| fit > highest) {
                    best = Some((fit, number));
                }
            }
            let (_, number) = best.expect("there is a choice");
            Ok(choices.texts[number].clone())
        };
        prompts.iter().map(best).collect()
    }
}
