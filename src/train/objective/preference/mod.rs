//! Losses over preferred and rejected answers.
//!
//! A loss is a function of the log-probabilities of answer tokens under the policy; the gradient comes
//! with it, so the weights for [`surrogate`](super::Predictions::surrogate) are minus the gradient.
//! [`PreferenceConfig::loss`] takes pairs and [`UnpairedConfig::loss`] single answers with a label.
//!
//! Both are called once for all rows of an optimizer step: the mean over pairs, the tokens that divide
//! the negative log-likelihood and the sorting of `aot` then do not depend on micro-batches.
//!
//! Most losses need one number per answer from the reference model, the sum over its tokens, which can
//! be computed once for a data set ([`Reference::Sum`]).

mod answers;
mod config;
mod kinds;
mod likelihood;
mod pairs;
mod reference_free;
mod rewards;
mod scores;
mod sorted;
mod terms;
#[cfg(test)]
mod tests;
mod unpaired;

pub use answers::{Answer, Pair, PairGradient, PairLoss, Reference};
pub use config::PreferenceConfig;
pub use kinds::{Divergence, PreferenceLoss};
pub use unpaired::{
    LabelledAnswer, MismatchedAnswer, UnpairedConfig, UnpairedKind, UnpairedLoss, mismatched_answer,
};
