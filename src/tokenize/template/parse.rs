//! Parsing of templates into pieces.

use std::collections::BTreeSet;

use crate::error::{Error, Result};

/// A parsed template; see the [module](super) for the language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    source: String,
    pieces: Vec<Piece>,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Literal text; never empty, never two in a row.
    Text(String),
    /// The value of this name; `.` is the entry of a repeated part.
    Field(String),
    /// The next image.
    Image,
    /// The separator that ends a prompt or an answer.
    Separator,
    /// The answer begins, without any token.
    Answer,
    /// `body` once per entry of the list `field`, with `joiner` between.
    Repeat { field: String, body: Vec<Piece>, joiner: Vec<Piece> },
}

/// How much of the language a text uses: the columns of the table in the [module](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Syntax {
    Sample,
    Prompt,
    User,
}

impl Template {
    /// Parses a sample template.
    ///
    /// # Errors
    /// If the syntax is unknown; the message gives the column, counted from 1.
    pub fn parse(source: &str) -> Result<Self> {
        let mut parser = Parser::new(source, Syntax::Sample);
        let pieces = parser.pieces(None)?;
        match pieces.is_empty() {
            true => Err(parser.error(0, "it is empty")),
            false => Ok(Self { source: source.to_owned(), pieces }),
        }
    }

    /// Parses a prompt template, in which unknown marks are text.
    ///
    /// # Errors
    /// If a brace is not closed or names nothing; the message gives the column, counted from 1.
    pub fn prompt(source: &str) -> Result<Self> {
        let pieces = Parser::new(source, Syntax::Prompt).pieces(None)?;
        Ok(Self { source: source.to_owned(), pieces })
    }

    /// Text in which only `<image>` has a meaning.
    pub(super) fn user(source: &str) -> Self {
        let pieces = Parser::new(source, Syntax::User).pieces(None);
        let pieces = pieces.expect("everything is allowed in a user's prompt");
        Self { source: source.to_owned(), pieces }
    }

    /// The text it was parsed from.
    pub fn source(&self) -> &str {
        &self.source
    }

    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Whether it ends with `<image>` after something else: a text-to-image document, whose
    /// prompt can be dropped to train classifier-free guidance.
    pub fn is_text_first(&self) -> bool {
        self.pieces.len() > 1
            && self.pieces.last() == Some(&Piece::Image)
            && self.pieces.first() != Some(&Piece::Image)
    }

    /// The names of all fields that may be looked up, those inside repeated parts included.
    pub fn fields(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        collect_fields(&self.pieces, &mut names);
        names
    }

    /// Whether an answer begins in it without a separator.
    pub(crate) fn has_answer_mark(&self) -> bool {
        self.pieces.contains(&Piece::Answer)
    }

    /// The number of `<image>` marks.
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

/// The smallest unit of a template.
enum Token<'a> {
    Text(&'a str),
    Image,
    Separator,
    Answer,
    Field(&'a str),
    /// `{#head}`
    Open(&'a str),
    /// `{/name}`
    Close(&'a str),
}

/// The repeated part that is being parsed.
#[derive(Clone, Copy)]
struct OpenPart<'a> {
    field: &'a str,
    /// Where it begins.
    start: usize,
}

/// A cursor over the bytes `at..end` of a template.
struct Parser<'a> {
    source: &'a str,
    syntax: Syntax,
    at: usize,
    end: usize,
}

impl<'a> Parser<'a> {
    fn new(source: &'a str, syntax: Syntax) -> Self {
        Self { source, syntax, at: 0, end: source.len() }
    }

    /// Pieces up to the end, or up to the `{/field}` that closes the part `open`.
    fn pieces(&mut self, open: Option<OpenPart<'_>>) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        while self.at < self.end {
            let start = self.at;
            match self.token()? {
                Token::Text(text) => push_text(&mut pieces, text),
                Token::Field(name) => pieces.push(Piece::Field(name.to_owned())),
                Token::Separator => pieces.push(Piece::Separator),
                Token::Image | Token::Answer if open.is_some() => {
                    let mark = &self.source[start..self.at];
                    let message = format!("{mark} cannot stand in a repeated part");
                    return Err(self.error(start, &message));
                }
                Token::Image => pieces.push(Piece::Image),
                Token::Answer => pieces.push(Piece::Answer),
                Token::Open(_) if open.is_some() => {
                    return Err(self.error(start, "a repeated part cannot hold another one"));
                }
                Token::Open(head) => pieces.push(self.repeat(head, start)?),
                Token::Close(name) => return self.close(name, open, start).map(|()| pieces),
            }
        }
        match open {
            Some(OpenPart { field, start }) => {
                Err(self.error(start, &format!("{{#{field}}} is not closed by {{/{field}}}")))
            }
            None => Ok(pieces),
        }
    }

    fn token(&mut self) -> Result<Token<'a>> {
        let (start, rest) = (self.at, &self.source[self.at..self.end]);
        let strict = self.syntax == Syntax::Sample;
        if rest.starts_with("<image>") {
            self.at += "<image>".len();
            return Ok(Token::Image);
        }
        if self.syntax != Syntax::User {
            if ["{{", "}}", "<<"].iter().any(|doubled| rest.starts_with(doubled)) {
                self.at += 2;
                return Ok(Token::Text(&rest[..1]));
            }
            if rest.starts_with("<sep>") {
                self.at += "<sep>".len();
                return Ok(Token::Separator);
            }
            if strict && rest.starts_with("<answer>") {
                self.at += "<answer>".len();
                return Ok(Token::Answer);
            }
            if strict && rest.starts_with("{#") {
                return self.name(start, "{#").map(Token::Open);
            }
            if strict && rest.starts_with("{/") {
                return self.name(start, "{/").map(Token::Close);
            }
            if rest.starts_with('{') {
                return self.name(start, "{").map(Token::Field);
            }
        }
        if strict {
            self.refuse_stray(start, rest)?;
        }
        let len = rest.chars().next().map_or(1, char::len_utf8);
        self.at += len;
        Ok(Token::Text(&rest[..len]))
    }

    /// Refuses what is probably a typing error: unknown marks and single closing braces.
    fn refuse_stray(&self, start: usize, rest: &str) -> Result<()> {
        const ALLOWED: &str = "allowed are <image>, <sep> and <answer>, and << for the character";
        if rest.starts_with('}') {
            return Err(self.error(start, "a } without {; write }} for the character"));
        }
        if !rest.starts_with('<') || !rest[1..].starts_with(char::is_alphabetic) {
            return Ok(());
        }
        let message = match rest.find('>') {
            Some(end) => format!("unknown mark {}; {ALLOWED}", &rest[..=end]),
            None => format!("a < without >; {ALLOWED}"),
        };
        Err(self.error(start, &message))
    }

    fn close(&self, name: &str, open: Option<OpenPart<'_>>, start: usize) -> Result<()> {
        let message = match open {
            Some(OpenPart { field, .. }) if field == name => return Ok(()),
            Some(OpenPart { field, .. }) => {
                format!("{{/{name}}} where {{/{field}}} was expected")
            }
            None => format!("{{/{name}}} closes nothing"),
        };
        Err(self.error(start, &message))
    }

    /// The repeated part that begins with `{#head}` at `start`.
    fn repeat(&mut self, head: &str, start: usize) -> Result<Piece> {
        let (field, joiner) = match head.split_once('|') {
            None => (head, Vec::new()),
            Some((field, joiner)) => {
                let end = self.at - 1;
                let at = end - joiner.len();
                let mut parser = Parser { source: self.source, syntax: self.syntax, at, end };
                (field.trim(), parser.pieces(None)?)
            }
        };
        if field.is_empty() {
            return Err(self.error(start, "the repeated part names no field"));
        }
        if !joiner.iter().all(|piece| matches!(piece, Piece::Text(_) | Piece::Separator)) {
            return Err(self.error(start, "entries can be joined by text and <sep> only"));
        }
        let body = self.pieces(Some(OpenPart { field, start }))?;
        Ok(Piece::Repeat { field: field.to_owned(), body, joiner })
    }

    /// The text between `opening` at `start` and the next `}`.
    fn name(&mut self, start: usize, opening: &str) -> Result<&'a str> {
        let rest = &self.source[start + opening.len()..self.end];
        let Some(len) = rest.find(['{', '}']).filter(|&at| rest[at..].starts_with('}')) else {
            let message = format!("{opening} without }}; write {{{{ for the character");
            return Err(self.error(start, &message));
        };
        self.at = start + opening.len() + len + 1;
        // A joiner keeps its blanks.
        let name = if opening == "{#" { &rest[..len] } else { rest[..len].trim() };
        match name.is_empty() {
            true => Err(self.error(start, "the braces name no field")),
            false => Ok(name),
        }
    }

    fn error(&self, at: usize, message: &str) -> Error {
        let column = self.source[..at].chars().count() + 1;
        Error::invalid(format!("template {:?}, column {column}: {message}", self.source))
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        Some(Piece::Text(last)) => last.push_str(text),
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn text(text: &str) -> Piece {
        Piece::Text(text.to_owned())
    }

    #[test]
    fn marks_fields_and_escapes_are_told_apart() {
        let template = Template::parse("<image>{{a}} << 3 < 4 {name}<sep>").unwrap();
        let field = Piece::Field("name".to_owned());
        assert_eq!(
            template.pieces,
            [Piece::Image, text("{a} < 3 < 4 "), field.clone(), Piece::Separator]
        );
        assert_eq!(Template::prompt(template.source()).unwrap().pieces, template.pieces);
        assert_eq!(Template::parse("<<image>{ name }").unwrap().pieces, [text("<image>"), field]);
    }

    #[test]
    fn unknown_marks_and_lone_braces_are_text_in_prompts() {
        let source = "</s><b> a } <imag <3";
        assert_eq!(Template::prompt(source).unwrap().pieces, [text(source)]);
        assert_eq!(Template::prompt("").unwrap().pieces, []);
    }

    #[test]
    fn only_images_are_marked_in_a_users_prompt() {
        let user = |source| Template::user(source).pieces;
        assert_eq!(user("{{a} <<image><sep>"), [text("{{a} <"), Piece::Image, text("<sep>")]);
        assert_eq!(user(""), []);
    }

    #[test]
    fn a_repeated_part_has_a_body_and_a_joiner() {
        let template = Template::parse("{#turns| and <sep>}{q}?{/turns}").unwrap();
        let [Piece::Repeat { field, body, joiner }] = template.pieces.as_slice() else {
            panic!("{template:?}")
        };
        assert_eq!((field.as_str(), body.len()), ("turns", 2));
        assert_eq!(joiner, &[text(" and "), Piece::Separator]);
    }

    #[test]
    fn every_field_that_may_be_looked_up_is_listed() {
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
            ("é<img>", 2, "unknown mark <img>; allowed are <image>, <sep> and <answer>"),
            ("a {name", 3, "write {{ for the character"),
            ("a } b", 3, "write }} for the character"),
            ("{}", 1, "name no field"),
            ("a{#t}b", 2, "not closed by {/t}"),
            ("a{/t}", 2, "closes nothing"),
            ("{#t}{#u}{/u}{/t}", 5, "cannot hold another"),
            ("{#t}{/u}", 5, "{/t} was expected"),
            ("{#t}<image>{/t}", 5, "<image> cannot stand in a repeated part"),
            ("{#t}<answer>{/t}", 5, "<answer> cannot stand in a repeated part"),
            ("{#t|<image>}a{/t}", 1, "joined by text and <sep> only"),
            ("{#t|<foo>}a{/t}", 5, "unknown mark <foo>"),
            ("a <b", 3, "a < without >"),
        ] {
            let message = Template::parse(source).unwrap_err().to_string();
            assert!(message.contains(&format!("column {column}: ")), "{source}: {message}");
            assert!(message.contains(words), "{source}: {message}");
        }
        for (source, column) in [("{text", 1), ("a {b{c}", 3), ("{}", 1)] {
            let message = Template::prompt(source).unwrap_err().to_string();
            assert!(message.contains(&format!("column {column}: ")), "{source}: {message}");
        }
    }
}
