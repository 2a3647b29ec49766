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
pub(super) use speaker::learnt;
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
            Some(true) => {
                "no segment counts for the loss: the answer is empty, or a message says that it is not learnt"
            }
            Some(false) => "no segment counts for the loss; answers follow a <sep> or <answer>",
        };
        refused(self, message)
    }
}

#[cfg(test)]
mod tests;
