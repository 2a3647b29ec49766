//! The fused operations under autodiff: they keep what [`FusedKernels`] asks for, and nothing else.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, TensorMetadata};
use burn::tensor::DType;

use super::{FusedKernels, FusedOps, HeadInputs, LowRankInputs, Qkv};

#[derive(Debug)]
struct AttentionBackward;

impl<B: FusedKernels> Backward<B, 3> for AttentionBackward {
    type State = (Qkv<B>, [FloatTensor<B>; 2], IntTensor<B>, usize);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        register::<B, _, 3>(ops, grads, |(qkv, y_and_lse, first, reach), dy| {
            B::attention_backward(qkv, y_and_lse, dy, first, reach)
        });
    }
}

#[derive(Debug)]
struct LinearBackward;

impl<B: FusedKernels> Backward<B, 2> for LinearBackward {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (x, weight) = ops.state;
        let wanted = [ops.parents[0].is_some(), ops.parents[1].is_some()];
        let found = B::linear_backward(x, weight, dy, wanted);
        for (input, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(node), Some(gradient)) = (input, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct LowRankBackward;

impl<B: FusedKernels> Backward<B, 3> for LowRankBackward {
    type State = (LowRankInputs<B>, FloatTensor<B>, f32);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (inputs, low, scale) = ops.state;
        let found = B::low_rank_backward(inputs, low, dy, scale, ops.parents[0].is_some());
        for (input, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(node), Some(gradient)) = (input, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct RowsBackward;

impl<B: FusedKernels> Backward<B, 1> for RowsBackward {
    type State = (IntTensor<B>, usize, DType);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        register::<B, _, 1>(ops, grads, |(numbers, rows, dtype), dy| {
            [B::rows_backward(numbers, dy, rows, dtype)]
        });
    }
}

#[derive(Debug)]
struct RmsNormBackward;

impl<B: FusedKernels> Backward<B, 2> for RmsNormBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, f32);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        register::<B, _, 2>(ops, grads, |(x, weight, eps), dy| {
            B::rms_norm_backward(x, weight, dy, eps)
        });
    }
}

#[derive(Debug)]
struct HeadNormRopeBackward;

impl<B: FusedKernels> Backward<B, 3> for HeadNormRopeBackward {
    type State = (HeadInputs<B>, [f32; 2]);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        register::<B, _, 3>(ops, grads, |(inputs, factors), dy| {
            B::head_norm_rope_backward(inputs, dy, factors)
        });
    }
}

#[derive(Debug)]
struct SwigluBackward;

impl<B: FusedKernels> Backward<B, 2> for SwigluBackward {
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        register::<B, _, 2>(ops, grads, |[gate, up], dy| B::swiglu_backward(gate, up, dy));
    }
}

/// Registers the gradients that `backward` returns for the inputs of an operation, as far as those are on the tape.
fn register<B: Backend, S, const N: usize>(
    ops: Ops<S, N>,
    grads: &mut Gradients,
    backward: impl FnOnce(S, FloatTensor<B>) -> [FloatTensor<B>; N],
) {
    let dy = grads.consume::<B>(&ops.node);
    for (input, gradient) in ops.parents.into_iter().zip(backward(ops.state, dy)) {
        if let Some(node) = input {
            grads.register::<B>(node.id, gradient);
        }
    }
}

impl<B: FusedKernels, C: CheckpointStrategy> FusedOps for Autodiff<B, C> {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        first: IntTensor<Self>,
        reach: usize,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node()];
        let qkv = [q, k, v].map(|tensor| tensor.into_primitive());
        let [y, lse] = B::attention_forward(qkv.clone(), first.clone(), reach);
        match AttentionBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((qkv, [y.clone(), lse], first, reach), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let y = B::linear_on_tape(x.clone(), weight.clone());
        match LinearBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, weight), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_low_rank(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), a.node(), b.node()];
        let inputs = [x, weight, a, b].map(|tensor| tensor.into_primitive());
        let [y, low] = B::low_rank_forward(inputs.clone(), scale);
        match LowRankBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((inputs, low, scale), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_rows(
        matrix: FloatTensor<Self>,
        numbers: IntTensor<Self>,
        dtype: DType,
    ) -> FloatTensor<Self> {
        let node = matrix.node();
        let matrix = matrix.into_primitive();
        let state = (numbers.clone(), matrix.shape()[0], matrix.dtype());
        let y = B::rows_forward(matrix, numbers, dtype);
        match RowsBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(state, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let y = B::rms_norm_forward(x.clone(), weight.clone(), eps);
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
        let inputs = [x, weight, bias, cos, sin].map(|tensor| tensor.into_primitive());
        let y = B::head_norm_rope_forward(inputs.clone(), factors);
        match HeadNormRopeBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((inputs, factors), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [gate.node(), up.node()];
        let [gate, up] = [gate, up].map(|tensor| tensor.into_primitive());
        let y = B::swiglu_forward(gate.clone(), up.clone());
        match SwigluBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish([gate, up], y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
