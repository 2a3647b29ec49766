//! Policy gradients: GRPO and its relatives, values, and what they need around them.
//!
//! [`AdvantageConfig::advantages`] turns the rewards of groups of completions into advantages;
//! [`PolicyConfig::loss`] turns those and the log-probabilities of the completions' tokens into a loss with
//! its gradient, whose negative is the weights for [`surrogate`](super::Predictions::surrogate).
//! [`value`] has the same for a value function, [`length`] and [`guided`] the penalty on long completions
//! and the distribution under guidance.
//!
//! The loss is called once for all completions of an optimizer step. So the token counts that divide it are
//! those of the step, as TRL's are of an accumulated batch, and micro-batches of the backward pass do not
//! change it. `bnpo`, which divides by the tokens of a micro-batch, takes the step for one.

mod advantages;
mod completions;
mod config;
mod entropy;
pub mod guided;
mod kinds;
pub mod length;
mod loss;
mod positive;
mod ratio_metrics;
mod rows;
mod sampler;
mod surrogate;
#[cfg(test)]
mod tests;
pub mod value;

pub use advantages::{AdvantageConfig, Advantages, Aggregation, ScaleRewards};
pub use completions::{Advantage, Completion, PolicyLoss};
pub use config::PolicyConfig;
pub use entropy::{EntropyControl, EntropyControlConfig};
pub use kinds::{PolicyLossType, RatioLevel};
pub use positive::PositiveConfig;
pub use sampler::{CorrectionMode, SamplerCorrection};
