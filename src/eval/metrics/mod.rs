//! Metrics over texts, each after the public implementation that its file names.

pub mod ptb;
mod ptb_lists;
mod ptb_rules;
pub mod vqa_accuracy;

pub use ptb::PtbTokenizer;
pub use vqa_accuracy::AnswerNormalizer;
