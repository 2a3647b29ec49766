//! How samples become documents.

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::check::{at, in_range};
use crate::data::render::Loss;
use crate::error::{Error, Result};

/// Default of `max_turns`.
pub(super) const DEFAULT_TURNS: usize = 8;

/// The entry of `templates` that stands for the checkpoint's chat template.
pub(in crate::data) const CHAT_TEMPLATE: &str = "chat_template";

/// How samples become documents.
#[derive(Clone, Debug, PartialEq)]
pub struct TemplateConfig {
    /// The templates, written out or by name (`alpaca`, `chat_template`); one is drawn by weight for each
    /// document.
    pub templates: Vec<WeightedTemplate>,
    /// The segments that the loss counts.
    pub loss: Loss,
    /// Maximum number of entries of a repeated list in one document; pairs, if prompts and answers take
    /// turns in it.
    pub max_turns: usize,
    /// Probability that the text before a closing image is dropped, for guidance.
    pub prompt_dropout: f64,
    /// Text fields added to every sample.
    pub fields: serde_json::Map<String, serde_json::Value>,
}

impl TemplateConfig {
    /// `templates` of equal weight, with defaults for everything else.
    pub fn new(templates: impl IntoIterator<Item = String>) -> Self {
        Self {
            templates: templates.into_iter().map(WeightedTemplate::Plain).collect(),
            loss: Loss::default(),
            max_turns: DEFAULT_TURNS,
            prompt_dropout: 0.0,
            fields: serde_json::Map::new(),
        }
    }

    /// Whether a template is the checkpoint's chat template, by name.
    pub(in crate::data) fn uses_chat_template(&self) -> bool {
        self.templates.iter().any(|template| template.parts().0 == CHAT_TEMPLATE)
    }

    /// Checks the ranges for the source at `path`.
    pub(super) fn validate(&self, path: &str) -> Result<()> {
        validate_templates(&self.templates, path)?;
        in_range(path, "prompt_dropout", self.prompt_dropout, 0.0..=1.0)
    }
}

/// Checks the weights of `templates` for the source at `path`; there must be a template.
pub(super) fn validate_templates(templates: &[WeightedTemplate], path: &str) -> Result<()> {
    let weights = templates.iter().map(|template| template.parts().1);
    if let Some(weight) = weights.clone().find(|w| !(*w > 0.0 && w.is_finite())) {
        let message = format!("a template's weight is {weight}; allowed: above 0");
        return Err(Error::invalid(at(path, message)));
    }
    match templates.is_empty() {
        true => Err(Error::invalid(at(path, "templates is empty"))),
        false => Ok(()),
    }
}

/// A template and its weight; a plain string in a recipe has weight 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum WeightedTemplate {
    /// Weight 1.
    Plain(String),
    /// Any weight.
    Weighted {
        /// The template.
        template: String,
        /// Weight relative to the source's other templates.
        weight: f64,
    },
}

impl WeightedTemplate {
    /// The template's text and weight.
    pub fn parts(&self) -> (&str, f64) {
        match self {
            Self::Plain(template) => (template, 1.0),
            Self::Weighted { template, weight } => (template, *weight),
        }
    }
}

impl<'de> Deserialize<'de> for WeightedTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(WeightedTemplateVisitor)
    }
}

struct WeightedTemplateVisitor;

impl<'de> Visitor<'de> for WeightedTemplateVisitor {
    type Value = WeightedTemplate;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a template, or a table of `template` and `weight`")
    }

    fn visit_str<E>(self, template: &str) -> std::result::Result<WeightedTemplate, E> {
        Ok(WeightedTemplate::Plain(template.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(
        self,
        table: A,
    ) -> std::result::Result<WeightedTemplate, A::Error> {
        #[derive(Deserialize)]
        struct Keys {
            template: String,
            weight: f64,
        }
        let Keys { template, weight } = Keys::deserialize(MapAccessDeserializer::new(table))?;
        Ok(WeightedTemplate::Weighted { template, weight })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_a_text_or_a_table_and_all_else_is_named() {
        #[derive(Debug, Deserialize)]
        struct Source {
            templates: Vec<WeightedTemplate>,
        }
        let read = |text: &str| toml::from_str::<Source>(text);
        let found = read("templates = [\"a\", { template = \"b\", weight = 2 }]").unwrap();
        assert_eq!(found.templates[0].parts(), ("a", 1.0));
        assert_eq!(found.templates[1].parts(), ("b", 2.0));
        for (text, expected) in [
            ("templates = [3]", "expected a template, or a table of `template` and `weight`"),
            ("templates = [{ template = \"b\" }]", "missing field `weight`"),
            ("templates = [{ template = 1, weight = 2 }]", "expected a string"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
