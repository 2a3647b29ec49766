//! JSON whose objects keep the order of their keys.

use std::str::FromStr;

use minijinja::value::{Value, ValueKind};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A JSON value whose objects keep the order of their keys, which a model reads; those of serde_json keep it only in a build
/// where some crate turns on `preserve_order`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ordered(pub(crate) Value);

impl Ordered {
    /// Whether it is an object.
    pub fn is_object(&self) -> bool {
        self.0.kind() == ValueKind::Map
    }

    /// The same with `change` applied to every text in it, names of keys included.
    ///
    /// # Errors
    /// The first of `change`.
    pub(crate) fn with_texts(
        &self,
        change: &mut dyn FnMut(&str) -> Result<String>,
    ) -> Result<Self> {
        changed(&self.0, change).map(Self)
    }
}

fn changed(value: &Value, change: &mut dyn FnMut(&str) -> Result<String>) -> Result<Value> {
    let failed = |error: minijinja::Error| Error::because("JSON")(error);
    match value.kind() {
        ValueKind::String => Ok(change(value.as_str().unwrap_or_default())?.into()),
        ValueKind::Seq => {
            value.try_iter().map_err(failed)?.map(|item| changed(&item, change)).collect()
        }
        ValueKind::Map => {
            let keys = value.try_iter().map_err(failed)?;
            let pairs = keys.map(|key| {
                let item = value.get_item(&key).map_err(failed)?;
                Ok((changed(&key, change)?, changed(&item, change)?))
            });
            Ok(Value::from_pairs(pairs.collect::<Result<Vec<_>>>()?))
        }
        _ => Ok(value.clone()),
    }
}

impl FromStr for Ordered {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }
}

/// JSON without blanks.
impl std::fmt::Display for Ordered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string(&self.0).map_err(|_| std::fmt::Error)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_order() {
        let text = r#"{"z":1,"a":[{"y":null,"b":-2.5}],"m":{"x":true,"c":"ü"},"e":{},"l":[]}"#;
        let ordered: Ordered = text.parse().unwrap();
        assert!(ordered.is_object());
        assert_eq!(ordered.to_string(), text);
        let mut louder = |text: &str| Ok(text.to_uppercase());
        let changed = ordered.with_texts(&mut louder).unwrap().to_string();
        assert_eq!(
            changed,
            r#"{"Z":1,"A":[{"Y":null,"B":-2.5}],"M":{"X":true,"C":"Ü"},"E":{},"L":[]}"#
        );
        let failed = ordered.with_texts(&mut |_| Err(Error::invalid("no")));
        assert!(failed.is_err());
    }

    #[test]
    fn only_objects_are_objects() {
        for (text, is_object) in [("{}", true), ("[]", false), ("null", false), ("\"{}\"", false)] {
            assert_eq!(text.parse::<Ordered>().unwrap().is_object(), is_object, "{text}");
        }
        assert!("{".parse::<Ordered>().is_err());
    }
}
