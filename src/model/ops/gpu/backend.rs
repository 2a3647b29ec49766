//! The kernels as fused operations of Burn's GPU backend.

use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use kernels::rope::Norm;

use super::attention_products::Chunks;
use super::{
    attention, attention_backward, attention_products, head_norm, linear, rms_norm, rows, swiglu,
};
use crate::model::ops::fused::{FusedKernels, GroupedKernels};

impl FusedKernels for CubeBackend {
    fn attention_forward(qkv: [CubeTensor; 3], first: CubeTensor, reach: usize) -> [CubeTensor; 2] {
        match Chunks::of(&qkv, reach) {
            Some(chunks) => attention_products::forward(qkv, first, chunks),
            None => attention::forward(qkv, first),
        }
    }

    fn attention_backward(
        qkv: [CubeTensor; 3],
        y_and_lse: [CubeTensor; 2],
        dy: CubeTensor,
        first: CubeTensor,
        reach: usize,
    ) -> [CubeTensor; 3] {
        match Chunks::of(&qkv, reach) {
            Some(chunks) => attention_products::backward(qkv, y_and_lse, dy, first, chunks),
            None => attention_backward::backward(qkv, y_and_lse, dy, first),
        }
    }

    fn linear_forward(x: CubeTensor, weight: CubeTensor) -> CubeTensor {
        linear::forward(x, weight)
    }

    fn linear_backward(
        x: Option<CubeTensor>,
        weight: CubeTensor,
        dy: CubeTensor,
        of_x: bool,
    ) -> [Option<CubeTensor>; 2] {
        linear::backward(x, weight, dy, of_x)
    }

    fn rows_forward(matrix: CubeTensor, numbers: CubeTensor, dtype: DType) -> CubeTensor {
        rows::forward(matrix, rows::flat(numbers), dtype)
    }

    fn rows_backward(numbers: CubeTensor, dy: CubeTensor, rows: usize, dtype: DType) -> CubeTensor {
        rows::backward(rows::flat(numbers), dy, rows, dtype)
    }

    fn rms_norm_forward(x: CubeTensor, weight: CubeTensor, eps: f32) -> CubeTensor {
        rms_norm::forward(x, weight, eps)
    }

    fn rms_norm_backward(
        x: CubeTensor,
        weight: CubeTensor,
        dy: CubeTensor,
        eps: f32,
    ) -> [CubeTensor; 2] {
        rms_norm::backward(x, weight, dy, eps)
    }

    fn head_norm_rope_forward(
        norm: Norm,
        inputs: [CubeTensor; 5],
        factors: [f32; 2],
    ) -> CubeTensor {
        assert_eq!(norm, Norm::Layer, "the choice of kernels checks for LayerNorm");
        head_norm::forward(inputs, factors)
    }

    fn head_norm_rope_backward(
        _: Norm,
        inputs: [CubeTensor; 5],
        dy: CubeTensor,
        factors: [f32; 2],
    ) -> [CubeTensor; 3] {
        head_norm::backward(inputs, dy, factors)
    }

    fn swiglu_forward(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
        swiglu::forward(gate, up)
    }

    fn swiglu_backward(gate: CubeTensor, up: CubeTensor, dy: CubeTensor) -> [CubeTensor; 2] {
        swiglu::backward(gate, up, dy)
    }
}

impl GroupedKernels for CubeBackend {}
