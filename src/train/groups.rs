//! Groups of parameters with their own learning rate and weight decay.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Overrides for a group of parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Names of parameters as in the checkpoint, such as `model.layers.*.mlp.*`; `*` matches any text.
    pub parameters: Vec<String>,
    /// Factor on the learning rate; 0 freezes the parameters: no gradient is computed.
    #[serde(default = "one")]
    pub lr_scale: f64,
    /// Weight decay in place of the optimizer's.
    pub weight_decay: Option<f64>,
}

fn one() -> f64 {
    1.0
}

impl GroupConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the range.
    pub(super) fn validate(&self) -> Result<()> {
        let decay = self.weight_decay.unwrap_or(0.0);
        for (key, value) in [("lr_scale", self.lr_scale), ("weight_decay", decay)] {
            if !(value >= 0.0 && value.is_finite()) {
                let message = format!("optimizer.groups.{key} is {value}; allowed: at least 0");
                return Err(Error::invalid(message));
            }
        }
        Ok(())
    }

    /// Whether the group has the parameter at `path`.
    pub(super) fn names(&self, path: &str) -> bool {
        self.parameters.iter().any(|pattern| matches(pattern, path))
    }
}

/// Whether `name` matches `pattern`, in which `*` matches any text.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(start) else { return false };
    (0..=name.len()).any(|at| name.is_char_boundary(at) && matches(rest, &name[at..]))
}
