//! Metrics over texts, features and edited images; those of texts and features equal the public
//! implementation that their file names.
//!
//! Captions are tokenised by [`PtbTokenizer`] into [`Segment`]s, which [`bleu()`], [`rouge_l()`]
//! and [`cider()`] score. Answers are compared after [`AnswerNormalizer`] or [`TextNormalization`].
//! All are pure functions.

pub mod bleu;
pub mod cider;
pub mod editing;
pub mod frechet;
pub mod perplexity;
pub mod ptb;
mod ptb_lists;
mod ptb_rules;
pub mod rouge_l;
mod segment;
pub mod text_match;
pub mod vqa_accuracy;

pub use bleu::{Bleu, bleu};
pub use cider::{Cider, cider};
pub use editing::{Seam, psnr_outside, seam};
pub use frechet::{Features, frechet_distance};
pub use perplexity::{bits_per_byte, perplexity};
pub use ptb::PtbTokenizer;
pub use rouge_l::{RougeL, rouge_l};
pub use segment::Segment;
pub use text_match::{TextMatcher, TextNormalization};
pub use vqa_accuracy::{AnswerNormalizer, AnswerRules, VqaAccuracy, VqaSummary};

/// The words of `text`, split like Python's `str.split`, which unlike Rust's also splits at the
/// four information separators.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_blank).filter(|word| !word.is_empty())
}

/// Python's `str.isspace`.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The mean; 0 without values.
fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}
