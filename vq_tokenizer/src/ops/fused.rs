//! Group normalisation as an extension of Burn's backends: what a backend's kernels compute, and how that becomes
//! differentiable.

use std::fmt::Debug;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use super::options::GroupNormOptions;

/// The kernels of a backend, forward and backward.
pub(crate) trait NormKernels: Backend {
    /// What the forward pass keeps for the gradients.
    type Moments: Clone + Debug + Send + Sync + 'static;

    /// The result of [`NormOps::fused_group_norm`] for `[x, weight, bias]` and what its gradients need.
    fn group_norm_forward(
        tensors: [FloatTensor<Self>; 3],
        options: GroupNormOptions,
    ) -> (FloatTensor<Self>, Self::Moments);

    /// The gradients of input, weight and bias from `[x, weight, bias, dy]`.
    fn group_norm_backward(
        tensors: [FloatTensor<Self>; 4],
        moments: Self::Moments,
        options: GroupNormOptions,
    ) -> [FloatTensor<Self>; 3];
}

/// The operation that [`NormKernels`] offer, with and without autodiff.
#[backend_extension(Autodiff, Flex: cfg(feature = "cpu"), Cube: cfg(feature = "gpu"))]
pub(crate) trait NormOps: Backend {
    /// `x`, `[batch, channels, height, width]`, normalised by groups, times `weight` plus `bias`, both `[channels]`; then
    /// swish if asked.
    fn fused_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: GroupNormOptions,
    ) -> FloatTensor<Self>;
}

impl<B: NormKernels> NormOps for B {
    fn fused_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: GroupNormOptions,
    ) -> FloatTensor<Self> {
        B::group_norm_forward([x, weight, bias], options).0
    }
}

#[derive(Debug)]
struct NormStep;

/// Nodes of `[x, weight, bias]`, what the forward pass kept, and the options.
#[derive(Clone, Debug)]
struct NormState<M> {
    nodes: [NodeId; 3],
    moments: M,
    options: GroupNormOptions,
}

impl<B: NormKernels> Backward<B, 3> for NormStep {
    type State = NormState<B::Moments>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        gradients: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let dy = gradients.consume::<B>(&ops.node);
        let NormState { nodes, moments, options } = ops.state;
        let [x, weight, bias] = nodes.map(|node| checkpointer.retrieve_node_output(node));
        let inputs = B::group_norm_backward([x, weight, bias, dy], moments, options);
        for (node, gradient) in ops.parents.into_iter().zip(inputs) {
            if let Some(node) = node {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: NormKernels, C: CheckpointStrategy> NormOps for Autodiff<B, C> {
    fn fused_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: GroupNormOptions,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let inputs = [x, weight, bias];
        match NormStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut step) => {
                let nodes = inputs.each_ref().map(|tensor| step.checkpoint(tensor));
                let inputs = inputs.map(|tensor| tensor.into_primitive());
                let (y, moments) = B::group_norm_forward(inputs, options);
                step.finish(NormState { nodes, moments, options }, y)
            }
            OpsKind::UnTracked(step) => {
                let inputs = inputs.map(|tensor| tensor.into_primitive());
                step.finish(B::group_norm_forward(inputs, options).0)
            }
        }
    }
}

/// See [`super::group_norm`].
pub(super) fn group_norm(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    options: GroupNormOptions,
) -> Tensor<4> {
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_group_norm(x, weight, bias, options))
}
