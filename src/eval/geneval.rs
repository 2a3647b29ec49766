//! Images for GenEval's own scorer (arXiv 2310.11513, djghosh13/geneval), in the directory layout
//! that it reads. Its detectors are not part of this project, so nothing is scored here.
//!
//! `NNNNN/metadata.jsonl` holds the prompt's line of `evaluation_metadata.jsonl`; the images are
//! `NNNNN/samples/0000.png` and so on.

use std::path::Path;

use image::RgbImage;
use serde_json::{Value, json};
use vq_tokenizer::preprocess::{open_image, to_rgb};

use super::batches::{Extent, one_per_item, refuse_many_bad};
use super::report::{Report, SampleRecord};
use super::score::Score;
use crate::data::{BadSample, Dataset, Fields};
use crate::error::{Error, Result};
use crate::files::{path_text, write_atomic, write_png};
use crate::sheet::{Cell, Tone};

/// Images per prompt, as in the benchmark.
pub const IMAGES: usize = 4;
/// Prompts on the sheet.
const SHOWN: usize = 32;

/// Draws [`IMAGES`] images for each prompt of `dataset` into the directory `dir`; prompts whose
/// images all exist are skipped.
///
/// `draw` is called with a prompt and the number of its first image, an offset for the seed, and returns
/// [`IMAGES`] images.
///
/// # Errors
/// Those of `draw` and of the files; if more samples than [`crate::data::DEFAULT_TOLERANCE`], and
/// more than one, have no `prompt`.
pub fn draw(
    dataset: &dyn Dataset,
    extent: Extent,
    dir: &Path,
    mut draw: impl FnMut(&str, usize) -> Result<Vec<RgbImage>>,
) -> Result<Report> {
    let len = extent.of(dataset.len());
    let (mut samples, mut sheet, mut bad) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..len {
        let prompt = dataset.fields(index).and_then(|fields| {
            let prompt = text(&fields).map_err(Error::because(dataset.place(index)))?;
            Ok((prompt, fields))
        });
        let (prompt, fields) = match prompt {
            Ok(prompt) => prompt,
            Err(error) => {
                bad.push(BadSample { index, reason: error.to_string() });
                refuse_many_bad(dataset, len, &bad)?;
                continue;
            }
        };
        let prompt_dir = dir.join(format!("{index:05}"));
        let path = |number: usize| prompt_dir.join("samples").join(format!("{number:04}.png"));
        if !(0..IMAGES).all(|number| path(number).is_file()) {
            let images = match draw(&prompt, index * IMAGES) {
                Err(error @ Error::PromptTooLong { .. }) => {
                    let reason = format!("{}: {error}", dataset.place(index));
                    bad.push(BadSample { index, reason });
                    refuse_many_bad(dataset, len, &bad)?;
                    continue;
                }
                images => one_per_item(images?, IMAGES)?,
            };
            let metadata = metadata(&fields);
            write_atomic(&prompt_dir.join("metadata.jsonl"), format!("{metadata}\n").as_bytes())?;
            for (number, image) in images.iter().enumerate() {
                write_png(&path(number), image)?;
            }
        }
        if sheet.len() < SHOWN {
            let first = to_rgb(open_image(&path(0))?);
            sheet.push(Cell::new(first).note(Tone::Plain, prompt.as_str()));
        }
        samples.push(record(index, &fields, prompt, &prompt_dir));
    }
    let images = Score::whole((samples.len() * IMAGES) as f64, samples.len());
    Ok(Report {
        task: "geneval",
        dataset: dataset.name().to_owned(),
        scores: vec![("pictures_written".to_owned(), images)],
        samples,
        bad,
        sheet,
        ..Report::default()
    })
}

/// The prompt's line in the benchmark's file.
fn metadata(fields: &Fields) -> Value {
    fields.get("metadata").cloned().unwrap_or_else(|| Value::Object(fields.clone()))
}

fn text(fields: &Fields) -> Result<String> {
    let prompt = fields.get("prompt").and_then(Value::as_str);
    prompt.map(str::to_owned).ok_or_else(|| Error::invalid("column prompt is missing or no text"))
}

fn record(doc_id: usize, fields: &Fields, prompt: String, prompt_dir: &Path) -> SampleRecord {
    SampleRecord {
        doc_id,
        id: prompt_dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        input: prompt,
        target: metadata(fields),
        response: json!(path_text(&prompt_dir.join("samples"))),
        kind: fields.get("tag").and_then(Value::as_str).map(str::to_owned),
        group: None,
        scores: Vec::new(),
    }
}
