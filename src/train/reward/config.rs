//! The `[[rl.reward]]` sections of a recipe.

use serde::{Deserialize, Serialize};

use super::model::RewardModelSource;
use crate::error::{Error, Result};
use crate::train::objective::policy::length::SoftOverlong;

/// A reward of a recipe.
///
/// ```toml
/// [[rl.reward]]
/// kind = "program"
/// name = "judge"
/// weight = 0.5
/// command = ["python3", "reward.py"]
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RewardConfig {
    /// What is rewarded; unknown keys of a section are refused here.
    #[serde(flatten)]
    pub kind: RewardKind,
    /// What the reward is multiplied by in the sum; 0 only logs it.
    #[serde(default = "default_weight")]
    pub weight: f64,
    /// The name in logs; the kind if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Kinds of rewards, with their own keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum RewardKind {
    /// What a drawn picture shows of the claims of its caption.
    Scene(SceneConfig),
    /// Whether the answer is the right one.
    ExactMatch(ExactMatchConfig),
    /// Whether the structure of the output is right.
    WellFormed(WellFormedConfig),
    /// A penalty on long answers.
    Length(SoftOverlong),
    /// What a reward model says.
    Model(RewardModelSource),
    /// What a program says.
    Program(ProgramConfig),
}

/// Keys of the kind `scene`.
///
/// Samples have the columns `claims` and `objects` of [scenes](crate::data::scenes); the reward does not apply
/// to samples without `claims`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SceneConfig {
    /// How claims become a number.
    pub score: SceneScore,
    /// Whether the picture must show nothing else: it is one more claim that the number of objects is that of
    /// the column `objects`. Without it a picture full of objects fulfils many captions.
    pub exact: bool,
}

/// How the claims of a caption become a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SceneScore {
    /// 1 if all hold, else 0.
    #[default]
    All,
    /// The share of them that hold.
    Fraction,
    /// The mean of how far each holds, by attributes: a red square for a red circle is worth half.
    Attributes,
}

/// Keys of the kind `exact-match`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExactMatchConfig {
    /// The column with the right answer, or a list of right answers; the reward does not apply to samples
    /// without it.
    pub field: String,
    /// Whether blanks, upper or lower case, and punctuation at the end do not matter.
    pub normalize: bool,
}

impl Default for ExactMatchConfig {
    fn default() -> Self {
        Self { field: "answer".to_owned(), normalize: true }
    }
}

/// The kind `well-formed` has no keys of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WellFormedConfig {}

/// Keys of the kind `program`.
///
/// The program runs as long as the training. It reads a line of JSON from its standard input for each
/// roll-out, with `id`, `prompt`, `completion`, `images`, `fields`, `tokens`, `truncated` and `well_formed`,
/// and writes a line for each: a number or `null` in the order of the roll-outs, or `{"id": 7, "reward": 0.5}`
/// in any order. It must flush its output after each line (for Python, `PYTHONUNBUFFERED` is set) and should
/// end when its input does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramConfig {
    /// The program and its arguments; no shell reads them.
    pub command: Vec<String>,
    /// Seconds for the answers to all roll-outs of a step, and for what the program does before the first.
    #[serde(default = "default_timeout")]
    pub timeout_s: f64,
    /// What happens when the program fails.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// With `skip`, how often in a row the program is started again; the run stops if that is not enough. A
    /// step without a failure starts the count anew.
    #[serde(default = "default_restarts")]
    pub max_restarts: u32,
    /// How the program gets the images of answers.
    #[serde(default)]
    pub images: ProgramImages,
}

/// What happens when a program fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Roll-outs that it has not answered get no reward, and it is started again.
    #[default]
    Skip,
    /// The run stops.
    Stop,
}

/// How a program gets images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProgramImages {
    /// As PNG in base64.
    #[default]
    PngBase64,
    /// As paths of PNG files, which are removed after the step.
    Path,
    /// Not at all.
    None,
}

fn default_weight() -> f64 {
    1.0
}
fn default_timeout() -> f64 {
    60.0
}
fn default_restarts() -> u32 {
    3
}

/// The longest allowed `timeout_s`, a little more than a day.
const MAX_TIMEOUT_S: f64 = 100_000.0;

impl RewardKind {
    /// The value of `kind`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Scene(_) => "scene",
            Self::ExactMatch(_) => "exact-match",
            Self::WellFormed(_) => "well-formed",
            Self::Length(_) => "length",
            Self::Model(_) => "model",
            Self::Program(_) => "program",
        }
    }

    /// What is wrong with the keys of the kind, and what is allowed.
    fn fault(&self) -> Option<String> {
        match self {
            Self::Scene(_) | Self::WellFormed(_) | Self::Model(_) => None,
            Self::ExactMatch(config) => {
                config.field.is_empty().then(|| "field is empty; allowed: a column's name".into())
            }
            Self::Length(config) => config.validate().err().map(|error| error.to_string()),
            Self::Program(config) => config.fault(),
        }
    }
}

impl ProgramConfig {
    fn fault(&self) -> Option<String> {
        if self.command.first().is_none_or(String::is_empty) {
            let command = &self.command;
            return Some(format!("command is {command:?}; allowed: a program and its arguments"));
        }
        let timeout = self.timeout_s;
        let is_allowed = timeout > 0.0 && timeout <= MAX_TIMEOUT_S;
        let allowed = format!("allowed: above 0, at most {MAX_TIMEOUT_S}");
        (!is_allowed).then(|| format!("timeout_s is {timeout}; {allowed}"))
    }
}

impl RewardConfig {
    /// The name in logs.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.kind.name())
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let name = self.name();
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '/') {
            return Err(Error::invalid(format!(
                "rl.reward.name is {name:?}; allowed: a word without blanks and slashes"
            )));
        }
        let fault = match self.weight.is_finite() {
            true => self.kind.fault(),
            false => Some(format!("weight is {}; allowed: a finite number", self.weight)),
        };
        fault.map_or(Ok(()), |fault| Err(Error::invalid(format!("rl.reward {name}: {fault}"))))
    }

    /// Checks the rewards of a recipe.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are none, one is out of range, or two have one name.
    pub fn validate_all(rewards: &[Self]) -> Result<()> {
        if rewards.is_empty() {
            return Err(Error::invalid("rl.reward is empty; at least one [[rl.reward]] is needed"));
        }
        for (at, reward) in rewards.iter().enumerate() {
            reward.validate()?;
            if rewards[..at].iter().any(|other| other.name() == reward.name()) {
                return Err(Error::invalid(format!(
                    "two rewards of rl.reward are called {:?}; give one another `name`",
                    reward.name()
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn parsed(keys: &str) -> RewardConfig {
        toml::from_str(keys).unwrap()
    }

    #[test]
    fn every_kind_has_its_keys_and_defaults() {
        let scene = parsed("kind = 'scene'\nscore = 'fraction'\nweight = 2.0");
        let config = SceneConfig { score: SceneScore::Fraction, exact: false };
        let expected = RewardConfig { kind: RewardKind::Scene(config), weight: 2.0, name: None };
        assert_eq!(scene, expected);
        assert_eq!(parsed("kind = 'exact-match'\nname = 'vqa'").name(), "vqa");
        assert_eq!(parsed("kind = 'well-formed'").name(), "well-formed");
        parsed("kind = 'length'\nmax_completion_len = 9\nsoft_punish_cache = 2")
            .validate()
            .unwrap();
        let program = parsed("kind = 'program'\ncommand = ['./judge']\nimages = 'path'");
        let RewardKind::Program(config) = &program.kind else { panic!("{program:?}") };
        assert_eq!((config.timeout_s, config.max_restarts), (60.0, 3));
        assert_eq!((config.on_failure, config.images), (OnFailure::Skip, ProgramImages::Path));
        let written = toml::to_string(&program).unwrap();
        assert_eq!(parsed(&written), program);
    }

    #[test]
    fn unknown_keys_and_kinds_are_refused() {
        for keys in [
            "kind = 'well-formed'\nscore = 'all'",
            "kind = 'scene'\nfield = 'answer'",
            "kind = 'program'\ncommand = ['a']\ntimeout = 3",
            "kind = 'judge'",
            "score = 'all'",
        ] {
            assert!(toml::from_str::<RewardConfig>(keys).is_err(), "{keys}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for (keys, message) in [
            ("kind = 'scene'\nweight = nan", "rl.reward scene: weight is NaN; allowed: a finite"),
            ("kind = 'scene'\nname = 'a b'", "rl.reward.name is \"a b\"; allowed: a word"),
            ("kind = 'exact-match'\nfield = ''", "rl.reward exact-match: field is empty"),
            (
                "kind = 'length'\nmax_completion_len = 3\nsoft_punish_cache = 4",
                "rl.reward length: soft_punish_cache is 4; allowed: at most max_completion_len, 3",
            ),
            ("kind = 'program'\ncommand = []", "rl.reward program: command is []; allowed: a pro"),
            (
                "kind = 'program'\ncommand = ['a']\ntimeout_s = 0",
                "rl.reward program: timeout_s is 0; allowed: above 0, at most 100000",
            ),
        ] {
            let error = parsed(keys).validate().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        let twice = [parsed("kind = 'scene'"), parsed("kind = 'scene'\nscore = 'fraction'")];
        let error = RewardConfig::validate_all(&twice).unwrap_err().to_string();
        assert!(error.starts_with("two rewards of rl.reward are called \"scene\""), "{error}");
        assert!(RewardConfig::validate_all(&[]).is_err());
        RewardConfig::validate_all(&twice[..1]).unwrap();
    }
}
