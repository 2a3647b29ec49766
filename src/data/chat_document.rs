//! Documents by the chat template of a checkpoint: ids, and which of them are learnt.

use std::ops::Range;

use serde_json::Value;
use vq_tokenizer::Codes;

use super::boundary::split_at_common_prefix;
use super::dialect::Conversation;
use super::render::{Loss, learnt};
use crate::error::{Error, Result};
use crate::tokenize::{ChatDocuments, MarkedIds, Processor, TokenSequence};

/// A chat template and what is learnt of its documents.
#[derive(Clone, Debug)]
pub(super) struct ChatForm {
    chat: ChatDocuments,
    loss: Loss,
}

/// A document, and whether its answer begins with an id that holds part of the prompt.
pub(super) struct ChatDocument {
    pub(super) tokens: TokenSequence,
    pub(super) is_cut_within_an_id: bool,
}

impl ChatForm {
    /// Documents by the chat template of `processor`, which has one.
    ///
    /// # Errors
    /// If `loss` needs answers and the template does not mark them.
    pub(super) fn new(chat: ChatDocuments, loss: Loss) -> Result<Self> {
        let needs_marks = matches!(loss, Loss::Answers | Loss::ImagesAndAnswers);
        if needs_marks && !chat.marks_answers() {
            return Err(Error::invalid(format!(
                "the chat template ({}) does not mark answers by {{% generation %}} and {{% endgeneration %}}, \
                 so they cannot be told from prompts; add the marks, or use loss = \"last-answer\" or \"all\"",
                chat.template().place()
            )));
        }
        Ok(Self { chat, loss })
    }

    /// The text of the template.
    pub(super) fn source(&self) -> &str {
        self.chat.template().source()
    }

    /// The document of a conversation with the first of `images`; the ids are all that the template writes.
    ///
    /// # Errors
    /// If the template refuses the messages, or nothing would be learnt.
    pub(super) fn document(
        &self,
        conversation: &Conversation,
        images: &[Codes],
        processor: &Processor,
    ) -> Result<ChatDocument> {
        let messages = &conversation.messages[..];
        let images = used(messages, images, processor)?;
        let marked = self.chat.encode(processor, messages, images, false)?;
        let mut mask = vec![self.loss == Loss::All; marked.ids.len()];
        let mut is_cut_within_an_id = false;
        if self.loss == Loss::LastAnswer {
            let prompt = last_prompt(conversation)?;
            let known = used(&messages[..prompt], images, processor)?;
            let prompt = self.chat.encode(processor, &messages[..prompt], known, true)?;
            let start = split_at_common_prefix(&prompt.ids, [marked.ids.as_slice()]);
            is_cut_within_an_id = start < prompt.ids.len();
            mask[start..].fill(true);
        }
        self.mark(&mut mask, conversation, &marked)?;
        if let Some(first) = mask.first_mut() {
            *first = false;
        }
        if !mask.contains(&true) {
            return Err(Error::invalid("no token counts for the loss: the answers are empty"));
        }
        Ok(ChatDocument {
            tokens: TokenSequence { ids: marked.ids, loss_mask: mask },
            is_cut_within_an_id,
        })
    }

    /// Adds marked answers and images to `mask` as the loss asks, and takes out the messages that are not to be
    /// learnt.
    fn mark(
        &self,
        mask: &mut [bool],
        conversation: &Conversation,
        marked: &MarkedIds,
    ) -> Result<()> {
        let mut fill = |range: &Range<usize>, learnt: bool| mask[range.clone()].fill(learnt);
        if self.loss == Loss::ImagesAndAnswers {
            marked.images.iter().for_each(|image| fill(image, true));
        }
        let adds = matches!(self.loss, Loss::Answers | Loss::ImagesAndAnswers);
        if adds {
            marked.answers.iter().for_each(|answer| fill(answer, true));
        }
        let unlearnt = unlearnt(conversation, self.loss)?;
        if unlearnt.iter().any(|unlearnt| *unlearnt) {
            if unlearnt.len() != marked.answers.len() {
                return Err(Error::invalid(format!(
                    "the chat template ({}) marks {} answers of {}, so none can be left out of the loss",
                    self.chat.template().place(),
                    marked.answers.len(),
                    unlearnt.len()
                )));
            }
            let answers = marked.answers.iter().zip(unlearnt);
            answers.filter(|(_, unlearnt)| *unlearnt).for_each(|(answer, _)| fill(answer, false));
        }
        Ok(())
    }
}

/// The images that `messages` use, which are the first of `images`.
fn used<'a>(messages: &[Value], images: &'a [Codes], processor: &Processor) -> Result<&'a [Codes]> {
    let parts = messages.iter().filter_map(|message| message["content"].as_array()).flatten();
    let count = parts.filter(|part| part["type"] == "image").count();
    processor.check_images(count)?;
    let few = || Error::invalid(format!("more image parts than images ({})", images.len()));
    images.get(..count).ok_or_else(few)
}

/// The number of messages before the last answer.
fn last_prompt(conversation: &Conversation) -> Result<usize> {
    let messages = &conversation.messages;
    if let Some(prompt) = conversation.prompt {
        return Ok(prompt);
    }
    let answers =
        messages.iter().rev().take_while(|message| message["role"] == "assistant").count();
    match answers {
        0 => Err(Error::invalid("the last message is no answer")),
        _ => Ok(messages.len() - answers),
    }
}

/// For each answer whether it is left out of the loss: where its message says so, and before a completion.
fn unlearnt(conversation: &Conversation, loss: Loss) -> Result<Vec<bool>> {
    let Conversation { messages, prompt } = conversation;
    let mut unlearnt = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        let answers = message["role"] == "assistant";
        let named = |m| Error::invalid(format!("message {}: {m}", at + 1));
        let is_learnt = learnt(message, answers).map_err(named)?;
        if answers {
            // Of what comes before the last answer nothing is learnt anyway.
            let picks = matches!(loss, Loss::Answers | Loss::ImagesAndAnswers);
            let is_prompt = picks && prompt.is_some_and(|prompt| at < prompt);
            unlearnt.push(is_prompt || !is_learnt);
        }
    }
    Ok(unlearnt)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tokenize::{BpeConfig, ChatTemplate, train_bpe};

    const MARKED: &str = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}\
        {{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }}:{% endif %}{% endfor %}";
    const UNMARKED: &str = "{% for m in messages %}{{ m.content }}{{ '</s>' if m.role == 'assistant' else ':' }}\
        {% endfor %}";

    fn processor() -> Processor {
        let config = BpeConfig { num_codes: 16, vocab_size: 320, ..BpeConfig::default() };
        Processor::new(train_bpe(&config, ["yes"; 9]).unwrap(), (1, 2)).unwrap()
    }

    fn form(source: &str, loss: Loss) -> Result<ChatForm> {
        ChatForm::new(ChatDocuments::new(ChatTemplate::new(source, "t")), loss)
    }

    /// A conversation of users, assistants and so on.
    fn said(contents: &[Value], prompt: Option<usize>) -> Conversation {
        let message = |(at, content): (usize, &Value)| match content {
            Value::Object(_) => content.clone(),
            _ => crate::data::dialect::message(["user", "assistant"][at % 2], content.clone()),
        };
        Conversation { messages: contents.iter().enumerate().map(message).collect(), prompt }
    }

    /// The document with what is learnt in parentheses.
    fn shown(source: &str, loss: Loss, conversation: &Conversation) -> Result<String> {
        let processor = processor();
        let image = Codes { ids: vec![1, 2], height: 1, width: 2 };
        let document =
            form(source, loss)?.document(conversation, &[image.clone(), image], &processor)?;
        let TokenSequence { ids, loss_mask } = document.tokens;
        let (mut text, mut start) = (String::new(), 0);
        for run in loss_mask.chunk_by(|a, b| a == b) {
            let segments = processor.decode(&ids[start..start + run.len()])?;
            let part: String = segments.iter().map(ToString::to_string).collect();
            text += &if run[0] { format!("({part})") } else { part };
            start += run.len();
        }
        Ok(text)
    }

    #[test]
    fn each_loss_learns_its_part_of_a_conversation() {
        let image = json!([{ "type": "image" }, { "type": "text", "text": "?" }]);
        let talk = said(&[json!("aa"), json!("b"), json!("c"), json!("d")], None);
        let seen = said(&[image.clone(), json!("b"), json!("c"), image.clone()], None);
        for (loss, of_talk, of_seen) in [
            (Loss::All, "a(a:b</s>c:d</s>)", None),
            (
                Loss::Answers,
                "aa:(b</s>)c:(d</s>)",
                Some("[image 1x2]?:(b</s>)c:([image 1x2]?</s>)"),
            ),
            (Loss::LastAnswer, "aa:b</s>c:(d</s>)", Some("[image 1x2]?:b</s>c:([image 1x2]?</s>)")),
        ] {
            assert_eq!(shown(MARKED, loss, &talk).unwrap(), of_talk);
            if let Some(expected) = of_seen {
                assert_eq!(shown(MARKED, loss, &seen).unwrap(), expected);
            }
        }
        let drawn = said(&[json!("aa"), json!("b"), image, json!("d")], None);
        let learnt = shown(MARKED, Loss::ImagesAndAnswers, &drawn).unwrap();
        assert_eq!(learnt, "aa:(b</s>[image 1x2])?:(d</s>)");
    }

    #[test]
    fn without_marks_only_the_last_answer_can_be_told() {
        let talk = said(&[json!("aa"), json!("b"), json!("c"), json!("d")], None);
        assert_eq!(shown(UNMARKED, Loss::LastAnswer, &talk).unwrap(), "aa:b</s>c:(d</s>)");
        let error = shown(UNMARKED, Loss::Answers, &talk).unwrap_err().to_string();
        assert!(error.contains("(t) does not mark answers by {% generation %}"), "{error}");
        assert!(error.contains("loss = \"last-answer\""), "{error}");
        let open = said(&[json!("a")], None);
        let error = shown(UNMARKED, Loss::LastAnswer, &open).unwrap_err().to_string();
        assert!(error.contains("the last message is no answer"), "{error}");
    }

    #[test]
    fn answers_of_a_prompt_and_those_that_say_so_are_not_learnt() {
        let contents = [json!("aa"), json!("b"), json!("c"), json!("d")];
        let completed = said(&contents, Some(3));
        assert_eq!(shown(MARKED, Loss::Answers, &completed).unwrap(), "aa:b</s>c:(d</s>)");
        let silent = json!({ "role": "assistant", "content": "b", "loss": false });
        let flagged = said(&[json!("aa"), silent.clone(), json!("c"), json!("d")], None);
        assert_eq!(shown(MARKED, Loss::Answers, &flagged).unwrap(), "aa:b</s>c:(d</s>)");
        assert_eq!(shown(MARKED, Loss::All, &flagged).unwrap(), "a(a:)b</s>(c:d</s>)");
        let error = shown(UNMARKED, Loss::All, &flagged).unwrap_err().to_string();
        assert!(error.contains("marks 0 answers of 2"), "{error}");
        let nothing = said(&[json!("aa"), silent], None);
        let error = shown(MARKED, Loss::Answers, &nothing).unwrap_err().to_string();
        assert!(error.contains("no token counts for the loss"), "{error}");
    }

    #[test]
    fn an_answer_that_shares_an_id_with_its_prompt_begins_with_it() {
        let processor = processor();
        let source = "{% for m in messages %}{{ m.content }}{% endfor %}";
        let form = form(source, Loss::LastAnswer).unwrap();
        let talk = said(&[json!("y"), json!("es")], None);
        let document = form.document(&talk, &[], &processor);
        // All of it is one id, which is the first.
        assert!(document.is_err());
        let talk = said(&[json!("!y"), json!("es!")], None);
        let document = form.document(&talk, &[], &processor).unwrap();
        assert!(document.is_cut_within_an_id);
        let learnt = document.tokens.loss_mask.iter().filter(|learnt| **learnt).count();
        assert!(learnt < document.tokens.len());
    }
}
