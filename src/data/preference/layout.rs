//! Prompts and answers as ids.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use vq_tokenizer::Codes;

use super::{PreferenceRow, UnpairedRow, is_conversation};
use crate::data::boundary::split_at_common_prefix;
use crate::data::dataset::Fields;
use crate::data::form::Form;
use crate::data::render::{Loss, RenderOptions};
use crate::error::{Error, Result};
use crate::tokenize::{ChatDocuments, Processor, Template, TokenSequence};

/// How a prompt and its answer become one document.
///
/// Conversations are written by the checkpoint's chat template, or without one by the template `{messages}`;
/// segments by a template of `prompt` and `answer`.
#[derive(Clone, Debug)]
pub struct AnswerLayout<'a> {
    processor: &'a Processor,
    template: Template,
    messages: Template,
    chat: Option<ChatDocuments>,
}

/// The ids of a prompt and of two answers to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreferenceTokens {
    /// The prompt, with begin-of-text.
    pub prompt: Vec<u32>,
    /// The preferred answer, with what ends it.
    pub chosen: Vec<u32>,
    /// The other one.
    pub rejected: Vec<u32>,
}

/// The ids of a prompt and of an answer to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnpairedTokens {
    /// The prompt, with begin-of-text.
    pub prompt: Vec<u32>,
    /// The answer, with what ends it.
    pub completion: Vec<u32>,
    /// Whether it is desirable.
    pub label: bool,
}

impl PreferenceTokens {
    /// The documents of the preferred and of the other answer; the targets are the answers.
    pub fn documents(&self) -> [TokenSequence; 2] {
        [&self.chosen, &self.rejected].map(|answer| document(&self.prompt, answer))
    }
}

impl UnpairedTokens {
    /// The document; the targets are the answer.
    pub fn document(&self) -> TokenSequence {
        document(&self.prompt, &self.completion)
    }
}

fn document(prompt: &[u32], answer: &[u32]) -> TokenSequence {
    let mut document = TokenSequence::default();
    document.extend(prompt, false);
    document.extend(answer, true);
    document
}

impl<'a> AnswerLayout<'a> {
    /// The layout of `processor`, in which segments of an answer directly follow those of the prompt.
    ///
    /// # Errors
    /// None is expected.
    pub fn new(processor: &'a Processor) -> Result<Self> {
        Self::with_template(processor, "{prompt}<answer>{answer}")
    }

    /// The layout that an entry of `templates` names: `chat_template` for the checkpoint's, else a template of
    /// `prompt` and `answer`.
    ///
    /// # Errors
    /// If there is no chat template, the template is malformed, or its name has no place for two answers.
    pub fn of_form(processor: &'a Processor, source: &str) -> Result<Self> {
        match Form::parse(source)? {
            Form::Chat if processor.chat_template().is_none() => Err(Error::invalid(
                "templates names chat_template, but there is none beside the tokenizer",
            )),
            Form::Chat => Self::new(processor),
            Form::Written(_) => Ok(Self { chat: None, ..Self::with_template(processor, source)? }),
            Form::Alpaca(_) => Err(Error::invalid(
                "the template alpaca is for one answer; write {prompt} and {answer} out",
            )),
        }
    }

    /// The layout with `template` for segments, such as `{prompt}<sep>{answer}`; conversations take the checkpoint's
    /// chat template if it has one.
    ///
    /// # Errors
    /// If the template is malformed.
    pub fn with_template(processor: &'a Processor, template: &str) -> Result<Self> {
        let chat = processor.chat_template().cloned().map(ChatDocuments::new);
        let template = Template::parse(template)?;
        Ok(Self { processor, template, messages: Template::parse("{messages}")?, chat })
    }

    /// The ids of `row`, whose images have the codes `images`: those of the prompt, of the preferred answer and
    /// of the other one. A prompt ends where both answers still agree with it.
    ///
    /// # Errors
    /// If there are more or fewer images than image parts, a side is empty, or the chat template refuses the messages.
    pub fn preference(&self, row: &PreferenceRow, images: &[Codes]) -> Result<PreferenceTokens> {
        let [of_prompt, of_chosen, of_rejected] =
            [&row.prompt, &row.chosen, &row.rejected].map(|entries| images_of(entries));
        let parts = of_prompt + of_chosen + of_rejected;
        self.processor.check_images(parts)?;
        if parts != images.len() {
            let message = format!("{parts} image parts, but {} images", images.len());
            return Err(Error::invalid(message));
        }
        let (shared, answers) = images.split_at(of_prompt);
        let (chosen, rejected) = answers.split_at(of_chosen);
        let side = |name: &str, answer: &[Value], images: &[Codes]| {
            let images = [shared, images].concat();
            self.document(&row.prompt, answer, &images).map_err(Error::because(name))
        };
        let (mut chosen, cut) = side("chosen", &row.chosen, chosen)?;
        let (rejected, other_cut) = side("rejected", &row.rejected, rejected)?;
        let cut = split_at_common_prefix(&chosen[..cut], [&rejected[..other_cut]]);
        let answer = chosen.split_off(cut);
        Ok(PreferenceTokens { prompt: chosen, chosen: answer, rejected: rejected[cut..].to_vec() })
    }

    /// The ids of `row`, whose images have the codes `images`: those of the prompt and of the answer.
    ///
    /// # Errors
    /// As [`preference`](Self::preference).
    pub fn unpaired(&self, row: &UnpairedRow, images: &[Codes]) -> Result<UnpairedTokens> {
        let (mut prompt, cut) = self.document(&row.prompt, &row.completion, images)?;
        let completion = prompt.split_off(cut);
        Ok(UnpairedTokens { prompt, completion, label: row.label })
    }

    /// The ids of `prompt` and `answer`, and how many of them belong to the prompt.
    fn document(
        &self,
        prompt: &[Value],
        answer: &[Value],
        images: &[Codes],
    ) -> Result<(Vec<u32>, usize)> {
        self.processor.check_images(images_of(prompt) + images_of(answer))?;
        if let Some(chat) = self.chat.as_ref().filter(|_| is_conversation(answer)) {
            let messages = [prompt, answer].concat();
            let whole = chat.encode(self.processor, &messages, images, false)?.ids;
            let known = &images[..images_of(prompt).min(images.len())];
            let prompt = chat.encode(self.processor, prompt, known, true)?.ids;
            let cut = split_at_common_prefix(&prompt, [whole.as_slice()]);
            return match cut < whole.len() {
                true => Ok((whole, cut)),
                false => Err(Error::invalid("the answer is empty")),
            };
        }
        let (template, fields) = match is_conversation(answer) {
            true => (&self.messages, messages(prompt, answer)),
            false => (&self.template, json!({ "prompt": prompt, "answer": answer })),
        };
        let fields: Fields = fields.as_object().cloned().unwrap_or_default();
        let options = RenderOptions { loss: Loss::Answers, max_turns: None };
        // Nothing is drawn.
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let rendered = template.render(&fields, images, &options, &mut rng)?;
        let TokenSequence { ids, loss_mask } = rendered.tokens(self.processor)?;
        let cut = loss_mask.iter().position(|is_target| *is_target).unwrap_or(ids.len());
        Ok((ids, cut))
    }
}

/// Messages of which those of the answer are learnt.
fn messages(prompt: &[Value], answer: &[Value]) -> Value {
    let silent = |message: &Value| {
        let mut message = message.clone();
        message["loss"] = false.into();
        message
    };
    let messages: Vec<Value> = prompt.iter().map(silent).chain(answer.iter().cloned()).collect();
    json!({ "messages": messages })
}

/// The number of images in segments or messages.
fn images_of(entries: &[Value]) -> usize {
    let is_image = |entry: &&Value| entry["type"] == "image";
    let in_content = |entry: &Value| {
        entry["content"].as_array().map_or(0, |parts| parts.iter().filter(is_image).count())
    };
    entries.iter().filter(is_image).count() + entries.iter().map(in_content).sum::<usize>()
}
