//! Reinforcement learning on rewards that can be computed: policy gradients in groups of answers.
//!
//! A step draws prompts in a shuffled order, answers each several times with the current weights, asks the rewards,
//! and takes one update with the loss of [`objective::policy`](super::objective::policy). The distribution that
//! answers are scored under is the sampler's: an image code among the codes, a text id among the ids that the rules of
//! generation allow in its place, both with logits divided by the temperature. What the rules force (begin and end of
//! an image) is not scored.
//!
//! Answers are a function of the weights, the seed of the run, the number of the prompt's draw and their number in
//! the group, so that a resumed run repeats them.

mod answering;
mod config;
mod critic;
mod critic_config;
mod evaluation;
mod measures;
mod pairs;
mod prompts;
mod rollouts;
mod sampler;
mod seeds;
mod state;
mod task;
mod update;

pub use config::RlConfig;
pub use critic_config::CriticConfig;
pub use pairs::{LeftPrompts, RankedPair, RankedPairs};
pub use task::RlTask;
