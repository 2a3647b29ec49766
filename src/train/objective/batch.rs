//! Packed rows of tokens and the targets among them.

use burn::tensor::{Int, Tensor, TensorData};

pub use crate::data::pack::NextTokenBatch;
use crate::data::pack::PackedBatch;
use crate::model::{CausalLm, ModelInput, mask};

/// The tokens of a batch that the loss counts, one entry of each list per target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// Index of the hidden state that predicts the target, in `[rows, seq]` row-major: that of the token
    /// before it.
    pub predictors: Vec<usize>,
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether the target is an image code.
    pub is_image: Vec<bool>,
    /// Number of the source of the target's document.
    pub sources: Vec<u32>,
}

impl Targets {
    /// The targets of `batch`, in the order of its tokens.
    pub fn of(batch: &NextTokenBatch) -> Self {
        let (packed, mut targets) = (&batch.packed, Self::default());
        for token in (0..packed.ids.len()).filter(|&token| packed.loss_mask[token]) {
            targets.predictors.push(token - 1); // the first token of a document is never a target
            targets.ids.push(packed.ids[token]);
            targets.is_image.push(batch.is_image[token]);
            targets.sources.push(packed.sources[token]);
        }
        targets
    }

    /// The targets whose numbers are `wanted`, in their order.
    pub(in crate::train) fn only(&self, wanted: impl Fn(usize) -> bool) -> Self {
        let mut only = Self::default();
        for number in (0..self.len()).filter(|number| wanted(*number)) {
            only.predictors.push(self.predictors[number]);
            only.ids.push(self.ids[number]);
            only.is_image.push(self.is_image[number]);
            only.sources.push(self.sources[number]);
        }
        only
    }

    /// Number of targets.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no target.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// `batch` as tensors `[rows, seq]` on the device of `model`.
pub(in crate::train) fn input(model: &CausalLm, batch: &PackedBatch) -> ModelInput {
    let device = model.device();
    let tensor = |values: &[u32]| {
        let values: Vec<i32> = values.iter().map(|&v| v as i32).collect();
        let shape = [batch.rows, batch.seq_len];
        Tensor::<2, Int>::from_data(TensorData::new(values, shape), &device)
    };
    ModelInput {
        ids: tensor(&batch.ids),
        positions: tensor(&batch.positions),
        mask: mask::packed(&batch.document_ids, batch.rows, &device),
    }
}
