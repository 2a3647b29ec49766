//! The loss over pairs with a reference: its parts, their sum, gradient and metrics.

use super::answers::{self, Pair, PairGradient, PairLoss};
use super::config::PreferenceConfig;
use super::kinds::PreferenceLoss;
use super::likelihood::Likelihood;
use super::reference_free;
use super::rewards::reward_metrics;
use super::scores::{Scored, ScoredPair, token_weights};
use super::sorted;
use super::terms::{Term, term};
use crate::error::Result;
use crate::train::objective::metrics::{Metrics, mean};

impl PreferenceConfig {
    /// The loss over all pairs of a step.
    ///
    /// Metrics are TRL's: rewards are `beta` times the log-ratio (or the log-probability, for a loss
    /// without a reference), whatever the divergence.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::error::Error::Invalid) if there is no pair, or an answer has no tokens or
    /// lacks what the loss needs.
    pub fn loss(&self, pairs: &[Pair]) -> Result<PairLoss> {
        answers::check(self, pairs)?;
        Ok(match self.reference_free() {
            Some(kind) => reference_free::loss(kind, self, pairs),
            None => self.loss_with_reference(pairs),
        })
    }

    fn loss_with_reference(&self, pairs: &[Pair]) -> PairLoss {
        let weights: Vec<_> = pairs.iter().map(|pair| token_weights(pair, self.ld_alpha)).collect();
        let scored = pairs.iter().zip(&weights).map(|(pair, [chosen, rejected])| ScoredPair {
            chosen: Scored::new(&pair.chosen, chosen, self),
            rejected: Scored::new(&pair.rejected, rejected, self),
        });
        let scored: Vec<ScoredPair> = scored.collect();
        let pair_weights: Vec<f64> = pairs.iter().map(|pair| self.pair_weight(pair)).collect();
        let likelihood = Likelihood::of_chosen(pairs);

        let mut total = PairLoss { metrics: self.pair_metrics(&scored), ..PairLoss::default() };
        let mut sum = vec![Term::default(); pairs.len()];
        let mut likelihood_weight = 0.0;
        for (kind, loss_weight) in self.losses() {
            if kind == PreferenceLoss::Sft {
                let weight = loss_weight * mean(pair_weights.iter().copied());
                total.loss += weight * likelihood.loss;
                likelihood_weight += weight;
                total.metrics.insert("nll_loss".to_owned(), likelihood.loss);
                continue;
            }
            let terms = self.terms(kind, &scored);
            for ((sum, term), weight) in sum.iter_mut().zip(terms).zip(&pair_weights) {
                let factor = loss_weight * weight / pairs.len() as f64;
                total.loss += factor * term.loss;
                sum.chosen += factor * term.chosen;
                sum.rejected += factor * term.rejected;
            }
        }
        let slope = likelihood_weight * likelihood.slope;
        let gradient = sum.iter().zip(&weights).zip(pairs);
        total.gradient = gradient
            .map(|((sum, [chosen, rejected]), pair)| PairGradient {
                chosen: chosen.iter().map(|weight| sum.chosen * weight + slope).collect(),
                rejected: rejected.iter().map(|weight| sum.rejected * weight).collect(),
                prompt: vec![0.0; pair.prompt_log_probs.len()],
            })
            .collect();
        total
    }

    fn terms(&self, kind: PreferenceLoss, scored: &[ScoredPair]) -> Vec<Term> {
        match kind {
            PreferenceLoss::Aot => sorted::paired(scored, self),
            PreferenceLoss::AotUnpaired => sorted::unpaired(scored, self),
            _ => scored.iter().map(|pair| term(kind, pair, self)).collect(),
        }
    }

    /// The weight of a pair by WPO's equation 2: the product over both answers of `e` to the mean over tokens
    /// of `ln p - ln sum_v p_v^2`. It is a constant: no gradient goes through it.
    fn pair_weight(&self, pair: &Pair) -> f64 {
        if !self.use_weighting {
            return 1.0;
        }
        let aligned = [&pair.chosen, &pair.rejected].map(|answer| {
            let tokens = answer.log_probs.iter().zip(&answer.log_sum_sq_probs);
            mean(tokens.map(|(log_prob, log_sum_sq)| log_prob - log_sum_sq))
        });
        (aligned[0] + aligned[1]).exp()
    }

    fn pair_metrics(&self, scored: &[ScoredPair]) -> Metrics {
        let rewards = scored
            .iter()
            .map(|pair| (self.beta * pair.chosen.log_ratio, self.beta * pair.rejected.log_ratio));
        let log_probs = scored.iter().map(|pair| (pair.chosen.log_prob, pair.rejected.log_prob));
        reward_metrics(&rewards.collect::<Vec<_>>(), &log_probs.collect::<Vec<_>>())
    }
}
