//! The pairs of all sources as ids.

use std::sync::Arc;

use super::scoring::Scoring;
use crate::data::{
    AnswerLayout, DocumentContent, DocumentData, Encoding, LeftOut, PreferencePair, Preferences,
    Weight,
};
use crate::error::{Error, Result};
use crate::tokenize::{Processor, TokenSequence};

/// A prompt with a chosen and a rejected answer.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    /// Prompt and answer, first the chosen one; the targets are the answer.
    pub(super) documents: [TokenSequence; 2],
}

/// The pairs of the sources in `configs`, and what was left out.
///
/// # Errors
/// Those of the data; [`Error::Invalid`] if a source holds no pairs, or none of them fits `seq_len` tokens.
pub(super) fn open(
    configs: &[DocumentData],
    encoding: Encoding<'_>,
    processor: &Arc<Processor>,
    scoring: &Scoring,
    seq_len: usize,
) -> Result<(Vec<Comparison>, Vec<LeftOut>)> {
    let (mut all, mut all_left_out) = (Vec::new(), Vec::new());
    for config in configs {
        let label = config.label().to_owned();
        let DocumentContent::Samples(source, template) = &config.content else {
            let message =
                format!("data {label}: token shards hold no pairs; name the rows themselves");
            return Err(Error::invalid(message));
        };
        if config.weight != Weight::default() {
            let message =
                format!("data {label}: weight is not read; every pair is taken once an epoch");
            return Err(Error::invalid(message));
        }
        let [template] = &template.templates[..] else {
            let message = format!(
                "data {label}: templates has {} entries; allowed: one, such as \"{{prompt}}<sep>{{answer}}\"",
                template.templates.len()
            );
            return Err(Error::invalid(message));
        };
        let layout = AnswerLayout::with_template(processor, template.parts().0)?;
        let Preferences { pairs, mut left_out } = Preferences::open(source, encoding, &layout)?;
        let before = all.len();
        for PreferencePair { tokens, place, .. } in &pairs {
            let documents = tokens.documents();
            let len = documents.iter().map(|document| document.ids.len()).max().unwrap_or(0);
            let is_scored = |document: &TokenSequence| {
                let learnt = document.ids.iter().zip(&document.loss_mask);
                learnt.skip(1).any(|(id, learnt)| *learnt && scoring.scores(*id))
            };
            let len = if documents.iter().all(is_scored) { len } else { 0 };
            if left_out.fits(place, len, seq_len) {
                all.push(Comparison { documents });
            }
        }
        if all.len() == before {
            let message =
                format!("data {label}: none of {} pairs fits {seq_len} tokens", pairs.len());
            return Err(Error::invalid(message));
        }
        all_left_out.push(LeftOut { source: label, ..left_out });
    }
    Ok((all, all_left_out))
}
