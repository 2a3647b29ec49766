//! GenEval: prompts for text-to-image models with the objects that the image must show.
//!
//! Layout: `prompts/evaluation_metadata.jsonl` of <https://github.com/djghosh13/geneval>, 553 lines. The
//! scorer expects each line as the `metadata.jsonl` of its images, so whole lines are kept.

use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::read;
use super::record::{Record, columns};
use crate::Result;
use crate::data::dataset::Fields;

/// Required fields of a line; those with an underscore are only validated.
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

/// A prompt and its whole line.
pub(super) struct Prompt {
    /// Position in the file, such as `line 2`.
    place: String,
    tag: Box<str>,
    prompt: Box<str>,
    metadata: Fields,
}

/// Reads the prompts of the file at `path`.
///
/// # Errors
/// If the file is malformed.
pub(super) fn read(path: &Path) -> Result<Vec<Prompt>> {
    let (lines, objects) = (read::rows::<Line>(path)?, read::rows::<Fields>(path)?);
    let prompts = lines.into_iter().zip(objects).map(|((place, line), (_, metadata))| {
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
