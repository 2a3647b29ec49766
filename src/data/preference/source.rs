//! Sources of compared answers.

use rayon::prelude::*;
use vq_tokenizer::Codes;

use super::layout::{AnswerLayout, PreferenceTokens, UnpairedTokens};
use super::{PreferenceRow, UnpairedRow};
use crate::data::config::SourceConfig;
use crate::data::dataset::Fields;
use crate::data::encoded::{EncodedSample, EncodedSource, Encoding};
use crate::data::left_out::LeftOut;
use crate::error::Result;

/// The columns of rows.
const COLUMNS: [&str; 6] = ["prompt", "chosen", "rejected", "margin", "completion", "label"];

/// All pairs of a source.
#[derive(Clone, Debug)]
pub struct Preferences {
    /// The ids of each, with its margin.
    pub pairs: Vec<(PreferenceTokens, Option<f64>)>,
    /// What is left out.
    pub left_out: LeftOut,
}

/// All answers of a source, each with a verdict.
#[derive(Clone, Debug)]
pub struct Unpaired {
    /// The ids of each.
    pub answers: Vec<UnpairedTokens>,
    /// What is left out.
    pub left_out: LeftOut,
}

impl Preferences {
    /// Reads the rows of `source` in the form of `layout`; images are encoded.
    ///
    /// # Errors
    /// Those of the data; if more rows than `max_bad` cannot be read.
    pub fn open(
        source: &SourceConfig,
        encoding: Encoding<'_>,
        layout: &AnswerLayout<'_>,
    ) -> Result<Self> {
        let (pairs, left_out) = open(source, encoding, |fields, images| {
            let row = PreferenceRow::of(fields)?;
            Ok((layout.preference(&row, images)?, row.margin))
        })?;
        Ok(Self { pairs, left_out })
    }
}

impl Unpaired {
    /// Reads the rows of `source` in the form of `layout`; images are encoded.
    ///
    /// # Errors
    /// Those of the data; if more rows than `max_bad` cannot be read.
    pub fn open(
        source: &SourceConfig,
        encoding: Encoding<'_>,
        layout: &AnswerLayout<'_>,
    ) -> Result<Self> {
        let (answers, left_out) = open(source, encoding, |fields, images| {
            layout.unpaired(&UnpairedRow::of(fields)?, images)
        })?;
        Ok(Self { answers, left_out })
    }
}

/// The rows of `source` as `read` returns them, and what is left out.
fn open<T: Send>(
    source: &SourceConfig,
    encoding: Encoding<'_>,
    read: impl Fn(&Fields, &[Codes]) -> Result<T> + Sync,
) -> Result<(Vec<T>, LeftOut)> {
    let columns = COLUMNS.map(str::to_owned).into();
    let EncodedSource { samples, dataset, len } = EncodedSource::open(source, &columns, encoding)?;
    let rows: Vec<Result<T>> =
        samples.par_iter().map(|sample| read(&sample.fields, &sample.images)).collect();
    let mut found = Vec::with_capacity(rows.len());
    for (row, EncodedSample { index, place, .. }) in rows.into_iter().zip(&samples) {
        match row {
            Ok(row) => found.push(row),
            Err(error) => dataset.record(*index, format!("{place}: {error}")),
        }
    }
    dataset.check()?;
    Ok((found, dataset.left_out(len)))
}
