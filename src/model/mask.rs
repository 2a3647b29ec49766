//! Which tokens a token may not see. `true` = hidden, Burn's convention.

use burn::tensor::{Bool, Device, Tensor, TensorData};

/// Hides the future of `seq` tokens, `[1, 1, seq, seq]`.
pub fn causal(seq: usize, device: &Device) -> Tensor<4, Bool> {
    let hidden = (0..seq * seq).map(|i| i % seq > i / seq).collect();
    tensor(hidden, [1, 1, seq, seq], device)
}

/// Hides the future and every other document of packed rows, `[rows, 1, seq, seq]`.
///
/// `document_ids` holds `rows * seq` numbers, equal within a document.
pub fn packed(document_ids: &[u32], rows: usize, device: &Device) -> Tensor<4, Bool> {
    let seq = document_ids.len() / rows.max(1);
    let mut hidden = Vec::with_capacity(rows * seq * seq);
    for row in document_ids.chunks_exact(seq.max(1)) {
        for (query, document) in row.iter().enumerate() {
            hidden.extend(row.iter().enumerate().map(|(key, other)| key > query || other != document));
        }
    }
    tensor(hidden, [rows, 1, seq, seq], device)
}

/// Hides the columns that are padding in their row, and the future among the newest `seq` columns.
///
/// `is_pad[row][column]` tells of every column of a cache, the newest included. The result is
/// `[rows, 1, seq, columns]`, or `None` when nothing is hidden.
pub fn padded(is_pad: &[Vec<bool>], seq: usize, device: &Device) -> Option<Tensor<4, Bool>> {
    let columns = is_pad.first().map_or(0, Vec::len);
    if seq == 1 && is_pad.iter().flatten().all(|pad| !pad) {
        return None;
    }
    let mut hidden = Vec::with_capacity(is_pad.len() * seq * columns);
    for row in is_pad {
        for query in columns - seq..columns {
            hidden.extend(row.iter().enumerate().map(|(key, &pad)| pad || key > query));
        }
    }
    Some(tensor(hidden, [is_pad.len(), 1, seq, columns], device))
}

fn tensor(hidden: Vec<bool>, shape: [usize; 4], device: &Device) -> Tensor<4, Bool> {
    Tensor::from_data(TensorData::new(hidden, shape), device)
}
