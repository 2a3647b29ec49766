//! Losses over pairs that use the policy alone: CPO, SimPO and ORPO. Source: TRL 1.16, `trl.experimental`.

use super::answers::{Pair, PairGradient, PairLoss};
use super::config::PreferenceConfig;
use super::kinds::PreferenceLoss;
use super::likelihood::Likelihood;
use super::rewards::reward_metrics;
use super::scores::{Scored, ScoredPair};
use super::terms::{Term, term};
use crate::train::objective::logistic::{log1mexp, sigmoid, softplus};
use crate::train::objective::metrics::mean;

/// The odds of a probability of 1 are infinite, and log-probabilities in f32 do round to 0: at most this mean
/// log-probability is taken, with its slope.
const MAX_MEAN_LOG_PROB: f64 = -1e-6;

/// The loss `kind` over all pairs of a step.
pub(super) fn loss(kind: PreferenceLoss, config: &PreferenceConfig, pairs: &[Pair]) -> PairLoss {
    let scored: Vec<ScoredPair> = pairs
        .iter()
        .map(|pair| ScoredPair {
            chosen: Scored::without_reference(&pair.chosen),
            rejected: Scored::without_reference(&pair.rejected),
        })
        .collect();
    let is_orpo = kind == PreferenceLoss::Orpo;
    let odds: Vec<OddsRatio> =
        if is_orpo { scored.iter().map(OddsRatio::new).collect() } else { Vec::new() };
    let terms: Vec<Term> = if is_orpo {
        odds.iter().map(|ratio| ratio.term(config.beta)).collect()
    } else {
        scored.iter().map(|pair| term(kind, pair, config)).collect()
    };
    let (likelihood, likelihood_weight) = match kind {
        PreferenceLoss::Orpo => (Likelihood::of_chosen_rows(pairs), 1.0),
        PreferenceLoss::Simpo => (Likelihood::of_chosen(pairs), config.cpo_alpha.unwrap_or(0.0)),
        _ => (Likelihood::of_chosen(pairs), config.cpo_alpha.unwrap_or(1.0)),
    };
    let loss_weight = config.loss_weights.first().copied().unwrap_or(1.0);

    let log_probs: Vec<_> = scored.iter().map(|pair| pair_values(kind, pair)).collect();
    let rewards: Vec<_> =
        log_probs.iter().map(|(c, r)| (config.beta * c, config.beta * r)).collect();
    let mut metrics = reward_metrics(&rewards, &log_probs);
    metrics.insert("nll_loss".to_owned(), likelihood.loss);
    if is_orpo {
        let log_sigmoids = odds.iter().map(|ratio| -softplus(-ratio.log));
        metrics.insert("log_odds_ratio".to_owned(), mean(log_sigmoids));
        metrics.insert("log_odds_chosen".to_owned(), mean(odds.iter().map(|ratio| ratio.log)));
    }
    let slope = loss_weight * likelihood_weight * likelihood.slope;
    // Only `orpo` counts the tokens of prompts.
    let prompt_slope = if is_orpo { slope } else { 0.0 };
    let factor = loss_weight / pairs.len() as f64;
    let gradient = terms.iter().zip(pairs).map(|(term, pair)| PairGradient {
        chosen: vec![factor * term.chosen + slope; pair.chosen.log_probs.len()],
        rejected: vec![factor * term.rejected; pair.rejected.log_probs.len()],
        prompt: vec![prompt_slope; pair.prompt_log_probs.len()],
    });
    PairLoss {
        loss: loss_weight
            * (mean(terms.iter().map(|term| term.loss)) + likelihood_weight * likelihood.loss),
        gradient: gradient.collect(),
        metrics,
    }
}

/// The two log-probabilities that the loss compares: sums, or means over tokens.
fn pair_values(kind: PreferenceLoss, pair: &ScoredPair) -> (f64, f64) {
    let (chosen, rejected) = (&pair.chosen, &pair.rejected);
    match kind {
        PreferenceLoss::Cpo | PreferenceLoss::CpoHinge => (chosen.log_prob, rejected.log_prob),
        _ => (chosen.log_prob / chosen.len, rejected.log_prob / rejected.len),
    }
}

/// The odds of the chosen answer to those of the rejected one, with an answer's mean log-probability as
/// that of one event.
struct OddsRatio {
    /// Logarithm of the ratio.
    log: f64,
    /// Its derivatives with respect to the two answers' summed log-probabilities.
    chosen: f64,
    rejected: f64,
}

impl OddsRatio {
    fn new(pair: &ScoredPair) -> Self {
        let log_odds = |scored: &Scored| {
            let mean = (scored.log_prob / scored.len).min(MAX_MEAN_LOG_PROB);
            (mean - log1mexp(mean), -1.0 / mean.exp_m1() / scored.len)
        };
        let (chosen, rejected) = (log_odds(&pair.chosen), log_odds(&pair.rejected));
        Self { log: chosen.0 - rejected.0, chosen: chosen.1, rejected: -rejected.1 }
    }

    /// `-beta ln s(log odds ratio)`.
    fn term(&self, beta: f64) -> Term {
        let slope = -beta * sigmoid(-self.log);
        Term {
            loss: beta * softplus(-self.log),
            chosen: slope * self.chosen,
            rejected: slope * self.rejected,
        }
    }
}
