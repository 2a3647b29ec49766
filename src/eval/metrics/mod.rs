//! Metrics over texts, each after the public implementation that its file names.

pub mod vqa_accuracy;

pub use vqa_accuracy::AnswerNormalizer;
