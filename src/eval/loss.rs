//! Loss of a language model on held-out documents, by source and modality.

use serde_json::json;

use super::metrics::perplexity;
use super::report::{Report, SampleRecord};
use super::score::Score;
use crate::error::{Error, Result};
use crate::train::objective::{NextTokenBatch, Targets};

/// A sum of cross-entropies in nats and its number of tokens.
pub type LossSum = (f64, usize);

/// The losses of one document.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DocumentLoss {
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
    /// The losses of each document, in the order of the rows, which does not depend on the batch size.
    pub documents: Vec<DocumentLoss>,
}

/// The result of [`evaluate`].
#[derive(Clone, Debug, PartialEq)]
pub struct LossScores {
    /// The losses of each source.
    pub sources: Vec<SourceLoss>,
}

impl DocumentLoss {
    /// The losses of the documents of `batch` with the losses `nll` of its `targets`, in nats; documents
    /// without a target have none.
    ///
    /// # Panics
    /// If a target lies outside the batch.
    pub fn of_batch(batch: &NextTokenBatch, targets: &Targets, nll: &[f32]) -> Vec<Self> {
        let (packed, mut documents) = (&batch.packed, Vec::new());
        let mut current = None;
        for (target, loss) in nll.iter().enumerate() {
            // The token before a target belongs to the same document.
            let at = targets.predictors[target];
            let document = (at / packed.seq_len, packed.document_ids[at]);
            if current != Some(document) {
                current = Some(document);
                documents.push(Self::default());
            }
            let Some(Self { image, text }) = documents.last_mut() else { continue };
            let sum = if targets.is_image[target] { image } else { text };
            *sum = (sum.0 + f64::from(*loss), sum.1 + 1);
        }
        documents
    }
}

/// The losses of the named `sources` of packed documents; `loss` returns the sums of each document of a
/// batch.
///
/// # Errors
/// If there is no supervised token at all, or a loss is not finite.
pub fn evaluate(
    sources: &[(String, Vec<NextTokenBatch>)],
    mut loss: impl FnMut(&NextTokenBatch) -> Vec<DocumentLoss>,
) -> Result<LossScores> {
    let mut measured = Vec::with_capacity(sources.len());
    for (name, batches) in sources {
        let documents: Vec<DocumentLoss> = batches.iter().flat_map(&mut loss).collect();
        if let Some(bad) = documents.iter().find(|d| !(d.image.0 + d.text.0).is_finite()) {
            let message = format!("{name}: the sum of the losses of a document is {bad:?}");
            return Err(Error::invalid(message));
        }
        measured.push(SourceLoss { name: name.clone(), documents });
    }
    let tokens = |document: &DocumentLoss| document.image.1 + document.text.1;
    if measured.iter().flat_map(|source| &source.documents).map(tokens).sum::<usize>() == 0 {
        return Err(Error::invalid("the documents hold no token to predict"));
    }
    Ok(LossScores { sources: measured })
}

/// Mean losses over `documents` in nats per token, by modality; without modalities that have no token. The
/// tokens of a document depend on each other, so the intervals come from resampling documents.
fn means<'a>(documents: impl Iterator<Item = &'a DocumentLoss>) -> Vec<(&'static str, Score)> {
    let (mut image, mut text, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for document in documents {
        image.push(document.image);
        text.push(document.text);
        all.push((document.image.0 + document.text.0, document.image.1 + document.text.1));
    }
    let scores = [("loss", all), ("image_loss", image), ("text_loss", text)].map(|(name, sums)| {
        let sums: Vec<LossSum> = sums.into_iter().filter(|(_, tokens)| *tokens > 0).collect();
        (name, Score::ratio(&sums))
    });
    scores.into_iter().filter(|(_, score)| score.n > 0).collect()
}

impl LossScores {
    /// `loss`, `image_loss` and `text_loss` over all sources, in nats per token; N counts tokens.
    pub fn overall(&self) -> Vec<(&'static str, Score)> {
        means(self.sources.iter().flat_map(|source| &source.documents))
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
            let means = means(source.documents.iter());
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::data::pack::PackedBatch;

    /// A row of documents of these lengths, with every third token an image code and all but the first
    /// token of a document targets.
    fn row(lens: &[usize], seq_len: usize) -> NextTokenBatch {
        let (mut document_ids, mut positions) = (Vec::new(), Vec::new());
        for (number, len) in (1..).zip(lens) {
            document_ids.extend(vec![number; *len]);
            positions.extend(0..*len as u32);
        }
        document_ids.resize(seq_len, 0);
        positions.resize(seq_len, 0);
        let ids: Vec<u32> = (0..seq_len as u32).collect();
        let loss_mask = positions.iter().map(|position| *position > 0).collect();
        let is_image = ids.iter().map(|id| id % 3 == 0).collect();
        let sources = vec![0; seq_len];
        let packed =
            PackedBatch { ids, document_ids, positions, loss_mask, sources, rows: 1, seq_len };
        NextTokenBatch { packed, is_image }
    }

    #[test]
    fn the_losses_of_documents_do_not_depend_on_the_rows_of_a_batch() {
        // The third document has no target.
        let rows = [row(&[4, 3], 8), row(&[8], 8), row(&[1, 2, 5], 8)];
        let losses = |batches: Vec<NextTokenBatch>| -> Vec<DocumentLoss> {
            let of_one = |batch: &NextTokenBatch| {
                let targets = Targets::of(batch);
                let nll: Vec<f32> = targets.ids.iter().map(|id| 0.25 * *id as f32).collect();
                DocumentLoss::of_batch(batch, &targets, &nll)
            };
            batches.iter().flat_map(of_one).collect()
        };
        let alone = losses(rows.to_vec());
        assert_eq!(alone.len(), 5);
        assert_eq!(alone[0], DocumentLoss { image: (0.75, 1), text: (0.75, 2) });
        for size in 2..=4 {
            assert_eq!(losses(rows.chunks(size).map(NextTokenBatch::joined).collect()), alone);
        }
    }

    #[test]
    fn documents_without_a_modality_do_not_widen_its_interval() {
        let text = |sum| DocumentLoss { text: (sum, 4), ..DocumentLoss::default() };
        let image = |sum| DocumentLoss { image: (sum, 2), ..DocumentLoss::default() };
        let means = |documents: &[DocumentLoss]| means(documents.iter());
        let image_loss = |scores: &[(&str, Score)]| {
            scores.iter().find(|(name, _)| *name == "image_loss").unwrap().1
        };
        let images = [image(1.0), image(2.0), image(4.0)];
        let mixed: Vec<_> = images.into_iter().chain((0..50).map(|n| text(f64::from(n)))).collect();
        assert_eq!(image_loss(&means(&images)), image_loss(&means(&mixed)));
        assert!(means(&[text(1.0)]).iter().all(|(name, _)| *name != "image_loss"));
    }
}
