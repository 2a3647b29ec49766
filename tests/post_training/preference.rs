//! `preference.json`: losses over pairs and over labelled answers.

use std::collections::BTreeMap;
use std::path::Path;

use calumma::train::objective::Metrics;
use calumma::train::objective::preference::{
    Answer, LabelledAnswer, MismatchedAnswer, Pair, PreferenceConfig, Reference, UnpairedConfig,
};
use serde::Deserialize;
use serde_json::Value;

use super::Case;
use super::values::{
    GRADIENT, LOSS, Settings, at, close, config, expected, metrics_close, read, rows_close, spread,
};

/// Rows are the chosen answers, then their rejected ones; values are `[row, token - 1]`.
#[derive(Deserialize)]
struct File {
    completion_mask: Vec<Vec<u8>>,
    policy_logps: Vec<Vec<f64>>,
    ref_logps: Vec<Vec<f64>>,
    log_sum_sq_probs: Vec<Vec<f64>>,
    kto_label: Vec<bool>,
    kl_policy_logps: Vec<f64>,
    kl_ref_logps: Vec<f64>,
    cases: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    settings: Settings,
    loss: f64,
    grad: Vec<Vec<f64>>,
    #[serde(default)]
    metrics: BTreeMap<String, f64>,
    #[serde(default, rename = "source")]
    _source: String,
}

/// A loss with a gradient for each row's tokens.
struct Found {
    loss: f64,
    gradient: Vec<Vec<f64>>,
    metrics: Metrics,
}

/// One result for each case of the file in `dir`.
pub fn check(dir: &Path) -> Vec<Case> {
    let file: File = match read(&dir.join("preference.json")) {
        Ok(file) => file,
        Err(message) => return vec![("file".to_owned(), Err(message))],
    };
    let case = |(name, case): (&String, &Value)| (name.clone(), file.case(name, case));
    file.cases.iter().map(case).collect()
}

impl File {
    fn case(&self, name: &str, case: &Value) -> Result<(), String> {
        let expected: Expected = expected(case)?;
        let kind = name.split('.').next().unwrap_or_default();
        let found = match kind {
            "kto" | "apo_zero_unpaired" => self.unpaired(kind, expected.settings.clone())?,
            _ => self.pairs(kind, expected.settings.clone())?,
        };
        close("loss", found.loss, expected.loss, LOSS)?;
        let rows = found.gradient.iter().enumerate();
        let gradient: Vec<_> = rows.map(|(row, values)| spread(values, self.mask(row))).collect();
        rows_close("gradient", &gradient, &expected.grad, GRADIENT)?;
        metrics_close(&found.metrics, &expected.metrics)
    }

    /// Which of a row's values belong to the answer: the first token has none.
    fn mask(&self, row: usize) -> &[u8] {
        &self.completion_mask[row][1..]
    }

    fn tokens(&self, values: &[Vec<f64>], row: usize) -> Vec<f64> {
        at(&values[row], self.mask(row))
    }

    fn reference(&self, row: usize) -> f64 {
        self.tokens(&self.ref_logps, row).iter().sum()
    }

    /// The answer of a row. The reference's tokens are given only where nothing less will do.
    fn answer(&self, row: usize, needs_reference_tokens: bool) -> Answer {
        Answer {
            log_probs: self.tokens(&self.policy_logps, row),
            reference: if needs_reference_tokens {
                Reference::Tokens(self.tokens(&self.ref_logps, row))
            } else {
                Reference::Sum(self.reference(row))
            },
            log_sum_sq_probs: self.tokens(&self.log_sum_sq_probs, row),
        }
    }

    fn pairs(&self, kind: &str, mut settings: Settings) -> Result<Found, String> {
        settings.remove("note");
        if let Some(losses) = settings.remove("loss_types") {
            settings.insert("loss_type".to_owned(), losses);
        } else if let Some(loss) = settings.remove("loss_type") {
            let loss = loss.as_str().ok_or("loss_type is not a name")?;
            let of_means = matches!(loss, "ipo" | "simpo");
            if settings.remove("average_log_prob") != Some(of_means.into()) {
                return Err(format!("average_log_prob is not {of_means} for {loss}"));
            }
            let name = match loss {
                "sigmoid" => "cpo".to_owned(),
                "simpo" => loss.to_owned(),
                _ => format!("cpo_{loss}"),
            };
            settings.insert("loss_type".to_owned(), name.into());
        } else {
            settings.insert("loss_type".to_owned(), kind.into());
        }
        let config: PreferenceConfig = config(settings)?;
        let half = self.policy_logps.len() / 2;
        let answer = |row| self.answer(row, config.needs_reference_tokens());
        let pair = |row| Pair {
            chosen: answer(row),
            rejected: answer(row + half),
            prompt_log_probs: Vec::new(),
        };
        let pairs: Vec<Pair> = (0..half).map(pair).collect();
        let loss = config.loss(&pairs).map_err(|e| e.to_string())?;
        let (chosen, rejected): (Vec<_>, Vec<_>) =
            loss.gradient.into_iter().map(|pair| (pair.chosen, pair.rejected)).unzip();
        let gradient = [chosen, rejected].concat();
        Ok(Found { loss: loss.loss, gradient, metrics: loss.metrics })
    }

    fn unpaired(&self, kind: &str, mut settings: Settings) -> Result<Found, String> {
        settings.insert("loss_type".to_owned(), kind.into());
        let config: UnpairedConfig = config(settings)?;
        let answers = self.kto_label.iter().enumerate().map(|(row, label)| LabelledAnswer {
            log_probs: self.tokens(&self.policy_logps, row),
            reference: self.reference(row),
            is_desirable: *label,
        });
        let mismatched = self.kl_policy_logps.iter().zip(&self.kl_ref_logps);
        let mismatched = mismatched
            .map(|(policy, reference)| MismatchedAnswer { policy: *policy, reference: *reference });
        let loss = config
            .loss(&answers.collect::<Vec<_>>(), &mismatched.collect::<Vec<_>>())
            .map_err(|e| e.to_string())?;
        Ok(Found { loss: loss.loss, gradient: loss.gradient, metrics: loss.metrics })
    }
}
