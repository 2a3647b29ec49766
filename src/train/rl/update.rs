//! One update on answers.

use super::config::RlConfig;
use super::measures::by_modality;
use super::sampler::{CODES, Sampler};
use super::state::{Row, bits, numbers};
use crate::error::Result;
use crate::model::{CausalLm, TokenStats};
use crate::train::answers::{Answers, Scored};
use crate::train::config::BatchConfig;
use crate::train::objective::policy::{Advantage, Completion, PolicyLoss};
use crate::train::objective::{Activations, Metrics};
use crate::train::trained::Trained;

/// What an update needs besides model and answers.
pub(super) struct Update<'a> {
    pub(super) config: &'a RlConfig,
    pub(super) batch: &'a BatchConfig,
    pub(super) sampler: &'a Sampler,
}

/// What the loss says of answers.
pub(super) struct Scores {
    pub(super) loss: PolicyLoss,
    /// The loss's metrics, and those by modality.
    pub(super) metrics: Metrics,
    /// Ids of prompts and answers.
    pub(super) num_tokens: usize,
}

impl Scores {
    /// Whether the loss moves any weight.
    pub(super) fn moves(&self) -> bool {
        self.loss.gradient.iter().flatten().any(|slope| *slope != 0.0)
    }
}

impl Update<'_> {
    /// Scores `rows` under `model`, outside autodiff, and under `reference` if the loss needs it; what later updates on
    /// the same rows compare with is kept in them.
    ///
    /// # Errors
    /// None is expected of answers that were drawn.
    pub(super) fn scores(
        &self,
        model: &CausalLm,
        reference: Option<&CausalLm>,
        rows: &mut [Row],
    ) -> Result<Scores> {
        let stats = self.stats(model, rows)?;
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
        if self.config.guidance_scale != 1.0 && rows.iter().any(|row| row.sampler.is_none()) {
            let guided = self.guided(model, rows, &stats)?;
            rows.iter_mut().zip(&guided).for_each(|(row, stats)| row.sampler = Some(bits(stats)));
        }
        let completions: Vec<Completion> =
            rows.iter().zip(&stats).map(|(row, stats)| completion(row, stats)).collect();
        let loss = self.config.policy.loss(&completions, 0.0)?;
        let scored = self.scored(rows)?;
        let scored = scored.iter().map(|row| row.distributions.iter().flatten().copied().collect());
        let mut metrics = loss.metrics.clone();
        metrics.append(&mut by_modality(rows, &stats, &scored.collect::<Vec<Vec<usize>>>()));
        let num_tokens = rows.iter().map(|row| row.ids.len()).sum();
        Ok(Scores { loss, metrics, num_tokens })
    }

    /// Adds the gradients of `loss` to the model's, `batch.sequences` answers at a time.
    ///
    /// # Errors
    /// None is expected of answers that were drawn.
    pub(super) fn accumulate(
        &self,
        model: &mut Trained<CausalLm>,
        rows: &[Row],
        loss: &PolicyLoss,
        seed: u64,
    ) -> Result<()> {
        let size = self.batch.sequences;
        for (part, (rows, slopes)) in rows.chunks(size).zip(loss.gradient.chunks(size)).enumerate()
        {
            // Most answers teach nothing when most groups are equal.
            let moving: Vec<usize> = (0..rows.len())
                .filter(|row| slopes[*row].iter().any(|slope| *slope != 0.0))
                .collect();
            if moving.is_empty() {
                continue;
            }
            let scored = self.scored(rows)?;
            let scored: Vec<Scored<'_>> = moving.iter().map(|row| scored[*row].clone()).collect();
            let slopes: Vec<Vec<f64>> = moving.iter().map(|row| slopes[*row].clone()).collect();
            let activations = Activations::of(self.batch.activation_checkpointing, seed, part);
            let gradients = self.pack(&scored).gradients_of(model.module(), activations, &slopes);
            model.add(gradients);
        }
        Ok(())
    }

    fn stats(&self, model: &CausalLm, rows: &[Row]) -> Result<Vec<Vec<TokenStats>>> {
        let mut all = Vec::with_capacity(rows.len());
        for rows in rows.chunks(self.batch.sequences) {
            all.extend(self.pack(&self.scored(rows)?).scores(model, false).stats);
        }
        Ok(all)
    }

    /// As the sampler scored the tokens of `rows`, which have `stats` without guidance.
    fn guided(
        &self,
        model: &CausalLm,
        rows: &[Row],
        stats: &[Vec<TokenStats>],
    ) -> Result<Vec<Vec<TokenStats>>> {
        let (seq_len, size) = (self.batch.seq_len, self.batch.sequences);
        let distributions = &self.sampler.distributions;
        let mut all = Vec::with_capacity(rows.len());
        for (rows, stats) in rows.chunks(size).zip(stats.chunks(size)) {
            let scored = self.scored(rows)?;
            let alone = rows.iter().zip(&scored);
            let alone = alone.flat_map(|(row, scored)| self.sampler.unprompted(&row.ids, scored));
            let alone: Vec<_> = alone.collect();
            let alone: Vec<Scored<'_>> = alone
                .iter()
                .map(|(ids, numbers)| Scored { ids, distributions: numbers.clone() })
                .collect();
            let mut codes = Vec::new().into_iter();
            if !alone.is_empty() {
                let prompted = Answers::one_by_one(&scored, seq_len, distributions);
                let alone = Answers::one_by_one(&alone, seq_len, distributions);
                let how = (CODES, self.config.guidance_scale);
                codes = prompted.guided_stats(&alone, model, how).into_iter();
            }
            for (scored, stats) in scored.iter().zip(stats) {
                let numbers = scored.distributions.iter().flatten();
                let guided = numbers.zip(stats).map(|(number, plain)| match *number {
                    CODES => codes.next().unwrap_or(*plain),
                    _ => *plain,
                });
                all.push(guided.collect());
            }
        }
        Ok(all)
    }

    fn scored<'r>(&self, rows: &'r [Row]) -> Result<Vec<Scored<'r>>> {
        rows.iter().map(|row| self.sampler.scored(&row.ids, row.prompt_len)).collect()
    }

    fn pack(&self, scored: &[Scored<'_>]) -> Answers<'_> {
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
