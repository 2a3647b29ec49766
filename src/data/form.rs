//! What turns a sample into a document: a template of the recipe, or one by name.

use std::borrow::Cow;

use serde_json::Value;

use super::config::CHAT_TEMPLATE;
use super::dataset::Fields;
use super::dialect;
use super::messages::unknown;
use crate::error::{Error, Result};
use crate::tokenize::Template;

/// Stanford's template for rows with an input (tatsu-lab/stanford_alpaca, `train.py`).
const ALPACA_WITH_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides \
    further context. Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\
    \n\n### Input:\n{input}\n\n### Response:<answer>{output}";
/// Stanford's template for rows without one.
const ALPACA: &str = "Below is an instruction that describes a task. Write a response that appropriately completes \
    the request.\n\n### Instruction:\n{instruction}\n\n### Response:<answer>{output}";

/// The names.
const NAMES: [&str; 2] = ["alpaca", CHAT_TEMPLATE];

/// Whether `source` is a single word that is probably meant as a name.
fn is_nearly_a_name(source: &str) -> bool {
    let is_word = source.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
    is_word && NAMES.iter().any(|name| strsim::damerau_levenshtein(name, source) <= 2)
}

/// An entry of `templates`.
#[derive(Clone, Debug)]
pub(super) enum Form {
    /// A template of the recipe.
    Written(Template),
    /// Stanford's templates, by name.
    Alpaca(Box<[Template; 2]>),
    /// The checkpoint's chat template, by name.
    Chat,
}

impl Form {
    /// The form that an entry of `templates` names or is.
    ///
    /// # Errors
    /// If a template is malformed, or a single word that is nearly a name.
    pub(super) fn parse(source: &str) -> Result<Self> {
        match source {
            "alpaca" => {
                let [with_input, without] = [ALPACA_WITH_INPUT, ALPACA].map(Template::parse);
                Ok(Self::Alpaca(Box::new([with_input?, without?])))
            }
            CHAT_TEMPLATE => Ok(Self::Chat),
            _ if is_nearly_a_name(source) => {
                Err(Error::invalid(unknown("name of a template", source, &NAMES)))
            }
            _ => Template::parse(source).map(Self::Written),
        }
    }

    /// The template for a sample with `fields`; `None` if that is the chat template.
    ///
    /// # Errors
    /// If the sample has columns that the template has no place for.
    pub(super) fn template(&self, fields: &Fields) -> Result<Option<&Template>> {
        match self {
            Self::Written(template) => Ok(Some(template)),
            Self::Chat => Ok(None),
            Self::Alpaca(templates) => {
                let is_given = |name: &&str| match fields.get(*name) {
                    None | Some(Value::Null) => false,
                    Some(Value::String(text)) => !text.is_empty(),
                    Some(Value::Array(list)) => !list.is_empty(),
                    Some(_) => true,
                };
                if let Some(name) = ["system", "history"].iter().find(|name| is_given(name)) {
                    return Err(Error::invalid(format!(
                        "the template alpaca has no place for {name}; use {{messages}} or chat_template"
                    )));
                }
                Ok(Some(&templates[usize::from(!is_given(&"input"))]))
            }
        }
    }

    /// The columns that are looked up.
    pub(super) fn columns(&self) -> Vec<Cow<'static, str>> {
        let conversation = || dialect::columns().map(Cow::Borrowed);
        match self {
            Self::Written(template) => {
                let fields = template.fields();
                let more = fields.contains("messages").then(conversation);
                fields.into_iter().map(Cow::Owned).chain(more.into_iter().flatten()).collect()
            }
            Self::Alpaca(_) => {
                ["instruction", "input", "output", "system", "history"].map(Cow::Borrowed).into()
            }
            Self::Chat => conversation().collect(),
        }
    }

    /// Whether it writes the field `messages`.
    pub(super) fn writes_messages(&self) -> bool {
        matches!(self, Self::Written(template) if template.fields().contains("messages"))
    }

    /// Whether it ends with `<image>` after something else.
    pub(super) fn is_text_first(&self) -> bool {
        matches!(self, Self::Written(template) if template.is_text_first())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_have_names_and_what_is_nearly_one_is_refused() {
        assert!(matches!(Form::parse("alpaca").unwrap(), Form::Alpaca(_)));
        assert!(matches!(Form::parse("chat_template").unwrap(), Form::Chat));
        assert!(matches!(Form::parse("{alpaca}").unwrap(), Form::Written(_)));
        for source in ["alpacca", "chat-template"] {
            let message = Form::parse(source).unwrap_err().to_string();
            assert!(message.contains("unknown name of a template"), "{message}");
            assert!(message.contains("allowed: alpaca, chat_template"), "{message}");
        }
    }

    #[test]
    fn stanfords_template_has_a_form_with_input_and_one_without() {
        let form = Form::parse("alpaca").unwrap();
        let source = |row: Value| {
            let template = form.template(row.as_object().unwrap());
            template.map(|template| template.unwrap().source().to_owned())
        };
        for row in [json!({}), json!({ "input": null }), json!({ "input": "", "history": [] })] {
            assert!(!source(row).unwrap().contains("### Input:"));
        }
        assert!(source(json!({ "input": "a" })).unwrap().contains("### Input:\n{input}\n\n"));
        let error = source(json!({ "history": [["a", "b"]] })).unwrap_err().to_string();
        assert!(error.contains("no place for history"), "{error}");
    }
}
