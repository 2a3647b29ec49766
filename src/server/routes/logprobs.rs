//! Log-probabilities of text, token by token.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use utoipa::ToSchema;

use crate::generate::Logprobs;
use crate::server::fault::Fault;
use crate::tokenize::{TokenBytes, Vocabulary};

/// Most tokens that are named in each place.
const MOST: usize = 20;

/// What stands for minus infinity, which JSON does not have.
const LOWEST: f32 = -9999.0;

/// The number of likely tokens that is asked for.
///
/// # Errors
/// If it is too large.
pub(super) fn check(name: &str, asked: usize) -> Result<usize, Fault> {
    match asked {
        0..=MOST => Ok(asked),
        _ => Err(Fault::of(name, format!("{name} is {asked}; allowed: 0 to {MOST}"))),
    }
}

/// The bytes and names of ids.
pub(super) struct Names<'a> {
    pub(super) bytes: &'a TokenBytes,
    pub(super) vocabulary: &'a Vocabulary,
}

/// A token with its log-probability.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TokenLogprob)]
struct Token {
    #[serde(rename = "token")]
    text: String,
    /// At least -9999.
    logprob: f32,
    /// Those of its text; none of control tokens.
    bytes: Vec<u8>,
}

/// A token of an answer, and the most likely ones in its place.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TokenWithAlternatives)]
pub(super) struct Told {
    #[serde(flatten)]
    token: Token,
    top_logprobs: Vec<Token>,
}

impl Token {
    fn new(names: &Names<'_>, id: u32, logprob: f32, is_first: bool) -> Self {
        let of = if is_first { names.bytes.first(id) } else { names.bytes.get(id) };
        let (text, bytes) = match of {
            Some(bytes) => (String::from_utf8_lossy(bytes).into_owned(), bytes.to_vec()),
            // Control tokens and codes of images have no text.
            None => (names.vocabulary.name(id).unwrap_or_default().to_owned(), Vec::new()),
        };
        Self { text, bytes, logprob: logprob.max(LOWEST) }
    }
}

/// The tokens whose text is not out yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    next: Option<Logprobs>,
    tokens: VecDeque<Told>,
    has_begun: bool,
    /// Bytes of text that are out, and of the tokens that are.
    out: [usize; 2],
}

impl Pending {
    /// The log-probabilities of the text id that comes next.
    pub(super) fn announce(&mut self, logprobs: Logprobs) {
        self.next = Some(logprobs);
    }

    /// The id that was announced.
    pub(super) fn push(&mut self, names: &Names<'_>, id: u32) {
        let Some(Logprobs { of_id, top }) = self.next.take() else { return };
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        let token = Token::new(names, id, of_id, is_first);
        let top = top.into_iter().map(|(id, logprob)| Token::new(names, id, logprob, is_first));
        self.tokens.push_back(Told { token, top_logprobs: top.collect() });
    }

    /// The tokens that begin in `text`, which is out now.
    pub(super) fn take(&mut self, text: &str) -> Vec<Told> {
        self.out[0] += text.len();
        let mut taken = Vec::new();
        while self.out[1] < self.out[0]
            && let Some(told) = self.tokens.pop_front()
        {
            self.out[1] += told.token.bytes.len();
            taken.push(told);
        }
        taken
    }

    /// The tokens that are left at the end of an answer that no stop string has cut.
    pub(super) fn rest(&mut self) -> Vec<Told> {
        self.tokens.drain(..).collect()
    }
}

/// The log-probabilities of a chat's answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatLogprobs {
    content: Vec<Told>,
    /// Always null.
    #[schema(value_type = Option<String>)]
    refusal: (),
}

impl ChatLogprobs {
    pub(super) fn new(told: Vec<Told>) -> Self {
        Self { content: told, refusal: () }
    }
}

/// The log-probabilities of a completion, token by token.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    /// The most likely tokens in each place; the token itself is always among them.
    top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Characters of the answer before each token.
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// After tokens with the bytes `before`, to which its own are added.
    pub(super) fn new(told: Vec<Told>, before: &mut Vec<u8>) -> Self {
        let mut all = Self::default();
        for Told { token, top_logprobs } in told {
            // A character that is not whole yet is one.
            all.text_offset.push(String::from_utf8_lossy(before).chars().count());
            before.extend(&token.bytes);
            let mut named = BTreeMap::new();
            for token in top_logprobs.iter().chain([&token]) {
                // Parts of characters look alike; the first one is the most likely.
                named.entry(token.text.clone()).or_insert(token.logprob);
            }
            all.top_logprobs.push(named);
            all.token_logprobs.push(token.logprob);
            all.tokens.push(token.text);
        }
        all
    }
}
