//! Losses over single answers that are labelled desirable or not: KTO and unpaired APO-zero.
//!
//! Source: arXiv 2402.01306 equation 7, arXiv 2408.06266, TRL 1.16.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::train::objective::logistic::{sigmoid, sigmoid_slope};
use crate::train::objective::metrics::{Metrics, mean, metrics};

/// Which loss over single answers; `c` is the log-ratio of policy to reference, `b = beta`, `s` the
/// logistic function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnpairedKind {
    /// Desirable: `1 - s(b (c - z))`, other: `1 - s(b (z - c))`, with `z` the mean log-ratio of mismatched
    /// answers, at least 0, through which no gradient goes.
    #[default]
    Kto,
    /// The same with `z = 0`.
    ApoZeroUnpaired,
}

/// The loss over single answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnpairedConfig {
    /// The loss.
    pub loss_type: UnpairedKind,
    /// Above 0; the greater, the closer the policy stays to the reference.
    pub beta: f64,
    /// Weight of desirable answers.
    pub desirable_weight: f64,
    /// Weight of the others.
    pub undesirable_weight: f64,
}

impl Default for UnpairedConfig {
    fn default() -> Self {
        Self {
            loss_type: UnpairedKind::Kto,
            beta: 0.1,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
        }
    }
}

/// An answer and whether it is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelledAnswer {
    /// The policy's log-probability of each token in nats.
    pub log_probs: Vec<f64>,
    /// The reference's log-probability of the whole answer.
    pub reference: f64,
    /// Whether the answer is desirable.
    pub is_desirable: bool,
}

/// The log-probabilities of an answer after the prompt of another ([`mismatched_answer`]).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MismatchedAnswer {
    /// Under the policy.
    pub policy: f64,
    /// Under the reference.
    pub reference: f64,
}

/// The loss over single answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UnpairedLoss {
    /// The mean over answers.
    pub loss: f64,
    /// The derivative with respect to each token's log-probability, a list for each answer.
    pub gradient: Vec<Vec<f64>>,
    /// `kl` (the `z` of KTO), `rewards/{chosen,rejected,margins}` and `logps/{chosen,rejected}`; without
    /// those of a label that no answer has.
    pub metrics: Metrics,
}

/// The answer whose tokens follow the prompt of `row` for KTO's `z`: TRL rotates the answers of a batch by one.
pub fn mismatched_answer(row: usize, rows: usize) -> usize {
    (row + rows - 1) % rows
}

impl UnpairedConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let weights = [
            ("desirable_weight", self.desirable_weight),
            ("undesirable_weight", self.undesirable_weight),
        ];
        let error = |key, value: f64, allowed| {
            Err(Error::invalid(format!("unpaired.{key} is {value}; allowed: {allowed}")))
        };
        if !(self.beta > 0.0 && self.beta.is_finite()) {
            return error("beta", self.beta, "above 0");
        }
        match weights.iter().find(|(_, weight)| !(*weight >= 0.0 && weight.is_finite())) {
            Some((key, weight)) => error(key, *weight, "at least 0"),
            None => Ok(()),
        }
    }

    /// Whether the loss needs mismatched answers.
    pub fn needs_mismatched(&self) -> bool {
        self.loss_type == UnpairedKind::Kto
    }

    /// The loss over all answers of a step; `mismatched` may be empty for losses that do not need it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no answer, one has no tokens, or mismatched answers are missing.
    pub fn loss(
        &self,
        answers: &[LabelledAnswer],
        mismatched: &[MismatchedAnswer],
    ) -> Result<UnpairedLoss> {
        if answers.is_empty() {
            return Err(Error::invalid("a preference loss needs an answer"));
        }
        if let Some(number) = answers.iter().position(|answer| answer.log_probs.is_empty()) {
            return Err(Error::invalid(format!("answer {number}: no tokens")));
        }
        if self.needs_mismatched() && mismatched.is_empty() {
            return Err(Error::invalid("kto needs the log-probabilities of mismatched answers"));
        }
        let kl = if self.needs_mismatched() {
            mean(mismatched.iter().map(|answer| answer.policy - answer.reference)).max(0.0)
        } else {
            0.0
        };
        let mut total =
            UnpairedLoss { metrics: self.metrics(answers, kl), ..UnpairedLoss::default() };
        for answer in answers {
            let gap = self.beta * (log_ratio(answer) - kl);
            let (weight, sign) = if answer.is_desirable {
                (self.desirable_weight, 1.0)
            } else {
                (self.undesirable_weight, -1.0)
            };
            let factor = weight / answers.len() as f64;
            total.loss += factor * sigmoid(-sign * gap);
            let slope = -factor * sign * self.beta * sigmoid_slope(gap);
            total.gradient.push(vec![slope; answer.log_probs.len()]);
        }
        Ok(total)
    }

    fn metrics(&self, answers: &[LabelledAnswer], kl: f64) -> Metrics {
        let mut found = metrics([("kl", kl)]);
        for (name, label) in [("chosen", true), ("rejected", false)] {
            let labelled = || answers.iter().filter(|answer| answer.is_desirable == label);
            if labelled().next().is_some() {
                let reward = self.beta * mean(labelled().map(log_ratio));
                found.insert(format!("rewards/{name}"), reward);
                found.insert(format!("logps/{name}"), mean(labelled().map(log_prob)));
            }
        }
        let rewards = (found.get("rewards/chosen"), found.get("rewards/rejected"));
        if let (Some(chosen), Some(rejected)) = rewards {
            let margin = chosen - rejected;
            found.insert("rewards/margins".to_owned(), margin);
        }
        found
    }
}

fn log_prob(answer: &LabelledAnswer) -> f64 {
    answer.log_probs.iter().sum()
}

fn log_ratio(answer: &LabelledAnswer) -> f64 {
    log_prob(answer) - answer.reference
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::train::objective::finite_differences::{Uniform, assert_close, differences};

    fn answers(seed: u64) -> Vec<LabelledAnswer> {
        let mut uniform = Uniform(seed);
        let answer = |len| LabelledAnswer {
            log_probs: uniform.log_probs(len),
            reference: uniform.next(-6.0, -1.0),
            is_desirable: len % 2 == 0,
        };
        [2, 3, 5, 4, 1].map(answer).to_vec()
    }

    const MISMATCHED: [MismatchedAnswer; 2] = [
        MismatchedAnswer { policy: -3.0, reference: -5.0 },
        MismatchedAnswer { policy: -4.0, reference: -4.5 },
    ];

    fn config(loss_type: UnpairedKind) -> UnpairedConfig {
        UnpairedConfig { loss_type, beta: 0.3, desirable_weight: 1.5, undesirable_weight: 0.8 }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for kind in [UnpairedKind::Kto, UnpairedKind::ApoZeroUnpaired] {
            let (config, answers) = (config(kind), answers(1));
            let found = config.loss(&answers, &MISMATCHED).unwrap();
            let at: Vec<f64> = answers.iter().flat_map(|a| a.log_probs.clone()).collect();
            let want = differences(&at, |values| {
                let (mut moved, mut values) = (answers.clone(), values.iter());
                for log_prob in moved.iter_mut().flat_map(|answer| &mut answer.log_probs) {
                    *log_prob = *values.next().unwrap();
                }
                config.loss(&moved, &MISMATCHED).unwrap().loss
            });
            assert_close(&found.gradient.concat(), &want, "unpaired");
        }
    }

    #[test]
    fn z_is_the_mean_of_mismatched_log_ratios_but_not_negative() {
        let (config, answers) = (config(UnpairedKind::Kto), answers(2));
        assert_eq!(config.loss(&answers, &MISMATCHED).unwrap().metrics["kl"], 1.25);
        let other =
            MISMATCHED.map(|m| MismatchedAnswer { policy: m.reference, reference: m.policy });
        let found = config.loss(&answers, &other).unwrap();
        assert_eq!(found.metrics["kl"], 0.0);
        let apo = UnpairedConfig { loss_type: UnpairedKind::ApoZeroUnpaired, ..config.clone() };
        assert_eq!(apo.loss(&answers, &[]).unwrap(), found);
        assert!(config.loss(&answers, &[]).unwrap_err().to_string().contains("mismatched"));
    }

    #[test]
    fn a_label_that_no_answer_has_is_not_logged() {
        let mut answers = answers(3);
        answers.retain(|answer| answer.is_desirable);
        let found = config(UnpairedKind::Kto).loss(&answers, &MISMATCHED).unwrap();
        assert!(found.metrics.contains_key("rewards/chosen"));
        assert!(!found.metrics.contains_key("rewards/rejected"));
        assert!(!found.metrics.contains_key("rewards/margins"));
    }

    #[test]
    fn every_prompt_gets_the_answer_of_another() {
        let rotated: Vec<usize> = (0..4).map(|row| mismatched_answer(row, 4)).collect();
        assert_eq!(rotated, [3, 0, 1, 2]);
    }

    #[test]
    fn unsuitable_values_are_refused() {
        let kto = config(UnpairedKind::Kto);
        assert!(kto.validate().is_ok());
        assert!(UnpairedConfig { beta: 0.0, ..kto.clone() }.validate().is_err());
        assert!(UnpairedConfig { desirable_weight: -1.0, ..kto.clone() }.validate().is_err());
        assert!(kto.loss(&[], &MISMATCHED).is_err());
        assert!(kto.loss(&[LabelledAnswer::default()], &MISMATCHED).is_err());
    }
}
