//! All rewards of a recipe.

use std::collections::BTreeMap;

use super::config::{RewardConfig, RewardKind};
use super::failures::Failures;
use super::model::{ModelReward, Place};
use super::program::Program;
use super::rollout::{Reward, Rollout};
use super::scene::SceneReward;
use super::text::{ExactMatch, Length, WellFormed};
use crate::error::{Error, Result};
use crate::report::Omission;

/// Rewards with their weights.
#[derive(Default)]
pub struct Rewards {
    rewards: Vec<Box<dyn Reward>>,
    weights: Vec<f64>,
    /// What went wrong before a run was stopped, by reward.
    earlier: BTreeMap<String, Failures>,
}

impl Rewards {
    /// The rewards of a recipe; programs are started, and reward models are opened in `place`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a value is out of range, two rewards have one name, or a program cannot be
    /// started.
    pub fn open(configs: &[RewardConfig], place: Option<Place<'_>>) -> Result<Self> {
        RewardConfig::validate_all(configs)?;
        let mut all = Self::default();
        for config in configs {
            all.add(open(config, place)?, config.weight);
        }
        Ok(all)
    }

    /// Adds a reward that no recipe can name, after the others.
    pub fn add(&mut self, reward: Box<dyn Reward>, weight: f64) {
        self.rewards.push(reward);
        self.weights.push(weight);
    }

    /// The names of the rewards.
    pub fn names(&self) -> Vec<&str> {
        self.rewards.iter().map(|reward| reward.name()).collect()
    }

    /// The weights of the rewards, in the order of [`names`](Self::names).
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// For each roll-out a row with what each reward gives it, not weighted, in the order of
    /// [`names`](Self::names).
    ///
    /// # Errors
    /// If a reward stops the run, or gives not one finite number or `None` for each roll-out.
    pub fn score(&mut self, rollouts: &[Rollout<'_>]) -> Result<Vec<Vec<Option<f64>>>> {
        let mut rows = vec![Vec::with_capacity(self.rewards.len()); rollouts.len()];
        for reward in &mut self.rewards {
            let column = reward.score(rollouts)?;
            let wrong = column.iter().flatten().find(|value| !value.is_finite());
            if let Some(value) = wrong {
                let name = reward.name();
                return Err(Error::invalid(format!("reward {name} gave {value}, not a number")));
            }
            if column.len() != rows.len() {
                let (name, found, wanted) = (reward.name(), column.len(), rows.len());
                let message = format!("reward {name} gave {found} values for {wanted} roll-outs");
                return Err(Error::invalid(message));
            }
            rows.iter_mut().zip(column).for_each(|(row, value)| row.push(value));
        }
        Ok(rows)
    }

    /// Goes on with what [`failures`](Self::failures) returned before a run was stopped.
    pub fn resume(&mut self, earlier: BTreeMap<String, Failures>) {
        self.earlier = earlier;
    }

    /// What has gone wrong so far, by reward, of those with failures.
    pub fn failures(&self) -> BTreeMap<String, Failures> {
        let mut all = self.earlier.clone();
        for reward in &self.rewards {
            let later = reward.failures();
            if !later.is_empty() {
                all.entry(reward.name().to_owned()).or_default().extend(&later);
            }
        }
        all
    }

    /// A line for each reward and kind of failure, for the report of the run.
    pub fn omissions(&self) -> Vec<Omission> {
        self.failures().iter().flat_map(|(name, failures)| failures.omissions(name)).collect()
    }
}

fn open(config: &RewardConfig, place: Option<Place<'_>>) -> Result<Box<dyn Reward>> {
    let name = config.name();
    Ok(match &config.kind {
        RewardKind::Scene(config) => Box::new(SceneReward::new(name, config)),
        RewardKind::ExactMatch(config) => Box::new(ExactMatch::new(name, config)),
        RewardKind::WellFormed(_) => Box::new(WellFormed::new(name)),
        RewardKind::Length(config) => Box::new(Length::new(name, config)),
        RewardKind::Model(config) => {
            let unplaced = || Error::invalid(format!("reward {name}: no device for its model"));
            Box::new(ModelReward::open(name, config, place.ok_or_else(unplaced)?)?)
        }
        RewardKind::Program(config) => Box::new(Program::open(name, config)?),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::data::Fields;

    #[derive(Deserialize)]
    struct Recipe {
        reward: Vec<RewardConfig>,
    }

    /// Gives what it holds, right or wrong.
    struct Fixed(Vec<Option<f64>>);

    impl Reward for Fixed {
        fn name(&self) -> &str {
            "fixed"
        }

        fn score(&mut self, _: &[Rollout<'_>]) -> Result<Vec<Option<f64>>> {
            Ok(self.0.clone())
        }
    }

    fn rollout(fields: &Fields) -> Rollout<'_> {
        Rollout {
            prompt: "how many?",
            completion: "Two.",
            images: Vec::new(),
            fields,
            ids: &[],
            tokens: 9,
            is_truncated: false,
            is_well_formed: true,
        }
    }

    #[test]
    fn a_rollout_has_a_column_for_each_reward_in_the_order_of_the_recipe() {
        let recipe = "
            [[reward]]
            kind = 'length'
            max_completion_len = 10
            soft_punish_cache = 2
            weight = 0.5
            [[reward]]
            kind = 'exact-match'
            name = 'vqa'
            [[reward]]
            kind = 'scene'
            [[reward]]
            kind = 'well-formed'
            weight = 0.1";
        let recipe: Recipe = toml::from_str(recipe).unwrap();
        let mut rewards = Rewards::open(&recipe.reward, None).unwrap();
        assert_eq!(rewards.names(), ["length", "vqa", "scene", "well-formed"]);
        assert_eq!(rewards.weights(), [0.5, 1.0, 1.0, 0.1]);
        let (question, broken) = (json!({"answer": "two"}), json!({"claims": 7}));
        let rollouts = [&question, &broken].map(|fields| rollout(fields.as_object().unwrap()));
        let rows = rewards.score(&rollouts).unwrap();
        assert_eq!(rows[0], [Some(-0.5), Some(1.0), None, Some(1.0)]);
        assert_eq!(rows[1], [Some(-0.5), None, None, Some(1.0)]);
        assert_eq!(rewards.score(&[]).unwrap(), Vec::<Vec<_>>::new());
        let lines: Vec<_> = rewards.omissions().iter().map(ToString::to_string).collect();
        let expected = "reward scene: 1 failure (unusable column); 1 roll-out has no reward: the";
        assert!(lines.len() == 1 && lines[0].starts_with(expected), "{lines:?}");
    }

    #[test]
    fn a_reward_that_breaks_its_word_stops_the_run() {
        let fields = Fields::new();
        for wrong in [vec![], vec![Some(f64::NAN)], vec![None, None]] {
            let mut rewards = Rewards::default();
            rewards.add(Box::new(Fixed(wrong)), 1.0);
            let error = rewards.score(&[rollout(&fields)]).unwrap_err().to_string();
            assert!(error.starts_with("reward fixed gave "), "{error}");
        }
    }

    #[test]
    fn a_program_that_cannot_be_started_is_refused_at_once() {
        let config = "kind = 'program'\ncommand = ['./no such program', '-v']";
        let config: RewardConfig = toml::from_str(config).unwrap();
        let Err(error) = Rewards::open(&[config], None) else { panic!("it cannot be started") };
        let expected = "reward program: `./no such program -v` cannot be started: ";
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}
