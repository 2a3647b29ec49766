//! Held-out documents continued by a language model, as images and texts to inspect after each
//! evaluation.

use image::RgbImage;
use vq_tokenizer::{Codes, VqTokenizer};

use super::objective::NextTokenBatch;
use crate::error::{Error, Result};
use crate::generate::{GenerationConfig, GenerationMode, Generator, Request, ServingModel};
use crate::report::SampleText;
use crate::sheet::{Cell, Layout, Section, Tone, sheet};
use crate::tokenize::{CodedSegment, Processor};

/// A held-out document, split into prompt and target.
#[derive(Clone, Debug)]
struct Shown {
    source: String,
    prompt: Vec<u32>,
    target: Vec<u32>,
}

/// The held-out documents that are shown, and how they are continued.
#[derive(Clone, Debug)]
pub(super) struct Showcase {
    documents: Vec<Shown>,
    config: GenerationConfig,
}

impl Showcase {
    /// The first `count` documents of each source in `batches`; `labels` names the sources. The prompt ends
    /// before the first target of the loss; where the whole document is a target, after the first separator,
    /// or else before the first image.
    pub(super) fn new(
        batches: &[NextTokenBatch],
        labels: &[String],
        count: usize,
        processor: &Processor,
        config: GenerationConfig,
    ) -> Self {
        let mut taken = vec![0; labels.len()];
        let mut shown = Vec::new();
        for document in batches.iter().flat_map(documents) {
            let Document { source, ids, mask } = document;
            if taken[source] == count {
                continue;
            }
            let len = prompt_len(&ids, &mask, processor);
            if len + 1 < ids.len() {
                taken[source] += 1;
                let (prompt, target) = (ids[..len].to_vec(), ids[len..].to_vec());
                shown.push(Shown { source: labels[source].clone(), prompt, target });
            }
        }
        let longest = shown.iter().map(|shown: &Shown| shown.target.len()).max().unwrap_or(0);
        let config = GenerationConfig {
            mode: GenerationMode::Auto,
            max_new_tokens: Some(longest.max(1)),
            ..config
        };
        Self { documents: shown, config }
    }

    /// A sheet of images and the texts of every document as continued by `model`; the sheet is `None` without
    /// images.
    ///
    /// # Errors
    /// Those of generation and of decoding images.
    pub(super) fn show(
        &self,
        model: &ServingModel,
        processor: &Processor,
        vq: Option<&VqTokenizer>,
    ) -> Result<(Option<RgbImage>, Vec<SampleText>)> {
        if self.documents.is_empty() {
            return Ok((None, Vec::new()));
        }
        let generator = Generator::new(model, processor.vocabulary(), processor.blocks().clone())?;
        let request = |(seed, shown): (u64, &Shown)| {
            let config = GenerationConfig { seed, ..self.config.clone() };
            Request::new(shown.prompt.clone(), config)
        };
        let requests = (self.config.seed..).zip(&self.documents).map(request).collect();
        let generated = generator.run(requests, &mut |_, _| Ok(()))?;
        let (mut texts, mut sections) = (Vec::new(), Vec::<Section>::new());
        for (shown, generated) in self.documents.iter().zip(generated) {
            let [prompt, target, answer] = [&shown.prompt, &shown.target, &generated.ids]
                .map(|ids| processor.decode_until_fault(ids).0);
            let cells = cells(&prompt, &target, &answer, vq)?;
            match sections.last_mut().filter(|section| section.heading == shown.source) {
                Some(section) => section.cells.extend(cells),
                None => sections.push(Section { heading: shown.source.clone(), cells }),
            }
            texts.push(SampleText {
                source: shown.source.clone(),
                prompt: text(&prompt),
                target: text(&target),
                generated: text(&answer),
            });
        }
        let layout = Layout { columns: 6, image: 160, text_scale: 1, ..Layout::default() };
        let has_images = sections.iter().any(|section| !section.cells.is_empty());
        Ok((has_images.then(|| sheet(&sections, &layout)), texts))
    }
}

/// A document of a packed batch.
pub(super) struct Document {
    /// Number of its source.
    pub(super) source: usize,
    pub(super) ids: Vec<u32>,
    /// Whether each id is a target of the loss.
    pub(super) mask: Vec<bool>,
}

/// The documents of a batch, in order.
pub(super) fn documents(batch: &NextTokenBatch) -> Vec<Document> {
    let packed = &batch.packed;
    let mut found: Vec<Document> = Vec::new();
    for token in (0..packed.ids.len()).filter(|&token| packed.document_ids[token] != 0) {
        if packed.positions[token] == 0 {
            let source = packed.sources[token] as usize;
            found.push(Document { source, ids: Vec::new(), mask: Vec::new() });
        }
        let document = found.last_mut().expect("positions begin at 0");
        document.ids.push(packed.ids[token]);
        document.mask.push(packed.loss_mask[token]);
    }
    found
}

/// Number of ids that the model is given.
fn prompt_len(ids: &[u32], mask: &[bool], processor: &Processor) -> usize {
    let special = processor.vocabulary().special();
    match mask.iter().position(|is_target| *is_target) {
        Some(first_target) if first_target > 1 => first_target,
        _ => {
            let after_separator =
                ids.iter().position(|id| Some(*id) == special.sep).map(|at| at + 1);
            let image = || ids.iter().position(|id| Some(*id) == special.begin_image);
            after_separator.or_else(image).unwrap_or(1).max(1)
        }
    }
}

fn text(segments: &[CodedSegment]) -> String {
    segments.iter().map(ToString::to_string).collect()
}

/// The images of prompt, target and answer, each with the text that goes with it.
fn cells(
    prompt: &[CodedSegment],
    target: &[CodedSegment],
    answer: &[CodedSegment],
    vq: Option<&VqTokenizer>,
) -> Result<Vec<Cell>> {
    let image = |segments: &[CodedSegment]| -> Result<Option<RgbImage>> {
        let codes: Option<Codes> = segments.iter().find_map(|segment| match segment {
            CodedSegment::Image(codes) => Some(codes.clone()),
            _ => None,
        });
        let Some(codes) = codes else { return Ok(None) };
        Ok(vq.ok_or(Error::NoImageTokenizer)?.decode(&[codes])?.pop())
    };
    let mut cells = Vec::new();
    if let Some(image) = image(prompt)? {
        let cell = Cell::new(image).note(Tone::Plain, text(prompt));
        let cell = cell.note(Tone::Plain, format!("model: {}", text(answer)));
        cells.push(cell.note(Tone::Muted, format!("wanted: {}", text(target))));
    }
    if let Some(image) = image(target)? {
        cells.push(Cell::new(image).note(Tone::Muted, format!("wanted: {}", text(prompt))));
    }
    if let Some(image) = image(answer)? {
        cells.push(Cell::new(image).note(Tone::Plain, format!("model: {}", text(prompt))));
    }
    Ok(cells)
}
