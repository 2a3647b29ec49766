//! The hand-written gradient of the convolution as a node of Burn's autodiff graph.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata};
use burn::tensor::Shape;

use super::backend::ConvOps;
use crate::ops::options::Geometry;

/// The backward passes of [`ConvOps`] on a backend.
pub trait ConvGradients: Backend {
    /// The gradient, of shape `input`, of a convolution's input.
    fn conv2d_input(
        dy: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        input: Shape,
        geometry: Geometry,
    ) -> FloatTensor<Self>;

    /// The gradients of a convolution's weight, of shape `weight`, and of its bias.
    fn conv2d_weight(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        weight: Shape,
        geometry: Geometry,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

#[derive(Debug)]
struct ConvStep;

/// Nodes and shapes of `x` and `weight`, and the geometry.
#[derive(Clone, Debug)]
struct ConvState {
    x: NodeId,
    weight: NodeId,
    shapes: [Shape; 2],
    geometry: Geometry,
}

impl<B: ConvGradients> Backward<B, 3> for ConvStep {
    type State = ConvState;

    fn backward(
        self,
        ops: Ops<ConvState, 3>,
        gradients: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let [x_node, weight_node, bias_node] = ops.parents;
        let dy = gradients.consume::<B>(&ops.node);
        let ConvState { x, weight, shapes: [x_shape, weight_shape], geometry } = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
        let weight: FloatTensor<B> = checkpointer.retrieve_node_output(weight);
        if let Some(node) = x_node {
            let dx = B::conv2d_input(dy.clone(), weight, x_shape, geometry);
            gradients.register::<B>(node.id, dx);
        }
        if weight_node.is_none() && bias_node.is_none() {
            return;
        }
        let (dw, db) = B::conv2d_weight(x, dy, weight_shape, geometry);
        for (node, gradient) in [(weight_node, dw), (bias_node, db)] {
            if let Some(node) = node {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: ConvOps + ConvGradients, C: CheckpointStrategy> ConvOps for Autodiff<B, C> {
    fn fused_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        match ConvStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut step) => {
                let shapes = [x.shape(), weight.shape()];
                let (x_node, weight_node) = (step.checkpoint(&x), step.checkpoint(&weight));
                let state = ConvState { x: x_node, weight: weight_node, shapes, geometry };
                let [x, weight, bias] = [x, weight, bias].map(|t| t.into_primitive());
                step.finish(state, B::fused_conv2d(x, weight, bias, geometry))
            }
            OpsKind::UnTracked(step) => {
                let [x, weight, bias] = [x, weight, bias].map(|t| t.into_primitive());
                step.finish(B::fused_conv2d(x, weight, bias, geometry))
            }
        }
    }
}
