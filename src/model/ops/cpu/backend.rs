//! The kernels as operations of Burn's CPU backend.

use std::ops::Range;

use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, IndexingUpdateOp, TensorData};
use half::bf16;

use kernels::attention::{self, View};
use kernels::linear::FEW;
use kernels::matrix::{Matrix, Store, Term};
use kernels::memory::unspecified;
use kernels::rope::Norm;
use kernels::{Spans, linear, norm, product, rope, swiglu};

use crate::model::ops::fused::FusedKernels;

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
    sum_into(store, dst, [[lhs, rhs]]);
}

/// Of the sum of the products of pairs.
fn sum_into<const N: usize>(store: Store, dst: &mut [f32], pairs: [[FlexTensor; 2]; N]) {
    let [lhs, rhs] = &pairs[0];
    let [m, n] = [lhs.shape()[0], rhs.shape()[1]];
    let pairs = pairs.map(|pair| pair.map(lines_contiguous));
    let terms = pairs.each_ref().map(|[lhs, rhs]| Term {
        lhs: matrix(lhs),
        rhs: matrix(rhs),
        k: lhs.shape()[1],
    });
    product::sum(store, (dst, n), &terms, [m, n]);
}

/// The sum of the products of two pairs.
fn sum_of_products(pairs: [[FlexTensor; 2]; 2]) -> FlexTensor {
    let [[lhs, _], [_, rhs]] = &pairs;
    let [m, n] = [lhs.shape()[0], rhs.shape()[1]];
    let mut dst = unspecified(m * n);
    sum_into(Store::Overwrite, &mut dst, pairs);
    tensor(dst, &[m, n])
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

impl FusedKernels for Flex {
    /// In memory the result is `[batch, seq, heads, value_dim]`, so that joining the heads copies nothing.
    fn attention_forward(qkv: [FlexTensor; 3], first: FlexTensor, _: usize) -> [FlexTensor; 2] {
        let qkv = qkv.map(rows_contiguous);
        let inputs = attention_inputs(&qkv, &first);
        let ([batch, heads, seq, _], [.., value_dim]) = (inputs.q.dims, inputs.v.dims);
        let mut y = unspecified(batch * seq * heads * value_dim);
        let mut lse = unspecified(batch * seq * heads);
        attention::forward(inputs, &mut y, &mut lse);
        let y = tensor(y, &[batch, seq, heads, value_dim]);
        let layout = y.layout().transpose(1, 2); // [batch, heads, seq, value_dim]
        [y.with_layout(layout), tensor(lse, &[batch * seq * heads])]
    }

    fn attention_backward(
        qkv: [FlexTensor; 3],
        [y, lse]: [FlexTensor; 2],
        dy: FlexTensor,
        first: FlexTensor,
        _: usize,
    ) -> [FlexTensor; 3] {
        let (qkv, dy) = (qkv.map(rows_contiguous), rows_contiguous(dy));
        let [q, k, v] = &qkv;
        let (mut dq, mut dk, mut dv) = (like(q), zeros(k), zeros(v));
        let arrays = attention::Backward {
            y: view(&y),
            dy: view(&dy),
            lse: lse.storage(),
            dq: &mut dq,
            dk: &mut dk,
            dv: &mut dv,
        };
        attention::backward(attention_inputs(&qkv, &first), arrays);
        [tensor(dq, shape(q)), tensor(dk, shape(k)), tensor(dv, shape(v))]
    }

    /// A row's result does not depend on the other rows.
    fn linear_forward(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let [rows, inputs] = x.shape().dims();
        let outputs = weight.shape()[0];
        let (x, weight) = (contiguous(x), contiguous(weight));
        let x = floats(&x);
        let y = match weight.dtype() {
            DType::BF16 => linear::forward(x, &weight.storage::<bf16>()[place(&weight)], inputs),
            _ => linear::forward(x, floats(&weight), inputs),
        };
        tensor(y, &[rows, outputs])
    }

    /// In tiles for many rows, as training has; the order of arithmetic differs.
    fn linear_on_tape(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        if x.shape()[0] <= FEW {
            return Self::linear_forward(x, weight);
        }
        Self::product(x, transposed(weight))
    }

    /// The weight's gradient has the layout of the weight.
    fn linear_backward(
        x: Option<FlexTensor>,
        weight: FlexTensor,
        dy: FlexTensor,
        of_x: bool,
    ) -> [Option<FlexTensor>; 2] {
        let d_weight = x.map(|x| Self::product(transposed(dy.clone()), x));
        [of_x.then(|| Self::product(dy, weight)), d_weight]
    }

    /// One sum over the columns of `x` and the rank.
    fn low_rank_forward([x, weight, a, b]: [FlexTensor; 4], scale: f32) -> [FlexTensor; 2] {
        let low = Self::product(x.clone(), transposed(a));
        let low = Self::float_mul_scalar(low, scale.into());
        let y = match x.shape()[0] {
            ..=FEW => {
                Self::add_product(Self::linear_forward(x, weight), low.clone(), transposed(b))
            }
            _ => sum_of_products([[x, transposed(weight)], [low.clone(), transposed(b)]]),
        };
        [y, low]
    }

    fn low_rank_backward(
        [x, weight, a, b]: [FlexTensor; 4],
        low: FlexTensor,
        dy: FlexTensor,
        scale: f32,
        of_x: bool,
    ) -> [Option<FlexTensor>; 3] {
        let d_low = Self::float_mul_scalar(Self::product(dy.clone(), b), scale.into());
        let db = Self::product(transposed(dy.clone()), low);
        let da = Self::product(transposed(d_low.clone()), x);
        let dx = of_x.then(|| sum_of_products([[dy, weight], [d_low, a]]));
        [dx, Some(da), Some(db)]
    }

    fn rows_forward(matrix: FlexTensor, numbers: FlexTensor, dtype: DType) -> FlexTensor {
        Self::float_cast(Self::float_select(matrix, 0, numbers), dtype.into())
    }

    fn rows_backward(numbers: FlexTensor, dy: FlexTensor, rows: usize, dtype: DType) -> FlexTensor {
        let width = dy.shape()[1];
        let zeros = tensor(vec![0.0; rows * width], &[rows, width]);
        let dy = Self::float_cast(dy, dtype.into());
        Self::float_select_assign(zeros, 0, numbers, dy, IndexingUpdateOp::Add)
    }

    fn rms_norm_forward(x: FlexTensor, weight: FlexTensor, eps: f32) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), widened(weight).to_contiguous());
        let mut y = like(&x);
        norm::forward(x.storage(), weight.storage(), eps, &mut y);
        tensor(y, shape(&x))
    }

    fn rms_norm_backward(
        x: FlexTensor,
        weight: FlexTensor,
        dy: FlexTensor,
        eps: f32,
    ) -> [FlexTensor; 2] {
        let [x, weight, dy] = [x, weight, dy].map(|tensor| tensor.to_contiguous());
        let mut dx = like(&x);
        let d_weight = norm::backward(x.storage(), weight.storage(), dy.storage(), eps, &mut dx);
        [tensor(dx, shape(&x)), tensor(d_weight, shape(&weight))]
    }

    fn head_norm_rope_forward(
        norm: Norm,
        inputs: [FlexTensor; 5],
        factors: [f32; 2],
    ) -> FlexTensor {
        let tensors = inputs.map(|tensor| widened(tensor).to_contiguous());
        let inputs = rope_inputs(norm, &tensors, factors);
        let mut y = like(&tensors[0]);
        rope::forward(inputs, &mut y);
        let [batch, seq, heads, head_dim] = inputs.dims;
        tensor(y, &[batch, heads, seq, head_dim])
    }

    fn head_norm_rope_backward(
        norm: Norm,
        inputs: [FlexTensor; 5],
        dy: FlexTensor,
        factors: [f32; 2],
    ) -> [FlexTensor; 3] {
        let (tensors, dy) = (inputs.map(|tensor| tensor.to_contiguous()), dy.to_contiguous());
        let mut dx = like(&tensors[0]);
        let inputs = rope_inputs(norm, &tensors, factors);
        let (d_weight, d_bias) = rope::backward(inputs, dy.storage(), &mut dx);
        let [x, weight, bias, ..] = &tensors;
        let gradient = |values: Vec<f32>, of| match values.len() {
            0 => tensor(values, &[0]),
            _ => tensor(values, shape(of)),
        };
        [tensor(dx, shape(x)), gradient(d_weight, weight), gradient(d_bias, bias)]
    }

    fn swiglu_forward(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (gate, up) = (gate.to_contiguous(), up.to_contiguous());
        let mut y = like(&gate);
        swiglu::forward(gate.storage(), up.storage(), &mut y);
        tensor(y, shape(&gate))
    }

    /// In place if gate and up share their memory with no other tensor.
    fn swiglu_backward(gate: FlexTensor, up: FlexTensor, dy: FlexTensor) -> [FlexTensor; 2] {
        let [mut gate, mut up] = [gate, up].map(|tensor| tensor.to_contiguous());
        swiglu::backward(gate.storage_mut(), up.storage_mut(), dy.to_contiguous().storage());
        [gate, up]
    }
}

/// `weight` in f32, if it is in bfloat16.
fn widened(weight: FlexTensor) -> FlexTensor {
    match weight.dtype() {
        DType::BF16 => Flex::float_cast(weight, DType::F32.into()),
        _ => weight,
    }
}

fn transposed(matrix: FlexTensor) -> FlexTensor {
    let layout = matrix.layout().transpose(0, 1);
    matrix.with_layout(layout)
}

/// The tensor itself if its elements lie in one piece, as those of a range of rows do, otherwise a copy.
pub(super) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.layout().is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// The place of a contiguous tensor's elements in its storage.
pub(super) fn place(tensor: &FlexTensor) -> Range<usize> {
    let start = tensor.layout().start_offset();
    start..start + tensor.shape().num_elements()
}

/// The elements of a contiguous tensor.
pub(super) fn floats(tensor: &FlexTensor) -> &[f32] {
    &tensor.storage()[place(tensor)]
}

/// `first` comes as [`Mask::first`] makes it.
///
/// [`Mask::first`]: crate::model::Mask::first
fn attention_inputs<'a>(
    [q, k, v]: &'a [FlexTensor; 3],
    first: &'a FlexTensor,
) -> attention::Inputs<'a> {
    let spans = Spans { seq: first.shape()[1], first: first.storage() };
    attention::Inputs { q: view(q), k: view(k), v: view(v), spans }
}

fn rope_inputs<'a>(
    norm: Norm,
    [x, weight, bias, cos, sin]: &'a [FlexTensor; 5],
    [scale, eps]: [f32; 2],
) -> rope::Inputs<'a> {
    rope::Inputs {
        norm,
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
fn rows_contiguous(tensor: FlexTensor) -> FlexTensor {
    let strides = tensor.layout().strides();
    if strides.last() == Some(&1) && strides.iter().all(|stride| *stride >= 0) {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

fn view(tensor: &FlexTensor) -> View<'_> {
    let layout = tensor.layout();
    let stride = |axis: usize| layout.strides()[axis].unsigned_abs();
    View {
        data: &tensor.storage()[layout.start_offset()..],
        dims: layout.shape().dims(),
        strides: [stride(0), stride(1), stride(2)],
    }
}

/// Memory for a result with as many elements as `tensor`; see [`unspecified`].
fn like(tensor: &FlexTensor) -> Vec<f32> {
    unspecified(tensor.shape().num_elements())
}

fn shape(tensor: &FlexTensor) -> &[usize] {
    tensor.layout().shape()
}

fn zeros(like: &FlexTensor) -> Vec<f32> {
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
        let [got, want] = [range, all].map(|w| Flex::linear_forward(x.clone(), w));
        for row in 0..3 {
            let want = &want.storage::<f32>()[row * 10..][from..to];
            assert_eq!(&got.storage::<f32>()[row * (to - from)..][..to - from], want);
        }
    }
}
