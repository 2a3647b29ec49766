//! Held-out loss of a language model, by source and modality.

use serde_json::json;

use super::metrics::perplexity;
use super::report::{Report, SampleRecord};
use super::score::Score;
use crate::error::{Error, Result};
use crate::train::objective::NextTokenBatch;

/// A sum of cross-entropies in nats and the number of tokens it is over.
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
    /// What the source is called.
    pub name: String,
    /// Batch by batch.
    pub batches: Vec<BatchLoss>,
}

/// What [`evaluate`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct LossScores {
    /// By source.
    pub sources: Vec<SourceLoss>,
}

/// Measures the named `sources`, whose documents are packed already; `loss` gives the sums of one
/// batch. Batches come from [`crate::data::validation_batches`].
///
/// # Errors
/// When there is no supervised token at all, or a loss is no number.
pub fn evaluate(
    sources: &[(String, Vec<NextTokenBatch>)],
    mut loss: impl FnMut(&NextTokenBatch) -> BatchLoss,
) -> Result<LossScores> {
    let mut measured = Vec::with_capacity(sources.len());
    for (name, batches) in sources {
        let batches: Vec<BatchLoss> = batches.iter().map(&mut loss).collect();
        if let Some(bad) = batches.iter().find(|b| !(b.image.0 + b.text.0).is_finite()) {
            let message = format!("{name}: the sum of the losses of a batch is {:?}", bad);
            return Err(Error::invalid(message));
        }
        measured.push(SourceLoss { name: name.clone(), batches });
    }
    let tokens = |batch: &BatchLoss| batch.image.1 + batch.text.1;
    if measured.iter().flat_map(|source| &source.batches).map(tokens).sum::<usize>() == 0 {
        return Err(Error::invalid("the documents hold no token to predict".to_owned()));
    }
    Ok(LossScores { sources: measured })
}

/// Mean losses in nats per token over `batches`, by modality; absent ones are left out.
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

    /// The scores as a report on what is called `dataset`: over all sources, with the perplexity of text, then, where there are
    /// several, by source as `loss/SOURCE`.
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
