//! GenEval: prompts for text-to-image models, with the objects that an image must show.
//!
//! Layout: `prompts/evaluation_metadata.jsonl` of <https://github.com/djghosh13/geneval>, 553 lines. The
//! scorer wants each line back as the `metadata.jsonl` of its images, so it is kept whole.

use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::{Record, columns, read};
use crate::Result;
use crate::data::Fields;

/// What every line must have.
#[derive(Deserialize)]
struct Line {
    tag: Box<str>,
    prompt: Box<str>,
    #[serde(rename = "include")]
    _include: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    #[serde(rename = "class")]
    _class: Box<str>,
    #[serde(rename = "count")]
    _count: u64,
}

/// A prompt.
pub(super) struct Prompt {
    place: String,
    tag: Box<str>,
    prompt: Box<str>,
    metadata: Fields,
}

/// The prompts in the file at `path`.
///
/// # Errors
/// When it is not of the format.
pub(super) fn read(path: &Path) -> Result<Vec<Prompt>> {
    let (lines, whole) = (read::rows::<Line>(path)?, read::rows::<Fields>(path)?);
    let prompts = lines.into_iter().zip(whole).map(|((place, line), (_, metadata))| {
        let Line { tag, prompt, .. } = line;
        Prompt { place, tag, prompt, metadata }
    });
    Ok(prompts.collect())
}

impl Record for Prompt {
    fn label(&self) -> String {
        self.place.clone()
    }

    fn fields(&self) -> Fields {
        columns([
            ("prompt", json!(self.prompt)),
            ("tag", json!(self.tag)),
            ("metadata", json!(self.metadata)),
        ])
    }

    fn image(&self) -> Option<String> {
        None
    }
}
