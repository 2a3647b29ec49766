//! A value function beside the policy: what it expects of an answer at each of its tokens.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;

use super::critic_config::CriticConfig;
use super::state::{Row, bits_of, numbers};
use super::update::Update;
use crate::checkpoint::adapter::{is_adapter, read_config};
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::tokenize::Vocabulary;
use crate::train::config::LanguageRecipe;
use crate::train::objective::policy::value::Valued;
use crate::train::objective::reward_model::RewardModelConfig;
use crate::train::objective::{Activations, Metrics};
use crate::train::released::TrainedLm;
use crate::train::trained::NotFinite;

/// Name of its files in a checkpoint.
const NAME: &str = "critic";
/// The least deviation that advantages are divided by.
const LEAST_DEVIATION: f64 = 1e-8;

/// A value function in training.
pub(super) struct Critic {
    pub(super) config: CriticConfig,
    pub(super) lm: TrainedLm,
}

/// What a step asks of the value function.
pub(super) struct Lesson {
    /// The policy's advantage at each scored token of each answer.
    pub(super) advantages: Vec<Vec<f64>>,
    /// What the value at each of them should be, and was before the first update; nothing for answers without a
    /// reward.
    targets: Vec<Valued>,
}

impl Critic {
    /// The value function of a run by `recipe`, for a tokenizer with `vocabulary`, on the autodiff device `device`.
    ///
    /// # Errors
    /// Those of the files that the recipe names.
    pub(super) fn open(
        config: &CriticConfig,
        recipe: &LanguageRecipe,
        vocabulary: &Vocabulary,
        device: &Device,
        precision: Precision,
    ) -> Result<Self> {
        let mut recipe = recipe.clone();
        recipe.reward_model = Some(RewardModelConfig::default());
        recipe.average.decay = 0.0;
        if let Some(dir) = recipe.run.init_adapter.take() {
            recipe.adapter = Some(read_config(&dir)?.config);
        }
        match &config.init {
            Some(init) if is_adapter(init) => {
                (recipe.adapter, recipe.run.init_adapter) = (None, Some(init.clone()));
            }
            Some(init) => recipe.run.init = Some(init.clone()),
            None => {}
        }
        let lm = TrainedLm::new(&recipe, vocabulary, device, precision);
        let lm = lm.map_err(Error::because("rl.critic"))?.aside(NAME);
        Ok(Self { config: config.clone(), lm })
    }

    /// What the value function should learn of `rows`, and advantages by what it says; its values before the first
    /// update are kept in them.
    ///
    /// # Errors
    /// None is expected of answers that were drawn.
    pub(super) fn lesson(&self, update: &Update<'_>, rows: &mut [Row]) -> Result<Lesson> {
        if rows.iter().any(|row| row.values.is_none()) {
            let values = update.values(&self.lm.model.module().valid(), rows)?;
            for (row, values) in rows.iter_mut().zip(&values) {
                row.values = Some(bits_of(values));
            }
        }
        let value = &self.config.value;
        let (mut advantages, mut targets) = (Vec::new(), Vec::new());
        for row in rows.iter() {
            let old_values = row.values.as_deref().map(numbers).unwrap_or_default();
            let Some(reward) = row.reward() else {
                advantages.push(vec![0.0; old_values.len()]);
                targets.push(Valued::default());
                continue;
            };
            // All of it is given at the end.
            let mut rewards = vec![0.0; old_values.len()];
            rewards.iter_mut().next_back().into_iter().for_each(|last| *last = reward);
            advantages.push(value.advantages(&rewards, &old_values));
            let returns = value.returns(&rewards, &old_values);
            targets.push(Valued { values: Vec::new(), old_values, returns });
        }
        if self.config.whiten_advantages {
            whiten(&mut advantages, &targets);
        }
        Ok(Lesson { advantages, targets })
    }

    /// Adds the gradients of the value function's loss over `rows`; returns what is logged.
    ///
    /// # Errors
    /// None is expected of answers that were drawn.
    pub(super) fn accumulate(
        &mut self,
        update: &Update<'_>,
        rows: &[Row],
        lesson: &Lesson,
        seed: u64,
    ) -> Result<Metrics> {
        let all: usize = lesson.targets.iter().map(|target| target.returns.len()).sum();
        let (mut found, mut errors) = (Metrics::new(), Vec::with_capacity(all));
        let size = update.batch.sequences;
        let parts = rows.chunks(size).zip(lesson.targets.chunks(size)).enumerate();
        for (part, (rows, targets)) in parts {
            let taught: Vec<usize> =
                (0..rows.len()).filter(|row| !targets[*row].returns.is_empty()).collect();
            if taught.is_empty() {
                continue;
            }
            let scored = update.scored(rows)?;
            let scored: Vec<_> = taught.iter().map(|row| scored[*row].clone()).collect();
            let activations = Activations::of(update.batch.activation_checkpointing, seed, part);
            let answers = update.pack(&scored);
            let model = self.lm.model.module();
            let (gradients, loss) = answers.value_gradients(model, activations, |values| {
                let valued = |(row, values): (&usize, &Vec<f64>)| Valued {
                    values: values.clone(),
                    ..targets[*row].clone()
                };
                let valued: Vec<Valued> = taught.iter().zip(values).map(valued).collect();
                let loss = self.config.value.loss(&valued);
                let tokens = valued.iter().map(|row| row.values.len()).sum::<usize>();
                let share = tokens as f64 / all as f64;
                for row in &valued {
                    errors.extend(row.values.iter().zip(&row.returns).map(|(v, r)| (v - r, *r)));
                }
                let slopes = loss.as_ref().map(|loss| scaled(&loss.gradient, share));
                (slopes.unwrap_or_default(), loss.map(|loss| (loss, share)))
            });
            let (loss, share) = loss?;
            self.lm.model.add(gradients);
            for (name, value) in loss.metrics {
                *found.entry(name).or_default() += share * value;
            }
        }
        if let Some(explained) = explained_variance(&errors) {
            found.insert("value/explained_variance".to_owned(), explained);
        }
        Ok(found)
    }

    /// Takes the step at the policy's learning rate `lr`, multiplied by the ratio.
    ///
    /// # Errors
    /// As [`Trained::apply`](crate::train::Trained::apply).
    pub(super) fn apply(&mut self, lr: f64) -> std::result::Result<f64, NotFinite> {
        self.lm.model.apply(lr * self.config.lr_ratio)
    }

    /// Writes it into the checkpoint `dir`.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn save(&self, dir: &Path) -> Result<()> {
        self.lm.model.save(dir)
    }
}

fn scaled(gradient: &[Vec<f64>], share: f64) -> Vec<Vec<f64>> {
    gradient.iter().map(|row| row.iter().map(|slope| share * slope).collect()).collect()
}

/// Shifts and scales the advantages of answers that have targets to mean 0 and deviation 1.
fn whiten(advantages: &mut [Vec<f64>], targets: &[Valued]) {
    let counts = |target: &Valued| !target.returns.is_empty();
    let counted = advantages.iter().zip(targets).filter(|(_, target)| counts(target));
    let all: Vec<f64> = counted.flat_map(|(row, _)| row.iter().copied()).collect();
    let (mean, variance) = moments(&all);
    let deviation = variance.sqrt().max(LEAST_DEVIATION);
    for (row, _) in advantages.iter_mut().zip(targets).filter(|(_, target)| counts(target)) {
        row.iter_mut().for_each(|advantage| *advantage = (*advantage - mean) / deviation);
    }
}

/// Mean and variance; 0 without values.
fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count)
}

/// The share of the targets' variance that the values explain, from errors and targets; `None` if targets do not vary.
fn explained_variance(errors: &[(f64, f64)]) -> Option<f64> {
    let (errors, targets): (Vec<f64>, Vec<f64>) = errors.iter().copied().unzip();
    let (_, variance) = moments(&targets);
    (variance > 0.0).then(|| 1.0 - moments(&errors).1 / variance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valued(returns: &[f64]) -> Valued {
        Valued { returns: returns.to_vec(), ..Valued::default() }
    }

    #[test]
    fn white_advantages_have_mean_0_and_deviation_1_over_the_tokens_that_count() {
        let mut advantages = [vec![3.0, 5.0], vec![0.0], vec![7.0]];
        let targets = [valued(&[1.0, 1.0]), valued(&[]), valued(&[1.0])];
        whiten(&mut advantages, &targets);
        assert_eq!(advantages[1], [0.0], "an answer without a reward");
        let counted = [&advantages[0][..], &advantages[2]].concat();
        let (mean, variance) = moments(&counted);
        assert!(mean.abs() < 1e-12 && (variance - 1.0).abs() < 1e-12, "{counted:?}");
        let mut equal = [vec![2.0, 2.0]];
        whiten(&mut equal, &targets[..1]);
        assert_eq!(equal[0], [0.0, 0.0]);
    }

    #[test]
    fn values_that_follow_the_targets_explain_them() {
        assert_eq!(explained_variance(&[(0.0, 1.0), (0.0, 3.0)]), Some(1.0));
        assert_eq!(explained_variance(&[(0.5, 1.0), (-0.5, 3.0)]), Some(0.75));
        assert_eq!(explained_variance(&[(0.5, 1.0), (0.1, 1.0)]), None);
    }
}
