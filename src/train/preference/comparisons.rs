//! The pairs of all sources as ids.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::scoring::Scoring;
use crate::data::{
    AnswerLayout, DocumentContent, DocumentData, Encoding, LeftOut, PreferencePair, Preferences,
    SourceConfig, TemplateConfig, TooLong, Unpaired, UnpairedAnswer, Weight,
};
use crate::error::{Error, Result};
use crate::files::hex;
use crate::tokenize::{Processor, TokenSequence};

/// A prompt with a chosen and a rejected answer, or with one answer and a verdict.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    /// Prompt and answer, first the chosen one; the targets are the answer.
    pub(super) documents: Vec<TokenSequence>,
    /// The verdict on a single answer.
    pub(super) is_desirable: bool,
    /// By how much the chosen answer is preferred, as the data say.
    pub(super) margin: f64,
}

/// What is read of each source, and which rows fit.
#[derive(Clone, Copy)]
pub(super) struct Fit<'a> {
    /// Which tokens are scored.
    pub(super) scoring: &'a Scoring,
    /// Most tokens of a document.
    pub(super) seq_len: usize,
    /// Rows that are read; all if absent.
    pub(super) limit: Option<usize>,
    /// Whether rows are pairs.
    pub(super) paired: bool,
}

/// The rows of the sources in `configs` that fit, and what was left out.
///
/// # Errors
/// Those of the data; [`Error::Invalid`] if a source holds no such rows, or none of them fits.
pub(super) fn open(
    configs: &[DocumentData],
    encoding: Encoding<'_>,
    processor: &Arc<Processor>,
    fit: Fit<'_>,
) -> Result<(Vec<Comparison>, Vec<LeftOut>)> {
    let (mut all, mut all_left_out) = (Vec::new(), Vec::new());
    for config in configs {
        let config = match fit.limit {
            Some(count) => &config.clone().held_out(count),
            None => config,
        };
        let label = config.label().to_owned();
        let refused = |message: &str| Err(Error::invalid(format!("data {label}: {message}")));
        let DocumentContent::Samples(source, template) = &config.content else {
            return refused("token shards hold no pairs; name the rows themselves");
        };
        if config.weight != Weight::default() {
            return refused("weight is not read; every row is taken once an epoch");
        }
        check_template(config, template)?;
        let form = template.templates[0].parts().0;
        let layout = AnswerLayout::of_form(processor, form)
            .map_err(Error::because(format!("data {label}")))?;
        let (rows, mut left_out) = rows(source, encoding, &layout, fit.paired)?;
        let (before, found) = (all.len(), rows.len());
        all.extend(rows.into_iter().filter_map(|(item, place)| {
            left_out.fits(&place, fit.len(&item), fit.seq_len).then_some(item)
        }));
        if all.len() == before {
            return refused(&format!("none of {found} rows fits {} tokens", fit.seq_len));
        }
        all_left_out.push(LeftOut { source: label, ..left_out });
    }
    Ok((all, all_left_out))
}

/// The rows of a source, each with its place.
fn rows(
    source: &SourceConfig,
    encoding: Encoding<'_>,
    layout: &AnswerLayout<'_>,
    paired: bool,
) -> Result<(Vec<(Comparison, String)>, LeftOut)> {
    if paired {
        let Preferences { pairs, left_out } = Preferences::open(source, encoding, layout)?;
        let row = |PreferencePair { tokens, place, margin }: PreferencePair| {
            let documents = tokens.documents().into();
            let margin = margin.unwrap_or(0.0);
            (Comparison { documents, is_desirable: true, margin }, place)
        };
        return Ok((pairs.into_iter().map(row).collect(), left_out));
    }
    let Unpaired { answers, left_out } = Unpaired::open(source, encoding, layout)?;
    let row = |UnpairedAnswer { tokens, place }: UnpairedAnswer| {
        let is_desirable = tokens.label;
        let documents = vec![tokens.document()];
        (Comparison { documents, is_desirable, margin: 0.0 }, place)
    };
    Ok((answers.into_iter().map(row).collect(), left_out))
}

impl Fit<'_> {
    /// The length of the longest document of `item`; 0 if one of them has nothing that is scored.
    fn len(&self, item: &Comparison) -> usize {
        let is_scored = |document: &TokenSequence| {
            let learnt = document.ids.iter().zip(&document.loss_mask);
            learnt.skip(1).any(|(id, learnt)| *learnt && self.scoring.scores(*id))
        };
        match item.documents.iter().all(is_scored) {
            true => item.documents.iter().map(|document| document.ids.len()).max().unwrap_or(0),
            false => 0,
        }
    }
}

/// A digest of the ids of `pairs` and of what is learnt of them.
pub(super) fn digest(pairs: &[Comparison]) -> String {
    let mut hasher = Sha256::new();
    for document in pairs.iter().flat_map(|pair| &pair.documents) {
        document.ids.iter().for_each(|id| hasher.update(id.to_le_bytes()));
        document.loss_mask.iter().for_each(|learnt| hasher.update([u8::from(*learnt)]));
    }
    pairs.iter().for_each(|pair| hasher.update([u8::from(pair.is_desirable)]));
    let margins = pairs.iter().enumerate().filter(|(_, pair)| pair.margin != 0.0);
    margins.for_each(|(at, pair)| hasher.update(format!("{at} {}", pair.margin)));
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
