//! Products of groups of rows with a matrix for each, with and without autodiff.
//!
//! One operation for all groups: the gradient of a slice of the matrices would be as large as all of them, once for
//! each group.

use std::ops::Range;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Slice, Tensor};
use kernels::grouped::filled;

use super::FusedKernels;

/// The kernels of a backend: by default the linear operation's, group after group.
///
/// Rows are `[rows, in]`, those of a group after those of the group before; `counts` are their numbers. Weights are
/// `[groups, out, in]`.
pub(crate) trait GroupedKernels: FusedKernels {
    /// `x_g weight_g^T`.
    fn grouped_forward(
        x: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        counts: &[usize],
    ) -> FloatTensor<Self> {
        let products = filled(counts).map(|(group, rows)| {
            let weight = matrix::<Self>(weights.clone(), group);
            Self::linear_forward(rows_of::<Self>(x.clone(), rows), weight)
        });
        Self::float_cat(products.collect(), 0)
    }

    /// As [`Self::grouped_forward`] on an autodiff device.
    fn grouped_on_tape(
        x: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        counts: &[usize],
    ) -> FloatTensor<Self> {
        Self::grouped_forward(x, weights, counts)
    }

    /// The gradients of `x`, if it is wanted, and of the weights, if there is an `x`.
    fn grouped_backward(
        x: Option<FloatTensor<Self>>,
        weights: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        counts: &[usize],
        of_x: bool,
    ) -> [Option<FloatTensor<Self>>; 2] {
        let (shape, dtype) = (weights.shape(), weights.dtype());
        let [_, outputs, inputs] = shape.dims();
        let zeros = || Self::float_zeros(shape.clone(), &weights.device(), dtype.into());
        let mut d_weights = x.is_some().then(zeros);
        let mut dx = Vec::new();
        for (group, rows) in filled(counts) {
            let x = x.clone().map(|x| rows_of::<Self>(x, rows.clone()));
            let (weight, dy) =
                (matrix::<Self>(weights.clone(), group), rows_of::<Self>(dy.clone(), rows));
            let [of_rows, of_weight] = Self::linear_backward(x, weight, dy, of_x);
            dx.extend(of_rows);
            d_weights = d_weights.zip(of_weight).map(|(all, one)| {
                let one = Self::float_reshape(one, Shape::from([1, outputs, inputs]));
                Self::float_slice_assign(all, &[Slice::from(group..group + 1)], one)
            });
        }
        [of_x.then(|| Self::float_cat(dx, 0)), d_weights]
    }
}

fn rows_of<B: Backend>(all: FloatTensor<B>, rows: Range<usize>) -> FloatTensor<B> {
    B::float_slice(all, &[Slice::from(rows)])
}

/// `[out, in]` of `[groups, out, in]`.
fn matrix<B: Backend>(weights: FloatTensor<B>, group: usize) -> FloatTensor<B> {
    let [_, outputs, inputs] = weights.shape().dims();
    let one = B::float_slice(weights, &[Slice::from(group..group + 1)]);
    B::float_reshape(one, Shape::from([outputs, inputs]))
}

/// The operation that [`GroupedKernels`] offer, with and without autodiff.
#[backend_extension(Autodiff, Flex: cfg(feature = "cpu"), Cube: cfg(feature = "gpu"))]
pub(crate) trait GroupedOps: Backend {
    /// `x_g weight_g^T`.
    fn fused_grouped(
        x: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        counts: Vec<usize>,
    ) -> FloatTensor<Self>;
}

impl<B: GroupedKernels> GroupedOps for B {
    fn fused_grouped(
        x: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        counts: Vec<usize>,
    ) -> FloatTensor<Self> {
        B::grouped_forward(x, weights, &counts)
    }
}

#[derive(Debug)]
struct GroupedBackward;

impl<B: GroupedKernels> Backward<B, 2> for GroupedBackward {
    /// The input, if the weights are trained, the weights, and the rows of each group.
    type State = (Option<FloatTensor<B>>, FloatTensor<B>, Vec<usize>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (x, weights, counts) = ops.state;
        let found = B::grouped_backward(x, weights, dy, &counts, ops.parents[0].is_some());
        for (input, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(node), Some(gradient)) = (input, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: GroupedKernels, C: CheckpointStrategy> GroupedOps for Autodiff<B, C> {
    fn fused_grouped(
        x: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        counts: Vec<usize>,
    ) -> FloatTensor<Self> {
        let (nodes, are_trained) = ([x.node(), weights.node()], weights.is_tracked());
        let (x, weights) = (x.into_primitive(), weights.into_primitive());
        let y = B::grouped_on_tape(x.clone(), weights.clone(), &counts);
        match GroupedBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((are_trained.then_some(x), weights, counts), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

pub(crate) fn grouped_linear(x: Tensor<2>, weights: Tensor<3>, counts: &[usize]) -> Tensor<2> {
    let (x, weights) = (x.into_dispatch(), weights.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_grouped(x, weights, counts.to_vec()))
}
