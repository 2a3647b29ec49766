//! Prompts from templates: filling in values and images.

use image::RgbImage;
use vq_tokenizer::Codes;

use super::parse::{Piece, Template};
use crate::error::{Error, Result};
use crate::tokenize::segment::{CodedSegment, Segment};

impl Template {
    /// The segments of a prompt with `values` for its fields and `images` for its marks, in order.
    /// Adjacent texts are joined, empty ones omitted.
    ///
    /// # Errors
    /// If a value is not given or a part is repeated; [`Error::ImageCount`] unless there are as many
    /// images as marks.
    pub fn fill(&self, values: &[(&str, &str)], images: Vec<Codes>) -> Result<Vec<CodedSegment>> {
        self.check_num_images(images.len())?;
        let mut images = images.into_iter();
        let mut segments = Vec::new();
        for piece in self.pieces() {
            match piece {
                Piece::Text(text) => push_text(&mut segments, text),
                Piece::Field(name) => push_text(&mut segments, self.value(name, values)?),
                Piece::Separator => segments.push(CodedSegment::sep()),
                Piece::Answer => {}
                Piece::Image => segments.extend(images.next().map(CodedSegment::Image)),
                Piece::Repeat { field, .. } => {
                    let source = self.source();
                    let message = format!("the prompt template `{source}` repeats {{#{field}}}");
                    return Err(Error::invalid(message));
                }
            }
        }
        Ok(segments)
    }

    /// Checks that there is an image for every mark, and a mark for every image.
    ///
    /// # Errors
    /// [`Error::ImageCount`].
    fn check_num_images(&self, images: usize) -> Result<()> {
        let marks = self.num_images();
        match marks == images {
            true => Ok(()),
            false => Err(Error::ImageCount { prompt: self.source().to_owned(), marks, images }),
        }
    }

    fn value<'v>(&self, name: &str, values: &[(&str, &'v str)]) -> Result<&'v str> {
        let value = values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        value.ok_or_else(|| {
            let known: Vec<String> =
                values.iter().map(|(known, _)| format!("{{{known}}}")).collect();
            Error::invalid(format!(
                "the prompt template `{}` asks for {{{name}}}; known here: {}",
                self.source(),
                if known.is_empty() { "no values".to_owned() } else { known.join(", ") }
            ))
        })
    }
}

impl Segment {
    /// The segments of a user's prompt, whose `<image>` marks stand for `images`. Images beyond the
    /// marks go before the text; the others keep their order.
    ///
    /// # Errors
    /// [`Error::ImageCount`] if there are more marks than images.
    pub fn from_prompt(text: &str, images: Vec<RgbImage>) -> Result<Vec<Self>> {
        let template = Template::user(text);
        let marks = template.num_images();
        let Some(unmarked) = images.len().checked_sub(marks) else {
            let images = images.len();
            return Err(Error::ImageCount { prompt: text.to_owned(), marks, images });
        };
        let mut images = images.into_iter().map(Self::Image);
        let mut segments: Vec<Self> = images.by_ref().take(unmarked).collect();
        for piece in template.pieces() {
            match piece {
                Piece::Text(text) => segments.push(Self::Text(text.clone())),
                Piece::Image => segments.extend(images.next()),
                other => unreachable!("{other:?} in a user's prompt"),
            }
        }
        Ok(segments)
    }
}

fn push_text(segments: &mut Vec<CodedSegment>, text: &str) {
    match segments.last_mut() {
        _ if text.is_empty() => {}
        Some(CodedSegment::Text(last)) => last.push_str(text),
        _ => segments.push(CodedSegment::text(text)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn fill(source: &str, values: &[(&str, &str)]) -> Result<Vec<CodedSegment>> {
        Template::prompt(source)?.fill(values, vec![])
    }

    #[test]
    fn literal_text_and_values_become_one_segment() {
        let segments = fill("Q: {question} < 3 ?<sep>", &[("question", "is it")]).unwrap();
        assert_eq!(segments, [CodedSegment::text("Q: is it < 3 ?"), CodedSegment::sep()]);
        assert_eq!(fill("{text}", &[("text", "")]).unwrap(), []);
        let segments = fill("a <<image> {{b}} }", &[]).unwrap();
        assert_eq!(segments, [CodedSegment::text("a <image> {b} }")]);
    }

    #[test]
    fn marks_inside_values_stay_text() {
        let value = "<image>{text}<sep>";
        assert_eq!(fill("{text}", &[("text", value)]).unwrap(), [CodedSegment::text(value)]);
    }

    #[test]
    fn images_take_their_marks_in_order() {
        let [one, two] = [1, 2].map(|id| Codes { ids: vec![id], height: 1, width: 1 });
        let template = Template::prompt("<image> and <image>").unwrap();
        let segments = template.fill(&[], vec![one.clone(), two.clone()]).unwrap();
        let [one, two] = [one, two].map(CodedSegment::Image);
        assert_eq!(segments, [one, CodedSegment::text(" and "), two]);
    }

    #[test]
    fn what_cannot_be_filled_in_is_named() {
        let error = fill("{who}?", &[("question", "")]).unwrap_err().to_string();
        assert!(error.contains("asks for {who}; known here: {question}"), "{error}");
        let repeated = Template::parse("{#turns}a{/turns}").unwrap();
        let error = repeated.fill(&[], vec![]).unwrap_err().to_string();
        assert!(error.contains("repeats {#turns}"), "{error}");
        let error = fill("a <image>", &[]).unwrap_err();
        assert!(matches!(error, Error::ImageCount { marks: 1, images: 0, .. }), "{error}");
    }

    fn shade(shade: u8) -> RgbImage {
        RgbImage::from_pixel(1, 1, image::Rgb([shade; 3]))
    }

    #[test]
    fn images_without_a_mark_stand_before_a_users_text() {
        let images = |count| (0..count).map(shade).collect::<Vec<_>>();
        let text = |text: &str| Segment::Text(text.to_owned());
        let image = |index| Segment::Image(shade(index));
        let prompt = |text, count| Segment::from_prompt(text, images(count)).unwrap();
        assert_eq!(prompt("hi", 2), [image(0), image(1), text("hi")]);
        let expected = [image(0), image(1), text("a"), image(2), image(3)];
        assert_eq!(prompt("<image>a<image><image>", 4), expected);
        assert_eq!(prompt("", 0), []);
    }

    #[test]
    fn more_marks_than_images_is_an_error_with_both_numbers() {
        let message = |text, count| {
            let images = (0..count).map(shade).collect();
            Segment::from_prompt(text, images).unwrap_err().to_string()
        };
        assert_eq!(
            message("<image><image>", 1),
            "prompt \"<image><image>\" has 2 <image> marks but 1 image was given"
        );
        assert_eq!(
            message("<image>", 0),
            "prompt \"<image>\" has 1 <image> mark but 0 images were given"
        );
    }
}
