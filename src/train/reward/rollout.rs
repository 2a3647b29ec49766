//! What rewards are given for, and the interface of all rewards.

use image::RgbImage;

use super::failures::Failures;
use crate::data::Fields;
use crate::error::Result;

/// An answer that the model gave to a prompt.
#[derive(Clone, Debug)]
pub struct Rollout<'a> {
    /// The prompt, with `<image>` in place of each image.
    pub prompt: &'a str,
    /// The answer, with `<image>` in place of each image.
    pub completion: &'a str,
    /// The images of the answer, in order.
    pub images: Vec<&'a RgbImage>,
    /// The columns of the sample that the prompt was made of.
    pub fields: &'a Fields,
    /// The ids of prompt and answer.
    pub ids: &'a [u32],
    /// The length of the answer in tokens.
    pub tokens: usize,
    /// Whether the answer was cut off at the greatest length.
    pub is_truncated: bool,
    /// Whether the structure of the answer is right: every image complete, and the end where it belongs.
    pub is_well_formed: bool,
}

/// A function that rewards roll-outs.
pub trait Reward: Send {
    /// The name in logs, different from that of every other reward of the run.
    fn name(&self) -> &str;

    /// A finite number for each roll-out, in order; `None` where the reward does not apply or could not be
    /// computed, so that the roll-out does not count in its group.
    ///
    /// # Errors
    /// If the run cannot go on.
    fn score(&mut self, rollouts: &[Rollout<'_>]) -> Result<Vec<Option<f64>>>;

    /// What has gone wrong so far.
    fn failures(&self) -> Failures {
        Failures::default()
    }
}
