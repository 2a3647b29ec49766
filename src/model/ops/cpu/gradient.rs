//! The fused operations under autodiff: the state that each keeps for its backward pass, and that
//! pass.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, TensorMetadata};

use super::backend::{
    FusedOps, ProductOps, attention_forward, attention_inputs, like, rope_inputs, rows_contiguous,
    tensor, view, zeros,
};
use kernels::{Spans, attention, norm, rope, swiglu};

/// Rows up to which the linear operation outside autodiff is also the faster one. For many, as training has,
/// the product in tiles is; its order of arithmetic differs.
const FEW: usize = 16;

#[derive(Debug)]
struct AttentionBackward;

/// `q`, `k` and `v`, the result and its log-sum-exp, and the visible keys.
type AttentionState = ([FlexTensor; 3], FlexTensor, Arc<Vec<f32>>, Arc<Spans>);

impl Backward<Flex, 3> for AttentionBackward {
    type State = AttentionState;

    fn backward(self, ops: Ops<AttentionState, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = rows_contiguous(grads.consume::<Flex>(&ops.node));
        let (inputs, y, lse, spans) = ops.state;
        let [q, k, v] = &inputs;
        let (mut dq, mut dk, mut dv) = (like(q), zeros(k), zeros(v));
        let arrays = attention::Backward {
            y: view(&y),
            dy: view(&dy),
            lse: &lse,
            dq: &mut dq,
            dk: &mut dk,
            dv: &mut dv,
        };
        attention::backward(attention_inputs(&inputs, &spans), arrays);
        for ((parent, input), gradient) in ops.parents.iter().zip(&inputs).zip([dq, dk, dv]) {
            if let Some(node) = parent {
                grads.register::<Flex>(node.id, tensor(gradient, input.shape().as_slice()));
            }
        }
    }
}

#[derive(Debug)]
struct LinearBackward;

impl Backward<Flex, 2> for LinearBackward {
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node); // [rows, out]
        let (x, weight) = ops.state;
        let [x_node, weight_node] = ops.parents;
        if let Some(node) = weight_node {
            let layout = dy.layout().transpose(0, 1); // [out, rows]
            let d_weight = Flex::product(dy.clone().with_layout(layout), x);
            grads.register::<Flex>(node.id, d_weight);
        }
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, Flex::product(dy, weight));
        }
    }
}

#[derive(Debug)]
struct RmsNormBackward;

impl Backward<Flex, 2> for RmsNormBackward {
    type State = (FlexTensor, FlexTensor, f32);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (x, weight, eps) = ops.state;
        let mut dx = like(&x);
        let d_weight = norm::backward(x.storage(), weight.storage(), dy.storage(), eps, &mut dx);
        let [x_node, weight_node] = ops.parents;
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, tensor(dx, x.shape().as_slice()));
        }
        if let Some(node) = weight_node {
            grads.register::<Flex>(node.id, tensor(d_weight, weight.shape().as_slice()));
        }
    }
}

#[derive(Debug)]
struct HeadNormRopeBackward;

impl Backward<Flex, 3> for HeadNormRopeBackward {
    type State = ([FlexTensor; 5], [f32; 2]);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (tensors, factors) = ops.state;
        let mut dx = like(&tensors[0]);
        let inputs = rope_inputs(&tensors, factors);
        let (d_weight, d_bias) = rope::backward(inputs, dy.storage(), &mut dx);
        let gradients = [dx, d_weight, d_bias];
        for ((parent, input), gradient) in ops.parents.iter().zip(&tensors).zip(gradients) {
            if let Some(node) = parent {
                grads.register::<Flex>(node.id, tensor(gradient, input.shape().as_slice()));
            }
        }
    }
}

#[derive(Debug)]
struct SwigluBackward;

impl Backward<Flex, 2> for SwigluBackward {
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (mut gate, mut up) = ops.state;
        swiglu::backward(gate.storage_mut(), up.storage_mut(), dy.storage());
        for (parent, gradient) in ops.parents.iter().zip([gate, up]) {
            if let Some(node) = parent {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

impl<C: CheckpointStrategy> FusedOps for Autodiff<Flex, C> {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spans: Arc<Spans>,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node()];
        let inputs = [q, k, v].map(|tensor| rows_contiguous(tensor.into_primitive()));
        let (y, lse) = attention_forward(&inputs, &spans);
        match AttentionBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((inputs, y.clone(), Arc::new(lse), spans), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let y = if x.shape()[0] > FEW {
            let layout = weight.layout().transpose(0, 1); // [in, out]
            Flex::product(x.clone(), weight.clone().with_layout(layout))
        } else {
            Flex::fused_linear(x.clone(), weight.clone())
        };
        match LinearBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, weight), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let x = x.into_primitive().to_contiguous();
        let weight = weight.into_primitive().to_contiguous();
        let y = Flex::fused_rms_norm(x.clone(), weight.clone(), eps);
        match RmsNormBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, weight, eps), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_head_norm_rope(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        factors: [f32; 2],
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let tensors = [x, weight, bias, cos, sin];
        let tensors = tensors.map(|tensor| tensor.into_primitive().to_contiguous());
        let [x, weight, bias, cos, sin] = tensors.clone();
        let y = Flex::fused_head_norm_rope(x, weight, bias, cos, sin, factors);
        match HeadNormRopeBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((tensors, factors), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [gate.node(), up.node()];
        let [gate, up] = [gate, up].map(|tensor| tensor.into_primitive().to_contiguous());
        let y = Flex::fused_swiglu(gate.clone(), up.clone());
        match SwigluBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((gate, up), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
