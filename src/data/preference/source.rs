//! Sources of compared answers.

use rayon::prelude::*;

use super::layout::{AnswerLayout, PreferenceTokens, UnpairedTokens};
use super::{PreferenceRow, UnpairedRow};
use crate::data::config::SourceConfig;
use crate::data::encoded::{EncodedSample, EncodedSource, Encoding};
use crate::data::left_out::LeftOut;
use crate::error::Result;

/// The columns of rows.
const COLUMNS: [&str; 6] = ["prompt", "chosen", "rejected", "margin", "completion", "label"];

/// A pair of answers.
#[derive(Clone, Debug)]
pub struct PreferencePair {
    /// The ids of prompt and answers.
    pub tokens: PreferenceTokens,
    /// By how much one is preferred.
    pub margin: Option<f64>,
    /// Where the row lies.
    pub place: String,
}

/// All pairs of a source.
#[derive(Clone, Debug)]
pub struct Preferences {
    /// The pairs that can be read.
    pub pairs: Vec<PreferencePair>,
    /// What is left out.
    pub left_out: LeftOut,
}

/// An answer with a verdict.
#[derive(Clone, Debug)]
pub struct UnpairedAnswer {
    /// The ids of prompt and answer, and the verdict.
    pub tokens: UnpairedTokens,
    /// Where the row lies.
    pub place: String,
}

/// All answers of a source, each with a verdict.
#[derive(Clone, Debug)]
pub struct Unpaired {
    /// The answers that can be read.
    pub answers: Vec<UnpairedAnswer>,
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
        let (pairs, left_out) = open(source, encoding, |sample| {
            let row = PreferenceRow::of(&sample.fields)?;
            let tokens = layout.preference(&row, &sample.images)?;
            Ok(PreferencePair { tokens, margin: row.margin, place: sample.place.clone() })
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
        let (answers, left_out) = open(source, encoding, |sample| {
            let tokens = layout.unpaired(&UnpairedRow::of(&sample.fields)?, &sample.images)?;
            Ok(UnpairedAnswer { tokens, place: sample.place.clone() })
        })?;
        Ok(Self { answers, left_out })
    }
}

/// The rows of `source` as `read` returns them, and what is left out.
fn open<T: Send>(
    source: &SourceConfig,
    encoding: Encoding<'_>,
    read: impl Fn(&EncodedSample) -> Result<T> + Sync,
) -> Result<(Vec<T>, LeftOut)> {
    let columns = COLUMNS.map(str::to_owned).into();
    let EncodedSource { samples, dataset, len } =
        EncodedSource::open(source, Some(&columns), encoding)?;
    let rows: Vec<Result<T>> = samples.par_iter().map(&read).collect();
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
