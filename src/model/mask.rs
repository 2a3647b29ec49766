//! Attention masks: which keys are hidden from a query.

use std::sync::{Arc, OnceLock};

use burn::tensor::{Bool, Device, Tensor, TensorData};
use kernels::Spans;

/// The visible keys of every query of a batch.
///
/// In every mask, a query sees an interval of keys that ends with its own. Masks are stored as such intervals; the matrix of booleans is only computed for kernels that need it.
#[derive(Clone, Debug)]
pub struct Mask {
    /// The same as intervals.
    pub(super) spans: Arc<Spans>,
    device: Device,
    hidden: Arc<OnceLock<Tensor<4, Bool>>>,
}

/// A mask that hides the future, for any number of rows of `seq` tokens.
pub fn causal(seq: usize, device: &Device) -> Mask {
    let spans = Spans { rows: 1, seq, first: vec![0; seq] };
    Mask::new(spans, device)
}

/// A mask that hides the future and all other documents of packed rows.
///
/// A document is a run of equal ids within a row.
///
/// # Shapes
/// `document_ids` `[rows * seq]`.
pub fn packed(document_ids: &[u32], rows: usize, device: &Device) -> Mask {
    let seq = document_ids.len() / rows.max(1);
    let mut first = Vec::with_capacity(document_ids.len());
    for row in document_ids.chunks_exact(seq.max(1)) {
        let mut start = 0;
        for (token, document) in row.iter().enumerate() {
            if *document != row[start] {
                start = token;
            }
            first.push(start);
        }
    }
    Mask::new(Spans { rows, seq, first }, device)
}

impl Mask {
    fn new(spans: Spans, device: &Device) -> Self {
        Self { spans: Arc::new(spans), device: device.clone(), hidden: Arc::default() }
    }

    /// The mask as booleans, `true` = hidden (Burn's convention); computed once.
    ///
    /// # Shapes
    /// Returns `[rows, 1, seq, seq]`, with `rows` = 1 where all rows are equal.
    pub fn tensor(&self) -> Tensor<4, Bool> {
        let compute = || {
            let spans = &self.spans;
            let mut hidden = Vec::with_capacity(spans.rows * spans.seq * spans.seq);
            for row in 0..spans.rows {
                for query in 0..spans.seq {
                    hidden.extend((0..spans.seq).map(|key| spans.hides(row, query, key)));
                }
            }
            let shape = [spans.rows, 1, spans.seq, spans.seq];
            Tensor::from_data(TensorData::new(hidden, shape), &self.device)
        };
        self.hidden.get_or_init(compute).clone()
    }
}
