//! Templates: how the fields and images of a sample become a document.
//!
//! | syntax | meaning |
//! |---|---|
//! | `{name}` | a field as text; of a list of plain values one entry, drawn at random |
//! | `<image>` | the next image of the sample |
//! | `<sep>` | the separator: the first one ends the prompt, the next one ends the answer, and so on |
//! | `{#turns\|<sep>}...{/turns}` | the part between, once per entry of the list `turns`, joined by what follows the bar (text and `<sep>`; the bar may be left out) |
//! | `{.}` | inside a repeated part: the entry itself, for lists of plain values |
//! | `{{`, `}}`, `<<` | the characters `{`, `}` and `<` themselves |
//!
//! Inside a repeated part `{name}` is first looked up in the entry, then in the sample. A `<`
//! that no letter follows is plain text. A field that holds a list of segments
//! (`{"type": "text" | "image", ...}`) or of messages (`{"role", "content"}`) is laid out in
//! full: its images take their turn among the `<image>` marks, and a separator stands wherever
//! the word passes to or from the assistant.
//!
//! ```
//! use calumma::data::template::Template;
//! let one = Template::parse("<image>{question}<sep>{answer}")?;
//! let many = Template::parse("<image>{#turns|<sep>}{question}<sep>{answer}{/turns}")?;
//! let draw = Template::parse("{name}<image>")?;
//! assert!(draw.is_text_first() && !one.is_text_first());
//! assert_eq!(many.num_images(), 1);
//! # Ok::<(), calumma::Error>(())
//! ```

use std::collections::BTreeSet;
use std::str::FromStr;

pub use super::render::{Loss, RenderOptions, Rendered};
use crate::{Error, Result};

/// A parsed template; see the [module](self) for the syntax.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    source: String,
    pub(super) pieces: Vec<Piece>,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Field(String),
    Image,
    Separator,
    Repeat { field: String, body: Vec<Piece>, joiner: Vec<Piece> },
}

impl Template {
    /// Parses `source`.
    ///
    /// # Errors
    /// When the syntax is unknown; the message gives the column, counted from 1.
    pub fn parse(source: &str) -> Result<Self> {
        let mut parser = Parser { source, at: 0, end: source.len() };
        let pieces = parser.pieces(None)?;
        match pieces.is_empty() {
            true => Err(parser.error(0, "it is empty")),
            false => Ok(Self { source: source.to_owned(), pieces }),
        }
    }

    /// The text it was parsed from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it ends with `<image>` after something else: a text-to-image document, whose
    /// prompt may be dropped to train guidance.
    pub fn is_text_first(&self) -> bool {
        self.pieces.len() > 1
            && self.pieces.last() == Some(&Piece::Image)
            && self.pieces.first() != Some(&Piece::Image)
    }

    /// The names of the fields it may look up, those inside repeated parts too.
    pub fn fields(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        collect_fields(&self.pieces, &mut names);
        names
    }

    /// How many `<image>` marks it has.
    pub fn num_images(&self) -> usize {
        self.pieces.iter().filter(|piece| **piece == Piece::Image).count()
    }
}

fn collect_fields(pieces: &[Piece], names: &mut BTreeSet<String>) {
    for piece in pieces {
        match piece {
            Piece::Field(name) if name != "." => drop(names.insert(name.clone())),
            Piece::Repeat { field, body, .. } => {
                names.insert(field.clone());
                collect_fields(body, names);
            }
            _ => {}
        }
    }
}

impl FromStr for Template {
    type Err = Error;

    fn from_str(source: &str) -> Result<Self> {
        Self::parse(source)
    }
}

/// A cursor over the bytes `at..end` of the template.
struct Parser<'a> {
    source: &'a str,
    at: usize,
    end: usize,
}

impl<'a> Parser<'a> {
    /// Pieces up to the end, or up to the `{/field}` that closes a repeated part.
    fn pieces(&mut self, repeated: Option<(&str, usize)>) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        while self.at < self.end {
            let (start, rest) = (self.at, self.rest());
            if let Some(literal) = ["{{", "}}", "<<"].into_iter().find(|l| rest.starts_with(l)) {
                self.at += literal.len();
                add_text(&mut pieces, &literal[..1]);
            } else if rest.starts_with("{/") {
                return self.close(repeated, start).map(|()| pieces);
            } else if rest.starts_with("{#") {
                if repeated.is_some() {
                    return Err(self.error(start, "a repeated part cannot hold another one"));
                }
                pieces.push(self.repeat(start)?);
            } else if rest.starts_with('{') {
                pieces.push(Piece::Field(self.name(start, "{")?.to_owned()));
            } else if rest.starts_with('}') {
                return Err(self.error(start, "a } without {; write }} for the character"));
            } else if rest.starts_with('<') && rest[1..].starts_with(|c: char| c.is_alphabetic()) {
                pieces.push(self.mark(start, repeated.is_some())?);
            } else {
                let len = rest.chars().next().map_or(1, char::len_utf8);
                self.at += len;
                add_text(&mut pieces, &rest[..len]);
            }
        }
        match repeated {
            Some((field, start)) => {
                Err(self.error(start, &format!("{{#{field}}} is not closed by {{/{field}}}")))
            }
            None => Ok(pieces),
        }
    }

    fn rest(&self) -> &'a str {
        &self.source[self.at..self.end]
    }

    fn close(&mut self, repeated: Option<(&str, usize)>, start: usize) -> Result<()> {
        let name = self.name(start, "{/")?;
        match repeated {
            Some((field, _)) if field == name => Ok(()),
            Some((field, _)) => {
                let message = format!("{{/{name}}} where {{/{field}}} was expected");
                Err(self.error(start, &message))
            }
            None => Err(self.error(start, &format!("{{/{name}}} closes nothing"))),
        }
    }

    fn repeat(&mut self, start: usize) -> Result<Piece> {
        let inner = self.name(start, "{#")?;
        let (field, joiner) = match inner.split_once('|') {
            None => (inner, Vec::new()),
            Some((field, joiner)) => {
                let end = self.at - 1;
                let at = end - joiner.len();
                (field.trim(), Parser { source: self.source, at, end }.pieces(None)?)
            }
        };
        if field.is_empty() {
            return Err(self.error(start, "the repeated part names no field"));
        }
        if !joiner.iter().all(|piece| matches!(piece, Piece::Text(_) | Piece::Separator)) {
            return Err(self.error(start, "entries can be joined by text and <sep> only"));
        }
        let body = self.pieces(Some((field, start)))?;
        Ok(Piece::Repeat { field: field.to_owned(), body, joiner })
    }

    /// What stands between `opening` and the next `}`.
    fn name(&mut self, start: usize, opening: &str) -> Result<&'a str> {
        let rest = &self.source[start + opening.len()..self.end];
        let Some(len) = rest.find(['{', '}']).filter(|&at| rest[at..].starts_with('}')) else {
            let message = format!("{opening} without }}; write {{{{ for the character");
            return Err(self.error(start, &message));
        };
        self.at = start + opening.len() + len + 1;
        // a joiner keeps its blanks
        let name = if opening == "{#" { &rest[..len] } else { rest[..len].trim() };
        match name.is_empty() {
            true => Err(self.error(start, "the braces name no field")),
            false => Ok(name),
        }
    }

    fn mark(&mut self, start: usize, repeated: bool) -> Result<Piece> {
        const ALLOWED: &str = "allowed are <image> and <sep>, and << for the character";
        let rest = self.rest();
        let Some(end) = rest.find('>') else {
            return Err(self.error(start, &format!("a < without >; {ALLOWED}")));
        };
        self.at += end + 1;
        match &rest[..=end] {
            "<sep>" => Ok(Piece::Separator),
            "<image>" if repeated => {
                Err(self.error(start, "<image> cannot stand in a repeated part"))
            }
            "<image>" => Ok(Piece::Image),
            other => Err(self.error(start, &format!("unknown mark {other}; {ALLOWED}"))),
        }
    }

    fn error(&self, at: usize, message: &str) -> Error {
        let column = self.source[..at].chars().count() + 1;
        Error::invalid(format!("template {:?}, column {column}: {message}", self.source))
    }
}

fn add_text(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        Some(Piece::Text(last)) => last.push_str(text),
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn marks_fields_and_escapes_are_told_apart() {
        let template = Template::parse("<image>{{a}} << 3 < 4 {name}<sep>").unwrap();
        let text = Piece::Text("{a} < 3 < 4 ".to_owned());
        let field = Piece::Field("name".to_owned());
        assert_eq!(template.pieces, [Piece::Image, text, field, Piece::Separator]);
    }

    #[test]
    fn a_repeated_part_has_a_body_and_a_joiner() {
        let template = Template::parse("{#turns| and <sep>}{q}?{/turns}").unwrap();
        let [Piece::Repeat { field, body, joiner }] = template.pieces.as_slice() else {
            panic!("{template:?}")
        };
        assert_eq!((field.as_str(), body.len()), ("turns", 2));
        assert_eq!(joiner, &[Piece::Text(" and ".to_owned()), Piece::Separator]);
    }

    #[test]
    fn every_field_it_may_need_is_listed() {
        let template = Template::parse("{name}<image>{#turns|<sep>}{q}{.}{/turns}{name}").unwrap();
        assert_eq!(Vec::from_iter(template.fields()), ["name", "q", "turns"]);
    }

    #[test]
    fn text_first_templates_end_with_an_image() {
        let text_first = |source| Template::parse(source).unwrap().is_text_first();
        assert!(text_first("{name}<image>"));
        assert!(!text_first("<image>{name}") && !text_first("<image>"));
    }

    #[test]
    fn unknown_syntax_is_an_error_with_its_column() {
        for (source, column, words) in [
            ("", 1, "it is empty"),
            ("é<img>", 2, "unknown mark <img>; allowed are <image> and <sep>"),
            ("a {name", 3, "write {{ for the character"),
            ("a } b", 3, "write }} for the character"),
            ("{}", 1, "name no field"),
            ("a{#t}b", 2, "not closed by {/t}"),
            ("a{/t}", 2, "closes nothing"),
            ("{#t}{#u}{/u}{/t}", 5, "cannot hold another"),
            ("{#t}{/u}", 5, "{/t} was expected"),
            ("{#t}<image>{/t}", 5, "cannot stand in a repeated part"),
            ("{#t|<image>}a{/t}", 1, "joined by text and <sep> only"),
            ("{#t|<foo>}a{/t}", 5, "unknown mark <foo>"),
            ("a <b", 3, "a < without >"),
        ] {
            let message = Template::parse(source).unwrap_err().to_string();
            assert!(message.contains(&format!("column {column}: ")), "{source}: {message}");
            assert!(message.contains(words), "{source}: {message}");
        }
    }
}
