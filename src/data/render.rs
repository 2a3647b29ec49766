//! Documents from samples: a template filled in with fields and coded images.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vq_tokenizer::Codes;

use super::mixture::below;
use super::{Fields, available, type_name};
use crate::error::{Error, Result};
use crate::tokenize::template::Piece;
use crate::tokenize::{CodedSegment, Template};

/// Which segments of a document the loss counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// All of them.
    #[default]
    All,
    /// Answers: everything after a separator that ends a prompt, up to and including the
    /// separator that ends the answer (so that the model learns to stop).
    Answers,
    /// Answers and all images. An image at the start of a document is learned without a prompt,
    /// as classifier-free guidance needs; the text of prompts is not learned.
    // The first name is part of the identity of token shards and of evaluations.
    #[serde(rename = "pictures-and-answers", alias = "images-and-answers")]
    ImagesAndAnswers,
}

/// Options of [`Template::render`].
#[derive(Clone, Copy, Debug, Default)]
pub struct RenderOptions {
    /// Which segments the loss counts.
    pub loss: Loss,
    /// Maximum number of entries of a repeated part; of a longer list, a random subset is kept in
    /// order.
    pub max_turns: Option<usize>,
}

/// A document with the targets of its loss.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rendered {
    /// Texts, images and separators; adjacent texts are joined unless the loss counts only one.
    pub segments: Vec<CodedSegment>,
    /// For each segment, whether the loss counts it.
    pub supervised: Vec<bool>,
}

impl Template {
    /// The document of a sample: the template with the sample's fields and coded images. `rng`
    /// draws from list-valued fields and, beyond `max_turns`, among entries of repeated parts.
    /// Images without an `<image>` mark are omitted.
    ///
    /// # Errors
    /// If a field is missing (the message names the available ones), null, an object or an empty
    /// list; if there are fewer images than marks; if the document is empty; or if only answers
    /// count and there is none.
    pub fn render(
        &self,
        fields: &Fields,
        images: &[Codes],
        options: &RenderOptions,
        rng: &mut ChaCha8Rng,
    ) -> Result<Rendered> {
        let mut writer = Writer {
            template: self,
            out: Rendered::default(),
            images,
            num_used: 0,
            answering: false,
            options,
            rng,
        };
        writer.pieces(self.pieces(), &Scope { fields, entry: None })?;
        if writer.out.segments.is_empty() {
            return Err(writer.error("the document is empty"));
        }
        if !writer.out.supervised.contains(&true) {
            return Err(writer.error("no segment counts for the loss; answers follow a <sep>"));
        }
        Ok(writer.out)
    }
}

/// The fields in which names are looked up.
struct Scope<'a> {
    fields: &'a Fields,
    entry: Option<&'a Value>,
}

impl<'a> Scope<'a> {
    fn find(&self, name: &str) -> Option<&'a Value> {
        match name {
            "." => self.entry,
            _ => self.entry.and_then(|e| e.get(name)).or_else(|| self.fields.get(name)),
        }
    }
}

struct Writer<'a> {
    template: &'a Template,
    out: Rendered,
    images: &'a [Codes],
    num_used: usize,
    answering: bool,
    options: &'a RenderOptions,
    rng: &'a mut ChaCha8Rng,
}

impl Writer<'_> {
    fn pieces(&mut self, pieces: &[Piece], scope: &Scope<'_>) -> Result<()> {
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.text(text),
                Piece::Image => self.image()?,
                Piece::Separator => self.separator(),
                Piece::Field(name) => {
                    let value = self.find(name, scope)?;
                    self.value(name, value)?;
                }
                Piece::Repeat { field, body, joiner } => {
                    let Value::Array(entries) = self.find(field, scope)? else {
                        return Err(self.error(&format!("field {field} is not a list")));
                    };
                    for (n, entry) in self.choose(entries.len()).into_iter().enumerate() {
                        if n > 0 {
                            self.pieces(joiner, scope)?;
                        }
                        let entry = Some(&entries[entry]);
                        self.pieces(body, &Scope { entry, ..*scope })?;
                    }
                }
            }
        }
        Ok(())
    }

    fn find<'v>(&self, name: &str, scope: &Scope<'v>) -> Result<&'v Value> {
        scope.find(name).ok_or_else(|| {
            self.error(&format!("there is no field {name}; {}", available(scope.fields)))
        })
    }

    /// The indices of the entries to keep, in order.
    fn choose(&mut self, len: usize) -> Vec<usize> {
        let keep = self.options.max_turns.unwrap_or(len).min(len);
        let mut indices: Vec<usize> = (0..len).collect();
        if keep < len {
            for n in 0..keep {
                let other = n + below(self.rng, len - n);
                indices.swap(n, other);
            }
            indices.truncate(keep);
            indices.sort_unstable();
        }
        indices
    }

    /// Writes a field's value; of a list of plain values one entry, drawn at random.
    fn value(&mut self, name: &str, value: &Value) -> Result<()> {
        match value {
            Value::String(text) => self.text(text),
            Value::Number(_) | Value::Bool(_) => self.text(&value.to_string()),
            Value::Array(list) => match list.first() {
                None => return Err(self.error(&format!("field {name} is an empty list"))),
                Some(first) if first.get("type").is_some() => self.segments(name, list)?,
                Some(first) if first.get("role").is_some() => self.messages(name, list)?,
                Some(Value::Array(_)) => {
                    return Err(self.error(&format!("field {name} is a list of lists")));
                }
                Some(_) => {
                    let chosen = &list[below(self.rng, list.len())];
                    self.value(name, chosen)?;
                }
            },
            Value::Null | Value::Object(_) => {
                let kind = type_name(value);
                let message = format!("field {name} is {kind}; it must be text or a number");
                return Err(self.error(&message));
            }
        }
        Ok(())
    }

    fn segments(&mut self, name: &str, segments: &[Value]) -> Result<()> {
        for segment in segments {
            match segment.get("type").and_then(Value::as_str) {
                Some("image") => self.image()?,
                Some("text") => {
                    let text = segment.get("text").and_then(Value::as_str);
                    self.text(text.ok_or_else(|| self.malformed(name))?);
                }
                _ => return Err(self.malformed(name)),
            }
        }
        Ok(())
    }

    fn messages(&mut self, name: &str, messages: &[Value]) -> Result<()> {
        for (n, message) in messages.iter().enumerate() {
            let Some(role) = message.get("role").and_then(Value::as_str) else {
                return Err(self.malformed(name));
            };
            match (role == "assistant") != self.answering {
                true => self.separator(),
                false if n > 0 => self.text("\n"),
                false => {}
            }
            match message.get("content") {
                Some(Value::String(text)) => self.text(text),
                Some(Value::Array(content)) => self.segments(name, content)?,
                _ => return Err(self.malformed(name)),
            }
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        let supervised = self.supervised();
        if text.is_empty() {
            return;
        }
        if let (Some(CodedSegment::Text(last)), Some(&same)) =
            (self.out.segments.last_mut(), self.out.supervised.last())
            && same == supervised
        {
            last.push_str(text);
            return;
        }
        self.push(CodedSegment::Text(text.to_owned()), supervised);
    }

    fn image(&mut self) -> Result<()> {
        let Some(codes) = self.images.get(self.num_used) else {
            let message = format!("more <image> marks than images ({})", self.images.len());
            return Err(self.error(&message));
        };
        self.num_used += 1;
        let supervised = self.supervised() || self.options.loss == Loss::ImagesAndAnswers;
        self.push(CodedSegment::Image(codes.clone()), supervised);
        Ok(())
    }

    /// The separator is a target where it ends an answer, not where it ends a prompt.
    fn separator(&mut self) {
        self.push(CodedSegment::sep(), self.supervised());
        self.answering = !self.answering;
    }

    fn supervised(&self) -> bool {
        self.options.loss == Loss::All || self.answering
    }

    fn push(&mut self, segment: CodedSegment, supervised: bool) {
        self.out.segments.push(segment);
        self.out.supervised.push(supervised);
    }

    fn malformed(&self, name: &str) -> Error {
        self.error(&format!("field {name} holds an entry that is no segment or message"))
    }

    fn error(&self, message: &str) -> Error {
        Error::invalid(format!("template {:?}: {message}", self.template.source()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rand::SeedableRng;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_name_of_a_loss_in_identities_is_its_first_one_and_both_are_read() {
        let written = serde_json::to_string(&Loss::ImagesAndAnswers).unwrap();
        assert_eq!(written, "\"pictures-and-answers\"");
        for name in ["pictures-and-answers", "images-and-answers"] {
            let read: Loss = serde_json::from_value(name.into()).unwrap();
            assert_eq!(read, Loss::ImagesAndAnswers);
        }
    }

    fn render(source: &str, fields: Value, options: &RenderOptions) -> Result<Rendered> {
        let Value::Object(fields) = fields else { panic!("fields are an object") };
        let images = vec![Codes { ids: vec![1, 2], height: 1, width: 2 }];
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        Template::parse(source)?.render(&fields, &images, options, &mut rng)
    }

    /// Text in quotes, `I` for an image, `|` for a separator; `+` after each target of the loss.
    fn shown(rendered: &Rendered) -> String {
        let parts = rendered.segments.iter().zip(&rendered.supervised);
        let parts = parts.map(|(segment, counts)| {
            let text = match segment {
                CodedSegment::Text(text) => format!("'{text}'"),
                CodedSegment::Image(_) => "I".to_owned(),
                _ => "|".to_owned(),
            };
            format!("{text}{}", if *counts { "+" } else { "" })
        });
        parts.collect::<Vec<_>>().join(" ")
    }

    const ANSWERS: RenderOptions = RenderOptions { loss: Loss::Answers, max_turns: None };

    #[test]
    fn only_answers_and_the_separator_after_them_count() {
        let fields = json!({ "turns": [{ "q": "a", "a": "b" }, { "q": "c", "a": "d" }] });
        let source = "<image>{#turns|<sep>}{q}?<sep>{a}{/turns}";
        let rendered = render(source, fields.clone(), &ANSWERS).unwrap();
        assert_eq!(shown(&rendered), "I 'a?' | 'b'+ |+ 'c?' | 'd'+");
        let images = RenderOptions { loss: Loss::ImagesAndAnswers, max_turns: None };
        let rendered = render(source, fields.clone(), &images).unwrap();
        assert_eq!(shown(&rendered), "I+ 'a?' | 'b'+ |+ 'c?' | 'd'+");
        let rendered = render("a {q}<image>", json!({ "q": "b" }), &images).unwrap();
        assert_eq!(shown(&rendered), "'a b' I+");
        let rendered = render(source, fields, &RenderOptions::default()).unwrap();
        assert_eq!(shown(&rendered), "I+ 'a?'+ |+ 'b'+ |+ 'c?'+ |+ 'd'+");
    }

    #[test]
    fn adjacent_text_becomes_one_segment() {
        let fields = json!({ "name": "cat", "n": 3 });
        let rendered = render("{n} {name}s<image>", fields, &RenderOptions::default()).unwrap();
        assert_eq!(shown(&rendered), "'3 cats'+ I+");
    }

    #[test]
    fn messages_and_segments_are_written_in_full() {
        let fields = json!({ "messages": [
            { "role": "system", "content": "short" },
            { "role": "user", "content": [{ "type": "image" }, { "type": "text", "text": "q" }] },
            { "role": "assistant", "content": "a" },
            { "role": "user", "content": "r" },
            { "role": "assistant", "content": "b" },
        ] });
        let rendered = render("{messages}", fields, &ANSWERS).unwrap();
        assert_eq!(shown(&rendered), "'short\n' I 'q' | 'a'+ |+ 'r' | 'b'+");
        let fields = json!({ "segments": [{ "type": "text", "text": "q" }, { "type": "image" }] });
        let rendered = render("{segments}", fields, &RenderOptions::default()).unwrap();
        assert_eq!(shown(&rendered), "'q'+ I+");
    }

    #[test]
    fn long_lists_are_cut_to_a_subset_in_order() {
        let fields = json!({ "n": (0..20).collect::<Vec<_>>() });
        let options = RenderOptions { max_turns: Some(5), ..Default::default() };
        let rendered = render("{#n| }{.}{/n}", fields, &options).unwrap();
        let CodedSegment::Text(text) = &rendered.segments[0] else { panic!("text") };
        let numbers: Vec<u32> = text.split(' ').map(|n| n.parse().unwrap()).collect();
        assert!(numbers.len() == 5 && numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    }

    #[test]
    fn every_entry_of_a_list_valued_field_is_drawn_sometimes() {
        let template = Template::parse("{word}").unwrap();
        let fields = json!({ "word": ["a", "b", "c"] }).as_object().unwrap().clone();
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let seen: std::collections::BTreeSet<String> = (0..50)
            .map(|_| {
                let options = RenderOptions::default();
                shown(&template.render(&fields, &[], &options, &mut rng).unwrap())
            })
            .collect();
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn what_cannot_be_filled_in_is_named() {
        for (source, fields, words) in [
            ("{nam}", json!({ "name": "x", "id": 1 }), "no field nam; available are id, name"),
            ("{name}", json!({ "name": null }), "field name is null"),
            ("{name}", json!({ "name": [] }), "empty list"),
            ("<image><image>", json!({}), "more <image> marks than images (1)"),
            ("{#t}a{/t}", json!({ "t": 1 }), "not a list"),
        ] {
            let error = render(source, fields, &RenderOptions::default()).unwrap_err();
            assert!(error.to_string().contains(words), "{source}: {error}");
        }
        let error = render("{a}", json!({ "a": "" }), &ANSWERS).unwrap_err();
        assert!(error.to_string().contains("the document is empty"), "{error}");
        let error = render("{a}", json!({ "a": "b" }), &ANSWERS).unwrap_err();
        assert!(error.to_string().contains("answers follow a <sep>"), "{error}");
    }
}
