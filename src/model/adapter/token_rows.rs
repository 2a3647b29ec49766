//! Rows of embedding or head that replace those of some ids.

use burn::module::{Module, Param};
use burn::tensor::{Bool, DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};

use crate::model::ops;

/// Trained rows for some ids. They replace the model's rows; PEFT's files call them a delta.
#[derive(Module, Debug)]
pub struct TokenRows {
    /// `[len, hidden]`, in the order of the ids.
    pub values: Param<Tensor<2>>,
    ids: Vec<usize>,
}

impl TokenRows {
    /// The rows of `ids` in `weight`, to be trained.
    ///
    /// # Shapes
    /// `weight` `[vocab, hidden]`.
    pub(super) fn of(weight: &Tensor<2>, ids: &[u32]) -> Self {
        let ids: Vec<usize> = ids.iter().map(|id| *id as usize).collect();
        let numbers = numbers(&ids, &weight.device().inner());
        let values = weight.clone().inner().select(0, numbers).cast(DType::F32);
        let values = match weight.device().is_autodiff() {
            true => Tensor::from_inner(values).require_grad(),
            false => values,
        };
        Self { values: Param::from_tensor(values), ids }
    }

    /// Rows that are known, outside of training.
    ///
    /// # Shapes
    /// `values` `[len, hidden]`.
    pub fn known(values: Tensor<2>, ids: &[u32]) -> Self {
        let ids = ids.iter().map(|id| *id as usize).collect();
        Self { values: Param::from_tensor(values), ids }
    }

    /// `rows`, which are those of `numbers`, with these rows in their places.
    ///
    /// # Shapes
    /// `rows` `[len, hidden]`, `numbers` `[len]`; `vocab` is the number of ids.
    pub(crate) fn replace(
        &self,
        rows: Tensor<2>,
        numbers: Tensor<1, Int>,
        vocab: usize,
    ) -> Tensor<2> {
        // 0 for ids without a row here, otherwise the row's number from 1.
        let mut places = vec![0; vocab];
        self.ids.iter().zip(1..).for_each(|(id, place)| places[*id] = place);
        let places = TensorData::new::<i32, _>(places, [vocab]);
        let places = Tensor::<1, Int>::from_data(places, &numbers.device()).select(0, numbers);
        let [_, hidden] = rows.dims();
        let values = self.values.val();
        let none = Tensor::zeros([1, hidden], (&values.device(), values.dtype()));
        let own = ops::rows(Tensor::cat(vec![none, values], 0), places.clone(), rows.dtype());
        let has_own = places.greater_elem(0).unsqueeze_dim::<2>(1).expand(rows.dims());
        rows.mask_where(has_own, own)
    }

    /// The whole matrix with these rows in their places, in f32.
    ///
    /// # Shapes
    /// `weight` `[vocab, hidden]`; returns the same.
    pub fn merge(&self, weight: Tensor<2>) -> Tensor<2> {
        let [vocab, hidden] = weight.dims();
        let values = self.values.val();
        let device = values.device();
        let mut replaced = vec![false; vocab];
        self.ids.iter().for_each(|id| replaced[*id] = true);
        let replaced = TensorData::new::<bool, _>(replaced, [vocab, 1]);
        let replaced = Tensor::<2, Bool>::from_data(replaced, &device);
        let weight = weight.cast(DType::F32).mask_fill(replaced.expand([vocab, hidden]), 0.0);
        let numbers = numbers(&self.ids, &device);
        weight.select_assign(0, numbers, values, IndexingUpdateOp::Add)
    }
}

fn numbers(ids: &[usize], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    let len = ids.len();
    Tensor::from_data(TensorData::new(ids, [len]), device)
}
