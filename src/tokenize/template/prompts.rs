//! The prompts that a checkpoint was trained on: `prompts` in `generation_config.json`.

use serde::{Deserialize, Serialize};
use vq_tokenizer::Codes;

use super::parse::Template;
use crate::error::{Error, Result};
use crate::tokenize::segment::CodedSegment;

/// The prompt templates of a checkpoint; see the [module](super) for the language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptTemplates {
    /// Asks for a caption of an image.
    pub caption: String,
    /// Asks about an image; has `{question}`.
    pub ask: String,
    /// Asks for an image; has `{text}`, and may have `{width}` and `{height}`, its size in pixels.
    pub draw: String,
    /// Says what an image should not be like, with the values of `draw`; as `draw` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative: Option<String>,
}

/// The values of a drawing's template: its text, and its size in pixels.
const DRAWING: [&str; 3] = ["text", "width", "height"];

impl Default for PromptTemplates {
    fn default() -> Self {
        Self {
            caption: "<image><sep>".into(),
            ask: "<image>{question}<sep>".into(),
            draw: "{text}".into(),
            negative: None,
        }
    }
}

impl PromptTemplates {
    /// Reads `prompts` from the text of a `generation_config.json`; absent templates are the defaults.
    ///
    /// # Errors
    /// If the text is no JSON object or `prompts` has any other key.
    ///
    /// ```
    /// use calumma::tokenize::PromptTemplates;
    /// let prompts = PromptTemplates::from_json(r#"{"prompts": {"draw": "draw {text}"}}"#)?;
    /// assert_eq!(prompts.draw, "draw {text}");
    /// assert_eq!(prompts.caption, "<image><sep>");
    /// # Ok::<(), calumma::Error>(())
    /// ```
    pub fn from_json(json: &str) -> Result<Self> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct File {
            prompts: PromptTemplates,
        }
        let file: File = serde_json::from_str(json).map_err(Error::because("prompts"))?;
        Ok(file.prompts)
    }

    /// The prompt for an image of `text` with `[width, height]` pixels.
    ///
    /// # Errors
    /// If [`validate`](Self::validate) fails.
    pub fn drawing(&self, text: &str, size: [usize; 2]) -> Result<Vec<CodedSegment>> {
        filled(&self.draw, text, size)
    }

    /// The prompt of what an image with `[width, height]` pixels should not be like.
    ///
    /// # Errors
    /// If [`validate`](Self::validate) fails.
    pub fn negative(&self, text: &str, size: [usize; 2]) -> Result<Vec<CodedSegment>> {
        filled(self.negative.as_ref().unwrap_or(&self.draw), text, size)
    }

    /// Checks that every template can be filled in and has one image, or none in `draw`.
    ///
    /// # Errors
    /// Names the template with unknown syntax, an unknown value or another number of images.
    pub fn validate(&self) -> Result<()> {
        let negative = self.negative.as_ref().unwrap_or(&self.draw);
        let templates = [
            (&self.caption, "caption", [].as_slice(), 1),
            (&self.ask, "ask", &["question"], 1),
            (&self.draw, "draw", &DRAWING, 0),
            (negative, "negative", &DRAWING, 0),
        ];
        for (source, name, values, wanted) in templates {
            let values: Vec<(&str, &str)> = values.iter().map(|value| (*value, "")).collect();
            let blank = Codes { ids: vec![], height: 0, width: 0 };
            let marks = Template::prompt(source)
                .and_then(|template| {
                    let marks = template.num_images();
                    template.fill(&values, vec![blank; marks]).map(|_| marks)
                })
                .map_err(Error::because(format_args!("prompts.{name}")))?;
            if marks != wanted {
                return Err(Error::invalid(format!(
                    "prompts.{name} is `{source}` with {marks} <image> marks; allowed: {wanted}"
                )));
            }
        }
        Ok(())
    }
}

/// The template `source` of a drawing with its values.
fn filled(source: &str, text: &str, size: [usize; 2]) -> Result<Vec<CodedSegment>> {
    let [width, height] = size.map(|side| side.to_string());
    let values = DRAWING.into_iter().zip([text, &width, &height]);
    Template::prompt(source)?.fill(&values.collect::<Vec<_>>(), vec![])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn templates_that_cannot_be_filled_in_are_named() {
        let default = PromptTemplates::default;
        let message = |prompts: PromptTemplates| prompts.validate().unwrap_err().to_string();
        let caption = PromptTemplates { caption: "{text}".into(), ..default() };
        let error = message(caption);
        assert!(error.contains("prompts.caption") && error.contains("asks for {text}"), "{error}");
        let error = message(PromptTemplates { ask: "{question}<sep>".into(), ..default() });
        assert!(error.contains("prompts.ask is `{question}<sep>` with 0 <image> marks"), "{error}");
        let error = message(PromptTemplates { draw: "{text".into(), ..default() });
        assert!(error.contains("prompts.draw") && error.contains("column 1"), "{error}");
        default().validate().unwrap();
    }

    #[test]
    fn unknown_prompts_are_refused_and_absent_ones_are_the_defaults() {
        assert!(PromptTemplates::from_json(r#"{"prompts": {"speak": ""}}"#).is_err());
        assert_eq!(PromptTemplates::from_json("{}").unwrap(), PromptTemplates::default());
    }
}
