//! Validation sets: the same documents in the same batches at every evaluation.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::config::DocumentData;
use super::document_source::DocumentSource;
use super::encoded::Encoding;
use super::pack::{NextTokenBatch, PackReport, Packer};
use crate::error::Result;
use crate::tokenize::Processor;

/// Packed documents of a validation set.
#[derive(Clone, Debug)]
pub struct Validation {
    /// The batches.
    pub batches: Vec<NextTokenBatch>,
    /// Counts of what the batches lack.
    pub left_out: LeftOut,
}

/// Numbers of samples and documents that cannot be measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Documents longer than a row.
    pub too_long: u64,
    /// Documents of fewer than two tokens.
    pub too_short: u64,
    /// Samples that cannot be read or lack a field that a template names.
    pub unreadable: u64,
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
    let (mut batches, mut left_out) = (Vec::new(), LeftOut::default());
    for (number, data) in sources.iter().enumerate() {
        let source = DocumentSource::open(&data.clone().held_out(count), encoding, processor)?;
        let mut packer = new_packer()?;
        let mut index = 0;
        let mut next = || {
            let mut rng = ChaCha8Rng::seed_from_u64(index as u64);
            if index == source.len() {
                return Ok(None);
            }
            let template = index % source.num_templates();
            let mut document = source.document(index, template, &mut rng, processor)?;
            document.source = number as u32;
            index += 1;
            Ok(Some(document))
        };
        while let Some(packed) = packer.batch(&mut next)? {
            batches.push(NextTokenBatch::new(packed, processor));
        }
        let PackReport { too_long, too_short, .. } = packer.report();
        left_out.too_long += too_long;
        left_out.too_short += too_short;
        left_out.unreadable += source.left_out() as u64;
    }
    Ok(Validation { batches, left_out })
}
