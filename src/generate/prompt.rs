//! The forms of prompts that a checkpoint was trained on: `prompts` in `generation_config.json`.
//!
//! A form is text with `<image>` for an image, `<sep>` for the separator after which the model
//! answers, and `{name}` for a value; `{{`, `}}` and `<<` are the characters themselves, as in the
//! templates of training data. Values are taken as they are: `<image>` inside one is text.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How a checkpoint wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptForms {
    /// For a caption of an image.
    pub caption: String,
    /// For an answer about an image; has `{question}`.
    pub ask: String,
    /// For an image of a text; has `{text}`.
    pub draw: String,
}

impl Default for PromptForms {
    fn default() -> Self {
        Self {
            caption: "<image><sep>".into(),
            ask: "<image>{question}<sep>".into(),
            draw: "{text}".into(),
        }
    }
}

impl PromptForms {
    /// Reads `prompts` from the text of a `generation_config.json`; absent forms are the defaults.
    ///
    /// # Errors
    /// When the text is no JSON object or `prompts` holds anything but the three forms.
    ///
    /// ```
    /// use calumma::generate::PromptForms;
    /// let forms = PromptForms::from_json(r#"{"prompts": {"draw": "draw {text}"}}"#)?;
    /// assert_eq!(forms.draw, "draw {text}");
    /// assert_eq!(forms.caption, "<image><sep>");
    /// # Ok::<(), calumma::Error>(())
    /// ```
    pub fn from_json(json: &str) -> Result<Self> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct File {
            prompts: PromptForms,
        }
        let file: File =
            serde_json::from_str(json).map_err(|error| Error::invalid(error.to_string()))?;
        Ok(file.prompts)
    }

    /// Checks that every form can be rendered and has the one image that it is about, or none.
    ///
    /// # Errors
    /// Names the form that asks for an unknown value or another number of images, or whose
    /// brace is not closed.
    pub fn validate(&self) -> Result<()> {
        let forms = [
            (&self.caption, "caption", None, 1),
            (&self.ask, "ask", Some("question"), 1),
            (&self.draw, "draw", Some("text"), 0),
        ];
        for (form, name, value, wanted) in forms {
            let values: Vec<(&str, &str)> = value.into_iter().map(|value| (value, "")).collect();
            let pieces = render(form, &values)?;
            let images = pieces.iter().filter(|piece| **piece == FormPiece::Image).count();
            if images != wanted {
                return Err(Error::invalid(format!(
                    "prompts.{name} is `{form}` with {images} <image> marks; allowed: {wanted}"
                )));
            }
        }
        Ok(())
    }
}

/// A part of a rendered form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormPiece {
    /// Literal text and values, joined.
    Text(String),
    /// The next image.
    Image,
    /// The separator between a prompt and its answer.
    Separator,
}

/// What a form writes for something that is no text.
const MARKS: [(&str, FormPiece); 2] =
    [("<image>", FormPiece::Image), ("<sep>", FormPiece::Separator)];

/// Fills `values` into `form`. Text that ends up empty is left out.
///
/// # Errors
/// When the form names a value that is not given, or a brace is not closed.
///
/// ```
/// use calumma::generate::prompt::{FormPiece::*, render};
/// let pieces = render("<image>{question}<sep>", &[("question", "what colour?")])?;
/// assert_eq!(pieces, [Image, Text("what colour?".into()), Separator]);
/// # Ok::<(), calumma::Error>(())
/// ```
pub fn render(form: &str, values: &[(&str, &str)]) -> Result<Vec<FormPiece>> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = form;
    while let Some(at) = rest.find(['<', '{', '}']) {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let doubled = ["{{", "}}", "<<"].iter().any(|twice| rest.starts_with(twice));
        if let Some((mark, piece)) = MARKS.iter().find(|(mark, _)| rest.starts_with(mark)) {
            push_text(&mut pieces, &mut text);
            pieces.push(piece.clone());
            rest = &rest[mark.len()..];
        } else if rest.starts_with('{') && !doubled {
            let (value, after) = take_value(form, rest, values)?;
            text.push_str(value);
            rest = after;
        } else {
            text.push_str(&rest[..1]);
            rest = &rest[1 + usize::from(doubled)..];
        }
    }
    text.push_str(rest);
    push_text(&mut pieces, &mut text);
    Ok(pieces)
}

/// Resolves the `{name}` that `rest` begins with; returns its value and what follows.
fn take_value<'v, 'f>(
    form: &str,
    rest: &'f str,
    values: &[(&str, &'v str)],
) -> Result<(&'v str, &'f str)> {
    let Some(end) = rest.find('}') else {
        return Err(Error::invalid(format!("the prompt form `{form}` has an open brace")));
    };
    let name = &rest[1..end];
    let Some((_, value)) = values.iter().find(|(known, _)| *known == name) else {
        let known: Vec<String> = values.iter().map(|(known, _)| format!("{{{known}}}")).collect();
        return Err(Error::invalid(format!(
            "the prompt form `{form}` asks for {{{name}}}; known here: {}",
            if known.is_empty() { "no values".to_owned() } else { known.join(", ") }
        )));
    };
    Ok((value, &rest[end + 1..]))
}

fn push_text(pieces: &mut Vec<FormPiece>, text: &mut String) {
    if !text.is_empty() {
        pieces.push(FormPiece::Text(std::mem::take(text)));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::{FormPiece::*, *};

    #[test]
    fn literal_text_and_values_join() {
        let pieces = render("Q: {question} < 3 ?<sep>", &[("question", "is it")]).unwrap();
        assert_eq!(pieces, [Text("Q: is it < 3 ?".into()), Separator]);
        assert_eq!(render("{text}", &[("text", "")]).unwrap(), []);
        let pieces = render("a <<image> {{b}} }", &[]).unwrap();
        assert_eq!(pieces, [Text("a <image> {b} }".into())]);
    }

    #[test]
    fn marks_inside_values_stay_text() {
        let pieces = render("{text}", &[("text", "<image>{text}<sep>")]).unwrap();
        assert_eq!(pieces, [Text("<image>{text}<sep>".into())]);
    }

    #[test]
    fn unknown_values_and_open_braces_are_errors() {
        let error = render("{who}?", &[("question", "")]).unwrap_err().to_string();
        assert!(error.contains("asks for {who}; known here: {question}"), "{error}");
        assert!(render("{text", &[("text", "")]).is_err());
        let forms = PromptForms { caption: "{text}".into(), ..PromptForms::default() };
        assert!(forms.validate().is_err());
        let forms = PromptForms { ask: "{question}<sep>".into(), ..PromptForms::default() };
        let error = forms.validate().unwrap_err().to_string();
        assert!(error.contains("prompts.ask is `{question}<sep>` with 0 <image> marks"), "{error}");
        assert!(PromptForms::default().validate().is_ok());
        assert!(PromptForms::from_json(r#"{"prompts": {"speak": ""}}"#).is_err());
        assert_eq!(PromptForms::from_json("{}").unwrap(), PromptForms::default());
    }
}
