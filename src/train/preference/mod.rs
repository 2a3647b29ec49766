//! Training on preferences: a policy learns that one answer is better than another, or a reward model to tell which.
//!
//! The data are finite: all pairs are in memory as ids, and a step takes the next ones of a shuffled order. Chosen
//! and rejected answers of a micro-batch are packed into the same rows, and its loss is computed alone, as by TRL: means
//! over tokens and sorted pairs are those of a micro-batch. The reference is the model before the first
//! step, which shares its frozen weights with the policy, or two numbers for each pair that were computed once.
//! Losses are in [`objective::preference`](super::objective::preference).

mod comparisons;
mod config;
mod data;
mod losses;
mod reference;
mod reward_model;
mod scoring;
mod state;
mod sums;
mod task;

pub use config::{ImageLogProbs, ReferenceConfig};
pub use task::PreferenceTask;
