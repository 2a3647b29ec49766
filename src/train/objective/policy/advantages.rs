//! From the rewards of groups of completions to advantages. Source: TRL 1.16 (`GRPOTrainer`).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::train::objective::metrics::{Metrics, mean, share};

/// What is added to a standard deviation that divides.
const EPSILON: f64 = 1e-4;

/// A standard deviation up to which rewards count as equal, for the log.
const NO_DEVIATION: f64 = 1e-8;

/// By whose standard deviation rewards are divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// That of the group.
    #[default]
    Group,
    /// That of all completions (arXiv 2508.08221).
    Batch,
    /// None: Dr. GRPO, arXiv 2503.20783.
    None,
}

/// How several rewards become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// The weighted sum, which is compared within the group.
    #[default]
    SumThenNormalize,
    /// Each is normalised within the group, and their weighted sum over all completions: GDPO, arXiv
    /// 2601.05242.
    NormalizeThenSum,
}

/// How advantages are computed; keys and defaults are those of TRL 1.16.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdvantageConfig {
    /// Completions of each prompt, at least 2.
    pub num_generations: usize,
    /// By what `sum_then_normalize` divides.
    pub scale_rewards: ScaleRewards,
    /// How several rewards become one.
    pub multi_objective_aggregation: Aggregation,
    /// The weight of each reward; empty: 1 each.
    pub reward_weights: Vec<f64>,
    /// What negative advantages are multiplied by, in [0, 1]: 0 learns from answers above their group's mean alone, as
    /// rejection sampling does, which lowers the entropy.
    pub negative_weight: f64,
}

impl Default for AdvantageConfig {
    fn default() -> Self {
        Self {
            num_generations: 8,
            scale_rewards: ScaleRewards::Group,
            multi_objective_aggregation: Aggregation::SumThenNormalize,
            reward_weights: Vec::new(),
            negative_weight: 1.0,
        }
    }
}

/// The advantages of all completions of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Advantages {
    /// One for each completion; 0 of one without any reward.
    pub advantages: Vec<f64>,
    /// Whether the rewards that a completion is compared with are all equal, so that it teaches nothing.
    pub is_std_zero: Vec<bool>,
    /// `reward`, `reward_std`, `frac_reward_zero_std` and `rewards/NAME/{mean,std}`; what no completion has
    /// a value for is left out.
    pub metrics: Metrics,
}

impl AdvantageConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the range.
    pub fn validate(&self) -> Result<()> {
        if self.num_generations < 2 {
            return Err(Error::invalid(format!(
                "advantage.num_generations is {}; allowed: at least 2, since an advantage compares \
                 completions of one prompt",
                self.num_generations
            )));
        }
        if !(0.0..=1.0).contains(&self.negative_weight) {
            return Err(Error::invalid(format!(
                "advantage.negative_weight is {}; allowed: [0, 1]",
                self.negative_weight
            )));
        }
        match self.reward_weights.iter().find(|weight| !weight.is_finite()) {
            Some(weight) => Err(Error::invalid(format!(
                "advantage.reward_weights has {weight}; allowed: finite numbers"
            ))),
            None => Ok(()),
        }
    }

    /// The advantages of completions that lie group by group, from the rewards that the functions of `names`
    /// gave each; `None` where a function does not apply.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the completions are not full groups, or a completion has not one entry for each
    /// function.
    pub fn advantages(&self, rewards: &[Vec<Option<f64>>], names: &[&str]) -> Result<Advantages> {
        self.validate()?;
        self.check(rewards, names)?;
        let sums: Vec<Option<f64>> = rewards.iter().map(|row| self.weighted_sum(row)).collect();
        let (mut advantages, deviations) = match self.multi_objective_aggregation {
            Aggregation::SumThenNormalize => self.of_sums(&sums),
            Aggregation::NormalizeThenSum => self.of_normalized(rewards),
        };
        let negative = advantages.iter_mut().filter(|advantage| **advantage < 0.0);
        negative.for_each(|advantage| *advantage *= self.negative_weight);
        let is_zero = |std: &Option<f64>| std.is_some_and(|std| std <= NO_DEVIATION);
        let is_std_zero: Vec<bool> = deviations.iter().map(is_zero).collect();
        let mut metrics = Metrics::new();
        let mut insert = |name: &str, value: Option<f64>| {
            if let Some(value) = value {
                metrics.insert(name.to_owned(), value);
            }
        };
        insert("reward", mean_of(&sums));
        insert("reward_std", deviation(&sums));
        insert("frac_reward_zero_std", Some(share(is_std_zero.iter().copied())));
        for (at, name) in names.iter().enumerate() {
            let column: Vec<Option<f64>> = rewards.iter().map(|row| row[at]).collect();
            insert(&format!("rewards/{name}/mean"), mean_of(&column));
            insert(&format!("rewards/{name}/std"), deviation(&column));
        }
        Ok(Advantages { advantages, is_std_zero, metrics })
    }

    fn check(&self, rewards: &[Vec<Option<f64>>], names: &[&str]) -> Result<()> {
        let (rows, group) = (rewards.len(), self.num_generations);
        if rows == 0 || rows % group != 0 {
            let message = format!("{rows} completions are not groups of num_generations = {group}");
            return Err(Error::invalid(message));
        }
        let weights = self.reward_weights.len();
        if weights != 0 && weights != names.len() {
            return Err(Error::invalid(format!(
                "advantage.reward_weights has {weights} entries; allowed: one for each of {} rewards",
                names.len()
            )));
        }
        match rewards.iter().position(|row| row.len() != names.len()) {
            Some(row) => Err(Error::invalid(format!(
                "completion {row} has {} rewards, not {}",
                rewards[row].len(),
                names.len()
            ))),
            None => Ok(()),
        }
    }

    /// The sum over the rewards that a completion has; `None` if it has none.
    fn weighted_sum(&self, rewards: &[Option<f64>]) -> Option<f64> {
        let weights = self.reward_weights.iter().copied().chain(std::iter::repeat(1.0));
        let weighted = rewards.iter().zip(weights);
        let weighted = weighted.filter_map(|(reward, weight)| Some(reward.as_ref()? * weight));
        weighted.fold(None, |sum, reward| Some(sum.unwrap_or(0.0) + reward))
    }

    /// Distances from the group's mean, and the deviation that each completion is compared by.
    fn of_sums(&self, sums: &[Option<f64>]) -> (Vec<f64>, Vec<Option<f64>>) {
        let of_all = deviation(sums);
        let (mut advantages, mut deviations) = (Vec::new(), Vec::new());
        for group in sums.chunks(self.num_generations) {
            let std = match self.scale_rewards {
                ScaleRewards::Batch => of_all,
                ScaleRewards::Group | ScaleRewards::None => deviation(group),
            };
            for sum in group {
                let distance = distance(*sum, mean_of(group));
                advantages.push(match self.scale_rewards {
                    ScaleRewards::None => distance.unwrap_or(0.0),
                    _ => scaled(distance, std).unwrap_or(0.0),
                });
                deviations.push(std);
            }
        }
        (advantages, deviations)
    }

    /// Rewards by group and function, their sums over all completions.
    fn of_normalized(&self, rewards: &[Vec<Option<f64>>]) -> (Vec<f64>, Vec<Option<f64>>) {
        let mut sums = Vec::new();
        for group in rewards.chunks(self.num_generations) {
            let functions = (0..group[0].len()).map(|at| {
                let column: Vec<Option<f64>> = group.iter().map(|row| row[at]).collect();
                (mean_of(&column), deviation(&column))
            });
            let functions: Vec<_> = functions.collect();
            for row in group {
                let normalized = row.iter().zip(&functions);
                let normalized: Vec<Option<f64>> = normalized
                    .map(|(reward, (mean, std))| scaled(distance(*reward, *mean), *std))
                    .collect();
                // A reward alone in its group says nothing, but the completion has one.
                let is_scored = row.iter().any(Option::is_some);
                let nothing = is_scored.then_some(0.0);
                sums.push(self.weighted_sum(&normalized).or(nothing));
            }
        }
        let (mean, std) = (mean_of(&sums), deviation(&sums));
        let advantage = |sum: &Option<f64>| scaled(distance(*sum, mean), std).unwrap_or(0.0);
        (sums.iter().map(advantage).collect(), vec![std; sums.len()])
    }
}

fn distance(value: Option<f64>, mean: Option<f64>) -> Option<f64> {
    Some(value? - mean?)
}

fn scaled(distance: Option<f64>, std: Option<f64>) -> Option<f64> {
    Some(distance? / (std? + EPSILON))
}

fn mean_of(values: &[Option<f64>]) -> Option<f64> {
    let found = values.iter().flatten();
    (found.clone().count() > 0).then(|| mean(found.copied()))
}

/// The standard deviation with Bessel's correction of the values that are there, if they are two or more.
fn deviation(values: &[Option<f64>]) -> Option<f64> {
    let (mean, found) = (mean_of(values)?, values.iter().flatten());
    let count = found.clone().count();
    let squares: f64 = found.map(|value| (value - mean).powi(2)).sum();
    (count > 1).then(|| (squares / (count - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::train::objective::finite_differences::Uniform;

    fn config() -> AdvantageConfig {
        AdvantageConfig { num_generations: 4, ..AdvantageConfig::default() }
    }

    fn column(rewards: &[f64]) -> Vec<Vec<Option<f64>>> {
        rewards.iter().map(|reward| vec![Some(*reward)]).collect()
    }

    #[test]
    fn advantages_of_a_group_sum_to_0() {
        let rewards = column(&Uniform(1).list(12, -2.0, 2.0));
        for scale_rewards in [ScaleRewards::Group, ScaleRewards::Batch, ScaleRewards::None] {
            let found =
                AdvantageConfig { scale_rewards, ..config() }.advantages(&rewards, &["f"]).unwrap();
            for group in found.advantages.chunks(4) {
                assert!(group.iter().sum::<f64>().abs() < 1e-12);
                assert!(group.iter().any(|advantage| *advantage > 0.0));
            }
        }
    }

    #[test]
    fn negative_advantages_have_a_weight_of_their_own() {
        let rewards = column(&Uniform(3).list(12, -2.0, 2.0));
        let of = |negative_weight| {
            let config = AdvantageConfig { negative_weight, ..config() };
            config.advantages(&rewards, &["f"]).unwrap().advantages
        };
        let weighted = |weight: f64| -> Vec<f64> {
            of(1.0).into_iter().map(|a| if a < 0.0 { weight * a } else { a }).collect()
        };
        for weight in [0.0, 0.25] {
            assert_eq!(of(weight), weighted(weight));
        }
        assert!(AdvantageConfig { negative_weight: 1.5, ..config() }.validate().is_err());
    }

    #[test]
    fn constant_rewards_teach_nothing_and_are_marked() {
        let mut rewards = vec![0.7; 8];
        rewards[5] = 0.1;
        let found = config().advantages(&column(&rewards), &["f"]).unwrap();
        assert_eq!(found.advantages[..4], [0.0; 4]);
        assert_eq!(found.is_std_zero, [[true; 4], [false; 4]].concat());
        assert_eq!(found.metrics["frac_reward_zero_std"], 0.5);
    }

    #[test]
    fn a_completion_without_rewards_is_left_out_of_its_group() {
        let names = ["a", "b"];
        let row = |a, b| vec![a, b];
        let rewards = [
            row(Some(1.0), None),
            row(None, None),
            row(Some(0.0), Some(1.0)),
            row(None, Some(0.5)),
        ];
        let none = AdvantageConfig { scale_rewards: ScaleRewards::None, ..config() };
        let found = none.advantages(&rewards, &names).unwrap();
        let mean = 2.5 / 3.0;
        assert_eq!(found.advantages, [1.0 - mean, 0.0, 1.0 - mean, 0.5 - mean]);
        assert!((found.metrics["reward"] - mean).abs() < 1e-15);
        assert_eq!(found.metrics["rewards/b/mean"], 0.75);
        let gdpo = Aggregation::NormalizeThenSum;
        let gdpo = AdvantageConfig { multi_objective_aggregation: gdpo, ..config() };
        let found = gdpo.advantages(&rewards, &names).unwrap();
        assert_eq!(found.advantages[1], 0.0);
        assert!(found.advantages.iter().sum::<f64>().abs() < 1e-12);
        let nothing = vec![row(None, None); 4];
        let found = gdpo.advantages(&nothing, &names).unwrap();
        assert_eq!((found.advantages, found.is_std_zero), (vec![0.0; 4], vec![false; 4]));
        assert!(!found.metrics.contains_key("reward"));
    }

    #[test]
    fn groups_of_one_and_parts_of_groups_are_refused() {
        let one = AdvantageConfig { num_generations: 1, ..config() };
        assert!(one.advantages(&column(&[1.0]), &["f"]).is_err());
        assert!(config().advantages(&column(&[1.0; 6]), &["f"]).is_err());
        assert!(config().advantages(&column(&[1.0; 4]), &["f", "g"]).is_err());
        let weights = AdvantageConfig { reward_weights: vec![1.0, 2.0], ..config() };
        assert!(weights.advantages(&column(&[1.0; 4]), &["f"]).is_err());
    }
}
