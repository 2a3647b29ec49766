//! Documents from samples: a template filled in with fields and coded images.

mod options;
mod speaker;
mod walk;
mod ways;
mod writer;

use rand_chacha::ChaCha8Rng;
use vq_tokenizer::Codes;

use super::dataset::Fields;
use crate::error::{Error, Result};
use crate::tokenize::{CodedSegment, Template};
pub use options::{Loss, RenderOptions, Rendered};
use walk::{refused, walk};
use ways::Ways;
use writer::{Images, Writer};

impl Template {
    /// The document of a sample: the template with the sample's fields and coded images. `rng`
    /// draws from list-valued fields and, beyond `max_turns`, among entries of repeated parts.
    /// Images without an `<image>` mark are omitted.
    ///
    /// # Errors
    /// If a field is missing (the message names the available ones), null, an object or an empty
    /// list; if there are fewer images than marks; if prompts and answers do not take turns; if the
    /// document is empty; or if only answers count and there is none. See [`check`](Self::check).
    pub fn render(
        &self,
        fields: &Fields,
        images: &[Codes],
        options: &RenderOptions,
        rng: &mut ChaCha8Rng,
    ) -> Result<Rendered> {
        self.write(fields, Images::Coded(images), options, rng)
    }

    /// Checks that a sample with `fields` and `num_images` images can be rendered whatever is drawn: every
    /// entry of its lists, every choice of turns. Nothing is drawn or written.
    ///
    /// # Errors
    /// Exactly if [`render`](Self::render) fails for some draws; with the same message.
    ///
    /// ```
    /// use calumma::data::{Fields, RenderOptions};
    /// use calumma::tokenize::Template;
    ///
    /// let fields: Fields = serde_json::from_str(r#"{"caption": ["a cat", null]}"#)?;
    /// let checked = Template::parse("{caption}")?.check(&fields, 0, &RenderOptions::default());
    /// assert!(checked.unwrap_err().to_string().contains("entry 2 of field caption is null"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check(&self, fields: &Fields, num_images: usize, options: &RenderOptions) -> Result<()> {
        self.most_images(fields, num_images, options).map(drop)
    }

    /// As [`check`](Self::check); returns how many of the images a document uses at most.
    pub(super) fn most_images(
        &self,
        fields: &Fields,
        num_images: usize,
        options: &RenderOptions,
    ) -> Result<usize> {
        let mut ways = Ways::new(num_images, options.loss);
        walk(self, fields, options.max_turns, &mut ways)?;
        ways.finish().map_err(|problem| self.unusable(problem))
    }

    /// The texts of a sample's document, whatever images it has.
    ///
    /// # Errors
    /// As [`render`](Self::render), images aside.
    pub(super) fn texts(
        &self,
        fields: &Fields,
        options: &RenderOptions,
        rng: &mut ChaCha8Rng,
    ) -> Result<impl Iterator<Item = String>> {
        let segments = self.write(fields, Images::Blank, options, rng)?.segments.into_iter();
        Ok(segments.filter_map(|segment| match segment {
            CodedSegment::Text(text) => Some(text),
            _ => None,
        }))
    }

    fn write(
        &self,
        fields: &Fields,
        images: Images<'_>,
        options: &RenderOptions,
        rng: &mut ChaCha8Rng,
    ) -> Result<Rendered> {
        let mut writer = Writer::new(images, options.loss, rng);
        walk(self, fields, options.max_turns, &mut writer)?;
        writer.finish().map_err(|problem| self.unusable(problem))
    }

    /// The error for a document that is empty or, if only answers count, has none; then `problem` says
    /// whether an answer was begun.
    fn unusable(&self, problem: Option<bool>) -> Error {
        let message = match problem {
            None => "the document is empty",
            Some(true) => "no segment counts for the loss: the answer is empty",
            Some(false) => "no segment counts for the loss; answers follow a <sep>",
        };
        refused(self, message)
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
