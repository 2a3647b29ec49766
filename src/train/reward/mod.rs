//! Rewards of roll-outs, for reinforcement learning.
//!
//! A [`Reward`] gives each [`Rollout`] a number, or none where it does not apply. [`Rewards`] asks all that a
//! recipe names in its `[[rl.reward]]` sections and returns a row of numbers for each roll-out, which
//! advantages are computed from. What goes wrong is counted by kind in [`Failures`].
//!
//! | `kind` | reward |
//! |---|---|
//! | `scene` | what a drawn picture shows of the claims of its caption |
//! | `exact-match` | 1 for the right answer |
//! | `well-formed` | 1 for output whose structure is right |
//! | `length` | DAPO's penalty on long answers |
//! | `model` | what a reward model says |
//! | `program` | what a program says, which reads roll-outs as lines of JSON |

mod answers;
mod config;
mod failures;
mod model;
mod process;
mod program;
#[cfg(all(test, unix))]
mod program_tests;
mod requests;
mod rollout;
mod scene;
mod sum;
mod text;

pub use config::{
    ExactMatchConfig, OnFailure, ProgramConfig, ProgramImages, RewardConfig, RewardKind,
    SceneConfig, SceneScore, WellFormedConfig,
};
pub use failures::{FailureCount, FailureKind, Failures};
pub use model::{ModelReward, Place, RewardModelSource};
pub use program::Program;
pub use rollout::{Reward, Rollout};
pub use scene::SceneReward;
pub use sum::Rewards;
pub use text::{ExactMatch, Length, WellFormed};
