//! The loss over the completions of a step: token losses, their average, the entropy bonus and metrics.

use super::completions::{self, Completion, PolicyLoss};
use super::config::PolicyConfig;
use super::entropy::threshold;
use super::kinds::{PolicyLossType, RatioLevel};
use super::ratio_metrics::{clip_metrics, sampling_metrics};
use super::rows::Row;
use super::surrogate::{divergence, token_loss};
use crate::error::Result;
use crate::train::objective::metrics::Metrics;

impl PolicyConfig {
    /// The loss over all completions of a step, with the weight `entropy_coef` of their entropy: that of the
    /// configuration, or what [`EntropyControl::applied`](super::EntropyControl::applied) returns.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::error::Error::Invalid) if there is no completion, or one has no tokens or
    /// lacks what the loss needs.
    pub fn loss(&self, completions: &[Completion], entropy_coef: f64) -> Result<PolicyLoss> {
        completions::check(self, completions, entropy_coef != 0.0)?;
        let rows: Vec<Row<'_>> = completions.iter().map(|c| Row::new(c, self)).collect();
        let least_entropy = threshold(&rows, self.top_entropy_quantile);
        let mut total = PolicyLoss::default();
        let (mut kl_sum, tokens) = (0.0, rows.iter().map(|row| row.len).sum::<usize>());
        for row in &rows {
            let share = self.share(row.len, rows.len(), tokens);
            let (loss, gradient, kl) = self.row_loss(row, least_entropy);
            total.loss += share * loss;
            kl_sum += kl;
            total.gradient.push(gradient.into_iter().map(|slope| share * slope).collect());
        }
        total.metrics = clip_metrics(self, &rows);
        if self.sampler_correction.is_some() {
            total.metrics.append(&mut sampling_metrics(&rows));
        }
        if self.beta != 0.0 {
            total.metrics.insert("kl".to_owned(), kl_sum / tokens.max(1) as f64);
        }
        add_entropy(&mut total, &rows, least_entropy, entropy_coef);
        Ok(total)
    }

    /// What a token's loss is multiplied by for the average, in a completion of `len` tokens that count.
    fn share(&self, len: usize, rows: usize, tokens: usize) -> f64 {
        let (len, rows, tokens) = (len.max(1) as f64, rows as f64, tokens.max(1) as f64);
        match self.loss_type {
            PolicyLossType::Grpo | PolicyLossType::Sapo => 1.0 / (rows * len),
            PolicyLossType::Luspo => 1.0 / rows,
            PolicyLossType::DrGrpo => 1.0 / (rows * self.longest()),
            PolicyLossType::Bnpo
            | PolicyLossType::Dapo
            | PolicyLossType::Cispo
            | PolicyLossType::Vespo => 1.0 / tokens,
        }
    }

    /// The sum of the losses of a completion's tokens, its gradient and the sum of the divergences.
    fn row_loss(&self, row: &Row<'_>, least_entropy: f64) -> (f64, Vec<f64>, f64) {
        let corrects = self.loss_type != PolicyLossType::Vespo;
        let (mut loss, mut kl_sum, mut through_mean) = (0.0, 0.0, 0.0);
        let mut gradient = vec![0.0; row.completion.log_probs.len()];
        for (token, slope) in gradient[..row.len].iter_mut().enumerate() {
            let kl = divergence(self, row, token);
            let factor = if is_uncertain(row, token, least_entropy) {
                row.factor(token, corrects)
            } else {
                0.0
            };
            let token_loss = token_loss(self, row, token).scaled(factor).plus(kl.scaled(self.beta));
            loss += token_loss.loss;
            kl_sum += kl.loss;
            *slope = token_loss.direct;
            match self.importance_sampling_level {
                RatioLevel::Token => *slope += token_loss.through_ratio,
                RatioLevel::Sequence => through_mean += token_loss.through_ratio / row.len as f64,
            }
        }
        gradient[..row.len].iter_mut().for_each(|slope| *slope += through_mean);
        (loss, gradient, kl_sum)
    }
}

/// Whether a token's entropy is at least `least`; without entropies it is.
fn is_uncertain(row: &Row<'_>, token: usize, least: f64) -> bool {
    row.completion.entropies.as_ref().is_none_or(|entropies| entropies[token] >= least)
}

/// Subtracts `coefficient` times the mean entropy of the tokens that the loss counts, which is the same
/// whatever the average of the loss, and logs the mean over all tokens.
fn add_entropy(total: &mut PolicyLoss, rows: &[Row<'_>], least: f64, coefficient: f64) {
    let tokens = || {
        rows.iter().flat_map(|row| {
            let entropies = row.completion.entropies.as_deref().unwrap_or(&[]);
            let len = row.len.min(entropies.len());
            entropies[..len].iter().copied()
        })
    };
    if tokens().next().is_none() {
        total.entropy_gradient =
            rows.iter().map(|row| vec![0.0; row.completion.log_probs.len()]).collect();
        return;
    }
    let sums = |least: f64| {
        let add = |(sum, count): (f64, usize), entropy| (sum + entropy, count + 1);
        tokens().filter(|entropy| *entropy >= least).fold((0.0, 0), add)
    };
    let (all, all_count) = sums(f64::NEG_INFINITY);
    let (acted_on, count) = sums(least);
    let count = count.max(1) as f64;
    let mut log = Metrics::from([("entropy".to_owned(), all / all_count as f64)]);
    if coefficient != 0.0 {
        log.insert("policy_loss".to_owned(), total.loss);
        log.insert("entropy_coef".to_owned(), coefficient);
    }
    total.metrics.append(&mut log);
    total.entropy = Some(acted_on / count);
    total.loss -= coefficient * acted_on / count;
    total.entropy_gradient = rows
        .iter()
        .map(|row| {
            let is_counted = |token| token < row.len && is_uncertain(row, token, least);
            let slope = |token| if is_counted(token) { -coefficient / count } else { 0.0 };
            (0..row.completion.log_probs.len()).map(slope).collect()
        })
        .collect();
}
