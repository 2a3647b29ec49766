//! Loss of a language model on held-out documents, by source and modality.

use serde_json::json;

use super::metrics::perplexity;
use super::report::{Report, SampleRecord};
use super::score::Score;
use crate::error::{Error, Result};
use crate::train::objective::NextTokenBatch;

/// A sum of cross-entropies in nats and its number of tokens.
pub type LossSum = (f64, usize);

/// The losses of one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchLoss {
    /// Over image codes.
    pub image: LossSum,
    /// Over all other tokens.
    pub text: LossSum,
}

/// The losses of one source of documents.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceLoss {
    /// The source's name.
    pub name: String,
    /// The losses of each batch.
    pub batches: Vec<BatchLoss>,
}

/// The result of [`evaluate`].
#[derive(Clone, Debug, PartialEq)]
pub struct LossScores {
    /// The losses of each source.
    pub sources: Vec<SourceLoss>,
}

/// The losses of the named `sources` of packed documents; `loss` returns the sums of one batch.
///
/// # Errors
/// If there is no supervised token at all, or a loss is not finite.
pub fn evaluate(
    sources: &[(String, Vec<NextTokenBatch>)],
    mut loss: impl FnMut(&NextTokenBatch) -> BatchLoss,
) -> Result<LossScores> {
    let mut measured = Vec::with_capacity(sources.len());
    for (name, batches) in sources {
        let batches: Vec<BatchLoss> = batches.iter().map(&mut loss).collect();
        if let Some(bad) = batches.iter().find(|b| !(b.image.0 + b.text.0).is_finite()) {
            let message = format!("{name}: the sum of the losses of a batch is {bad:?}");
            return Err(Error::invalid(message));
        }
        measured.push(SourceLoss { name: name.clone(), batches });
    }
    let tokens = |batch: &BatchLoss| batch.image.1 + batch.text.1;
    if measured.iter().flat_map(|source| &source.batches).map(tokens).sum::<usize>() == 0 {
        return Err(Error::invalid("the documents hold no token to predict"));
    }
    Ok(LossScores { sources: measured })
}

/// Mean losses over `batches` in nats per token, by modality; without modalities that have no token.
fn means<'a>(batches: impl Iterator<Item = &'a BatchLoss>) -> Vec<(&'static str, Score)> {
    let (mut image, mut text, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for batch in batches {
        image.push(batch.image);
        text.push(batch.text);
        all.push((batch.image.0 + batch.text.0, batch.image.1 + batch.text.1));
    }
    let scores = [("loss", all), ("image_loss", image), ("text_loss", text)];
    let scores = scores.map(|(name, sums)| (name, Score::ratio(&sums)));
    scores.into_iter().filter(|(_, score)| score.n > 0).collect()
}

impl LossScores {
    /// `loss`, `image_loss` and `text_loss` over all sources, in nats per token; N counts tokens.
    pub fn overall(&self) -> Vec<(&'static str, Score)> {
        means(self.sources.iter().flat_map(|source| &source.batches))
    }

    /// The scores as a report on the data set called `dataset`: over all sources, with the
    /// perplexity of text; then by source as `loss/SOURCE` if there are several.
    pub fn report(self, dataset: &str) -> Report {
        let named = |(name, score): (&str, Score)| (name.to_owned(), score);
        let mut scores: Vec<_> = self.overall().into_iter().map(named).collect();
        let text = scores.iter().find(|(name, _)| name == "text_loss").map(|(_, score)| *score);
        let of_text = |text: Score| {
            let value = perplexity(text.value * text.n as f64, text.n)?;
            Some(("text_perplexity".to_owned(), Score::whole(value, text.n)))
        };
        scores.extend(text.and_then(of_text));
        let mut samples = Vec::new();
        for (doc_id, source) in self.sources.iter().enumerate() {
            let means = means(source.batches.iter());
            samples.push(SampleRecord {
                doc_id,
                id: source.name.clone(),
                target: json!(source.name),
                scores: means.iter().map(|(name, score)| (*name, score.value)).collect(),
                ..SampleRecord::default()
            });
            if self.sources.len() > 1 {
                let name = |name: &str| format!("{name}/{}", source.name);
                scores.extend(means.into_iter().map(|(of, score)| (name(of), score)));
            }
        }
        Report { task: "loss", dataset: dataset.to_owned(), scores, samples, ..Report::default() }
    }
}
