//! Conversations as token ids, with the loss on answers only.
//!
//! The layout is the original release's: prompt, separator, answer, separator, next prompt and so
//! on, and end-of-text after the last answer. As in the paper's fine-tuning (arXiv 2405.09818,
//! section 3.2), only answers are targets of the loss. So is the token that closes an answer (the
//! separator, or end-of-text after the last one): from it the model learns to stop, so generation
//! must stop at either.

use super::processor::{EncodeOptions, Processor};
use super::segment::{CodedSegment, TokenSequence};
use crate::error::{Error, Result};

/// The speaker of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Asks; not a target of the loss.
    User,
    /// Answers; a target of the loss.
    Assistant,
}

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The speaker.
    pub role: Role,
    /// Texts and images.
    pub segments: Vec<CodedSegment>,
}

impl Turn {
    /// A question or instruction.
    pub fn user(segments: Vec<CodedSegment>) -> Self {
        Self { role: Role::User, segments }
    }

    /// An answer.
    pub fn assistant(segments: Vec<CodedSegment>) -> Self {
        Self { role: Role::Assistant, segments }
    }
}

impl Processor {
    /// A conversation for training: the targets are the answers and the token that closes each.
    ///
    /// # Errors
    /// If turns do not alternate between user and assistant, begin with the user and end with the
    /// assistant; if a turn contains control tokens; or as [`Processor::encode_with`].
    ///
    /// ```
    /// use calumma::tokenize::{BpeConfig, CodedSegment, Processor, Turn, train_bpe};
    ///
    /// let config = BpeConfig { num_codes: 16, vocab_size: 300, ..BpeConfig::default() };
    /// let processor = Processor::new(train_bpe(&config, ["yes"])?, (2, 2))?;
    /// let sequence = processor.chat(&[
    ///     Turn::user(vec![CodedSegment::text("?")]),
    ///     Turn::assistant(vec![CodedSegment::text("!")]),
    /// ])?; // <s> ? separator ! </s>
    /// assert_eq!(sequence.loss_mask, [false, false, false, true, true]);
    /// # Ok::<(), calumma::Error>(())
    /// ```
    pub fn chat(&self, turns: &[Turn]) -> Result<TokenSequence> {
        check_turns(turns, Role::Assistant)?;
        self.turns(turns)
    }

    /// The prompt for the next answer of a conversation; ends with the separator after the user's
    /// turn.
    ///
    /// # Errors
    /// If turns do not alternate between user and assistant, begin and end with the user; if a turn
    /// contains control tokens; or as [`Processor::encode_with`].
    pub fn chat_prompt(&self, turns: &[Turn]) -> Result<Vec<u32>> {
        check_turns(turns, Role::User)?;
        Ok(self.turns(turns)?.ids)
    }

    fn turns(&self, turns: &[Turn]) -> Result<TokenSequence> {
        let special = self.vocabulary().special();
        let options = EncodeOptions { bos: false, ..EncodeOptions::default() };
        let mut sequence = TokenSequence::default();
        sequence.extend(special.bos.as_slice(), false);
        for (index, turn) in turns.iter().enumerate() {
            let is_answer = turn.role == Role::Assistant;
            let is_last_answer = is_answer && index + 1 == turns.len();
            sequence.extend(&self.encode_with(&turn.segments, options)?, is_answer);
            let without =
                || Error::invalid("the model has no separator of turns, and no chat template");
            let closing =
                if is_last_answer { special.eos } else { special.sep.ok_or_else(without)? };
            sequence.extend(&[closing], is_answer);
        }
        Ok(sequence)
    }
}

/// Checks the order of speakers, and that no turn contains control tokens, which would change it.
fn check_turns(turns: &[Turn], last: Role) -> Result<()> {
    for (index, turn) in turns.iter().enumerate() {
        let expected = if index % 2 == 0 { Role::User } else { Role::Assistant };
        if turn.role != expected {
            return Err(Error::invalid(format!(
                "turn {} is by {:?}, but user and assistant alternate and the user begins",
                index + 1,
                turn.role
            )));
        }
        for segment in &turn.segments {
            if let CodedSegment::Special(name) = segment {
                let turn = index + 1;
                let message = format!("turn {turn} holds the control token {name}");
                return Err(Error::invalid(message));
            }
        }
    }
    match turns.last() {
        Some(turn) if turn.role == last => Ok(()),
        Some(turn) => Err(Error::invalid(format!(
            "the last of {} turns is by {:?}, it must be by {last:?}",
            turns.len(),
            turn.role
        ))),
        None => Err(Error::invalid("a conversation needs at least one turn".to_owned())),
    }
}
