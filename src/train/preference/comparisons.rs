//! The pairs of all sources as ids.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::answers::Scoring;
use crate::data::{
    AnswerLayout, DocumentContent, DocumentData, Encoding, LeftOut, PreferencePair, Preferences,
    TemplateConfig, TooLong, Weight,
};
use crate::error::{Error, Result};
use crate::files::hex;
use crate::tokenize::{Processor, TokenSequence};

/// A prompt with a chosen and a rejected answer.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    /// Prompt and answer, first the chosen one; the targets are the answer.
    pub(super) documents: [TokenSequence; 2],
}

/// The pairs of the sources in `configs`, of the first `limit` rows of each, and what was left out.
///
/// # Errors
/// Those of the data; [`Error::Invalid`] if a source holds no pairs, or none of them fits `seq_len` tokens.
pub(super) fn open(
    configs: &[DocumentData],
    encoding: Encoding<'_>,
    processor: &Arc<Processor>,
    scoring: &Scoring,
    seq_len: usize,
    limit: Option<usize>,
) -> Result<(Vec<Comparison>, Vec<LeftOut>)> {
    let (mut all, mut all_left_out) = (Vec::new(), Vec::new());
    for config in configs {
        let config = match limit {
            Some(count) => &config.clone().held_out(count),
            None => config,
        };
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
        check_template(config, template)?;
        let form = template.templates[0].parts().0;
        let layout = AnswerLayout::of_form(processor, form)
            .map_err(Error::because(format!("data {label}")))?;
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

/// A digest of the ids of `pairs` and of what is learnt of them.
pub(super) fn digest(pairs: &[Comparison]) -> String {
    let mut hasher = Sha256::new();
    for document in pairs.iter().flat_map(|pair| &pair.documents) {
        document.ids.iter().for_each(|id| hasher.update(id.to_le_bytes()));
        document.loss_mask.iter().for_each(|learnt| hasher.update([u8::from(*learnt)]));
    }
    hex(&hasher.finalize()[..16])
}

/// Refuses settings of a source of pairs that would not be read.
fn check_template(config: &DocumentData, template: &TemplateConfig) -> Result<()> {
    let label = config.label();
    let refused = |message: String| Err(Error::invalid(format!("data {label}: {message}")));
    let [only] = &template.templates[..] else {
        let count = template.templates.len();
        return refused(format!(
            "templates has {count} entries; allowed: one, such as \"{{prompt}}<sep>{{answer}}\" or chat_template"
        ));
    };
    let plain = TemplateConfig::new([only.parts().0.to_owned()]);
    let unread = [
        ("loss", template.loss != plain.loss, "the answers are learnt"),
        ("max_turns", template.max_turns != plain.max_turns, "pairs are taken whole"),
        (
            "prompt_dropout",
            template.prompt_dropout != plain.prompt_dropout,
            "both answers keep their prompt",
        ),
        ("fields", template.fields != plain.fields, "the columns are prompt, chosen and rejected"),
        ("too_long", config.too_long != TooLong::default(), "pairs that are too long are left out"),
    ];
    match unread.iter().find(|(_, is_set, _)| *is_set) {
        Some((key, _, why)) => refused(format!("{key} is not read for pairs: {why}")),
        None => Ok(()),
    }
}
