//! Log-probabilities of text, token by token.

use std::collections::VecDeque;

use serde_json::{Value, json};

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
#[derive(Debug)]
struct Token {
    text: String,
    bytes: Vec<u8>,
    logprob: f32,
}

/// A token of an answer, and the most likely ones in its place.
#[derive(Debug)]
pub(super) struct Told {
    token: Token,
    top: Vec<Token>,
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

    fn to_json(&self) -> Value {
        json!({ "token": self.text, "logprob": self.logprob, "bytes": self.bytes })
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
        self.tokens.push_back(Told { token, top: top.collect() });
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

/// `logprobs` of a chat's choice.
pub(super) fn of_chat(told: &[Told]) -> Value {
    let one = |told: &Told| {
        let mut value = told.token.to_json();
        value["top_logprobs"] = told.top.iter().map(Token::to_json).collect();
        value
    };
    json!({ "content": told.iter().map(one).collect::<Vec<_>>(), "refusal": null })
}

/// `logprobs` of a completion's choice, after tokens with the bytes `before`, to which its own are added. The token itself is
/// always among the likely ones.
pub(super) fn of_completion(told: &[Told], before: &mut Vec<u8>) -> Value {
    let (mut offsets, mut tops) = (Vec::new(), Vec::new());
    for Told { token, top } in told {
        // A character that is not whole yet is one.
        offsets.push(String::from_utf8_lossy(before).chars().count());
        before.extend(&token.bytes);
        let mut named = serde_json::Map::new();
        for token in top.iter().chain([token]) {
            // Parts of characters look alike; the first one is the most likely.
            named.entry(token.text.as_str()).or_insert(token.logprob.into());
        }
        tops.push(Value::Object(named));
    }
    json!({
        "tokens": told.iter().map(|told| &told.token.text).collect::<Vec<_>>(),
        "token_logprobs": told.iter().map(|told| told.token.logprob).collect::<Vec<_>>(),
        "top_logprobs": tops,
        "text_offset": offsets,
    })
}
