//! Questions and captions: a prompt form filled in for each image, after some examples if there are any.

use image::RgbImage;
use vq_tokenizer::Codes;

use super::Pipeline;
use crate::error::{Error, Result};
use crate::generate::GenerationConfig;
use crate::generate::prompt::{FormPiece, render};
use crate::tokenize::CodedSegment;

/// An example that a prompt shows before what it asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Shot {
    /// The image.
    pub image: RgbImage,
    /// The question; empty where the form has none.
    pub question: String,
    /// What is right.
    pub answer: String,
}

/// A prompt form, with examples encoded once.
#[derive(Debug)]
pub struct Asking<'a> {
    pipeline: &'a Pipeline,
    form: &'a str,
    /// The examples, each followed by its answer and a separator.
    examples: Vec<CodedSegment>,
}

impl Pipeline {
    /// Asks by `form`, which may have `<image>`, `<sep>` and `{question}`, after the examples in `shots`.
    ///
    /// # Errors
    /// When an image cannot be encoded or the form asks for something else.
    pub fn asking<'a>(&'a self, form: &'a str, shots: &[Shot]) -> Result<Asking<'a>> {
        let images: Vec<RgbImage> = shots.iter().map(|shot| shot.image.clone()).collect();
        let mut examples = Vec::new();
        for (shot, codes) in shots.iter().zip(self.encode(&images)?) {
            examples.extend(segments(form, &[("question", &shot.question)], Some(codes))?);
            examples.push(CodedSegment::text(&shot.answer));
            examples.push(CodedSegment::sep());
        }
        Ok(Asking { pipeline: self, form, examples })
    }
}

/// What an answer is chosen from, encoded once.
#[derive(Clone, Debug)]
pub struct Choices {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    /// What each log-probability is divided by.
    lengths: Vec<f64>,
}

impl Choices {
    /// The choices `texts`. Where one begins with another the separator that ends an answer counts with all.
    /// `by_length` compares log-probabilities per byte of text, as lm-evaluation-harness's `acc_norm`: choices
    /// of few tokens are likely whatever the image, so those of different lengths need it.
    ///
    /// # Errors
    /// When there is none, or an empty one.
    pub fn new(pipeline: &Pipeline, texts: Vec<String>, by_length: bool) -> Result<Self> {
        let encode = |choice: &String| pipeline.processor.text().encode_plain(choice);
        let mut ids = texts.iter().map(encode).collect::<Result<Vec<_>>>()?;
        if ids.is_empty() || ids.iter().any(Vec::is_empty) {
            let message = "nothing to choose from, or an empty choice; each needs some text";
            return Err(Error::invalid(message.to_owned()));
        }
        // What begins with another one follows it in order, or one that begins with it too.
        let mut sorted: Vec<&Vec<u32>> = ids.iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.windows(2).any(|pair| pair[1].starts_with(pair[0])) {
            let end = pipeline.processor.vocabulary().special().sep;
            ids.iter_mut().for_each(|choice| choice.push(end));
        }
        let length = |text: &String| if by_length { text.len() as f64 } else { 1.0 };
        let lengths = texts.iter().map(length).collect();
        Ok(Self { texts, ids, lengths })
    }

    /// The choices as they are written.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }
}

impl Asking<'_> {
    /// The prompts about `images`, with the question at the same place of `questions`.
    ///
    /// # Errors
    /// When there are not as many images as questions, or one cannot be encoded.
    pub fn prompts(
        &self,
        images: &[RgbImage],
        questions: &[impl AsRef<str>],
    ) -> Result<Vec<Vec<u32>>> {
        if images.len() != questions.len() {
            let (images, questions) = (images.len(), questions.len());
            return Err(Error::invalid(format!(
                "{images} images for {questions} questions; each question needs one"
            )));
        }
        let prompt = |(codes, question): (Codes, &_)| {
            let question = AsRef::<str>::as_ref(question);
            let mut all = self.examples.clone();
            all.extend(segments(self.form, &[("question", question)], Some(codes))?);
            self.pipeline.processor.encode(&all)
        };
        self.pipeline.encode(images)?.into_iter().zip(questions).map(prompt).collect()
    }

    /// An answer to each, all in one batch.
    ///
    /// # Errors
    /// As [`prompts`](Self::prompts); when a prompt does not fit the context.
    pub fn answer(
        &self,
        images: &[RgbImage],
        questions: &[impl AsRef<str>],
        config: &GenerationConfig,
    ) -> Result<Vec<String>> {
        self.pipeline.answer(&self.prompts(images, questions)?, config)
    }

    /// For each the one of `choices` that is the likeliest continuation: the largest sum of
    /// log-probabilities of its ids, as lm-evaluation-harness's `acc` takes it, or that per byte. Among equals
    /// the first.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    pub fn choose(
        &self,
        images: &[RgbImage],
        questions: &[impl AsRef<str>],
        choices: &Choices,
    ) -> Result<Vec<String>> {
        let prompts = self.prompts(images, questions)?;
        let best = |prompt: &Vec<u32>| -> Result<String> {
            let mut best: Option<(f64, usize)> = None;
            let fits = self.pipeline.model.log_probabilities(prompt, &choices.ids)?;
            let fits = fits.into_iter().zip(&choices.lengths).map(|(fit, length)| fit / length);
            for (number, fit) in fits.enumerate() {
                if best.is_none_or(|(highest, _)| fit > highest) {
                    best = Some((fit, number));
                }
            }
            let (_, number) = best.expect("there is a choice");
            Ok(choices.texts[number].clone())
        };
        prompts.iter().map(best).collect()
    }
}

/// A filled form; the image takes its `<image>` mark.
pub(super) fn segments(
    form: &str,
    values: &[(&str, &str)],
    mut image: Option<Codes>,
) -> Result<Vec<CodedSegment>> {
    let marks = || Error::invalid(format!("the prompt form `{form}` lacks or repeats <image>"));
    let mut segments = Vec::new();
    for piece in render(form, values)? {
        segments.push(match piece {
            FormPiece::Text(text) => CodedSegment::Text(text),
            FormPiece::Separator => CodedSegment::sep(),
            FormPiece::Image => CodedSegment::Image(image.take().ok_or_else(marks)?),
        });
    }
    if image.is_some() { Err(marks()) } else { Ok(segments) }
}
