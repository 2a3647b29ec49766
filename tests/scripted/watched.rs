//! A model with a record of all logits, which must have the same bits in every pass.

use std::cell::RefCell;
use std::collections::HashMap;

use calumma::Result;
use calumma::generate::{LanguageModel, Span};

use super::ledger::{Ledger, digest_of};

/// Stands for a column that was not asked for; bits of a NaN.
const UNKNOWN: u32 = u32::MAX;

/// `inner`, whose passes are checked as those of [`Scripted`](super::Scripted) and whose logits after the same
/// ids must be equal bit for bit, whatever else is in the pass.
pub struct Watched<M> {
    pub inner: M,
    /// The bits of the logits after each row, by its digest.
    bits: RefCell<HashMap<u64, Vec<u32>>>,
    /// How many logits were compared with earlier ones.
    compared: RefCell<usize>,
}

impl<M: LanguageModel> Watched<M> {
    pub fn new(inner: M) -> Self {
        Self { inner, bits: RefCell::default(), compared: RefCell::default() }
    }

    /// How many logits were computed again and equalled the earlier ones.
    pub fn compared(&self) -> usize {
        *self.compared.borrow()
    }

    fn compare(&self, row: &[u32], first: usize, logits: &[f32]) {
        let mut bits = self.bits.borrow_mut();
        let known = bits.entry(digest_of(row));
        let known = known.or_insert_with(|| vec![UNKNOWN; self.inner.vocab_size()]);
        for (column, logit) in (first..).zip(logits) {
            assert!(logit.is_finite(), "logit {column} after {row:?} is {logit}");
            if known[column] != UNKNOWN {
                let before = f32::from_bits(known[column]);
                assert_eq!(
                    known[column],
                    logit.to_bits(),
                    "logit {column} after {row:?} was {before} and is {logit}"
                );
                *self.compared.borrow_mut() += 1;
            }
            known[column] = logit.to_bits();
        }
    }
}

impl<M: LanguageModel> LanguageModel for Watched<M> {
    type Cache = (M::Cache, Ledger);

    fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }

    fn context(&self) -> usize {
        self.inner.context()
    }

    fn block_bytes(&self) -> usize {
        self.inner.block_bytes()
    }

    fn new_cache(&self, blocks: usize) -> Self::Cache {
        (self.inner.new_cache(blocks), Ledger::new(blocks))
    }

    fn pass(&self, spans: &[Span<'_>], cache: &mut Self::Cache) -> Result<Vec<Vec<Vec<f32>>>> {
        let rows = cache.1.pass(spans, self.vocab_size(), self.context());
        let found = self.inner.pass(spans, &mut cache.0)?;
        assert_eq!(found.len(), spans.len());
        for ((span, row), logits) in spans.iter().zip(&rows).zip(&found) {
            assert_eq!(logits.len(), span.wanted);
            for (len, logits) in (row.len() + 1 - span.wanted..).zip(logits) {
                assert_eq!(logits.len(), span.columns.len());
                self.compare(&row[..len], span.columns.start, logits);
            }
        }
        Ok(found)
    }

    fn poison(&self, blocks: &[u32], cache: &mut Self::Cache) {
        self.inner.poison(blocks, &mut cache.0);
        cache.1.poison(blocks);
    }
}
