//! Validation sets: the same documents in the same batches at every evaluation.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::config::DocumentData;
use super::document_source::DocumentSource;
use super::encoded::Encoding;
use super::left_out::{BadSample, LeftOut};
use super::pack::{Document, NextTokenBatch, Packer};
use crate::error::Result;
use crate::tokenize::Processor;

/// Packed documents of a validation set.
#[derive(Clone, Debug)]
pub struct Validation {
    /// The batches.
    pub batches: Vec<NextTokenBatch>,
    /// What the batches lack of each source.
    pub left_out: Vec<LeftOut>,
}

/// The first `count` samples of each source in batches, independent of any seed. A document's source is
/// the index of its configuration in `sources`.
///
/// # Errors
/// Those of data sets, templates and `new_packer`.
pub fn validation_batches(
    sources: &[DocumentData],
    encoding: Encoding<'_>,
    count: usize,
    processor: &Processor,
    new_packer: impl Fn() -> Result<Packer>,
) -> Result<Validation> {
    let (mut batches, mut all_left_out) = (Vec::new(), Vec::new());
    for (number, data) in sources.iter().enumerate() {
        let source = DocumentSource::open(&data.clone().held_out(count), encoding, processor)?;
        let (mut left_out, mut reasons) = (source.left_out(), Vec::new());
        let mut packer = new_packer()?;
        let seq_len = packer.seq_len();
        let mut indices = 0..source.len();
        let mut next = || {
            for index in indices.by_ref() {
                let mut rng = ChaCha8Rng::seed_from_u64(index as u64);
                let drawn = (index, index % source.num_templates(), seq_len);
                match source.fitted(drawn, &mut rng, processor) {
                    Ok(document) => {
                        return Ok(Some(Document { source: number as u32, ..document }));
                    }
                    Err(error) => {
                        let reason = error.to_string();
                        reasons.push(reason.clone());
                        left_out.add_bad(BadSample { index, reason });
                    }
                }
            }
            Ok(None)
        };
        while let Some(packed) = packer.batch(&mut next)? {
            batches.push(NextTokenBatch::new(packed, processor));
        }
        source.refuse_too_many(reasons.iter().map(String::as_str))?;
        packer.report().left_out.iter().for_each(|documents| left_out.add(documents.clone()));
        all_left_out.push(left_out);
    }
    Ok(Validation { batches, left_out: all_left_out })
}
