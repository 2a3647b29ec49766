//! How names of modules are matched: PEFT's rules.

use std::fmt;
use std::marker::PhantomData;

use regex::Regex;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::names::Names;
use crate::error::{Error, Result};

/// Values by regular expression, in the order in which they are tried.
///
/// JSON keeps the order of the file; a recipe's table is in alphabetical order.
#[derive(Clone, Debug, PartialEq)]
pub struct Patterns<T>(pub Vec<(String, T)>);

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy> Patterns<T> {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values.
    pub fn values(&self) -> impl Iterator<Item = &T> + Clone {
        self.0.iter().map(|(_, value)| value)
    }

    /// The value of the first pattern that the module's name ends in; `default` if there is none.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a pattern is no regular expression.
    pub(super) fn of(&self, module: &str, default: T) -> Result<T> {
        for (pattern, value) in &self.0 {
            if expression(&format!(r"(?:.*\.)?(?:{pattern})"))?.is_match(module) {
                return Ok(*value);
            }
        }
        Ok(default)
    }
}

impl<T: Serialize> Serialize for Patterns<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(pattern, value)| (pattern, value)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patterns<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct InOrder<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Patterns<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("values by pattern")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Patterns(entries))
            }
        }
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

/// The regular expression `pattern` over a whole name.
///
/// # Errors
/// [`Error::Invalid`] with the pattern.
pub(super) fn expression(pattern: &str) -> Result<Regex> {
    Regex::new(&format!("^(?:{pattern})$"))
        .map_err(Error::because(format_args!("{pattern:?} is no regular expression")))
}

/// Whether `name` is `end`, or ends in it after a dot.
pub(super) fn ends_in(name: &str, end: &str) -> bool {
    name == end || name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'))
}

/// Whether `names` have the module called `name`.
///
/// # Errors
/// [`Error::Invalid`] if they are no regular expression.
pub(super) fn names(names: &Names, name: &str) -> Result<bool> {
    match names {
        Names::One(pattern) => Ok(expression(pattern)?.is_match(name)),
        Names::Many(ends) => Ok(ends.iter().any(|end| ends_in(name, end))),
    }
}

/// Number of the layer that `name` lies in: the first number in it, or the one after one of the `lists`.
pub(super) fn layer_of(name: &str, lists: Option<&[String]>) -> Option<usize> {
    let parts: Vec<&str> = name.split('.').collect();
    let number = |at: usize| parts.get(at)?.parse().ok();
    match lists {
        None | Some([]) => (1..parts.len()).find_map(number),
        Some(lists) => (1..parts.len())
            .filter(|at| lists.iter().any(|list| list == parts[at - 1]))
            .find_map(number),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const Q: &str = "model.layers.1.self_attn.q_proj";

    #[test]
    fn patterns_match_whole_names_or_their_ends_and_the_first_one_counts() {
        let of = |json: &str| {
            let patterns: Patterns<usize> = serde_json::from_str(json).unwrap();
            patterns.of(Q, 8).unwrap()
        };
        assert_eq!(of(r#"{"q_proj": 2, "self_attn.q_proj": 3}"#), 2);
        assert_eq!(of(r#"{"z.*": 9, "layers\\.[12]\\..*": 3}"#), 3);
        assert_eq!(of(r#"{"proj": 2, "_proj": 3, "layers.1": 4}"#), 8);
        assert_eq!(of(r#"{"k_proj|q_proj": 5}"#), 5);
        assert_eq!(
            serde_json::to_string(&Patterns(vec![("b".to_owned(), 1), ("a".to_owned(), 2)]))
                .unwrap(),
            r#"{"b":1,"a":2}"#
        );
        let bad: Patterns<usize> = serde_json::from_str(r#"{"q_proj(": 2}"#).unwrap();
        assert!(bad.of(Q, 8).unwrap_err().to_string().contains("no regular expression"));
    }

    #[test]
    fn a_list_names_ends_and_a_text_is_an_expression() {
        let many = |ends: &[&str]| Names::Many(ends.iter().map(|end| (*end).to_owned()).collect());
        for (given, expected) in [
            (many(&["q_proj"]), true),
            (many(&["proj"]), false),
            (many(&["self_attn.q_proj", "k"]), true),
            (many(&[]), false),
            (Names::One(".*q_proj".to_owned()), true),
            (Names::One("q_proj".to_owned()), false),
            (Names::One("model.*(q|k)_proj".to_owned()), true),
        ] {
            assert_eq!(names(&given, Q).unwrap(), expected, "{given:?}");
        }
    }

    #[test]
    fn layers_are_the_first_number_or_the_one_after_their_list() {
        assert_eq!(layer_of(Q, None), Some(1));
        assert_eq!(layer_of("model.blocks.3.experts.2.up", None), Some(3));
        let lists = ["experts".to_owned()];
        assert_eq!(layer_of("model.blocks.3.experts.2.up", Some(&lists)), Some(2));
        assert_eq!(layer_of("lm_head", None), None);
        assert_eq!(layer_of(Q, Some(&lists)), None);
    }
}
