//! What a language model makes of held-out documents: something to look at and to read after each
//! evaluation.

use image::RgbImage;
use vq_tokenizer::{Codes, VqTokenizer};

use super::objective::NextTokenBatch;
use crate::error::Result;
use crate::generate::{GenerationConfig, GenerationMode, Generator, Request, ServingModel};
use crate::report::SampleText;
use crate::sheet::{Cell, Layout, Section, Tone, sheet};
use crate::tokenize::{CodedSegment, Processor};

/// A held-out document, cut where the model is to go on.
#[derive(Clone, Debug)]
struct Shown {
    source: String,
    prompt: Vec<u32>,
    target: Vec<u32>,
}

/// Held-out documents that are continued and shown.
#[derive(Clone, Debug)]
pub(super) struct Showcase {
    documents: Vec<Shown>,
    config: GenerationConfig,
}

impl Showcase {
    /// The first `count` documents of each source of `batches`; `labels` names the sources. A document is
    /// cut before its first target or, where all of it is one, after its first separator or else before
    /// its first image.
    pub(super) fn new(
        batches: &[NextTokenBatch],
        labels: &[String],
        count: usize,
        processor: &Processor,
        config: GenerationConfig,
    ) -> Self {
        let mut taken = vec![0; labels.len()];
        let mut cut_ones = Vec::new();
        for document in batches.iter().flat_map(documents) {
            let Document { source, ids, mask } = document;
            if taken[source] == count {
                continue;
            }
            let cut = cut(&ids, &mask, processor);
            if cut + 1 < ids.len() {
                taken[source] += 1;
                let (prompt, target) = (ids[..cut].to_vec(), ids[cut..].to_vec());
                cut_ones.push(Shown { source: labels[source].clone(), prompt, target });
            }
        }
        let longest = cut_ones.iter().map(|shown| shown.target.len()).max().unwrap_or(0);
        let config = GenerationConfig {
            mode: GenerationMode::Auto,
            max_new_tokens: Some(longest.max(1)),
            ..config
        };
        Self { documents: cut_ones, config }
    }

    /// Continues every document with `model`; the images on a sheet, and the texts.
    ///
    /// # Errors
    /// When the model fails.
    pub(super) fn show(
        &self,
        model: &ServingModel,
        processor: &Processor,
        vq: &VqTokenizer,
    ) -> Result<(Option<RgbImage>, Vec<SampleText>)> {
        if self.documents.is_empty() {
            return Ok((None, Vec::new()));
        }
        let generator = Generator::new(model, processor.vocabulary(), processor.blocks().clone())?;
        let request = |(seed, shown): (u64, &Shown)| Request { prompt: shown.prompt.clone(), seed };
        let requests: Vec<Request> =
            (self.config.seed..).zip(&self.documents).map(request).collect();
        let generated = generator.run(&requests, &self.config, &mut |_, _| Ok(()))?;
        let (mut texts, mut sections) = (Vec::new(), Vec::<Section>::new());
        for (shown, generated) in self.documents.iter().zip(generated) {
            let read = |ids: &[u32]| processor.decode_until_fault(ids).0;
            let (prompt, target, answer) =
                (read(&shown.prompt), read(&shown.target), read(&generated.ids));
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
    pub(super) source: usize,
    pub(super) ids: Vec<u32>,
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

/// How many ids the model is shown.
fn cut(ids: &[u32], mask: &[bool], processor: &Processor) -> usize {
    let special = processor.vocabulary().special();
    match mask.iter().position(|counts| *counts) {
        Some(first) if first > 1 => first,
        _ => {
            let after_separator = ids.iter().position(|id| *id == special.sep).map(|at| at + 1);
            let image = || ids.iter().position(|id| *id == special.begin_image);
            after_separator.or_else(image).unwrap_or(1).max(1)
        }
    }
}

fn text(segments: &[CodedSegment]) -> String {
    segments.iter().map(ToString::to_string).collect()
}

/// The images of a document, with the texts around them.
fn cells(
    prompt: &[CodedSegment],
    target: &[CodedSegment],
    answer: &[CodedSegment],
    vq: &VqTokenizer,
) -> Result<Vec<Cell>> {
    let image = |segments: &[CodedSegment]| -> Result<Option<RgbImage>> {
        let codes: Option<Codes> = segments.iter().find_map(|segment| match segment {
            CodedSegment::Image(codes) => Some(codes.clone()),
            _ => None,
        });
        Ok(codes.map(|codes| vq.decode(&[codes])).transpose()?.map(|mut images| images.remove(0)))
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
