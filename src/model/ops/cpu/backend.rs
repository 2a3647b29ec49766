//! The fused operations as an extension of Burn's CPU backend; `gradient.rs` has their autodiff side.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, TensorData};
use half::bf16;

use kernels::attention::{self, View};
use kernels::matrix::{Matrix, Store};
use kernels::memory::unspecified;
use kernels::{Spans, linear, norm, product, rope, swiglu};

/// Matrix products of f32 tensors outside autodiff.
#[backend_extension(Flex)]
pub(crate) trait ProductOps: Backend {
    /// `lhs rhs`.
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `sum + lhs rhs`.
    fn add_product(
        sum: FloatTensor<Self>,
        lhs: FloatTensor<Self>,
        rhs: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl ProductOps for Flex {
    fn product(lhs: FlexTensor, rhs: FlexTensor) -> FlexTensor {
        let [m, n] = [lhs.shape()[0], rhs.shape()[1]];
        let mut dst = unspecified(m * n);
        product_into(Store::Overwrite, &mut dst, lhs, rhs);
        tensor(dst, &[m, n])
    }

    fn add_product(sum: FlexTensor, lhs: FlexTensor, rhs: FlexTensor) -> FlexTensor {
        let mut dst = sum.to_contiguous();
        drop(sum); // a second owner would force a copy
        product_into(Store::Add, dst.storage_mut(), lhs, rhs);
        dst
    }
}

fn product_into(store: Store, dst: &mut [f32], lhs: FlexTensor, rhs: FlexTensor) {
    let [m, k] = lhs.shape().dims();
    let [_, n] = rhs.shape().dims();
    let [lhs, rhs] = [lhs, rhs].map(lines_contiguous);
    product::large(store, (dst, n), matrix(&lhs), matrix(&rhs), [m, n, k]);
}

/// The tensor itself if its rows or its columns are contiguous and do not overlap, otherwise a copy.
fn lines_contiguous(tensor: FlexTensor) -> FlexTensor {
    let strides = tensor.layout().strides();
    let positive = strides.iter().all(|stride| *stride > 0);
    if positive && strides.contains(&1) { tensor } else { tensor.to_contiguous() }
}

fn matrix(tensor: &FlexTensor) -> Matrix<'_> {
    let layout = tensor.layout();
    let [row, column] = [0, 1].map(|axis| layout.strides()[axis].unsigned_abs());
    Matrix { data: &tensor.storage()[layout.start_offset()..], row, column }
}

/// Operations of the transformer on f32 tensors; `ops/mod.rs` says what each computes.
#[backend_extension(Autodiff, Flex)]
pub(crate) trait FusedOps: Backend {
    /// `softmax(q k^T) v` over the visible keys.
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spans: Arc<Spans>,
    ) -> FloatTensor<Self>;

    /// `x weight^T`.
    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// RMSNorm over the last axis.
    fn fused_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self>;

    /// LayerNorm per head, rotation and scale; `factors` are the scale and the epsilon.
    fn fused_head_norm_rope(
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

impl FusedOps for Flex {
    fn fused_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        spans: Arc<Spans>,
    ) -> FlexTensor {
        attention_forward(&[q, k, v].map(rows_contiguous), &spans).0
    }

    fn fused_linear(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let [rows, inputs] = x.shape().dims();
        let outputs = weight.shape()[0];
        let (x, weight) = (contiguous(x), contiguous(weight));
        let x = &x.storage::<f32>()[place(&x)];
        let y = match weight.dtype() {
            DType::BF16 => linear::forward(x, &weight.storage::<bf16>()[place(&weight)], inputs),
            _ => linear::forward(x, &weight.storage::<f32>()[place(&weight)], inputs),
        };
        tensor(y, &[rows, outputs])
    }

    fn fused_rms_norm(x: FlexTensor, weight: FlexTensor, eps: f32) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let mut y = like(&x);
        norm::forward(x.storage(), weight.storage(), eps, &mut y);
        tensor(y, x.shape().as_slice())
    }

    fn fused_head_norm_rope(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        cos: FlexTensor,
        sin: FlexTensor,
        factors: [f32; 2],
    ) -> FlexTensor {
        let tensors = [x, weight, bias, cos, sin].map(|tensor| tensor.to_contiguous());
        let inputs = rope_inputs(&tensors, factors);
        let mut y = like(&tensors[0]);
        rope::forward(inputs, &mut y);
        let [batch, seq, heads, head_dim] = inputs.dims;
        tensor(y, &[batch, heads, seq, head_dim])
    }

    fn fused_swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (gate, up) = (gate.to_contiguous(), up.to_contiguous());
        let mut y = like(&gate);
        swiglu::forward(gate.storage(), up.storage(), &mut y);
        tensor(y, gate.shape().as_slice())
    }
}

/// The tensor itself if its elements lie in one piece, as those of a range of rows do, otherwise a copy.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.layout().is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// The place of a contiguous tensor's elements in its storage.
fn place(tensor: &FlexTensor) -> Range<usize> {
    let start = tensor.layout().start_offset();
    start..start + tensor.shape().num_elements()
}

/// Result and log-sum-exp. In memory the result is `[batch, seq, heads, head_dim]`, so that joining the
/// heads copies nothing.
pub(super) fn attention_forward(inputs: &[FlexTensor; 3], spans: &Spans) -> (FlexTensor, Vec<f32>) {
    let inputs = attention_inputs(inputs, spans);
    let [batch, heads, seq, head_dim] = inputs.q.dims;
    let mut y = unspecified(batch * seq * heads * head_dim);
    let mut lse = unspecified(batch * seq * heads);
    attention::forward(inputs, &mut y, &mut lse);
    let y = tensor(y, &[batch, seq, heads, head_dim]);
    let layout = y.layout().transpose(1, 2); // [batch, heads, seq, head_dim]
    (y.with_layout(layout), lse)
}

pub(super) fn attention_inputs<'a>(
    [q, k, v]: &'a [FlexTensor; 3],
    spans: &'a Spans,
) -> attention::Inputs<'a> {
    attention::Inputs { q: view(q), k: view(k), v: view(v), spans }
}

pub(super) fn rope_inputs<'a>(
    [x, weight, bias, cos, sin]: &'a [FlexTensor; 5],
    [scale, eps]: [f32; 2],
) -> rope::Inputs<'a> {
    rope::Inputs {
        x: x.storage(),
        weight: weight.storage(),
        bias: bias.storage(),
        cos: cos.storage(),
        sin: sin.storage(),
        scale,
        eps,
        dims: x.shape().dims(),
    }
}

/// The tensor itself if its last axis is contiguous and no stride is negative, otherwise a copy.
pub(super) fn rows_contiguous(tensor: FlexTensor) -> FlexTensor {
    let strides = tensor.layout().strides();
    if strides.last() == Some(&1) && strides.iter().all(|stride| *stride >= 0) {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

pub(super) fn view(tensor: &FlexTensor) -> View<'_> {
    let layout = tensor.layout();
    let stride = |axis: usize| layout.strides()[axis].unsigned_abs();
    View {
        data: &tensor.storage()[layout.start_offset()..],
        dims: layout.shape().dims(),
        strides: [stride(0), stride(1), stride(2)],
    }
}

/// Memory for a result with as many elements as `tensor`; see [`unspecified`].
pub(super) fn like(tensor: &FlexTensor) -> Vec<f32> {
    unspecified(tensor.shape().num_elements())
}

pub(super) fn zeros(like: &FlexTensor) -> Vec<f32> {
    vec![0.0; like.shape().num_elements()]
}

pub(super) fn tensor(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_weight_rows_is_read_in_place() {
        let numbers = |len: usize| (0..len).map(|n| n as f32 * 0.1 - 3.0).collect::<Vec<_>>();
        let (x, all) = (tensor(numbers(12), &[3, 4]), tensor(numbers(40), &[10, 4]));
        let (from, to) = (3, 8);
        let range = all.clone().with_layout(all.layout().narrow(0, from, to - from));
        let start = |tensor: &FlexTensor| tensor.storage::<f32>()[place(tensor)].as_ptr();
        let rows = contiguous(range.clone());
        assert_eq!(start(&rows), all.storage::<f32>()[from * 4..].as_ptr());
        let [got, want] = [range, all].map(|w| Flex::fused_linear(x.clone(), w));
        for row in 0..3 {
            let want = &want.storage::<f32>()[row * 10..][from..to];
            assert_eq!(&got.storage::<f32>()[row * (to - from)..][..to - from], want);
        }
    }
}
