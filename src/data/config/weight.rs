//! How often a source is drawn.

use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Relative share of the draws from a source.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Weight {
    /// The same in all stages of the curriculum.
    Throughout(f64),
    /// One for each stage.
    ByStage(Vec<f64>),
}

impl Default for Weight {
    fn default() -> Self {
        Self::Throughout(1.0)
    }
}

impl Weight {
    /// One weight for all stages, or one for each.
    pub fn stages(&self) -> &[f64] {
        match self {
            Self::Throughout(weight) => std::slice::from_ref(weight),
            Self::ByStage(weights) => weights,
        }
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WeightVisitor)
    }
}

struct WeightVisitor;

impl<'de> Visitor<'de> for WeightVisitor {
    type Value = Weight;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number, or a list with a number for each stage")
    }

    fn visit_i64<E>(self, weight: i64) -> Result<Weight, E> {
        Ok(Weight::Throughout(weight as f64))
    }

    fn visit_u64<E>(self, weight: u64) -> Result<Weight, E> {
        Ok(Weight::Throughout(weight as f64))
    }

    fn visit_f64<E>(self, weight: f64) -> Result<Weight, E> {
        Ok(Weight::Throughout(weight))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Weight, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Weight::ByStage)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Source {
        weight: Weight,
    }

    #[test]
    fn a_weight_is_a_number_or_a_list_and_all_else_is_named() {
        let read = |text: &str| toml::from_str::<Source>(text).map(|source| source.weight);
        assert_eq!(read("weight = 2").unwrap(), Weight::Throughout(2.0));
        assert_eq!(read("weight = 0.5").unwrap(), Weight::Throughout(0.5));
        assert_eq!(read("weight = [1, 0.5]").unwrap(), Weight::ByStage(vec![1.0, 0.5]));
        for text in ["weight = \"2\"", "weight = true", "weight = { a = 1 }"] {
            let message = read(text).unwrap_err().to_string();
            let allowed = "expected a number, or a list with a number for each stage";
            assert!(message.contains(allowed) && message.contains("weight"), "{message}");
        }
        let message = read("weight = [1, \"2\"]").unwrap_err().to_string();
        assert!(message.contains("expected f64"), "{message}");
    }
}
