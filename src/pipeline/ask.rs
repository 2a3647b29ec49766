//! Answers and captions, optionally with few-shot examples in the prompt.

use image::RgbImage;
use vq_tokenizer::Codes;

use super::Pipeline;
use crate::error::{Error, Result};
use crate::generate::{EndReason, Generated, GenerationConfig, GenerationMode, Grammar, Request};
use crate::tokenize::{CodedSegment, Template};

/// An example that a prompt shows before its own question (few-shot prompting).
#[derive(Clone, Debug, PartialEq)]
pub struct Shot {
    /// The image.
    pub image: RgbImage,
    /// The question; empty if the template has none.
    pub question: String,
    /// The right answer.
    pub answer: String,
}

/// An answer, and why it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The text, without white space at its ends.
    pub text: String,
    /// Why it ended.
    pub end: EndReason,
}

/// A prompt template about one image, preceded by examples that are encoded once.
#[derive(Debug)]
pub struct Asking<'a> {
    pub(super) pipeline: &'a Pipeline,
    template: Template,
    /// The examples, each with its answer and a separator.
    examples: Vec<CodedSegment>,
}

impl Pipeline {
    /// Asks with the prompt template `template`, which may contain `<image>`, `<sep>` and
    /// `{question}`, after the examples in `shots`.
    ///
    /// # Errors
    /// If the template is malformed or has other fields, or an image cannot be encoded.
    pub fn asking(&self, template: &str, shots: &[Shot]) -> Result<Asking<'_>> {
        let template = Template::prompt(template)?;
        let images: Vec<RgbImage> = shots.iter().map(|shot| shot.image.clone()).collect();
        let mut examples = Vec::new();
        for (shot, codes) in shots.iter().zip(self.encode(&images)?) {
            examples.extend(template.fill(&[("question", &shot.question)], vec![codes])?);
            examples.push(CodedSegment::text(&shot.answer));
            let has_separator = self.processor.vocabulary().special().sep.is_some();
            examples.push(if has_separator {
                CodedSegment::sep()
            } else {
                CodedSegment::text("\n")
            });
        }
        Ok(Asking { pipeline: self, template, examples })
    }

    /// The most likely caption of `image`, with the checkpoint's other settings.
    ///
    /// # Errors
    /// As [`caption_batch`](Self::caption_batch).
    pub fn caption(&self, image: &RgbImage) -> Result<String> {
        let config = self.generation.clone().for_answers();
        self.caption_batch(std::slice::from_ref(image), &config).map(|mut texts| texts.remove(0))
    }

    /// A caption of each of `images`, all in one batch.
    ///
    /// # Errors
    /// If an image cannot be encoded or a prompt does not fit the context.
    pub fn caption_batch(
        &self,
        images: &[RgbImage],
        config: &GenerationConfig,
    ) -> Result<Vec<String>> {
        let questions = vec![""; images.len()];
        self.asking(&self.prompts.caption, &[])?.answer(images, &questions, config)
    }

    /// The most likely answer to `question` about `image`.
    ///
    /// # Errors
    /// As [`ask_batch`](Self::ask_batch).
    pub fn ask(&self, image: &RgbImage, question: &str) -> Result<String> {
        let config = self.generation.clone().for_answers();
        let image = std::slice::from_ref(image);
        self.ask_batch(image, &[question], &config).map(|mut texts| texts.remove(0))
    }

    /// The answer to `questions[i]` about `images[i]` for each `i`, all in one batch.
    ///
    /// # Errors
    /// If there are not as many images as questions, an image cannot be encoded or a prompt does
    /// not fit the context.
    pub fn ask_batch(
        &self,
        images: &[RgbImage],
        questions: &[impl AsRef<str>],
        config: &GenerationConfig,
    ) -> Result<Vec<String>> {
        self.asking(&self.prompts.ask, &[])?.answer(images, questions, config)
    }
}

impl Asking<'_> {
    /// The ids of the prompts for `questions[i]` about `images[i]`.
    ///
    /// # Errors
    /// If there are not as many images as questions, or an image cannot be encoded.
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
            all.extend(self.template.fill(&[("question", question)], vec![codes])?);
            self.pipeline.processor.encode(&all)
        };
        self.pipeline.encode(images)?.into_iter().zip(questions).map(prompt).collect()
    }

    /// The answers to `questions[i]` about `images[i]`, all in one batch.
    ///
    /// # Errors
    /// As [`prompts`](Self::prompts); if a prompt does not fit the context.
    pub fn answer(
        &self,
        images: &[RgbImage],
        questions: &[impl AsRef<str>],
        config: &GenerationConfig,
    ) -> Result<Vec<String>> {
        let answers = self.answers(images, questions, config, None)?;
        Ok(answers.into_iter().map(|answer| answer.text).collect())
    }

    /// As [`answer`](Self::answer), with the reason of each end; all answers follow `grammar` if there is one.
    /// Answer `i` has the seed `config.seed + i`.
    ///
    /// # Errors
    /// As [`answer`](Self::answer) and [`Pipeline::constraint`].
    pub fn answers(
        &self,
        images: &[RgbImage],
        questions: &[impl AsRef<str>],
        config: &GenerationConfig,
        grammar: Option<&Grammar>,
    ) -> Result<Vec<Answer>> {
        let constraint = grammar.map(|grammar| self.pipeline.constraint(grammar)).transpose()?;
        let stop = self.pipeline.stop_strings(config)?;
        let request = |(number, prompt): (u64, Vec<u32>)| {
            let (mode, seed) = (GenerationMode::TextOnly, config.seed.wrapping_add(number));
            let config = GenerationConfig { mode, seed, ..config.clone() };
            let (constraint, stop) = (constraint.clone(), stop.clone());
            Request { constraint, stop, ..Request::new(prompt, config) }
        };
        let requests = (0..).zip(self.prompts(images, questions)?).map(request).collect();
        let rows = self.pipeline.generator()?.run(requests, &mut |_, _| Ok(()))?;
        // Stop ids decode to nothing.
        let answer = |row: &Generated| {
            let text = self.pipeline.text_of(&row.ids, stop.clone())?;
            Ok(Answer { text: text.trim().to_owned(), end: row.end })
        };
        rows.iter().map(answer).collect()
    }
}
