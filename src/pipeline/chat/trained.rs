//! The layout of conversations of checkpoints without a chat template: that of their training data.
//!
//! Each question is laid out by the checkpoint's prompt templates: with images as `ask` or, without a
//! text, as `caption`; an image to draw as `draw`. If a question ends with the separator, so does its
//! answer. The first turn of a conversation thus has the ids of the verb of that name, and later ones
//! those of a training document with several questions.

use vq_tokenizer::Codes;

use super::exchange::{Exchange, Question};
use crate::error::{Error, Result};
use crate::tokenize::{CodedSegment, EncodeOptions, Processor, PromptTemplates, Segment, Template};

/// A question, the codes of its images, and the width and height of an image that it asks for.
type Asked<'a> = (&'a Question, &'a [Codes], [usize; 2]);

/// The ids from begin-of-text to the answer of `question`, whose images have `codes`; an image that it asks for has
/// `[width, height]` pixels, as one that was drawn before.
pub(super) fn prompt(
    (processor, prompts, size): (&Processor, &PromptTemplates, [usize; 2]),
    system: Option<&str>,
    exchanges: &[Exchange],
    (question, codes): (&Question, &[Codes]),
) -> Result<Vec<u32>> {
    let special = processor.vocabulary().special();
    if special.sep.is_none() {
        let message = "the model has no separator of turns, and no chat template";
        return Err(Error::invalid(message));
    }
    let options = EncodeOptions { bos: false, ..EncodeOptions::default() };
    let mut ids = Vec::from_iter(special.bos);
    let mut system = system;
    let mut turn = |(question, codes, size): Asked<'_>, ids: &mut Vec<u32>| -> Result<bool> {
        let mut segments = segments((prompts, size), question, codes)?;
        if let Some(system) = system.take() {
            segments.insert(0, CodedSegment::text(format!("{system}\n")));
        }
        let segments = joined(segments);
        ids.extend(processor.encode_with(&segments, options)?);
        Ok(segments.last() == Some(&CodedSegment::sep()))
    };
    for exchange in exchanges {
        let drawn = exchange.answer.iter().find_map(|segment| match segment {
            Segment::Image(image) => Some([image.width() as usize, image.height() as usize]),
            Segment::Text(_) => None,
        });
        let asked = (&exchange.question, &exchange.codes[..], drawn.unwrap_or(size));
        let has_separator = turn(asked, &mut ids)?;
        ids.extend(&exchange.ids);
        if has_separator {
            ids.extend(special.sep);
        }
    }
    turn((question, codes, size), &mut ids)?;
    Ok(ids)
}

/// The segments of one question.
fn segments(
    (prompts, size): (&PromptTemplates, [usize; 2]),
    question: &Question,
    codes: &[Codes],
) -> Result<Vec<CodedSegment>> {
    let text = question.text.as_str();
    let images = || codes.iter().cloned().map(CodedSegment::Image);
    if question.draw {
        let drawn = prompts.drawing(text, size)?;
        return Ok(images().chain(drawn).collect());
    }
    let (template, values) = match text.is_empty() {
        true => (&prompts.caption, vec![]),
        false => (&prompts.ask, vec![("question", text)]),
    };
    // The template has one mark; any number of images may stand there.
    let blank = Codes { ids: Vec::new(), height: 0, width: 0 };
    let filled = Template::prompt(template)?.fill(&values, vec![blank])?;
    let placed = filled.into_iter().flat_map(|segment| match segment {
        CodedSegment::Image(_) => images().collect(),
        other => vec![other],
    });
    let mut placed = joined(placed);
    if codes.is_empty() {
        // Blanks around the mark.
        for segment in &mut placed {
            if let CodedSegment::Text(text) = segment {
                *text = text.trim().to_owned();
            }
        }
    }
    Ok(placed)
}

/// `segments` with adjacent texts joined.
fn joined(segments: impl IntoIterator<Item = CodedSegment>) -> Vec<CodedSegment> {
    let mut joined: Vec<CodedSegment> = Vec::new();
    for segment in segments {
        match (joined.last_mut(), segment) {
            (Some(CodedSegment::Text(last)), CodedSegment::Text(text)) => last.push_str(&text),
            (_, segment) => joined.push(segment),
        }
    }
    joined
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::generate::Preset;

    fn laid_out(prompts: &PromptTemplates, text: &str, images: u32, draw: bool) -> String {
        let question = Question { text: text.to_owned(), draw, ..Question::default() };
        let code = |id| Codes { ids: vec![id], height: id as usize, width: 1 };
        let codes: Vec<Codes> = (1..=images).map(code).collect();
        let segments = joined(segments((prompts, [768, 512]), &question, &codes).unwrap());
        let shown = |segment: &CodedSegment| match segment {
            CodedSegment::Special(_) => "<sep>".to_owned(),
            other => other.to_string(),
        };
        segments.iter().map(shown).collect()
    }

    #[test]
    fn questions_follow_the_checkpoints_prompts_for_any_number_of_images() {
        let own = PromptTemplates::default();
        assert_eq!(laid_out(&own, "what?", 1, false), "[image 1x1]what?<sep>");
        assert_eq!(laid_out(&own, "", 1, false), "[image 1x1]<sep>");
        assert_eq!(laid_out(&own, "what?", 0, false), "what?<sep>");
        assert_eq!(laid_out(&own, "which?", 2, false), "[image 1x1][image 2x1]which?<sep>");
        assert_eq!(laid_out(&own, "a cat", 0, true), "a cat");
        assert_eq!(laid_out(&own, "a cat", 1, true), "[image 1x1]a cat");
        let lumina = Preset::Lumina.prompts();
        assert_eq!(laid_out(&lumina, "what?", 1, false), "what? [image 1x1]<sep>");
        assert_eq!(laid_out(&lumina, "what?", 0, false), "what?<sep>");
        let drawn = "Generate an image of 768x512 according to the following prompt:\na cat<sep>";
        assert_eq!(laid_out(&lumina, "a cat", 0, true), drawn);
        let text = "{question}<sep><image>";
        assert_eq!(laid_out(&own, text, 1, false), format!("[image 1x1]{text}<sep>"));
    }
}
