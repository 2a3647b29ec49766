//! Attention masks: which keys are hidden from a query.

use std::sync::{Arc, OnceLock};

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};

/// The visible keys of every query of a batch.
///
/// In every mask, a query sees an interval of keys that ends with its own, and no interval begins before that of an
/// earlier query of its row: kernels skip tiles by that. A mask holds where the intervals begin; the matrix of
/// booleans is only computed for operations that need it.
#[derive(Clone, Debug)]
pub struct Mask {
    /// The first key that each query sees, `[rows, seq]` in i32, off the tape; one row stands for any number of
    /// equal rows.
    first: Tensor<2, Int>,
    /// The most keys that a query sees.
    reach: usize,
    device: Device,
    /// Off the tape.
    hidden: Arc<OnceLock<Tensor<4, Bool>>>,
}

/// A mask that hides the future, for any number of rows of `seq` tokens.
pub fn causal(seq: usize, device: &Device) -> Mask {
    Mask::new(vec![0; seq], [1, seq], device)
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
            first.push(start as i32);
        }
    }
    Mask::new(first, [rows, seq], device)
}

impl Mask {
    fn new(first: Vec<i32>, shape: [usize; 2], device: &Device) -> Self {
        let seen = |(at, first): (usize, &i32)| at % shape[1] + 1 - *first as usize;
        let reach = first.iter().enumerate().map(seen).max().unwrap_or(0);
        let first = TensorData::new(first, shape);
        let first = Tensor::from_data(first, (&device.clone().inner(), DType::I32));
        Self { first, reach, device: device.clone(), hidden: Arc::default() }
    }

    /// The first key that each query sees, off the tape.
    ///
    /// # Shapes
    /// Returns `[rows, seq]` in i32, with `rows` = 1 where all rows are equal.
    pub fn first(&self) -> Tensor<2, Int> {
        self.first.clone()
    }

    /// The most keys that a query sees, its own included: the length of the longest document.
    pub fn reach(&self) -> usize {
        self.reach
    }

    /// The mask as booleans, `true` = hidden (Burn's convention); computed once.
    ///
    /// # Shapes
    /// Returns `[rows, 1, seq, seq]`, with `rows` = 1 where all rows are equal.
    pub fn tensor(&self) -> Tensor<4, Bool> {
        let compute = || {
            let [rows, seq] = self.first.dims();
            let places = Tensor::<1, Int>::arange(0..seq as i64, &self.first.device());
            let places = places.cast(DType::I32);
            let keys = places.clone().reshape([1, 1, seq]).expand([rows, seq, seq]);
            let queries = places.reshape([1, seq, 1]).expand([rows, seq, seq]);
            let first = self.first.clone().reshape([rows, seq, 1]).expand([rows, seq, seq]);
            let hidden = keys.clone().greater(queries).bool_or(keys.lower(first));
            hidden.reshape([rows, 1, seq, seq])
        };
        let hidden = self.hidden.get_or_init(compute).clone();
        if self.device.is_autodiff() { Tensor::from_inner(hidden) } else { hidden }
    }
}
