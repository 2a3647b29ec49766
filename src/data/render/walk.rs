//! The parts of a document in order: a template with the fields of a sample, for any kind of output.
//!
//! Rendering and checking take the same walk, so that they cannot disagree: one output draws at every
//! choice, the other takes all ways at once.

use serde_json::Value;

use super::speaker::{Speaker, learnt};
use crate::data::dataset::Fields;
use crate::data::messages::{available, type_name};
use crate::error::{Error, Result};
use crate::tokenize::Template;
use crate::tokenize::template::Piece;

/// What the parts of a document are written to.
pub(super) trait Output: Sized {
    /// Writes text, which may be empty.
    fn text(&mut self, text: &str);

    /// Writes the next image; returns the number of images if there may be none left.
    fn image(&mut self) -> std::result::Result<(), usize>;

    /// Writes the separator that ends a prompt or an answer.
    fn separator(&mut self);

    /// Begins an answer without a separator, if none is being written.
    fn answer(&mut self);

    /// Says whether what follows, up to the end of the answer, is learnt.
    fn learn(&mut self, learnt: bool);

    /// Turns to an answer or a prompt with a separator, or where that is so already, with a new line.
    fn turn(&mut self, answers: bool, is_first: bool);

    /// Whether an answer, or else a prompt, is sure to be written next.
    fn is_next(&self, answers: bool) -> bool;

    /// Writes one of `len` alternatives, given by their number.
    fn one_of(&mut self, len: usize, write: Write<'_, Self>) -> Result<()>;

    /// Writes `keep` of `len` entries in order, given by their number; `keep` is at most `len`.
    fn some_of(&mut self, len: usize, keep: usize, write: WriteNth<'_, Self>) -> Result<()>;
}

/// Writes alternative `.1`.
pub(super) type Write<'a, O> = &'a mut dyn FnMut(&mut O, usize) -> Result<()>;

/// Writes entry `.1`, which is the first one that is kept if `.2`.
pub(super) type WriteNth<'a, O> = &'a mut dyn FnMut(&mut O, usize, bool) -> Result<()>;

/// Writes the document of a sample to `out`; a repeated part is cut to `max_turns`.
///
/// # Errors
/// If the sample lacks what the template names, or names more images than `out` has.
pub(super) fn walk<O: Output>(
    template: &Template,
    fields: &Fields,
    max_turns: Option<usize>,
    out: &mut O,
) -> Result<()> {
    Walk { template, max_turns }.pieces(template.pieces(), &Scope { fields, entry: None }, out)
}

/// The error for `template` with `message`.
pub(super) fn refused(template: &Template, message: &str) -> Error {
    Error::invalid(format!("template {:?}: {message}", template.source()))
}

/// The fields in which names are looked up.
#[derive(Clone, Copy)]
struct Scope<'a> {
    fields: &'a Fields,
    /// The entry of a repeated part, and its name in messages.
    entry: Option<(&'a Value, &'a str)>,
}

impl<'a> Scope<'a> {
    fn find(&self, name: &str) -> Option<&'a Value> {
        match name {
            "." => self.entry.map(|(entry, _)| entry),
            _ => self.entry.and_then(|(e, _)| e.get(name)).or_else(|| self.fields.get(name)),
        }
    }
}

/// A repeated part: what is written for each entry, and between entries.
#[derive(Clone, Copy)]
struct Repeated<'a> {
    field: &'a str,
    body: &'a [Piece],
    joiner: &'a [Piece],
}

impl Repeated<'_> {
    /// Whether the entries are prompts and answers in turn: an entry with its joiner holds an odd number of
    /// separators.
    fn alternates(&self) -> bool {
        let parts = self.body.iter().chain(self.joiner);
        parts.filter(|piece| **piece == Piece::Separator).count() % 2 == 1
    }
}

struct Walk<'a> {
    template: &'a Template,
    max_turns: Option<usize>,
}

impl Walk<'_> {
    fn pieces<O: Output>(&self, pieces: &[Piece], scope: &Scope<'_>, out: &mut O) -> Result<()> {
        for piece in pieces {
            match piece {
                Piece::Text(text) => out.text(text),
                Piece::Image => self.image(out)?,
                Piece::Separator => out.separator(),
                Piece::Answer => out.answer(),
                Piece::Field(name) => {
                    let value = self.find(name, scope)?;
                    self.value(&described(name, scope), value, out)?;
                }
                Piece::Repeat { field, body, joiner } => {
                    let value = self.find(field, scope)?;
                    let Value::Array(entries) = value else {
                        let kind = type_name(value);
                        return self.fail(&format!("field {field} is not a list but {kind}"));
                    };
                    let part = Repeated { field, body, joiner };
                    match part.alternates() {
                        true => self.dialogue(part, entries, scope, out)?,
                        false => self.repeat(part, entries, scope, out)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes the entries of a repeated part, each of which stands alone.
    fn repeat<O: Output>(
        &self,
        part: Repeated<'_>,
        entries: &[Value],
        scope: &Scope<'_>,
        out: &mut O,
    ) -> Result<()> {
        let keep = self.max_turns.unwrap_or(entries.len()).min(entries.len());
        out.some_of(entries.len(), keep, &mut |out, at, is_first| {
            if !is_first {
                self.pieces(part.joiner, scope, out)?;
            }
            self.entry(part, entries, at, scope, out)
        })
    }

    /// Writes the entries of a repeated part that are prompts and answers in turn; pairs stay together. An
    /// entry of the system at the start belongs to every prompt.
    fn dialogue<O: Output>(
        &self,
        part: Repeated<'_>,
        entries: &[Value],
        scope: &Scope<'_>,
        out: &mut O,
    ) -> Result<()> {
        let has_system = entries.first().and_then(Speaker::of) == Some(Speaker::System);
        let first = usize::from(has_system);
        let alternates =
            Speaker::check(part.field, &entries[first..], |answers| out.is_next(answers));
        alternates.or_else(|message| self.fail(&message))?;
        if has_system {
            self.entry(part, entries, 0, scope, out)?;
            out.text("\n");
        }
        let pairs = (entries.len() - first).div_ceil(2);
        let keep = self.max_turns.unwrap_or(pairs).min(pairs);
        out.some_of(pairs, keep, &mut |out, pair, is_first| {
            let start = first + 2 * pair;
            for at in start..(start + 2).min(entries.len()) {
                if at > start || !is_first {
                    self.pieces(part.joiner, scope, out)?;
                }
                if let Some(speaker) = Speaker::of(&entries[at]) {
                    let name = format!("entry {} of {}", at + 1, part.field);
                    self.flag(&name, &entries[at], speaker == Speaker::Answerer, out)?;
                }
                self.entry(part, entries, at, scope, out)?;
            }
            Ok(())
        })
    }

    /// Writes entry `at` of a repeated part.
    fn entry<O: Output>(
        &self,
        part: Repeated<'_>,
        entries: &[Value],
        at: usize,
        scope: &Scope<'_>,
        out: &mut O,
    ) -> Result<()> {
        let name = format!("entry {} of {}", at + 1, part.field);
        self.pieces(part.body, &Scope { entry: Some((&entries[at], &name)), ..*scope }, out)
    }

    fn find<'v>(&self, name: &str, scope: &Scope<'v>) -> Result<&'v Value> {
        scope.find(name).map_or_else(
            || match scope.entry {
                Some((Value::Object(entry), label)) => {
                    self.fail(&format!("{label} has no field {name}; {}", available(entry)))
                }
                _ => self.fail(&format!("there is no field {name}; {}", available(scope.fields))),
            },
            Ok,
        )
    }

    /// Writes a value, called `what` in messages; of a list of plain values one entry.
    fn value<O: Output>(&self, what: &str, value: &Value, out: &mut O) -> Result<()> {
        match value {
            Value::String(text) => out.text(text),
            Value::Number(_) | Value::Bool(_) => out.text(&value.to_string()),
            Value::Array(list) => match list.first() {
                None => return self.fail(&format!("{what} is an empty list")),
                Some(first) if first.get("type").is_some() => self.segments(what, list, out)?,
                Some(first) if first.get("role").is_some() => self.messages(what, list, out)?,
                Some(Value::Array(_)) => return self.fail(&format!("{what} is a list of lists")),
                Some(_) => out.one_of(list.len(), &mut |out, at| {
                    self.value(&format!("entry {} of {what}", at + 1), &list[at], out)
                })?,
            },
            Value::Null | Value::Object(_) => {
                let kind = type_name(value);
                return self.fail(&format!("{what} is {kind}; it must be text or a number"));
            }
        }
        Ok(())
    }

    fn segments<O: Output>(&self, what: &str, segments: &[Value], out: &mut O) -> Result<()> {
        for (at, segment) in segments.iter().enumerate() {
            let text = segment.get("text").and_then(Value::as_str);
            match (segment.get("type").and_then(Value::as_str), text) {
                (Some("image"), _) => self.image(out)?,
                (Some("text"), Some(text)) => out.text(text),
                _ => return self.malformed(what, at),
            }
        }
        Ok(())
    }

    fn messages<O: Output>(&self, what: &str, messages: &[Value], out: &mut O) -> Result<()> {
        for (at, message) in messages.iter().enumerate() {
            let Some(role) = message.get("role").and_then(Value::as_str) else {
                return self.malformed(what, at);
            };
            out.turn(role == "assistant", at == 0);
            self.flag(&format!("message {} of {what}", at + 1), message, role == "assistant", out)?;
            match message.get("content") {
                Some(Value::String(text)) => out.text(text),
                Some(Value::Array(content)) => {
                    self.segments(
                        &format!("the content of message {} of {what}", at + 1),
                        content,
                        out,
                    )?;
                }
                _ => return self.malformed(what, at),
            }
        }
        Ok(())
    }

    /// Follows what a message, called `name`, says of the loss.
    fn flag<O: Output>(
        &self,
        name: &str,
        message: &Value,
        answers: bool,
        out: &mut O,
    ) -> Result<()> {
        let learnt = learnt(message, answers).or_else(|m| self.fail(&format!("{name}: {m}")))?;
        out.learn(learnt);
        Ok(())
    }

    fn image<O: Output>(&self, out: &mut O) -> Result<()> {
        let few = |images| self.fail(&format!("more <image> marks than images ({images})"));
        out.image().or_else(few)
    }

    fn malformed<T>(&self, what: &str, at: usize) -> Result<T> {
        self.fail(&format!("entry {} of {what} is no segment or message with content", at + 1))
    }

    fn fail<T>(&self, message: &str) -> Result<T> {
        Err(refused(self.template, message))
    }
}

/// The name of a field in messages.
fn described(name: &str, scope: &Scope<'_>) -> String {
    match scope.entry {
        Some((_, label)) if name == "." => label.to_owned(),
        Some((entry, label)) if entry.get(name).is_some() => format!("field {name} of {label}"),
        _ => format!("field {name}"),
    }
}
