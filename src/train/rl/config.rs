//! The `[rl]` section of a recipe.

use serde::{Deserialize, Serialize};

use super::critic_config::CriticConfig;
use crate::error::{Error, Result};
use crate::generate::GenerationMode;
use crate::recipe::at_least_one;
use crate::train::objective::policy::{
    AdvantageConfig, EntropyControlConfig, PolicyConfig, PositiveConfig,
};
use crate::train::reward::RewardConfig;

/// Training by policy gradients.
///
/// Answers are drawn from the whole distribution at `temperature`: top-k, top-p and the repetition penalty are off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RlConfig {
    /// Prompts of a step, each with `advantage.num_generations` answers; `batch.sequences` is the number of answers
    /// whose gradients are computed at once.
    pub prompts_per_step: usize,
    /// Updates on the same answers, each of which is a step of the run.
    #[serde(default = "one")]
    pub num_iterations: usize,
    /// What an answer is.
    #[serde(default)]
    pub mode: GenerationMode,
    /// The most ids of an answer; with the mode `image` an answer is as long as an image.
    #[serde(default = "default_max_new_tokens")]
    pub max_new_tokens: usize,
    /// Divides the logits, above 0.
    #[serde(default = "default_one")]
    pub temperature: f64,
    /// Strength of guidance while images are drawn; 1 is off.
    #[serde(default = "default_one")]
    pub guidance_scale: f64,
    /// Whether images are scored, and learnt, under the guided distribution that they are drawn from; no gradient goes
    /// through the hidden states without the prompt. Otherwise they are scored without guidance: the mean lead of the
    /// sampler's log-probabilities, over the first `batch.sequences` answers of a step, is logged as
    /// `sampling/logp_gap`, and `policy.sampler_correction` can correct for it.
    #[serde(default)]
    pub scores_guided: bool,
    /// Leaves out groups whose rewards are all equal and draws further prompts in their place, at most this many
    /// rounds in all (DAPO, arXiv 2503.14476: 10); 0 keeps all groups.
    #[serde(default)]
    pub dynamic_sampling: usize,
    /// The loss.
    #[serde(default)]
    pub policy: PolicyConfig,
    /// From rewards to advantages; each reward has its weight itself.
    #[serde(default)]
    pub advantage: AdvantageConfig,
    /// A value function, whose advantages of tokens replace those of groups, which are only logged then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critic: Option<CriticConfig>,
    /// Keeps the entropy from falling below a target by a bonus on it, which starts with the weight `policy.entropy_coef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy_control: Option<EntropyControlConfig>,
    /// Learns correct answers as if they were data, beside the loss; not those of groups that `dynamic_sampling`
    /// leaves out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positive: Option<PositiveConfig>,
    /// What is rewarded.
    #[serde(default)]
    pub reward: Vec<RewardConfig>,
}

fn one() -> usize {
    1
}
fn default_one() -> f64 {
    1.0
}
fn default_max_new_tokens() -> usize {
    256
}

impl RlConfig {
    /// Checks ranges, and that settings fit together.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        at_least_one("rl.prompts_per_step", self.prompts_per_step)?;
        at_least_one("rl.num_iterations", self.num_iterations)?;
        at_least_one("rl.max_new_tokens", self.max_new_tokens)?;
        let error = |key: &str, value: f64, allowed: &str| {
            Err(Error::invalid(format!("rl.{key} is {value}; allowed: {allowed}")))
        };
        if !(self.temperature >= 1e-4 && self.temperature.is_finite()) {
            return error("temperature", self.temperature, "0.0001 or more");
        }
        if !(self.guidance_scale >= 0.0 && self.guidance_scale.is_finite()) {
            return error("guidance_scale", self.guidance_scale, "0 or more");
        }
        self.validate_policy()?;
        if let Some(critic) = &self.critic {
            if self.advantage.negative_weight != 1.0 {
                let message = "rl.advantage.negative_weight is not read with rl.critic, whose advantages replace those \
                               of groups";
                return Err(Error::invalid(message));
            }
            critic.validate().map_err(Error::because("rl"))?;
        }
        if let Some(control) = &self.entropy_control {
            control.validate().map_err(Error::because("rl"))?;
        }
        if let Some(positive) = &self.positive {
            positive.validate().map_err(Error::because("rl"))?;
        }
        self.advantage.validate().map_err(Error::because("rl"))?;
        if !self.advantage.reward_weights.is_empty() {
            let message =
                "rl.advantage.reward_weights is not read; give each [[rl.reward]] its weight";
            return Err(Error::invalid(message));
        }
        RewardConfig::validate_all(&self.reward)
    }

    fn validate_policy(&self) -> Result<()> {
        self.policy.validate().map_err(Error::because("rl"))?;
        if self.scores_guided && self.guidance_scale == 1.0 {
            let message = "rl.scores_guided needs an rl.guidance_scale other than 1";
            return Err(Error::invalid(message));
        }
        if self.policy.sampler_correction.is_some()
            && (self.guidance_scale == 1.0 || self.scores_guided)
        {
            let message = "rl.policy.sampler_correction has nothing to correct: without rl.guidance_scale, or with \
                           rl.scores_guided, answers are scored under the distribution that they are drawn from";
            return Err(Error::invalid(message));
        }
        Ok(())
    }

    /// Whether every answer is one image.
    pub(super) fn draws_only(&self) -> bool {
        self.mode == GenerationMode::ImageOnly
    }
}
