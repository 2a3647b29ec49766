//! `reward.json`: the loss of a reward model.

use std::collections::BTreeMap;
use std::path::Path;

use calumma::train::objective::reward_model::{RewardModelConfig, ScorePair};
use serde::Deserialize;
use serde_json::Value;

use super::Case;
use super::values::{GRADIENT, LOSS, all_close, close, expected, metrics_close, read};

/// Scores are those of the chosen answers, then of their rejected ones.
#[derive(Deserialize)]
struct File {
    scores: Vec<f64>,
    margin: Vec<f64>,
    cases: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    center_rewards_coefficient: Option<f64>,
    loss: f64,
    grad: Vec<f64>,
    metrics: BTreeMap<String, f64>,
}

/// One result for each case of the file in `dir`.
pub fn check(dir: &Path) -> Vec<Case> {
    let file: File = match read(&dir.join("reward.json")) {
        Ok(file) => file,
        Err(message) => return vec![("file".to_owned(), Err(message))],
    };
    file.cases.iter().map(|(name, case)| (name.clone(), file.case(name, case))).collect()
}

impl File {
    fn case(&self, name: &str, case: &Value) -> Result<(), String> {
        let expected: Expected = expected(case)?;
        let has_margin = match name {
            "margin" => true,
            "plain" | "centred" => false,
            _ => return Err("the name says nothing about margins".to_owned()),
        };
        let center_rewards_coefficient = expected.center_rewards_coefficient;
        let config = RewardModelConfig { center_rewards_coefficient };
        config.validate().map_err(|e| e.to_string())?;
        let half = self.scores.len() / 2;
        let pair = |n: usize| ScorePair {
            chosen: self.scores[n],
            rejected: self.scores[n + half],
            margin: if has_margin { self.margin[n] } else { 0.0 },
        };
        let pairs: Vec<ScorePair> = (0..half).map(pair).collect();
        let found = config.loss(&pairs).map_err(|e| e.to_string())?;
        close("loss", found.loss, expected.loss, LOSS)?;
        let chosen = found.gradient.iter().map(|pair| pair.chosen);
        let rejected = found.gradient.iter().map(|pair| pair.rejected);
        let gradient: Vec<f64> = chosen.chain(rejected).collect();
        all_close("gradient", &gradient, &expected.grad, GRADIENT)?;
        metrics_close(&found.metrics, &expected.metrics)
    }
}
