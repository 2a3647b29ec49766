//! One update on answers.

use burn::module::Module;

use super::config::RlConfig;
use super::measures::by_modality;
use super::sampler::{CODES, Sampler};
use super::state::{Row, bits, numbers};
use crate::error::Result;
use crate::model::{CausalLm, TokenStats};
use crate::train::answers::{Answers, Guidance, Scored, Slopes};
use crate::train::config::BatchConfig;
use crate::train::objective::policy::value::TokenListLoss;
use crate::train::objective::policy::{Advantage, Completion, PolicyLoss, PolicyLossType};
use crate::train::objective::{Activations, Metrics, mean};
use crate::train::trained::Trained;

/// What an update needs besides model and answers.
pub(super) struct Update<'a> {
    pub(super) config: &'a RlConfig,
    pub(super) batch: &'a BatchConfig,
    pub(super) sampler: &'a Sampler,
    /// Weight of the entropy.
    pub(super) entropy_coef: f64,
}

/// What the loss says of answers.
pub(super) struct Scores {
    pub(super) loss: PolicyLoss,
    /// The loss's metrics, and those by modality.
    pub(super) metrics: Metrics,
    /// Ids of prompts and answers.
    pub(super) num_tokens: usize,
    /// Whether the policy has not scored the answers yet.
    is_foreseen: bool,
}

impl Scores {
    /// Adds a loss over the log-probabilities of the same tokens.
    fn add(&mut self, loss: &TokenListLoss) {
        self.loss.loss += loss.loss;
        for (slopes, more) in self.loss.gradient.iter_mut().zip(&loss.gradient) {
            slopes.iter_mut().zip(more).for_each(|(slope, more)| *slope += more);
        }
        self.metrics.extend(loss.metrics.clone());
    }

    /// Whether the loss moves any weight.
    pub(super) fn moves(&self) -> bool {
        (0..self.loss.gradient.len()).any(|row| self.moves_by(row))
    }

    /// Whether answer `row` does.
    fn moves_by(&self, row: usize) -> bool {
        let mut all = self.loss.gradient[row].iter().chain(&self.loss.entropy_gradient[row]);
        all.any(|slope| *slope != 0.0)
    }
}

impl Update<'_> {
    /// Scores `rows` under `model`, outside autodiff, and under `reference` if the loss needs it; what later updates on
    /// the same rows compare with is kept in them. `taught` are advantages of tokens by a value function, in place of the
    /// rows' own.
    ///
    /// # Errors
    /// None is expected of answers that were drawn.
    pub(super) fn scores(
        &self,
        model: &CausalLm,
        reference: Option<&CausalLm>,
        rows: &mut [Row],
        taught: Option<&[Vec<f64>]>,
    ) -> Result<Scores> {
        let is_foreseen = self.is_foreseen(taught.is_some());
        let stats = match is_foreseen {
            true => self.unscored(rows)?,
            false => self.stats(model, rows)?,
        };
        if let Some(reference) = reference
            && rows.iter().any(|row| row.reference.is_none())
        {
            let stats = self.stats(reference, rows)?;
            rows.iter_mut().zip(&stats).for_each(|(row, stats)| row.reference = Some(bits(stats)));
        }
        if self.config.num_iterations > 1 {
            for (row, stats) in rows.iter_mut().zip(&stats) {
                row.old.get_or_insert_with(|| bits(stats));
            }
        }
        // Elsewhere the lead is only logged, for which one batch is enough.
        let led =
            if self.config.policy.needs_sampler() { rows.len() } else { self.batch.sequences };
        let led = &mut rows[..led.min(stats.len())];
        if self.has_lead() && led.iter().any(|row| row.sampler.is_none()) {
            let guided = self.stats_of(model, led, true)?;
            led.iter_mut().zip(&guided).for_each(|(row, stats)| row.sampler = Some(bits(stats)));
        }
        let mut completions: Vec<Completion> =
            rows.iter().zip(&stats).map(|(row, stats)| completion(row, stats)).collect();
        if is_foreseen {
            completions.iter_mut().for_each(|completion| completion.entropies = None);
        }
        if let Some(advantages) = taught {
            for (completion, advantages) in completions.iter_mut().zip(advantages) {
                completion.advantage = Advantage::Tokens(advantages.clone());
            }
        }
        let loss = self.config.policy.loss(&completions, self.entropy_coef)?;
        let mut metrics = loss.metrics.clone();
        // Without the bonus, under the name of the whole.
        metrics.remove("policy_loss");
        if !is_foreseen {
            metrics.append(&mut self.measured(rows, &stats)?);
        }
        let num_tokens = rows.iter().map(|row| row.ids.len()).sum();
        let mut scores = Scores { loss, metrics, num_tokens, is_foreseen };
        if let Some(mut positive) = self.positive(rows, &stats) {
            if is_foreseen {
                positive.metrics.clear();
            }
            scores.add(&positive);
        }
        Ok(scores)
    }

    /// The loss of the answers that are correct.
    fn positive(&self, rows: &[Row], stats: &[Vec<TokenStats>]) -> Option<TokenListLoss> {
        let config = self.config.positive.as_ref()?;
        let of = |stats: &Vec<TokenStats>| stats.iter().map(|s| f64::from(s.log_prob)).collect();
        let log_probs: Vec<Vec<f64>> = stats.iter().map(of).collect();
        let is_left_out =
            |row: &Row| self.config.policy.mask_truncated_completions && row.is_truncated;
        let rewards = rows.iter().map(|row| row.reward().filter(|_| !is_left_out(row)));
        Some(config.loss(&log_probs.iter().map(Vec::as_slice).zip(rewards).collect::<Vec<_>>()))
    }

    /// Whether answers are drawn under another distribution than they are scored under.
    fn has_lead(&self) -> bool {
        self.config.guidance_scale != 1.0 && !self.config.scores_guided
    }

    /// Whether the gradient is known before the policy scores the answers, which the backward pass does then: every
    /// ratio is 1 and nothing else is compared with.
    fn is_foreseen(&self, is_taught: bool) -> bool {
        let RlConfig { policy, num_iterations, entropy_control, .. } = self.config;
        let has_lead = self.has_lead() && policy.needs_sampler();
        let of_entropies = policy.needs_entropies() || entropy_control.is_some();
        let compares = *num_iterations > 1 || policy.needs_reference() || has_lead;
        // The value of these losses is not known beforehand, nor which tokens the entropy is over.
        let is_weighted = matches!(policy.loss_type, PolicyLossType::Cispo | PolicyLossType::Vespo);
        let is_masked = policy.mask_truncated_completions;
        !(is_taught || of_entropies || compares || is_weighted || is_masked)
    }

    /// Statistics of answers that are not scored yet.
    fn unscored(&self, rows: &[Row]) -> Result<Vec<Vec<TokenStats>>> {
        let scored = self.scored(rows)?;
        let none = |row: &Scored<'_>| {
            vec![TokenStats::default(); row.distributions.iter().flatten().count()]
        };
        Ok(scored.iter().map(none).collect())
    }

    /// What the statistics of `rows` say by modality.
    fn measured(&self, rows: &[Row], stats: &[Vec<TokenStats>]) -> Result<Metrics> {
        let scored = self.scored(rows)?;
        let scored = scored.iter().map(|row| row.distributions.iter().flatten().copied().collect());
        Ok(by_modality(rows, stats, &scored.collect::<Vec<Vec<usize>>>()))
    }

    /// What the score head of `model`, outside autodiff, says before each scored token of `rows`.
    ///
    /// # Errors
    /// None is expected of answers that were drawn.
    pub(super) fn values(&self, model: &CausalLm, rows: &[Row]) -> Result<Vec<Vec<f64>>> {
        let mut all = Vec::with_capacity(rows.len());
        for rows in rows.chunks(self.batch.sequences) {
            all.extend(self.pack(&self.scored(rows)?).values(model));
        }
        Ok(all)
    }

    /// Adds the gradients of the loss to the model's, `batch.sequences` answers at a time; returns what is logged of
    /// answers that were not scored before.
    ///
    /// # Errors
    /// None is expected of answers that were drawn.
    pub(super) fn accumulate(
        &self,
        model: &mut Trained<CausalLm>,
        rows: &[Row],
        scores: &Scores,
        seed: u64,
    ) -> Result<Metrics> {
        let (size, loss) = (self.batch.sequences, &scores.loss);
        let released = model.module().valid();
        let mut found = vec![Vec::new(); rows.len()];
        for (part, first) in (0..rows.len()).step_by(size).enumerate() {
            // Most answers teach nothing when most groups are equal.
            let (moving, resting): (Vec<usize>, Vec<usize>) =
                (first..rows.len().min(first + size)).partition(|row| scores.moves_by(*row));
            if scores.is_foreseen && !resting.is_empty() {
                let stats = self.stats(&released, &picked(rows, &resting))?;
                resting.iter().zip(stats).for_each(|(row, stats)| found[*row] = stats);
            }
            if moving.is_empty() {
                continue;
            }
            let entropies =
                (self.entropy_coef != 0.0).then(|| picked(&loss.entropy_gradient, &moving));
            let slopes = Slopes { log_probs: picked(&loss.gradient, &moving), entropies };
            let activations = Activations::of(self.batch.activation_checkpointing, seed, part);
            let rows = picked(rows, &moving);
            let (scored, module) = (self.scored(&rows)?, model.module());
            let scores_guided = self.config.scores_guided;
            let guided = scores_guided.then(|| self.guided(&rows, &scored)).flatten();
            let (gradients, stats) = match guided {
                Some((answers, guidance)) => {
                    let models = (module, &released);
                    answers.guided_gradients_of(&guidance, models, activations, &slopes)
                }
                None => self.pack(&scored).gradients_of(module, activations, &slopes),
            };
            model.add(gradients);
            moving.iter().zip(stats).for_each(|(row, stats)| found[*row] = stats);
        }
        if !scores.is_foreseen {
            return Ok(Metrics::new());
        }
        let entropies = found.iter().flatten().map(|stats| f64::from(stats.entropy));
        let entropy = mean(entropies);
        let mut metrics = self.measured(rows, &found)?;
        metrics.insert("entropy".to_owned(), entropy);
        metrics.extend(self.positive(rows, &found).map(|loss| loss.metrics).unwrap_or_default());
        Ok(metrics)
    }

    /// The statistics of the scored tokens of `rows` under the policy's distribution.
    fn stats(&self, model: &CausalLm, rows: &[Row]) -> Result<Vec<Vec<TokenStats>>> {
        self.stats_of(model, rows, self.config.scores_guided)
    }

    fn stats_of(
        &self,
        model: &CausalLm,
        rows: &[Row],
        guided: bool,
    ) -> Result<Vec<Vec<TokenStats>>> {
        let mut all = Vec::with_capacity(rows.len());
        for rows in rows.chunks(self.batch.sequences) {
            let scored = self.scored(rows)?;
            let scores = match guided.then(|| self.guided(rows, &scored)).flatten() {
                Some((answers, guidance)) => answers.guided_scores(&guidance, model),
                None => self.pack(&scored).scores(model, false),
            };
            all.extend(scores.stats);
        }
        Ok(all)
    }

    /// `rows` with what guidance compares them with; `None` without guidance or images.
    fn guided<'s>(
        &'s self,
        rows: &[Row],
        scored: &[Scored<'_>],
    ) -> Option<(Answers<'s>, Guidance<'s>)> {
        let scale = self.config.guidance_scale;
        let alone = rows.iter().zip(scored);
        let alone = alone.flat_map(|(row, scored)| self.sampler.unprompted(&row.ids, scored));
        let alone: Vec<_> = alone.collect();
        if scale == 1.0 || alone.is_empty() {
            return None;
        }
        let alone: Vec<Scored<'_>> = alone
            .iter()
            .map(|(ids, numbers)| Scored { ids, distributions: numbers.clone() })
            .collect();
        let one_by_one = |scored: &[Scored<'_>]| {
            Answers::one_by_one(scored, self.batch.seq_len, &self.sampler.distributions)
        };
        let guidance = Guidance { alone: one_by_one(&alone), number: CODES, scale };
        Some((one_by_one(scored), guidance))
    }

    /// `rows` with the distributions of their scored tokens.
    ///
    /// # Errors
    /// None is expected of answers that were drawn.
    pub(super) fn scored<'r>(&self, rows: &'r [Row]) -> Result<Vec<Scored<'r>>> {
        rows.iter().map(|row| self.sampler.scored(&row.ids, row.prompt_len)).collect()
    }

    /// `scored` in rows.
    pub(super) fn pack(&self, scored: &[Scored<'_>]) -> Answers<'_> {
        Answers::pack(scored, self.batch.seq_len, &self.sampler.distributions)
    }
}

fn completion(row: &Row, stats: &[TokenStats]) -> Completion {
    let of = |value: fn(&TokenStats) -> f32| stats.iter().map(|s| f64::from(value(s))).collect();
    let numbers = |bits: &Option<Vec<u32>>| bits.as_deref().map(numbers);
    Completion {
        log_probs: of(|stats| stats.log_prob),
        old_log_probs: numbers(&row.old),
        ref_log_probs: numbers(&row.reference),
        sampler_log_probs: numbers(&row.sampler),
        entropies: Some(of(|stats| stats.entropy)),
        advantage: Advantage::Completion(f64::from_bits(row.advantage)),
        is_truncated: row.is_truncated,
    }
}

/// Those of `items` with the numbers `at`.
fn picked<T: Clone>(items: &[T], at: &[usize]) -> Vec<T> {
    at.iter().map(|at| items[*at].clone()).collect()
}
