//! Prompts with `<image>` marks: our own form and the one of Hugging Face's `ChameleonProcessor`.

use vq_tokenizer::Codes;

use super::processor::Processor;
use super::segment::CodedSegment;
use crate::error::{Error, Result};

/// What marks the place of an image in a prompt.
pub const IMAGE_MARK: &str = "<image>";

/// A piece of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptPiece {
    /// Text between marks, never empty.
    Text(String),
    /// The image with this index.
    Image(usize),
}

/// How Hugging Face's processor ends a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptForm {
    /// With the separator: an answer is to follow.
    Chat,
    /// Without it (`return_for_text_completion=True`): the text itself goes on.
    Completion,
}

/// Cuts `text` at its `<image>` marks. Images keep their order: when there are more of them
/// than marks, the first ones stand before the text and the last ones at the marks.
///
/// # Errors
/// If there are more marks than images.
///
/// ```
/// use calumma::tokenize::{PromptPiece, parse_prompt};
///
/// let pieces = parse_prompt("What is <image>?", 1)?;
/// let text = |text: &str| PromptPiece::Text(text.to_owned());
/// assert_eq!(pieces, [text("What is "), PromptPiece::Image(0), text("?")]);
/// # Ok::<(), calumma::Error>(())
/// ```
pub fn parse_prompt(text: &str, num_images: usize) -> Result<Vec<PromptPiece>> {
    let marks = text.matches(IMAGE_MARK).count();
    let Some(unmarked) = num_images.checked_sub(marks) else {
        return Err(Error::invalid(format!(
            "prompt has {marks} {IMAGE_MARK} {} but {num_images} {} given",
            if marks == 1 { "mark" } else { "marks" },
            if num_images == 1 { "image was" } else { "images were" },
        )));
    };
    let mut pieces: Vec<PromptPiece> = (0..unmarked).map(PromptPiece::Image).collect();
    for (index, piece) in text.split(IMAGE_MARK).enumerate() {
        if index > 0 {
            pieces.push(PromptPiece::Image(unmarked + index - 1));
        }
        if !piece.is_empty() {
            pieces.push(PromptPiece::Text(piece.to_owned()));
        }
    }
    Ok(pieces)
}

impl Processor {
    /// The segments of a prompt whose `<image>` marks stand for `images`; see [`parse_prompt`].
    ///
    /// # Errors
    /// If there are more marks than images.
    pub fn prompt(&self, text: &str, images: &[Codes]) -> Result<Vec<CodedSegment>> {
        let pieces = parse_prompt(text, images.len())?;
        let segment = |piece| match piece {
            PromptPiece::Text(text) => CodedSegment::Text(text),
            PromptPiece::Image(index) => CodedSegment::Image(images[index].clone()),
        };
        Ok(pieces.into_iter().map(segment).collect())
    }

    /// The ids that Hugging Face's processor makes of a prompt: begin-of-text, every `<image>`
    /// opened, repeated once per code, and closed, and the separator in [`PromptForm::Chat`].
    /// Names of control tokens in `text` become those tokens, as there.
    ///
    /// # Errors
    /// If the vocabulary has no placeholder and `text` has a mark.
    pub fn placeholder_prompt(&self, text: &str, form: PromptForm) -> Result<Vec<u32>> {
        let special = self.vocabulary().special();
        let mut ids = vec![special.bos];
        for (index, piece) in text.split(IMAGE_MARK).enumerate() {
            if index > 0 {
                let placeholder = special.image_placeholder.ok_or_else(no_placeholder)?;
                ids.push(special.begin_image);
                ids.extend(std::iter::repeat_n(placeholder, self.codes_per_image()));
                ids.push(special.end_image);
            }
            ids.extend(self.text().encode(piece)?);
        }
        if form == PromptForm::Chat {
            ids.push(special.sep);
        }
        Ok(ids)
    }

    /// Replaces the placeholders of a Hugging Face prompt by the ids of `images`, in order.
    ///
    /// # Errors
    /// If the placeholders are not exactly as many as the codes of all images, or a code is
    /// beyond the codebook.
    pub fn fill_placeholders(&self, ids: &[u32], images: &[Codes]) -> Result<Vec<u32>> {
        let placeholder = self.vocabulary().special().image_placeholder;
        let is_placeholder = |id: &u32| Some(*id) == placeholder;
        let places = ids.iter().filter(|id| is_placeholder(id)).count();
        let codes: Vec<u32> = images.iter().flat_map(|image| image.ids.iter().copied()).collect();
        if places != codes.len() {
            return Err(Error::invalid(format!(
                "prompt has {places} image placeholders but its images have {} codes",
                codes.len()
            )));
        }
        let mut image_ids = codes.into_iter().map(|code| self.image_id(code));
        let fill = |id: &u32| match is_placeholder(id) {
            true => image_ids.next().unwrap_or(Ok(*id)),
            false => Ok(*id),
        };
        ids.iter().map(fill).collect()
    }
}

fn no_placeholder() -> Error {
    Error::invalid(format!("vocabulary has no {IMAGE_MARK} token to stand for codes"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::PromptPiece::{Image, Text};
    use super::*;

    #[test]
    fn unmarked_images_stand_before_the_text() {
        let text = |text: &str| Text(text.to_owned());
        assert_eq!(parse_prompt("hi", 2).unwrap(), [Image(0), Image(1), text("hi")]);
        let pieces = parse_prompt("<image>a<image><image>", 4).unwrap();
        assert_eq!(pieces, [Image(0), Image(1), text("a"), Image(2), Image(3)]);
        assert_eq!(parse_prompt("", 0).unwrap(), []);
    }

    #[test]
    fn more_marks_than_images_is_an_error_with_both_numbers() {
        let message = |text, images| parse_prompt(text, images).unwrap_err().to_string();
        assert_eq!(
            message("<image><image>", 1),
            "prompt has 2 <image> marks but 1 image was given"
        );
        assert_eq!(message("<image>", 0), "prompt has 1 <image> mark but 0 images were given");
    }
}
