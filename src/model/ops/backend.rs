//! The fused operations as an extension of Burn's CPU backend, with their gradients.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::TensorData;

use super::attention::{self, View};
use super::{norm, rope, swiglu};
use crate::model::spans::Spans;

/// Operations of the transformer on f32 tensors, each one pass over its inputs.
#[backend_extension(Autodiff, Flex)]
pub(crate) trait FusedOps: Backend {
    /// See [`super::attention()`].
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spans: Option<Arc<Spans>>,
    ) -> FloatTensor<Self>;

    /// See [`super::rms_norm`].
    fn fused_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self>;

    /// See [`super::head_norm_rope`]; `factors` are the scale and the epsilon.
    fn fused_head_norm_rope(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        factors: [f32; 2],
    ) -> FloatTensor<Self>;

    /// See [`super::swiglu()`].
    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl FusedOps for Flex {
    fn fused_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        spans: Option<Arc<Spans>>,
    ) -> FlexTensor {
        attention_forward(&[q, k, v].map(rows_contiguous), spans.as_deref()).0
    }

    fn fused_rms_norm(x: FlexTensor, weight: FlexTensor, eps: f32) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let mut y = zeros(&x);
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
        let mut y = zeros(&tensors[0]);
        rope::forward(inputs, &mut y);
        let [batch, seq, heads, head_dim] = inputs.dims;
        tensor(y, &[batch, heads, seq, head_dim])
    }

    fn fused_swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (gate, up) = (gate.to_contiguous(), up.to_contiguous());
        let mut y = zeros(&gate);
        swiglu::forward(gate.storage(), up.storage(), &mut y);
        tensor(y, gate.shape().as_slice())
    }
}

#[derive(Debug)]
struct AttentionBackward;

/// `q`, `k` and `v`, the result and its log-sum-exp, and what is visible.
type AttentionState = ([FlexTensor; 3], FlexTensor, Arc<Vec<f32>>, Option<Arc<Spans>>);

impl Backward<Flex, 3> for AttentionBackward {
    type State = AttentionState;

    fn backward(self, ops: Ops<AttentionState, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = rows_contiguous(grads.consume::<Flex>(&ops.node));
        let (inputs, y, lse, spans) = ops.state;
        let [mut dq, mut dk, mut dv] = inputs.each_ref().map(zeros);
        let arrays = attention::Backward {
            y: view(&y),
            dy: view(&dy),
            lse: &lse,
            dq: &mut dq,
            dk: &mut dk,
            dv: &mut dv,
        };
        attention::backward(attention_inputs(&inputs, spans.as_deref()), arrays);
        for ((parent, input), gradient) in ops.parents.iter().zip(&inputs).zip([dq, dk, dv]) {
            if let Some(node) = parent {
                grads.register::<Flex>(node.id, tensor(gradient, input.shape().as_slice()));
            }
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
        let mut dx = zeros(&x);
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
        let mut dx = zeros(&tensors[0]);
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
        spans: Option<Arc<Spans>>,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node()];
        let inputs = [q, k, v].map(|tensor| rows_contiguous(tensor.into_primitive()));
        let (y, lse) = attention_forward(&inputs, spans.as_deref());
        match AttentionBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((inputs, y.clone(), Arc::new(lse), spans), y),
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

/// Result and log-sum-exp. The result lies as `[batch, seq, heads, head_dim]`, so that joining the
/// heads copies nothing.
fn attention_forward(inputs: &[FlexTensor; 3], spans: Option<&Spans>) -> (FlexTensor, Vec<f32>) {
    let inputs = attention_inputs(inputs, spans);
    let [batch, heads, seq, head_dim] = inputs.q.dims;
    let mut y = vec![0.0; batch * seq * heads * head_dim];
    let mut lse = vec![0.0; batch * seq * heads];
    attention::forward(inputs, &mut y, &mut lse);
    let y = tensor(y, &[batch, seq, heads, head_dim]);
    let layout = y.layout().transpose(1, 2); // [batch, heads, seq, head_dim]
    (y.with_layout(layout), lse)
}

fn attention_inputs<'a>(
    [q, k, v]: &'a [FlexTensor; 3],
    spans: Option<&'a Spans>,
) -> attention::Inputs<'a> {
    attention::Inputs { q: view(q), k: view(k), v: view(v), spans }
}

fn rope_inputs<'a>(
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

/// The tensor itself when its last axis is contiguous and no axis runs backwards, else a copy.
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

fn zeros(like: &FlexTensor) -> Vec<f32> {
    vec![0.0; like.shape().num_elements()]
}

fn tensor(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}
