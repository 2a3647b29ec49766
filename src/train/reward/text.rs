//! Rewards that need no more than the roll-out itself.

use serde_json::Value;

use super::config::ExactMatchConfig;
use super::rollout::{Reward, Rollout};
use crate::error::Result;
use crate::train::objective::policy::length::SoftOverlong;

/// 1 for the right answer, else 0.
#[derive(Clone, Debug)]
pub struct ExactMatch {
    name: String,
    config: ExactMatchConfig,
}

/// 1 for output whose structure is right, else 0.
#[derive(Clone, Debug)]
pub struct WellFormed {
    name: String,
}

/// DAPO's soft penalty on long answers: 0 to -1.
#[derive(Clone, Debug)]
pub struct Length {
    name: String,
    penalty: SoftOverlong,
}

impl ExactMatch {
    /// The reward called `name`.
    pub fn new(name: &str, config: &ExactMatchConfig) -> Self {
        Self { name: name.to_owned(), config: config.clone() }
    }

    fn reward(&self, rollout: &Rollout<'_>) -> Option<f64> {
        let answers = right_answers(rollout.fields.get(&self.config.field)?);
        if answers.is_empty() {
            return None;
        }
        let given = rollout.completion;
        let is_right = match self.config.normalize {
            true => answers.iter().any(|answer| normalized(answer) == normalized(given)),
            false => answers.iter().any(|answer| answer == given),
        };
        Some(f64::from(u8::from(is_right)))
    }
}

impl WellFormed {
    /// The reward called `name`.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }
}

impl Length {
    /// The reward called `name`.
    pub fn new(name: &str, penalty: &SoftOverlong) -> Self {
        Self { name: name.to_owned(), penalty: penalty.clone() }
    }
}

impl Reward for ExactMatch {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, rollouts: &[Rollout<'_>]) -> Result<Vec<Option<f64>>> {
        Ok(rollouts.iter().map(|rollout| self.reward(rollout)).collect())
    }
}

impl Reward for WellFormed {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, rollouts: &[Rollout<'_>]) -> Result<Vec<Option<f64>>> {
        let reward = |rollout: &Rollout<'_>| Some(f64::from(u8::from(rollout.is_well_formed)));
        Ok(rollouts.iter().map(reward).collect())
    }
}

impl Reward for Length {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, rollouts: &[Rollout<'_>]) -> Result<Vec<Option<f64>>> {
        Ok(rollouts.iter().map(|rollout| Some(self.penalty.reward(rollout.tokens))).collect())
    }
}

/// The answers in a column: a text, number or truth value, a list of them, or a list of objects with `answer`,
/// as VQAv2 has it.
fn right_answers(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Number(_) | Value::Bool(_) => vec![value.to_string()],
        Value::Array(list) => list.iter().flat_map(right_answers).collect(),
        Value::Object(object) => object.get("answer").map(right_answers).unwrap_or_default(),
        Value::Null => Vec::new(),
    }
}

/// `text` in lower case with single blanks, without blanks around it and punctuation at its end.
fn normalized(text: &str) -> String {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split_whitespace().collect();
    let is_mark = |c: char| c == ' ' || ".,;:!?".contains(c);
    words.join(" ").trim_end_matches(is_mark).to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::data::Fields;

    fn fields(answer: Value) -> Fields {
        Fields::from_iter([("answer".to_owned(), answer)])
    }

    fn rollout<'a>(completion: &'a str, fields: &'a Fields) -> Rollout<'a> {
        Rollout {
            prompt: "<image>What is it?",
            completion,
            images: Vec::new(),
            fields,
            ids: &[],
            tokens: completion.len(),
            is_truncated: false,
            is_well_formed: completion != "<image",
        }
    }

    fn matches(config: &ExactMatchConfig, answer: Value, completion: &str) -> Option<f64> {
        let fields = fields(answer);
        let mut reward = ExactMatch::new("exact-match", config);
        reward.score(&[rollout(completion, &fields)]).unwrap()[0]
    }

    #[test]
    fn case_blanks_and_final_punctuation_matter_on_request_only() {
        let loose = ExactMatchConfig::default();
        let strict = ExactMatchConfig { normalize: false, ..ExactMatchConfig::default() };
        for (given, is_loosely_right, is_right) in [
            ("red circle", 1.0, 1.0),
            (" Red\n circle. ", 1.0, 0.0),
            ("red circle!?", 1.0, 0.0),
            ("a red circle", 0.0, 0.0),
            ("redcircle", 0.0, 0.0),
            ("", 0.0, 0.0),
        ] {
            assert_eq!(matches(&loose, json!("red circle"), given), Some(is_loosely_right));
            assert_eq!(matches(&strict, json!("red circle"), given), Some(is_right), "{given:?}");
        }
        assert_eq!(matches(&loose, json!("3.5"), "3.5"), Some(1.0));
        assert_eq!(matches(&loose, json!("3.5"), "35"), Some(0.0));
    }

    #[test]
    fn answers_may_be_numbers_lists_or_those_of_vqa() {
        let config = ExactMatchConfig::default();
        assert_eq!(matches(&config, json!(3), "3"), Some(1.0));
        assert_eq!(matches(&config, json!(["two", "2"]), "2"), Some(1.0));
        assert_eq!(matches(&config, json!([{"answer": "yes"}, {"answer": "no"}]), "No"), Some(1.0));
        assert_eq!(matches(&config, json!(["two"]), "2"), Some(0.0));
        for nothing in [json!(null), json!([]), json!({"text": "yes"})] {
            assert_eq!(matches(&config, nothing, "yes"), None);
        }
        let other = ExactMatchConfig { field: "answers".to_owned(), ..config };
        assert_eq!(matches(&other, json!("yes"), "yes"), None);
    }

    #[test]
    fn output_with_a_broken_structure_has_no_reward_for_form() {
        let fields = Fields::new();
        let rollouts = [rollout("<image>", &fields), rollout("<image", &fields)];
        let rewards = WellFormed::new("well-formed").score(&rollouts).unwrap();
        assert_eq!(rewards, [Some(1.0), Some(0.0)]);
    }
}
