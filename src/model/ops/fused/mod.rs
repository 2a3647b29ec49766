//! The fused operations of the transformer as an extension of Burn's backends: what a backend's kernels compute, and
//! the functions on tensors that reach them. `tape.rs` makes them differentiable.

mod grouped;
mod tape;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Int, Shape, Tensor};

use kernels::rope::Norm;

use crate::model::Mask;
use crate::model::ops::{HeadNormOf, NormAndRope};

pub(crate) use grouped::{GroupedKernels, grouped_linear};

/// Queries, keys and values.
type Qkv<B> = [FloatTensor<B>; 3];
/// `x`, weight, bias, cosines and sines of [`FusedOps::fused_head_norm_rope`].
type HeadInputs<B> = [FloatTensor<B>; 5];

/// `x`, weight and both factors of [`FusedOps::fused_low_rank`].
type LowRankInputs<B> = [FloatTensor<B>; 4];

/// The kernels of a backend, forward and backward; `ops/mod.rs` says what each operation computes.
pub(crate) trait FusedKernels: Backend {
    /// The result of attention and the log-sum-exp of each query's scores; `first` as in [`Mask::first`] and `reach`
    /// as in [`Mask::reach`].
    fn attention_forward(
        qkv: Qkv<Self>,
        first: IntTensor<Self>,
        reach: usize,
    ) -> [FloatTensor<Self>; 2];

    /// The gradients of queries, keys and values; `y` and `lse` are the results of [`Self::attention_forward`].
    fn attention_backward(
        qkv: Qkv<Self>,
        y_and_lse: [FloatTensor<Self>; 2],
        dy: FloatTensor<Self>,
        first: IntTensor<Self>,
        reach: usize,
    ) -> Qkv<Self>;

    /// `x weight^T`.
    fn linear_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// As [`Self::linear_forward`] on an autodiff device.
    fn linear_on_tape(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::linear_forward(x, weight)
    }

    /// The gradients of `x`, if it is wanted, and of the weight, if there is an `x`.
    fn linear_backward(
        x: Option<FloatTensor<Self>>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        of_x: bool,
    ) -> [Option<FloatTensor<Self>>; 2];

    /// `x weight^T + scale (x a^T) b^T`, and `scale x a^T`.
    fn low_rank_forward(
        [x, weight, a, b]: LowRankInputs<Self>,
        scale: f32,
    ) -> [FloatTensor<Self>; 2] {
        let y = Self::linear_on_tape(x.clone(), weight);
        let low = Self::float_mul_scalar(Self::linear_on_tape(x, a), scale.into());
        [Self::float_add(y, Self::linear_on_tape(low.clone(), b)), low]
    }

    /// The gradients of `x`, `a` and `b`; of `x` if it is wanted. `low` is the second result of
    /// [`Self::low_rank_forward`].
    fn low_rank_backward(
        [x, weight, a, b]: LowRankInputs<Self>,
        low: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        scale: f32,
        of_x: bool,
    ) -> [Option<FloatTensor<Self>>; 3] {
        let [d_low, db] = Self::linear_backward(Some(low), b, dy.clone(), true);
        let d_low = d_low.map(|d_low| Self::float_mul_scalar(d_low, scale.into()));
        let d_low = d_low.expect("it is wanted");
        let [dx, da] = Self::linear_backward(Some(x), a, d_low, of_x);
        let [from_weight, _] = Self::linear_backward(None, weight, dy, of_x);
        let dx = dx.zip(from_weight).map(|(dx, more)| Self::float_add(dx, more));
        [dx, da, db]
    }

    /// The rows of a matrix that `numbers` name, in `dtype`.
    fn rows_forward(
        matrix: FloatTensor<Self>,
        numbers: IntTensor<Self>,
        dtype: DType,
    ) -> FloatTensor<Self>;

    /// The gradient of a matrix of `rows` rows, in `dtype`.
    fn rows_backward(
        numbers: IntTensor<Self>,
        dy: FloatTensor<Self>,
        rows: usize,
        dtype: DType,
    ) -> FloatTensor<Self>;

    /// RMSNorm over the last axis.
    fn rms_norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self>;

    /// The gradients of `x` and weight.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f32,
    ) -> [FloatTensor<Self>; 2];

    /// The norm of each head, rotation and scale; `factors` are the scale and the epsilon. What takes the place of a
    /// weight or bias that the norm does not have is not read.
    fn head_norm_rope_forward(
        norm: Norm,
        inputs: HeadInputs<Self>,
        factors: [f32; 2],
    ) -> FloatTensor<Self>;

    /// The gradients of `x`, weight and bias, anything for what the norm does not have.
    fn head_norm_rope_backward(
        norm: Norm,
        inputs: HeadInputs<Self>,
        dy: FloatTensor<Self>,
        factors: [f32; 2],
    ) -> [FloatTensor<Self>; 3];

    /// `silu(gate) * up`.
    fn swiglu_forward(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The gradients of gate and up.
    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2];
}

/// `x` as rows of its last axis.
fn flat<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape();
    let width = shape[shape.num_dims() - 1];
    let rows = shape.num_elements() / width.max(1);
    B::float_reshape(x, Shape::from([rows, width]))
}

/// Rows with the leading axes of `shape`.
fn unflat<B: Backend>(rows: FloatTensor<B>, mut shape: Shape) -> FloatTensor<B> {
    let last = shape.num_dims() - 1;
    shape[last] = rows.shape()[1];
    B::float_reshape(rows, shape)
}

/// `[batch, heads, seq, width]` as `[batch, seq, heads * width]`.
fn merged<B: Backend>(y: FloatTensor<B>) -> FloatTensor<B> {
    let [batch, heads, seq, width] = y.shape().dims();
    let y = B::float_swap_dims(y, 1, 2);
    B::float_reshape(y, Shape::from([batch, seq, heads * width]))
}

/// The operations that [`FusedKernels`] offer, with and without autodiff.
#[backend_extension(Autodiff, Flex: cfg(feature = "cpu"), Cube: cfg(feature = "gpu"))]
pub(crate) trait FusedOps: Backend {
    /// `softmax(q k^T) v` over the visible keys.
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        first: IntTensor<Self>,
        reach: usize,
    ) -> FloatTensor<Self>;

    /// The heads of every token side by side.
    fn fused_merge_heads(y: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `x weight^T`.
    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `x weight^T + scale (x a^T) b^T` over the last axis of `x`; the weight has no gradient.
    fn fused_low_rank(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self>;

    /// The rows of a matrix that `numbers` name, in `dtype`.
    fn fused_rows(
        matrix: FloatTensor<Self>,
        numbers: IntTensor<Self>,
        dtype: DType,
    ) -> FloatTensor<Self>;

    /// RMSNorm over the last axis.
    fn fused_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self>;

    /// The norm of each head, rotation and scale; `factors` are the scale and the epsilon. Anything that is not
    /// trained takes the place of a weight or bias that the norm does not have.
    fn fused_head_norm_rope(
        norm: Norm,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        factors: [f32; 2],
    ) -> FloatTensor<Self>;

    /// `silu(gate) * up`.
    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl<B: FusedKernels> FusedOps for B {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        first: IntTensor<Self>,
        reach: usize,
    ) -> FloatTensor<Self> {
        let [y, _] = B::attention_forward([q, k, v], first, reach);
        y
    }

    fn fused_merge_heads(y: FloatTensor<Self>) -> FloatTensor<Self> {
        merged::<B>(y)
    }

    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        B::linear_forward(x, weight)
    }

    fn fused_low_rank(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self> {
        let shape = x.shape();
        let x = flat::<B>(x);
        let y = B::linear_forward(x.clone(), weight);
        let low = B::float_mul_scalar(B::linear_forward(x, a), scale.into());
        unflat::<B>(B::float_add(y, B::linear_forward(low, b)), shape)
    }

    fn fused_rows(
        matrix: FloatTensor<Self>,
        numbers: IntTensor<Self>,
        dtype: DType,
    ) -> FloatTensor<Self> {
        B::rows_forward(matrix, numbers, dtype)
    }

    fn fused_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        B::rms_norm_forward(x, weight, eps)
    }

    fn fused_head_norm_rope(
        norm: Norm,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        factors: [f32; 2],
    ) -> FloatTensor<Self> {
        B::head_norm_rope_forward(norm, [x, weight, bias, cos, sin], factors)
    }

    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        B::swiglu_forward(gate, up)
    }
}

/// Any layout whose last axis is contiguous is read in place.
pub(crate) fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: &Mask) -> Tensor<4> {
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    let (first, reach) = (mask.first().into_dispatch(), mask.reach());
    Tensor::from_dispatch(Dispatch::fused_attention(q, k, v, first, reach))
}

pub(crate) fn merge_heads(y: Tensor<4>) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::fused_merge_heads(y.into_dispatch()))
}

pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::fused_linear(x.into_dispatch(), weight.into_dispatch()))
}

pub(crate) fn low_rank(
    x: Tensor<3>,
    weight: Tensor<2>,
    [a, b]: [Tensor<2>; 2],
    scale: f64,
) -> Tensor<3> {
    let x = x.into_dispatch();
    let [weight, a, b] = [weight, a, b].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::fused_low_rank(x, weight, a, b, scale as f32))
}

/// `dtype` is that of the result.
pub(crate) fn rows(matrix: Tensor<2>, numbers: Tensor<1, Int>, dtype: DType) -> Tensor<2> {
    let (matrix, numbers) = (matrix.into_dispatch(), numbers.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_rows(matrix, numbers, dtype))
}

pub(crate) fn rms_norm(x: Tensor<3>, weight: Tensor<1>, eps: f64) -> Tensor<3> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_rms_norm(x, weight, eps as f32))
}

pub(crate) fn head_norm_rope(x: Tensor<4>, with: NormAndRope) -> Tensor<4> {
    let [cos, sin] = with.cos_and_sin.map(Tensor::into_dispatch);
    let (norm, weight, bias) = match with.norm {
        HeadNormOf::LayerNorm { weight, bias } => {
            (Norm::Layer, weight.into_dispatch(), bias.into_dispatch())
        }
        HeadNormOf::Rms { weight } => (Norm::Rms, weight.into_dispatch(), cos.clone()),
        HeadNormOf::None => (Norm::None, cos.clone(), cos.clone()),
    };
    let factors = [with.scale as f32, with.eps as f32];
    let x = x.into_dispatch();
    Tensor::from_dispatch(Dispatch::fused_head_norm_rope(norm, x, weight, bias, cos, sin, factors))
}

pub(crate) fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::fused_swiglu(gate.into_dispatch(), up.into_dispatch()))
}
