//! `rl.json`: advantages, losses over completions, values, the length penalty and guidance.

use std::collections::BTreeMap;
use std::path::Path;

use calumma::train::objective::policy::guided::Guidance;
use calumma::train::objective::policy::length::SoftOverlong;
use calumma::train::objective::policy::value::{ValueConfig, length_adaptive_lambda};
use calumma::train::objective::policy::{
    Advantage, AdvantageConfig, Completion, PolicyConfig, PositiveConfig,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Case;
use super::values::{
    GRADIENT, LOSS, METRIC, Settings, all_close, at, close, config, expected, metrics_close, read,
    rows_close, spread,
};

/// The note on a case whose mask leaves out the completions of full length.
const TRUNCATED: &str = "rows of full length count as truncated";

#[derive(Deserialize)]
struct File {
    /// A missing reward is a string.
    rewards: Vec<Vec<Value>>,
    reward_weights: Vec<f64>,
    num_generations: usize,
    advantages: BTreeMap<String, Value>,
    completion_mask: Vec<Vec<u8>>,
    policy_logps: Vec<Vec<f64>>,
    old_logps: Vec<Vec<f64>>,
    ref_logps: Vec<Vec<f64>>,
    entropies: Vec<Vec<f64>>,
    advantages_used: Vec<f64>,
    max_completion_length: usize,
    losses: BTreeMap<String, Value>,
    value_based: Settings,
    overlong: ExpectedOverlong,
    guided: Guided,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedAdvantages {
    advantages: Vec<f64>,
    is_std_zero: Vec<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedLoss {
    settings: Settings,
    loss: f64,
    grad: Vec<Vec<f64>>,
    #[serde(default)]
    grad_entropy: Vec<Vec<f64>>,
    metrics: BTreeMap<String, f64>,
    #[serde(default)]
    note: String,
}

#[derive(Deserialize)]
struct ExpectedPositive {
    rows: Vec<usize>,
    weight: f64,
    loss: f64,
    grad: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
struct ExpectedOverlong {
    max_completion_len: usize,
    soft_punish_cache: usize,
    lengths: Vec<usize>,
    reward: Vec<f64>,
}

#[derive(Deserialize)]
struct Guided {
    cond_logits: Vec<Vec<f64>>,
    uncond_logits: Vec<Vec<f64>>,
    allowed_ids: Vec<usize>,
    ids: Vec<usize>,
    cases: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedGuided {
    logps: Vec<f64>,
    grad_cond: Vec<Vec<f64>>,
    grad_uncond: Vec<Vec<f64>>,
}

/// One result for each case of the file in `dir`.
pub fn check(dir: &Path) -> Vec<Case> {
    let file: File = match read(&dir.join("rl.json")) {
        Ok(file) => file,
        Err(message) => return vec![("file".to_owned(), Err(message))],
    };
    let advantages = file
        .advantages
        .iter()
        .map(|(name, case)| (format!("advantages.{name}"), file.advantages(name, case)));
    let losses = file.losses.iter().map(|(name, case)| (name.clone(), file.loss(case)));
    let values = file
        .value_based
        .keys()
        .filter_map(|key| Some((format!("value_based.{key}"), file.value_based(key)?)));
    let guided = &file.guided;
    let guided_cases =
        guided.cases.iter().map(|(name, case)| (format!("guided.{name}"), guided.case(name, case)));
    let overlong = std::iter::once(("overlong".to_owned(), file.overlong.check()));
    advantages.chain(losses).chain(values).chain(guided_cases).chain(overlong).collect()
}

impl File {
    fn advantages(&self, name: &str, case: &Value) -> Result<(), String> {
        let expected: ExpectedAdvantages = expected(case)?;
        let (aggregation, scale) = name.split_once('.').unwrap_or((name, "group"));
        let settings = json!({
            "num_generations": self.num_generations,
            "reward_weights": self.reward_weights,
            "multi_objective_aggregation": aggregation,
            "scale_rewards": scale,
        });
        let config: AdvantageConfig =
            serde_json::from_value(settings).map_err(|e| format!("{name}: {e}"))?;
        let rewards: Vec<Vec<Option<f64>>> =
            self.rewards.iter().map(|row| row.iter().map(Value::as_f64).collect()).collect();
        let names: Vec<String> = (0..self.reward_weights.len()).map(|n| format!("f{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let found = config.advantages(&rewards, &names).map_err(|e| e.to_string())?;
        all_close("advantage", &found.advantages, &expected.advantages, METRIC)?;
        if found.is_std_zero != expected.is_std_zero {
            return Err(format!("is_std_zero is {:?}", found.is_std_zero));
        }
        Ok(())
    }

    fn loss(&self, case: &Value) -> Result<(), String> {
        let expected: ExpectedLoss = expected(case)?;
        let mut settings = expected.settings.clone();
        let is_on_policy = match settings.remove("old") {
            None => false,
            Some(old) if old == "policy" => true,
            Some(old) => return Err(format!("settings: old is {old}")),
        };
        if let Some(epsilon) = settings.remove("epsilon_low") {
            settings.insert("epsilon".to_owned(), epsilon);
        }
        let max = settings.entry("max_completion_length");
        max.or_insert(self.max_completion_length.into());
        let masks_truncated = expected.note.starts_with(TRUNCATED);
        if !expected.note.is_empty() && !masks_truncated {
            return Err(format!("unknown note: {}", expected.note));
        }
        settings.insert("mask_truncated_completions".to_owned(), masks_truncated.into());
        let config: PolicyConfig = config(settings)?;
        config.validate().map_err(|e| e.to_string())?;
        let completions: Vec<Completion> =
            (0..self.policy_logps.len()).map(|row| self.completion(row, is_on_policy)).collect();
        let found = config.loss(&completions, config.entropy_coef).map_err(|e| e.to_string())?;
        close("loss", found.loss, expected.loss, LOSS)?;
        rows_close("gradient", &self.spread(&found.gradient), &expected.grad, GRADIENT)?;
        let no_entropy_gradient = vec![vec![0.0; self.completion_mask[0].len()]; completions.len()];
        let entropy_gradient = match expected.grad_entropy.as_slice() {
            [] => &no_entropy_gradient,
            _ => &expected.grad_entropy,
        };
        let found_gradient = self.spread(&found.entropy_gradient);
        rows_close("gradient of entropy", &found_gradient, entropy_gradient, GRADIENT)?;
        metrics_close(&found.metrics, &expected.metrics)
    }

    fn completion(&self, row: usize, is_on_policy: bool) -> Completion {
        let mask = &self.completion_mask[row];
        let tokens = |values: &[Vec<f64>]| at(&values[row], mask);
        Completion {
            log_probs: tokens(&self.policy_logps),
            old_log_probs: (!is_on_policy).then(|| tokens(&self.old_logps)),
            ref_log_probs: Some(tokens(&self.ref_logps)),
            sampler_log_probs: None,
            entropies: Some(tokens(&self.entropies)),
            advantage: Advantage::Completion(self.advantages_used[row]),
            is_truncated: mask.iter().all(|m| *m != 0),
        }
    }

    fn spread(&self, rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
        rows.iter().zip(&self.completion_mask).map(|(row, mask)| spread(row, mask)).collect()
    }

    /// The check of a key of `value_based`; none of a key that is an input.
    fn value_based(&self, key: &str) -> Option<Result<(), String>> {
        let number = |prefix: &str| key.strip_prefix(prefix)?.parse::<f64>().ok();
        match key {
            "source" | "gamma" | "lengths" | "reward_at_last_token" | "values" => None,
            "positive_example_lm_loss" => Some(self.positive(key)),
            _ => Some(if let Some(lambda_policy) = number("lambda_") {
                let config = ValueConfig { lambda_policy, ..ValueConfig::default() };
                self.field(key).and_then(|want| self.tokens(config, false, want))
            } else if let Some(alpha) = number("length_adaptive_alpha_") {
                self.length_adaptive(key, alpha)
            } else if let Some(lambda_value) = number("returns_lambda_") {
                let config = ValueConfig { lambda_value, ..ValueConfig::default() };
                self.field(key).and_then(|want| self.tokens(config, true, want))
            } else {
                Err("unknown".to_owned())
            }),
        }
    }

    fn field<T: DeserializeOwned>(&self, key: &str) -> Result<T, String> {
        let value = self.value_based.get(key).ok_or_else(|| format!("no {key}"))?;
        serde_json::from_value(value.clone()).map_err(|e| format!("{key}: {e}"))
    }

    /// Compares advantages or returns.
    fn tokens(
        &self,
        config: ValueConfig,
        is_returns: bool,
        want: Vec<Vec<f64>>,
    ) -> Result<(), String> {
        let config = ValueConfig { gamma: self.field("gamma")?, ..config };
        config.validate().map_err(|e| e.to_string())?;
        let (lens, last): (Vec<usize>, Vec<f64>) =
            (self.field("lengths")?, self.field("reward_at_last_token")?);
        let values: Vec<Vec<f64>> = self.field("values")?;
        for (row, len) in lens.into_iter().enumerate() {
            let mut rewards = vec![0.0; len];
            rewards[len - 1] = last[row];
            let values = &values[row][..len];
            let mut got = if is_returns {
                config.returns(&rewards, values)
            } else {
                config.advantages(&rewards, values)
            };
            got.resize(want[row].len(), 0.0);
            all_close(&format!("row {row}, token"), &got, &want[row], METRIC)?;
        }
        Ok(())
    }

    fn length_adaptive(&self, key: &str, alpha: f64) -> Result<(), String> {
        let want: BTreeMap<String, Value> = self.field(key)?;
        let part = |name: &str| want.get(name).cloned().ok_or_else(|| format!("no {name}"));
        let read = |e: serde_json::Error| e.to_string();
        let lambdas: Vec<f64> = serde_json::from_value(part("lambda")?).map_err(read)?;
        let lens: Vec<usize> = self.field("lengths")?;
        let got: Vec<f64> = lens.iter().map(|len| length_adaptive_lambda(alpha, *len)).collect();
        all_close("lambda", &got, &lambdas, METRIC)?;
        let config = ValueConfig { length_adaptive_alpha: Some(alpha), ..ValueConfig::default() };
        self.tokens(config, false, serde_json::from_value(part("advantages")?).map_err(read)?)
    }

    fn positive(&self, key: &str) -> Result<(), String> {
        let expected: ExpectedPositive = self.field(key)?;
        let config = PositiveConfig { weight: expected.weight, correct_from: 1.0 };
        let masks = self.completion_mask.iter();
        let rows: Vec<Vec<f64>> =
            self.policy_logps.iter().zip(masks).map(|(row, mask)| at(row, mask)).collect();
        let reward = |n| Some(f64::from(u8::from(expected.rows.contains(&n))));
        let rows: Vec<(&[f64], Option<f64>)> =
            rows.iter().enumerate().map(|(n, row)| (row.as_slice(), reward(n))).collect();
        let found = config.loss(&rows);
        close("loss", found.loss, expected.loss, LOSS)?;
        rows_close("gradient", &self.spread(&found.gradient), &expected.grad, GRADIENT)
    }
}

impl ExpectedOverlong {
    fn check(&self) -> Result<(), String> {
        let config = SoftOverlong {
            max_completion_len: self.max_completion_len,
            soft_punish_cache: self.soft_punish_cache,
        };
        let got: Vec<f64> = self.lengths.iter().map(|len| config.reward(*len)).collect();
        all_close("reward", &got, &self.reward, METRIC)
    }
}

impl Guided {
    /// Settings are in the name: `scale_S.temperature_T`, with `.detached` or not.
    fn case(&self, name: &str, case: &Value) -> Result<(), String> {
        let expected: ExpectedGuided = expected(case)?;
        let (numbers, is_detached) = match name.strip_suffix(".detached") {
            Some(numbers) => (numbers, true),
            None => (name, false),
        };
        let numbers = numbers.strip_prefix("scale_").and_then(|n| n.split_once(".temperature_"));
        let (scale, temperature) = numbers.ok_or("the name has no scale and temperature")?;
        let number = |text: &str| text.parse::<f64>().map_err(|e| format!("{text}: {e}"));
        let config = Guidance {
            guidance_scale: number(scale)?,
            temperature: number(temperature)?,
            detach_unconditional: is_detached,
        };
        config.validate().map_err(|e| e.to_string())?;
        for (row, id) in self.ids.iter().enumerate() {
            let (cond, uncond) = (&self.cond_logits[row], &self.uncond_logits[row]);
            let found = config.log_prob(cond, uncond, &self.allowed_ids, *id);
            let found = found.map_err(|e| e.to_string())?;
            close("log-probability", found.log_prob, expected.logps[row], LOSS)?;
            let want = (&expected.grad_cond[row], &expected.grad_uncond[row]);
            all_close("gradient of conditional", &found.conditional, want.0, GRADIENT)?;
            all_close("gradient of unconditional", &found.unconditional, want.1, GRADIENT)?;
        }
        Ok(())
    }
}
