//! Products with a weight of every head on the CPU, outside autodiff.

use std::ops::Range;

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

use kernels::paged::heads::{HeadWeights, Numbers};

use super::backend::{contiguous, floats, place, tensor};

/// Products of `x` with the rows `part` of every head's weight, `[heads, out, in]`.
#[backend_extension(Flex)]
trait HeadOps: Backend {
    /// `x W`.
    fn head_product(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        part: Range<usize>,
    ) -> FloatTensor<Self>;

    /// `x W^T`.
    fn head_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        part: Range<usize>,
    ) -> FloatTensor<Self>;
}

impl HeadOps for Flex {
    fn head_product(x: FlexTensor, weight: FlexTensor, part: Range<usize>) -> FlexTensor {
        with_weights(x, weight, part, |weights, x| weights.product(x))
    }

    fn head_linear(x: FlexTensor, weight: FlexTensor, part: Range<usize>) -> FlexTensor {
        with_weights(x, weight, part, |weights, x| weights.transposed_product(x))
    }
}

fn with_weights(
    x: FlexTensor,
    weight: FlexTensor,
    part: Range<usize>,
    product: impl FnOnce(&HeadWeights<'_>, &[f32]) -> Vec<f32>,
) -> FlexTensor {
    let (x, weight) = (contiguous(x), contiguous(weight));
    let shape: [usize; 3] = weight.shape().dims();
    let numbers = match weight.dtype() {
        DType::BF16 => Numbers::Bf16(&weight.storage()[place(&weight)]),
        _ => Numbers::F32(floats(&weight)),
    };
    let y = product(&HeadWeights { numbers, shape, part }, floats(&x));
    let [rows, heads] = [x.shape()[0], shape[0]];
    let width = y.len() / (rows * heads);
    tensor(y, &[rows, heads, width])
}

pub(crate) fn head_product(x: Tensor<3>, weight: Tensor<3>, part: Range<usize>) -> Tensor<3> {
    let [x, weight] = [x, weight].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::head_product(x, weight, part))
}

pub(crate) fn head_linear(x: Tensor<3>, weight: Tensor<3>, part: Range<usize>) -> Tensor<3> {
    let [x, weight] = [x, weight].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::head_linear(x, weight, part))
}
