//! The overlap found: numbers, examples and files.

use std::path::Path;

use serde::Serialize;

use super::config::ContaminationConfig;
use crate::data::BadSample;
use crate::error::Result;
use crate::files::{write_atomic, write_png};
use crate::sheet::{Cell, Layout, Section, sheet};

/// The sheet, with two pairs per row.
const SHEET: Layout = Layout { columns: 4, image: 160, text_scale: 1, gap: 10 };

/// A number of evaluation items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Overlap {
    /// The number of items.
    pub items: usize,
    /// Their share of the readable items.
    pub share: f64,
}

/// The content of a data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contents {
    /// The data set.
    pub name: String,
    /// Its samples, including bad ones.
    pub samples: usize,
    /// Its images.
    #[serde(rename = "pictures")]
    pub images: usize,
    /// The texts compared.
    pub texts: usize,
    /// Samples that could not be read.
    pub bad_samples: Vec<BadSample>,
}

/// The overlap of one column of the evaluation set with all training texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ColumnOverlap {
    /// The column.
    pub column: String,
    /// Items with a text in this column, the basis of the shares.
    pub items: usize,
    /// Items with a text that equals a training text.
    pub exact_texts: Overlap,
    /// Items with a text that shares an n-gram with a training text.
    pub ngrams: Overlap,
}

/// A training sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Twin {
    /// The data set.
    pub dataset: String,
    /// The sample's index there.
    pub index: usize,
}

/// An image of an evaluation item and the matching training image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImageTwin {
    /// The item's index.
    pub doc_id: usize,
    /// Origin of the item.
    pub id: String,
    /// The training sample.
    pub twin: Twin,
    /// Origin of the training sample.
    pub twin_id: String,
    /// Whether all pixels are equal.
    pub exact: bool,
    /// Bits in which the hashes differ.
    pub distance: u32,
}

/// A text of an evaluation item and the matching training text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextTwin {
    /// The item's index.
    pub doc_id: usize,
    /// Origin of the item.
    pub id: String,
    /// The text's column.
    pub column: String,
    /// The text.
    pub text: String,
    /// The training sample.
    pub twin: Twin,
    /// Origin of the training sample.
    pub twin_id: String,
    /// The training text.
    pub twin_text: String,
    /// Whether all words are equal.
    pub exact: bool,
    /// The share of the text's distinct n-grams that occur in training texts.
    pub ngram_share: f64,
}

/// An evaluation item with any overlap.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AffectedItem {
    /// The item's index.
    pub doc_id: usize,
    /// The first training sample with an equal image.
    #[serde(rename = "exact_picture", skip_serializing_if = "Option::is_none")]
    pub exact_image: Option<Twin>,
    /// The training sample with the nearest image that is not equal.
    #[serde(rename = "near_picture", skip_serializing_if = "Option::is_none")]
    pub near_image: Option<Twin>,
    /// The distance of the nearest image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distance: Option<u32>,
    /// The first training sample with an equal text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact_text: Option<Twin>,
    /// A training sample that shares n-grams with the item's most affected text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ngram_text: Option<Twin>,
    /// The share of that text's distinct n-grams that occur in training texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ngram_share: Option<f64>,
}

/// The overlap of an evaluation set with training sets.
#[derive(Clone, Debug, Serialize)]
pub struct Contamination {
    /// The evaluation set.
    pub evaluation: Contents,
    /// The training sets.
    pub train: Vec<Contents>,
    /// The settings of the search.
    pub config: ContaminationConfig,
    /// Readable evaluation items.
    pub items: usize,
    /// Items with an image that equals a training image.
    #[serde(rename = "exact_pictures")]
    pub exact_images: Overlap,
    /// Items without such an image, but with one near a training image.
    #[serde(rename = "near_pictures")]
    pub near_images: Overlap,
    /// Items with a text that equals a training text.
    pub exact_texts: Overlap,
    /// Items with a text that shares an n-gram with a training text, or equals it if it is short.
    pub ngrams: Overlap,
    /// Items with any of these.
    pub any: Overlap,
    /// Texts by column.
    pub columns: Vec<ColumnOverlap>,
    /// The closest images, each once: equal ones, then by distance.
    #[serde(rename = "pictures")]
    pub images: Vec<ImageTwin>,
    /// The closest texts, each once: equal ones, then by share, long ones first.
    pub texts: Vec<TextTwin>,
    /// All items with any overlap.
    #[serde(skip)]
    pub affected: Vec<AffectedItem>,
    /// The closest images next to their training twins.
    #[serde(skip)]
    pub sheet: Vec<Cell>,
}

impl Contamination {
    /// Writes `contamination.json`, `items.jsonl` with a line for every item with any overlap, and,
    /// if images overlap, `sheet.png` into `dir`, which is created if needed.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) or [`Error::File`](crate::Error::File) with the file that
    /// could not be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        const VALID: &str = "names and numbers are valid JSON";
        let line = |item: &AffectedItem| serde_json::to_string(item).expect(VALID) + "\n";
        let lines: String = self.affected.iter().map(line).collect();
        write_atomic(&dir.join("items.jsonl"), lines.as_bytes())?;
        if !self.sheet.is_empty() {
            let path = dir.join("sheet.png");
            let heading = format!("{} beside its nearest training images", self.evaluation.name);
            let page = sheet(&[Section { heading, cells: self.sheet.clone() }], &SHEET);
            write_png(&path, &page)?;
        }
        let json = serde_json::to_string_pretty(self).expect(VALID) + "\n";
        write_atomic(&dir.join("contamination.json"), json.as_bytes())
    }
}
