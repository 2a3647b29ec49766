//! Chat templates of Hugging Face checkpoints: a conversation as text, by a Jinja template.
//!
//! Templates run as in `transformers` (`utils/chat_template_utils.py`): blocks are trimmed, undefined
//! variables print as nothing, `raise_exception`, `strftime_now`, `tojson`, loop controls and Python's
//! methods of strings and dictionaries are there. `{% generation %}` marks answers: it has no effect
//! but in training, see [`ChatDocuments`]. A template is a program from a stranger: it reads nothing but its
//! arguments and ends after a limited number of steps.

mod calls;
mod content;
mod documents;
mod encode;
mod marks;
mod python;

use std::collections::BTreeMap;

use chrono::{Local, NaiveDateTime};
use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};

pub(crate) use calls::CallForm;
pub(crate) use content::ContentForm;
pub use documents::{ChatDocuments, MarkedIds};
pub use encode::{Answers, Encoded, GUARD};

use super::token::{BOS_TOKEN, EOS_TOKEN, IMAGE_TOKEN};
use crate::error::{Error, Result};

/// Steps that a template may take; the longest published ones need some thousands per message.
const STEPS: u64 = 2_000_000;

/// What a template is run over.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    /// A list of messages.
    pub(crate) messages: Value,
    /// A list of functions that answers may call, or none.
    pub(crate) tools: Value,
    /// Whether the text goes on to where the next answer begins.
    pub(crate) prompt: bool,
    /// The local time.
    pub(crate) now: NaiveDateTime,
}

impl Conversation {
    /// Without functions.
    pub(crate) fn new(messages: &serde_json::Value, prompt: bool, now: NaiveDateTime) -> Self {
        Self { messages: Value::from(Serde(messages)), tools: ().into(), prompt, now }
    }
}

/// A chat template and the special tokens that it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTemplate {
    source: String,
    place: String,
    tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// The template with the text `source`, from the file `place`, which messages name.
    pub fn new(source: impl Into<String>, place: impl Into<String>) -> Self {
        let tokens = [("bos_token", BOS_TOKEN), ("eos_token", EOS_TOKEN)];
        let tokens = tokens.map(|(name, token)| (name.to_owned(), token.to_owned()));
        Self { source: source.into(), place: place.into(), tokens: tokens.into() }
    }

    /// This template with the variables `tokens`: names of special tokens by their role, such as
    /// `eos_token`.
    #[must_use]
    pub fn with_tokens(mut self, tokens: impl IntoIterator<Item = (String, String)>) -> Self {
        self.tokens.extend(tokens);
        self
    }

    /// This template with the variables `tokens` and no others.
    #[must_use]
    pub fn with_only_tokens(self, tokens: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { tokens: tokens.into_iter().collect(), ..self }
    }

    /// The text of the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The name of the file that it is from.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The variables that name special tokens.
    pub fn tokens(&self) -> &BTreeMap<String, String> {
        &self.tokens
    }

    /// What stands for an image in the text: `image_token` of the tokenizer's settings, else `<image>`.
    pub fn placeholder(&self) -> &str {
        self.tokens.get("image_token").map_or(IMAGE_TOKEN, String::as_str)
    }

    /// The text of `messages`, each with `role` and `content` (text, or a list of parts of type `text`
    /// and `image`); with `prompt` up to where the next answer begins. `strftime_now` is the local
    /// time.
    ///
    /// # Errors
    /// If the template is malformed or refuses the messages; the message names file and line.
    ///
    /// ```
    /// use calumma::tokenize::ChatTemplate;
    ///
    /// let source = "{% for m in messages %}[{{ m.role }}] {{ m['content'] | trim }}\n{% endfor %}";
    /// let template = ChatTemplate::new(source, "chat_template.jinja");
    /// let messages = serde_json::json!([{ "role": "user", "content": " hello " }]);
    /// assert_eq!(template.render(&messages, true)?, "[user] hello\n");
    /// # Ok::<(), calumma::Error>(())
    /// ```
    pub fn render(&self, messages: &serde_json::Value, prompt: bool) -> Result<String> {
        self.render_at(messages, prompt, Local::now().naive_local())
    }

    /// As [`render`](Self::render) at the local time `now`.
    pub(crate) fn render_at(
        &self,
        messages: &serde_json::Value,
        prompt: bool,
        now: NaiveDateTime,
    ) -> Result<String> {
        self.render_all(Conversation::new(messages, prompt, now))
    }

    /// The text of `conversation`.
    pub(crate) fn render_all(&self, conversation: Conversation) -> Result<String> {
        self.run(&marks::without(&self.source), conversation)
    }

    /// The output of `source`, a form of this template.
    fn run(&self, source: &str, conversation: Conversation) -> Result<String> {
        let Conversation { messages, tools, prompt, now } = conversation;
        let failed = |error: minijinja::Error| self.failed(&error);
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(failed)?);
        environment.set_fuel(Some(STEPS));
        python::add(&mut environment, now);
        // No file ending, so nothing is escaped for HTML.
        let template = environment.template_from_named_str("template", source).map_err(failed)?;
        let own = [
            ("messages", messages),
            ("add_generation_prompt", prompt.into()),
            ("tools", tools),
            ("documents", ().into()),
        ];
        let tokens = self.tokens.iter().map(|(name, token)| (name.as_str(), token.as_str().into()));
        let variables: BTreeMap<&str, Value> = own.into_iter().chain(tokens).collect();
        template.render(Value::from(variables)).map_err(failed)
    }

    /// `error` with the place in the template, in one line.
    fn failed(&self, error: &minijinja::Error) -> Error {
        let line = error.line().map_or(String::new(), |line| format!(", line {line}"));
        let message = match (error.detail(), python::is_raised(error)) {
            (Some(detail), true) => format!("the template refuses the conversation: {detail}"),
            (Some(detail), false) => format!("{}: {detail}", error.kind()),
            (None, _) => error.kind().to_string(),
        };
        Error::invalid(format!("chat template ({}{line}): {message}", self.place))
    }
}

#[cfg(test)]
mod tests;
