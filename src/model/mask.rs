//! Which tokens a token may not see.

use std::sync::{Arc, OnceLock};

use burn::tensor::{Bool, Device, Tensor, TensorData};

use super::spans::Spans;

/// The visible keys of every query of a batch.
///
/// All masks here show a query the keys from some first one up to itself, less padding, so a few
/// numbers per query say it all; the matrix of truth values is only made for backends that need it.
#[derive(Clone, Debug)]
pub struct Mask {
    spans: Arc<Spans>,
    device: Device,
    hidden: Arc<OnceLock<Tensor<4, Bool>>>,
}

/// Hides the future of `seq` tokens, for any number of rows.
pub fn causal(seq: usize, device: &Device) -> Mask {
    let spans = Spans { rows: 1, seq, keys: seq, first: vec![0; seq], padding: Vec::new() };
    Mask::new(spans, device)
}

/// Hides the future and every other document of packed rows.
///
/// `document_ids` holds `rows * seq` numbers; a document is a run of equal ones within a row.
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
    Mask::new(Spans { rows, seq, keys: seq, first, padding: Vec::new() }, device)
}

/// Hides the columns that are padding in their row, and the future among the newest `seq` columns.
///
/// `is_pad[row][column]` tells of every column of a cache, the newest included. `None` when nothing
/// is hidden.
pub fn padded(is_pad: &[Vec<bool>], seq: usize, device: &Device) -> Option<Mask> {
    let keys = is_pad.first().map_or(0, Vec::len);
    let any = is_pad.iter().flatten().any(|pad| *pad);
    if seq == 1 && !any {
        return None;
    }
    let padding = if any { is_pad.concat() } else { Vec::new() };
    let rows = is_pad.len();
    Some(Mask::new(Spans { rows, seq, keys, first: vec![0; rows * seq], padding }, device))
}

impl Mask {
    fn new(spans: Spans, device: &Device) -> Self {
        Self { spans: Arc::new(spans), device: device.clone(), hidden: Arc::default() }
    }

    #[cfg_attr(not(feature = "cpu"), expect(dead_code, reason = "for the fused attention"))]
    pub(crate) fn spans(&self) -> Arc<Spans> {
        self.spans.clone()
    }

    /// `[rows or 1, 1, seq, keys]`, `true` = hidden: Burn's convention. Made once.
    pub fn tensor(&self) -> Tensor<4, Bool> {
        let make = || {
            let spans = &self.spans;
            let mut hidden = Vec::with_capacity(spans.rows * spans.seq * spans.keys);
            for row in 0..spans.rows {
                for query in 0..spans.seq {
                    hidden.extend((0..spans.keys).map(|key| spans.hides(row, query, key)));
                }
            }
            let shape = [spans.rows, 1, spans.seq, spans.keys];
            Tensor::from_data(TensorData::new(hidden, shape), &self.device)
        };
        self.hidden.get_or_init(make).clone()
    }
}
