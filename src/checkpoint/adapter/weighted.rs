//! An adapter's directory and its weight in a sum, as written on the command line and in recipes.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An adapter's directory and its weight: `DIR` or `DIR=WEIGHT`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct WeightedAdapter {
    /// The directory.
    pub dir: PathBuf,
    /// What its change of the model is multiplied by; 1 if it is not given.
    pub weight: f64,
}

impl From<String> for WeightedAdapter {
    fn from(text: String) -> Self {
        let number = text.rsplit_once('=').and_then(|(dir, weight)| {
            let weight: f64 = weight.parse().ok().filter(|weight: &f64| weight.is_finite())?;
            Some(Self { dir: dir.into(), weight })
        });
        number.unwrap_or_else(|| Self { dir: text.into(), weight: 1.0 })
    }
}

impl FromStr for WeightedAdapter {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.to_owned().into())
    }
}

impl fmt::Display for WeightedAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = self.dir.display();
        let is_plain = self.weight == 1.0 && Self::from(dir.to_string()).dir == self.dir;
        if is_plain { write!(f, "{dir}") } else { write!(f, "{dir}={}", self.weight) }
    }
}

impl From<WeightedAdapter> for String {
    fn from(adapter: WeightedAdapter) -> Self {
        adapter.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_what_follows_the_last_equals_sign_if_it_is_a_number() {
        for (text, dir, weight) in [
            ("a/b", "a/b", 1.0),
            ("a=0.5", "a", 0.5),
            ("lr=3/x", "lr=3/x", 1.0),
            ("lr=3=-1", "lr=3", -1.0),
            ("a=nan", "a=nan", 1.0),
            ("a=0.5=1", "a=0.5", 1.0),
        ] {
            let read = WeightedAdapter::from(text.to_owned());
            assert_eq!((read.dir.to_str(), read.weight), (Some(dir), weight), "{text}");
            assert_eq!(WeightedAdapter::from(read.to_string()), read);
        }
    }
}
