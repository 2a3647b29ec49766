//! The losses of one pair, with their derivatives with respect to the two answers' log-probabilities.

use super::config::PreferenceConfig;
use super::kinds::PreferenceLoss;
use super::scores::{Scored, ScoredPair};
use crate::train::objective::logistic::{sigmoid, sigmoid_slope, softplus};

/// The loss of a pair.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Term {
    pub loss: f64,
    /// The derivative with respect to the chosen answer's log-probability.
    pub chosen: f64,
    /// The same for the rejected answer.
    pub rejected: f64,
}

/// A function's value and derivative.
type Valued = (f64, f64);

/// The loss `kind` of a pair; of the kinds that need more than the pair ([`PreferenceLoss::sorts`], `sft`,
/// `orpo`) nothing.
pub(super) fn term(kind: PreferenceLoss, pair: &ScoredPair, config: &PreferenceConfig) -> Term {
    let (b, e) = (config.beta, config.label_smoothing);
    match kind {
        PreferenceLoss::Sigmoid => of_sums(pair, |d| smoothed(d, b, 0.0)),
        PreferenceLoss::SigmoidNorm => of_means(pair, |d| smoothed(d, b, 0.0)),
        PreferenceLoss::Conservative | PreferenceLoss::Cpo => of_sums(pair, |d| smoothed(d, b, e)),
        PreferenceLoss::Robust => of_sums(pair, |d| robust(d, b, e)),
        PreferenceLoss::Hinge | PreferenceLoss::CpoHinge => of_sums(pair, |d| hinge(d, b)),
        PreferenceLoss::Ipo | PreferenceLoss::CpoIpo => of_means(pair, |d| squared(d - 0.5 / b)),
        PreferenceLoss::Simpo => {
            // The target margin is not multiplied by beta.
            let shift = config.simpo_gamma / b;
            of_means(pair, |d| smoothed(d - shift, b, e))
        }
        PreferenceLoss::ExoPair => of_sums(pair, |d| exo(d, b, e)),
        PreferenceLoss::Discopop => of_sums(pair, |d| discopop(d, b, config.discopop_tau)),
        PreferenceLoss::NcaPair => of_each(
            pair,
            |c| add(raised(c, b), scaled(lowered(c, b), 0.5)),
            |r| scaled(lowered(r, b), 0.5),
        ),
        PreferenceLoss::BcoPair => of_each(pair, |c| raised(c, b), |r| lowered(r, b)),
        PreferenceLoss::SppoHard => {
            of_each(pair, |c| squared(c - 0.5 / b), |r| squared(r + 0.5 / b))
        }
        PreferenceLoss::ApoZero => of_each(pair, |c| logistic(c, -b), |r| logistic(r, b)),
        PreferenceLoss::ApoDown => {
            let chosen = of_each(pair, |c| logistic(c, b), |_| (0.0, 0.0));
            let margin = of_sums(pair, |d| logistic(d, -b));
            Term {
                loss: chosen.loss + margin.loss,
                chosen: chosen.chosen + margin.chosen,
                rejected: margin.rejected,
            }
        }
        PreferenceLoss::Aot
        | PreferenceLoss::AotUnpaired
        | PreferenceLoss::Sft
        | PreferenceLoss::Orpo => Term::default(),
    }
}

/// A loss of the difference of the scores.
fn of_sums(pair: &ScoredPair, loss: impl Fn(f64) -> Valued) -> Term {
    of_difference(pair, |_| 1.0, loss)
}

/// A loss of the difference of the scores per token.
fn of_means(pair: &ScoredPair, loss: impl Fn(f64) -> Valued) -> Term {
    of_difference(pair, |scored| scored.len, loss)
}

fn of_difference(
    ScoredPair { chosen, rejected }: &ScoredPair,
    divisor: fn(&Scored) -> f64,
    loss: impl Fn(f64) -> Valued,
) -> Term {
    let (chosen_len, rejected_len) = (divisor(chosen), divisor(rejected));
    let (loss, slope) = loss(chosen.score / chosen_len - rejected.score / rejected_len);
    Term {
        loss,
        chosen: slope * chosen.slope / chosen_len,
        rejected: -slope * rejected.slope / rejected_len,
    }
}

/// A sum of a loss of either answer.
fn of_each(
    ScoredPair { chosen, rejected }: &ScoredPair,
    of_chosen: impl Fn(f64) -> Valued,
    of_rejected: impl Fn(f64) -> Valued,
) -> Term {
    let (c, r) = (of_chosen(chosen.log_ratio), of_rejected(rejected.log_ratio));
    Term { loss: c.0 + r.0, chosen: c.1, rejected: r.1 }
}

fn add(x: Valued, y: Valued) -> Valued {
    (x.0 + y.0, x.1 + y.1)
}

fn scaled(x: Valued, factor: f64) -> Valued {
    (x.0 * factor, x.1 * factor)
}

fn squared(x: f64) -> Valued {
    (x * x, 2.0 * x)
}

/// `s(b x)`; with `-b` it is `1 - s(b x)`.
fn logistic(x: f64, b: f64) -> Valued {
    (sigmoid(b * x), b * sigmoid_slope(b * x))
}

/// `-ln s(b x)`.
fn raised(x: f64, b: f64) -> Valued {
    (softplus(-b * x), -b * sigmoid(-b * x))
}

/// `-ln s(-b x)`.
fn lowered(x: f64, b: f64) -> Valued {
    raised(x, -b)
}

/// `-(1-e) ln s(b d) - e ln s(-b d)`.
pub(super) fn smoothed(d: f64, b: f64, e: f64) -> Valued {
    add(scaled(raised(d, b), 1.0 - e), scaled(lowered(d, b), e))
}

fn robust(d: f64, b: f64, e: f64) -> Valued {
    let difference = add(scaled(raised(d, b), 1.0 - e), scaled(lowered(d, b), -e));
    scaled(difference, 1.0 / (1.0 - 2.0 * e))
}

fn hinge(d: f64, b: f64) -> Valued {
    let below = 1.0 - b * d;
    if below > 0.0 { (below, -b) } else { (0.0, 0.0) }
}

/// `q ln(q / (1-e)) + (1-q) ln((1-q) / e)`, whose derivative needs `ln(q / (1-q)) = b d` only.
fn exo(d: f64, b: f64, e: f64) -> Valued {
    let (q, other) = (sigmoid(b * d), sigmoid(-b * d));
    let loss = q * (-softplus(-b * d) - (-e).ln_1p()) + other * (-softplus(b * d) - e.ln());
    (loss, b * q * other * (b * d - (-e).ln_1p() + e.ln()))
}

/// `(1-m) sp(-y) + m e^-y` with `y = b d` and `m = s(y / tau)`, through which the gradient goes too. The
/// products with `e^-y` are formed in logarithms: either factor alone may overflow.
fn discopop(d: f64, b: f64, tau: f64) -> Valued {
    let y = b * d;
    let (log_m, log_rest) = (-softplus(-y / tau), -softplus(y / tau));
    let (m, rest) = (log_m.exp(), log_rest.exp());
    let exponential = (log_m - y).exp();
    let through_m = ((log_m + log_rest - y).exp() - m * rest * softplus(-y)) / tau;
    let loss = rest * softplus(-y) + exponential;
    (loss, b * (through_m - rest * sigmoid(-y) - exponential))
}
