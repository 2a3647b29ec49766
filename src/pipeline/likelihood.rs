//! Log-probabilities of given ids, many rows of them in one pass of the model.

use std::ops::Range;

use vq_tokenizer::Codes;

use super::Pipeline;
use crate::error::{Error, Result};
use crate::generate::sampling::log_probability;
use crate::generate::{BLOCK, LanguageModel, Span};

/// Ids per pass, unless one row alone has more.
const IDS_PER_PASS: usize = 1024;

/// A row of ids, and which of them are scored.
#[derive(Clone, Debug)]
pub(super) struct ScoredRow {
    /// From begin-of-text on.
    pub ids: Vec<u32>,
    /// The positions of the ids to score, ascending, each 1 or more.
    pub at: Vec<usize>,
}

/// The ids that share the probability of 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Among {
    /// All ids of the model.
    All,
    /// The ids of codes; only such ids can be scored.
    Codes,
}

impl Pipeline {
    /// The log-probability in nats of each scored id, given all ids before it, without guidance and at
    /// temperature 1.
    ///
    /// # Shapes
    /// `[rows][at]`.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`] if a row does not fit the context; if an id is out of range.
    pub(super) fn log_probabilities(
        &self,
        rows: &[ScoredRow],
        among: Among,
    ) -> Result<Vec<Vec<f64>>> {
        let context = self.model.context();
        if let Some(row) = rows.iter().find(|row| row.ids.len() > context) {
            let prompt = row.at.first().copied().unwrap_or(row.ids.len());
            let needed = row.ids.len() - prompt;
            return Err(Error::PromptTooLong { prompt, needed, context });
        }
        let mut found = Vec::with_capacity(rows.len());
        let mut rest = rows;
        while !rest.is_empty() {
            let fits = |ids: &mut usize, row: &ScoredRow| {
                *ids += row.ids.len();
                (*ids <= IDS_PER_PASS).then_some(())
            };
            let count = rest.iter().scan(0, fits).count().max(1);
            let (now, later) = rest.split_at(count);
            found.extend(self.score_in_one_pass(now, among)?);
            rest = later;
        }
        Ok(found)
    }

    /// [`Self::log_probabilities`] of rows that each have a lane of their own.
    fn score_in_one_pass(&self, rows: &[ScoredRow], among: Among) -> Result<Vec<Vec<f64>>> {
        let columns = self.columns(among);
        let mut blocks = 0;
        let mut lanes: Vec<Vec<u32>> = Vec::with_capacity(rows.len());
        for row in rows {
            let first = blocks;
            blocks += row.ids.len().div_ceil(BLOCK) as u32;
            lanes.push((first..blocks).collect());
        }
        let mut spans = Vec::with_capacity(rows.len());
        for (row, blocks) in rows.iter().zip(&lanes) {
            // Nothing is asked of the last id: it has no successor.
            if let (Some(first), Some((_, ids))) = (row.at.first(), row.ids.split_last()) {
                let wanted = row.ids.len() - first;
                spans.push(Span { blocks, start: 0, ids, wanted, columns: columns.clone() });
            }
        }
        let logits = match spans.is_empty() {
            true => Vec::new(),
            false => self.model.pass(&spans, &mut self.model.new_cache(blocks as usize))?,
        };
        let mut logits = logits.into_iter();
        let mut of_row = |row: &ScoredRow| match row.at.first() {
            None => Vec::new(),
            Some(_) => self.scores(row, logits.next().unwrap_or_default(), among, &columns),
        };
        Ok(rows.iter().map(&mut of_row).collect())
    }

    /// The log-probabilities of `row`, whose `logits` are those of its last ids, over `columns`.
    fn scores(
        &self,
        row: &ScoredRow,
        mut logits: Vec<Vec<f32>>,
        among: Among,
        columns: &Range<usize>,
    ) -> Vec<f64> {
        let first = row.ids.len() - logits.len();
        let vocabulary = self.processor.vocabulary();
        let score = |&at: &usize| {
            let logits = &mut logits[at - first];
            if among == Among::Codes {
                for (id, logit) in columns.clone().zip(logits.iter_mut()) {
                    if vocabulary.image_code(id as u32).is_none() {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
            log_probability(logits, row.ids[at] - columns.start as u32)
        };
        row.at.iter().map(score).collect()
    }

    /// The vocabulary ids whose logits are needed.
    fn columns(&self, among: Among) -> Range<usize> {
        let ids = self.processor.vocabulary().image_ids().iter();
        match (among, ids.clone().min(), ids.max()) {
            (Among::Codes, Some(&first), Some(&last)) => first as usize..last as usize + 1,
            _ => 0..self.model.vocab_size(),
        }
    }

    /// The log-probability in nats of `text` as a caption of each image.
    ///
    /// # Errors
    /// As [`Self::log_probabilities`], or if an image does not fit the layout of image blocks.
    pub(super) fn caption_log_probabilities(
        &self,
        images: &[Codes],
        text: &str,
    ) -> Result<Vec<f64>> {
        let caption = self.processor.text().encode_plain(text)?;
        let row = |codes: &Codes| {
            let mut ids = self.prompt_ids(&self.prompts.caption, &[], vec![codes.clone()])?;
            let start = ids.len();
            ids.extend(&caption);
            Ok(ScoredRow { at: (start..ids.len()).collect(), ids })
        };
        let rows = images.iter().map(row).collect::<Result<Vec<_>>>()?;
        let found = self.log_probabilities(&rows, Among::All)?;
        Ok(found.into_iter().map(|row| row.into_iter().sum()).collect())
    }
}
