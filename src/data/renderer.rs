//! Renders samples as token ids, with the templates of their source.

use std::collections::BTreeSet;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use vq_tokenizer::Codes;

use super::chat_document::{ChatDocument, ChatForm};
use super::config::TemplateConfig;
use super::dataset::Fields;
use super::dialect::{add_messages, conversation, unreadable};
use super::form::Form;
use super::mixture::weighted;
use super::render::{Loss, RenderOptions};
use crate::error::{Error, Result};
use crate::tokenize::{
    ChatDocuments, CodedSegment, EncodeOptions, Processor, Template, TokenSequence,
};

/// The parsed templates of a source and their options.
#[derive(Clone, Debug)]
pub(super) struct Renderer {
    config: TemplateConfig,
    forms: Vec<Form>,
    /// If a template is the checkpoint's chat template.
    chat: Option<ChatForm>,
}

impl Renderer {
    /// Parses the templates of `config`. Where `processor` has no chat template, `chat_template` is the layout
    /// of the template `{messages}`.
    ///
    /// # Errors
    /// If a template is malformed or has a place for an image that `processor` has no ids for, or the chat template does
    /// not mark the answers that the loss counts.
    pub(super) fn new(config: &TemplateConfig, processor: &Processor) -> Result<Self> {
        let forms = config.templates.iter().map(|template| Form::parse(template.parts().0));
        let mut forms = forms.collect::<Result<Vec<_>>>()?;
        let mut chat = None;
        if forms.iter().any(|form| matches!(form, Form::Chat)) {
            match processor.chat_template() {
                Some(template) => {
                    let documents = ChatDocuments::new(template.clone());
                    chat = Some(ChatForm::new(documents, config.loss)?);
                }
                None => {
                    for form in forms.iter_mut().filter(|form| matches!(form, Form::Chat)) {
                        *form = Form::Written(Template::parse("{messages}")?);
                    }
                }
            }
        }
        for form in &forms {
            if let Form::Written(template) = form {
                processor.check_images(template.num_images())?;
            }
        }
        Ok(Self { forms, chat, config: config.clone() })
    }

    /// The number of templates.
    pub(super) fn num_templates(&self) -> usize {
        self.forms.len()
    }

    /// The columns that the templates look up.
    pub(super) fn columns(&self) -> BTreeSet<String> {
        let columns = self.forms.iter().flat_map(Form::columns);
        columns.map(|name| name.into_owned()).collect()
    }

    /// The weight of each template.
    pub(super) fn weights(&self) -> Vec<f64> {
        self.config.templates.iter().map(|template| template.parts().1).collect()
    }

    /// The index of a template, drawn by weight.
    pub(super) fn draw(&self, rng: &mut ChaCha8Rng) -> usize {
        weighted(self.config.templates.iter().map(|template| template.parts().1), rng)
    }

    /// The text of the chat template, if one is used.
    pub(super) fn chat_source(&self) -> Option<&str> {
        self.chat.as_ref().map(ChatForm::source)
    }

    /// Adds the fields of the recipe to those of a sample, and messages where a template writes them.
    /// [`check`](Self::check) says why a conversation cannot be read.
    pub(super) fn complete(&self, fields: &mut Fields) {
        fields.extend(self.config.fields.clone());
        if self.forms.iter().any(Form::writes_messages) {
            let _ = add_messages(fields, self.config.loss == Loss::All);
        }
    }

    /// The ids of a sample by the template of index `template`. `rng` makes the random choices of
    /// the template and of prompt dropout.
    ///
    /// # Errors
    /// Only if [`check`](Self::check) fails.
    pub(super) fn document(
        &self,
        (fields, images): (&Fields, &[Codes]),
        template: usize,
        rng: &mut ChaCha8Rng,
        processor: &Processor,
    ) -> Result<TokenSequence> {
        let form = &self.forms[template];
        let Some(template) = form.template(fields)? else {
            return Ok(self.chat((fields, images), processor)?.tokens);
        };
        let rendered = template.render(fields, images, &self.options(), rng)?;
        let dropped = form.is_text_first() && rng.random::<f64>() < self.config.prompt_dropout;
        match rendered.without_prompt().filter(|_| dropped) {
            Some(bare) => bare.tokens(processor),
            None => rendered.tokens(processor),
        }
    }

    /// The segments of a sample by the template of index `template`, without what ends a document.
    ///
    /// # Errors
    /// If the template cannot render the sample, or is a chat template.
    pub(super) fn segments(
        &self,
        (fields, images): (&Fields, &[Codes]),
        template: usize,
        rng: &mut ChaCha8Rng,
        processor: &Processor,
    ) -> Result<Vec<CodedSegment>> {
        self.check_conversation(fields)?;
        self.check_images(fields, processor)?;
        let template = self.forms[template]
            .template(fields)?
            .ok_or_else(|| Error::invalid("a chat template is no template of segments"))?;
        Ok(template.render(fields, images, &self.options(), rng)?.segments)
    }

    /// Checks that a conversation that templates need can be read.
    fn check_conversation(&self, fields: &Fields) -> Result<()> {
        let is_needed = self.forms.iter().any(Form::writes_messages);
        let fault = is_needed.then(|| unreadable(fields)).flatten();
        fault.map_or(Ok(()), |message| Err(Error::invalid(message)))
    }

    /// Refuses a sample with images in the columns that templates write, as in a conversation, where there are no ids for
    /// them.
    fn check_images(&self, fields: &Fields, processor: &Processor) -> Result<()> {
        if processor.vocabulary().has_images() {
            return Ok(());
        }
        // How many a template would write if all were there; whether it can be used is not asked here.
        let options = RenderOptions { loss: Loss::All, ..self.options() };
        for template in self.forms.iter().filter_map(|form| form.template(fields).ok().flatten()) {
            let count = template.most_images(fields, usize::MAX, &options);
            processor.check_images(count.unwrap_or(0))?;
        }
        Ok(())
    }

    /// Checks that every template can render the sample whatever is drawn, and that its images have ids.
    ///
    /// # Errors
    /// The first reason why not.
    pub(super) fn check(&self, sample: (&Fields, &[Codes]), processor: &Processor) -> Result<()> {
        let (fields, images) = sample;
        let mut most = 0;
        self.check_conversation(fields)?;
        self.check_images(fields, processor)?;
        for form in &self.forms {
            match form.template(fields)? {
                Some(template) => {
                    let used = template.most_images(fields, images.len(), &self.options())?;
                    most = most.max(used);
                }
                None => drop(self.chat(sample, processor)?),
            }
        }
        images.iter().take(most).try_for_each(|codes| {
            let image = CodedSegment::Image(codes.clone());
            processor.encode_with(&[image], EncodeOptions::default()).map(drop)
        })
    }

    /// Whether a template makes a document of the sample whose answer begins with an id that holds part of the
    /// prompt.
    ///
    /// # Errors
    /// As [`document`](Self::document).
    pub(super) fn cuts_within_an_id(
        &self,
        sample: (&Fields, &[Codes]),
        rng: &mut ChaCha8Rng,
        processor: &Processor,
    ) -> Result<bool> {
        for form in &self.forms {
            let is_cut = match form.template(sample.0)? {
                Some(template) if template.has_answer_mark() => {
                    let rendered = template.render(sample.0, sample.1, &self.options(), rng)?;
                    rendered.is_cut_within_an_id(processor)?
                }
                Some(_) => false,
                None => self.chat(sample, processor)?.is_cut_within_an_id,
            };
            if is_cut {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The document of a sample by the chat template.
    fn chat(
        &self,
        (fields, images): (&Fields, &[Codes]),
        processor: &Processor,
    ) -> Result<ChatDocument> {
        let chat = self.chat.as_ref().expect("it is there if a form has no template");
        let conversation = conversation(fields).map_err(Error::invalid)?;
        chat.document(&conversation, images, processor)
    }

    fn options(&self) -> RenderOptions {
        RenderOptions { loss: self.config.loss, max_turns: Some(self.config.max_turns) }
    }
}
