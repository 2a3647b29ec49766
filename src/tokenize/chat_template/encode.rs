//! The ids of a rendered conversation: special tokens by name, images and earlier answers in their
//! places.
//!
//! Rendered text holds an image's placeholder for each image and, for each earlier answer, a mark
//! (see [`Answers`]): an answer keeps the ids that the model drew, which its text alone does not
//! determine. What a user wrote is taken literally. Names of tokens in it are broken by [`GUARD`]
//! before a template sees them, and [`GUARD`] is removed where text becomes ids.

use vq_tokenizer::Codes;

use super::{ChatTemplate, marks};
use crate::error::{Error, Result};
use crate::json::Ordered;
use crate::tokenize::processor::{EncodeOptions, Processor};
use crate::tokenize::segment::CodedSegment;
use crate::tokenize::token::{BEGIN_IMAGE_TOKEN, END_IMAGE_TOKEN};

/// Breaks names of tokens in a user's text: a code point that is never a character.
pub const GUARD: char = '\u{FDD0}';
/// The variables that name what begins and ends an image; Chameleon's tokens if absent.
const BEGIN_IMAGE: &str = "boi_token";
const END_IMAGE: &str = "eoi_token";
/// Encloses the number of an answer.
const MARK: char = '\u{FDD1}';

/// The ids of earlier answers, each with the number in its mark.
pub type Answers<'a> = [(usize, &'a [u32])];

/// A conversation up to the next answer, as text and as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The rendered text.
    pub text: String,
    /// Its ids.
    pub ids: Vec<u32>,
}

/// A part of rendered text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    Text(&'t str),
    Image,
    /// The answer with this number.
    Answer(usize),
}

impl ChatTemplate {
    /// What stands for the answer with `number` in messages.
    pub fn mark(number: usize) -> String {
        format!("{MARK}{number}{MARK}")
    }

    /// `text` as messages may hold it: no token's name in it is found when the conversation is
    /// encoded.
    ///
    /// # Errors
    /// If the tokenizer cannot encode `text`.
    pub fn guarded(&self, text: &str, processor: &Processor) -> Result<String> {
        // Neither is a character, so nothing is lost.
        let mut text = marks::kept_out_of(&text.replace([GUARD, MARK], "\u{FFFD}"));
        let mut names = vec![self.placeholder().to_owned()];
        let tokenizer = processor.text();
        loop {
            let hidden = tokenizer.encode(&text)?;
            let hidden = hidden.into_iter().filter(|id| tokenizer.is_hidden(*id));
            names.extend(hidden.filter_map(|id| tokenizer.token(id)));
            // A name of one character cannot be broken.
            names.retain(|name| text.contains(name.as_str()) && name.chars().nth(1).is_some());
            names.sort_unstable();
            names.dedup();
            if names.is_empty() {
                return Ok(text);
            }
            for name in names.drain(..) {
                let mut broken = name.clone();
                let first = name.chars().next().map_or(0, char::len_utf8);
                broken.insert(first, GUARD);
                text = text.replace(&name, &broken);
            }
        }
    }

    /// `value` with all its texts [`guarded`](Self::guarded).
    ///
    /// # Errors
    /// If the tokenizer cannot encode a text.
    pub(crate) fn guarded_value(&self, value: &Ordered, processor: &Processor) -> Result<Ordered> {
        value.with_texts(&mut |text| self.guarded(text, processor))
    }

    /// The ids of the rendered `text` with `images` for its placeholders and `answers` for its marks.
    /// If `text` goes on from `before`, so do the ids: `before`, the last answer, and what follows.
    ///
    /// # Errors
    /// If there are not as many placeholders as images, an answer's mark is missing, or text or
    /// images cannot be encoded.
    pub fn encode(
        &self,
        processor: &Processor,
        text: String,
        images: &[&Codes],
        answers: &Answers<'_>,
        before: Option<&Encoded>,
    ) -> Result<Encoded> {
        let pieces = self.pieces(&text);
        self.check(&pieces, images.len(), answers)?;
        let continued = before.and_then(|before| {
            let last = answers.last()?;
            let rest = text.strip_prefix(&before.text)?;
            // A template may write blanks there, which the answer itself begins with or has not.
            let blank = rest.split_once(&Self::mark(last.0))?.0.trim().is_empty();
            let at = pieces.iter().position(|(_, piece)| *piece == Piece::Answer(last.0))?;
            blank.then_some((before.ids.clone(), at))
        });
        let (mut ids, start) = continued.unwrap_or_default();
        let placed = pieces[..start].iter().filter(|(_, piece)| *piece == Piece::Image).count();
        let mut images = images.iter().skip(placed);
        for (_, piece) in &pieces[start..] {
            match piece {
                Piece::Text(text) => ids.extend(processor.text().encode_guarded(text, GUARD)?),
                Piece::Answer(number) => {
                    let answer = answers.iter().find(|(known, _)| known == number);
                    ids.extend(answer.map_or(&[][..], |(_, ids)| ids));
                }
                Piece::Image => {
                    let Some(codes) = images.next() else { continue };
                    let image = [CodedSegment::Image((*codes).clone())];
                    let options = EncodeOptions { bos: false, ..EncodeOptions::default() };
                    ids.extend(processor.encode_with(&image, options)?);
                }
            }
        }
        Ok(Encoded { text, ids })
    }

    /// The pieces of a rendered text and where they begin; an image's placeholder with the marks of an
    /// image block around it is one.
    pub(super) fn pieces<'t>(&self, text: &'t str) -> Vec<(usize, Piece<'t>)> {
        let named = |role, default| self.tokens.get(role).map_or(default, String::as_str);
        let (begin, end) =
            (named(BEGIN_IMAGE, BEGIN_IMAGE_TOKEN), named(END_IMAGE, END_IMAGE_TOKEN));
        let placeholder = self.placeholder();
        let enclosed = format!("{begin}{placeholder}{end}");
        let mut pieces = Vec::new();
        let (mut start, mut at) = (0, 0);
        while at < text.len() {
            let rest = &text[at..];
            let image =
                [enclosed.as_str(), placeholder].into_iter().find(|form| rest.starts_with(form));
            let found = match image {
                Some(form) => Some((Piece::Image, form.len())),
                None => answer(rest).map(|(number, len)| (Piece::Answer(number), len)),
            };
            match found {
                Some((piece, len)) => {
                    if start < at {
                        pieces.push((start, Piece::Text(&text[start..at])));
                    }
                    pieces.push((at, piece));
                    at += len;
                    start = at;
                }
                None => at += rest.chars().next().map_or(1, char::len_utf8),
            }
        }
        if start < at {
            pieces.push((start, Piece::Text(&text[start..at])));
        }
        pieces
    }

    /// Checks that every image and every answer has one place.
    pub(super) fn check(
        &self,
        pieces: &[(usize, Piece<'_>)],
        images: usize,
        answers: &Answers<'_>,
    ) -> Result<()> {
        let count = |wanted: Piece<'_>| pieces.iter().filter(|(_, piece)| *piece == wanted).count();
        let (place, placeholder) = (self.place(), self.placeholder());
        let found = count(Piece::Image);
        if found != images {
            return Err(Error::invalid(format!(
                "chat template ({place}): it writes {found} times {placeholder} for {images} \
                 image{}",
                if images == 1 { "" } else { "s" }
            )));
        }
        match answers.iter().find(|(number, _)| count(Piece::Answer(*number)) != 1) {
            Some((number, _)) => Err(Error::invalid(format!(
                "chat template ({place}): it writes answer {number} {} times; allowed: once",
                count(Piece::Answer(*number))
            ))),
            None => Ok(()),
        }
    }
}

/// The number in the mark that `text` begins with, and the length of the mark.
fn answer(text: &str) -> Option<(usize, usize)> {
    let rest = text.strip_prefix(MARK)?;
    let (number, _) = rest.split_once(MARK)?;
    Some((number.parse().ok()?, number.len() + 2 * MARK.len_utf8()))
}
