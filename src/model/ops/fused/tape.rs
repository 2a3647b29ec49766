//! The fused operations under autodiff: they keep what [`FusedKernels`] asks for, and nothing else.
//!
//! What is cheap to compute is computed again in the backward pass where that saves memory: layers with an adapter's
//! factors ask for their input by its number on the tape, and norms with frozen weights, SwiGLU and merged heads say how
//! they are computed. Layers whose own weight is trained keep their input.

use std::marker::PhantomData;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::strategy::{BalancedCheckpointing, CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, ComputePropertyDone, Ops, OpsKind, OpsPrep};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, TensorMetadata};
use burn::tensor::{DType, Shape};

use kernels::rope::Norm;

use super::{FusedKernels, FusedOps, flat, merged, unflat};

#[derive(Debug)]
struct AttentionBackward;

impl<B: FusedKernels> Backward<B, 3> for AttentionBackward {
    type State = ([NodeId; 3], [FloatTensor<B>; 2], IntTensor<B>, usize);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, kept: &mut Checkpointer) {
        register::<B, _, 3>(ops, grads, |(qkv, y_and_lse, first, reach), dy| {
            let qkv = qkv.map(|node| kept.retrieve_node_output(node));
            B::attention_backward(qkv, y_and_lse, dy, first, reach)
        });
    }
}

#[derive(Debug)]
struct MergeHeadsBackward;

impl<B: FusedKernels> Backward<B, 1> for MergeHeadsBackward {
    type State = Shape;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        register::<B, _, 1>(ops, grads, |shape, dy| {
            let [batch, heads, seq, width] = shape.dims();
            let dy = B::float_reshape(dy, Shape::from([batch, seq, heads, width]));
            [B::float_swap_dims(dy, 1, 2)]
        });
    }
}

#[derive(Debug)]
struct LinearBackward;

impl<B: FusedKernels> Backward<B, 2> for LinearBackward {
    /// The input, if the weight is trained, and the weight.
    type State = (Option<FloatTensor<B>>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (x, weight) = ops.state;
        let found = B::linear_backward(x, weight, dy, ops.parents[0].is_some());
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
    type State = (NodeId, [FloatTensor<B>; 3], FloatTensor<B>, f32);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, kept: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (x, [weight, a, b], low, scale) = ops.state;
        let x: FloatTensor<B> = kept.retrieve_node_output(x);
        let shape = x.shape();
        let inputs = [flat::<B>(x), weight, a, b];
        let of_x = ops.parents[0].is_some();
        let [dx, da, db] = B::low_rank_backward(inputs, low, flat::<B>(dy), scale, of_x);
        let found = [dx.map(|dx| unflat::<B>(dx, shape)), da, db];
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
    type State = (NodeId, FloatTensor<B>, f32);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, kept: &mut Checkpointer) {
        register::<B, _, 2>(ops, grads, |(x, weight, eps), dy| {
            B::rms_norm_backward(kept.retrieve_node_output(x), weight, dy, eps)
        });
    }
}

#[derive(Debug)]
struct HeadNormRopeBackward;

impl<B: FusedKernels> Backward<B, 3> for HeadNormRopeBackward {
    type State = (Norm, NodeId, [FloatTensor<B>; 4], [f32; 2]);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, kept: &mut Checkpointer) {
        register::<B, _, 3>(ops, grads, |(norm, x, [weight, bias, cos, sin], factors), dy| {
            let inputs = [kept.retrieve_node_output(x), weight, bias, cos, sin];
            B::head_norm_rope_backward(norm, inputs, dy, factors)
        });
    }
}

#[derive(Debug)]
struct SwigluBackward;

impl<B: FusedKernels> Backward<B, 2> for SwigluBackward {
    type State = [NodeId; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, kept: &mut Checkpointer) {
        register::<B, _, 2>(ops, grads, |inputs, dy| {
            let [gate, up] = inputs.map(|node| kept.retrieve_node_output(node));
            B::swiglu_backward(gate, up, dy)
        });
    }
}

/// How a result is computed again from the results of other nodes.
struct Again<F, const N: usize> {
    inputs: [NodeId; N],
    forward: F,
}

impl<F, const N: usize> std::fmt::Debug for Again<F, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Again({:?})", self.inputs)
    }
}

impl<T, F, const N: usize> RetroForward for Again<(F, PhantomData<fn(T)>), N>
where
    T: Clone + Send + 'static,
    F: Fn([T; N]) -> T + Send + 'static,
{
    fn forward(&self, states: &mut BackwardStates, node: NodeId) {
        let inputs = self.inputs.map(|input| states.get_state::<T>(&input));
        states.save(node, (self.forward.0)(inputs));
    }
}

/// An operation whose result is computed again by `forward` for every operation that asks for it by its number, instead
/// of being kept; that of inputs off the tape is kept.
fn computed_again<O, B, const N: usize, const M: usize>(
    prep: OpsPrep<O, B, O::State, BalancedCheckpointing, N>,
    inputs: [&FloatTensor<Autodiff<B>>; M],
    forward: impl Fn([FloatTensor<B>; M]) -> FloatTensor<B> + Send + 'static,
) -> OpsPrep<O, B, O::State, BalancedCheckpointing, N, ComputePropertyDone>
where
    O: Backward<B, N>,
    B: Backend,
{
    let forward = (forward, PhantomData);
    let again = Again { inputs: inputs.map(|input| input.id()), forward };
    prep.memory_bound().retro_forward(again).parents(inputs)
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
        let qkv = [&q, &k, &v].map(|tensor| tensor.primitive().clone());
        let [y, lse] = B::attention_forward(qkv, first.clone(), reach);
        match AttentionBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let qkv = [&q, &k, &v].map(|tensor| prep.checkpoint(tensor));
                prep.finish((qkv, [y.clone(), lse], first, reach), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_merge_heads(y: FloatTensor<Self>) -> FloatTensor<Self> {
        let prep = MergeHeadsBackward.prepare::<BalancedCheckpointing>([y.node()]);
        let (shape, all) = (y.shape(), merged::<B>(y.primitive().clone()));
        match computed_again(prep, [&y], |[y]| merged::<B>(y)).stateful() {
            OpsKind::Tracked(prep) => prep.finish(shape, all),
            OpsKind::UnTracked(prep) => prep.finish(all),
        }
    }

    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (nodes, is_trained) = ([x.node(), weight.node()], weight.is_tracked());
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let y = B::linear_on_tape(x.clone(), weight.clone());
        match LinearBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((is_trained.then_some(x), weight), y),
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
        let matrices = [weight, a, b].map(|tensor| tensor.into_primitive());
        let [weight, a, b] = matrices.clone();
        let [y, low] = B::low_rank_forward([flat::<B>(x.primitive().clone()), weight, a, b], scale);
        let y = unflat::<B>(y, x.shape());
        match LowRankBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let x = prep.checkpoint(&x);
                prep.finish((x, matrices, low, scale), y)
            }
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
        let is_frozen = !weight.is_tracked();
        let prep = RmsNormBackward.prepare::<BalancedCheckpointing>([x.node(), weight.node()]);
        let weight = weight.into_primitive();
        let y = B::rms_norm_forward(x.primitive().clone(), weight.clone(), eps);
        let again =
            |weight: FloatTensor<B>| move |[x]: [_; 1]| B::rms_norm_forward(x, weight.clone(), eps);
        let prep = match is_frozen {
            true => computed_again(prep, [&x], again(weight.clone())),
            false => prep.compute_bound(),
        };
        match prep.stateful() {
            OpsKind::Tracked(mut prep) => {
                let x = prep.checkpoint(&x);
                prep.finish((x, weight, eps), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    /// The cosines in place of a weight or bias are not on the tape and get no gradient.
    fn fused_head_norm_rope(
        norm: Norm,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        factors: [f32; 2],
    ) -> FloatTensor<Self> {
        let is_frozen = !weight.is_tracked() && !bias.is_tracked();
        let nodes = [x.node(), weight.node(), bias.node()];
        let prep = HeadNormRopeBackward.prepare::<BalancedCheckpointing>(nodes);
        let with = [weight, bias, cos, sin].map(|tensor| tensor.into_primitive());
        let forward = move |x, with: [FloatTensor<B>; 4]| {
            let [weight, bias, cos, sin] = with;
            B::head_norm_rope_forward(norm, [x, weight, bias, cos, sin], factors)
        };
        let y = forward(x.primitive().clone(), with.clone());
        let again = with.clone();
        let prep = match is_frozen {
            true => computed_again(prep, [&x], move |[x]| forward(x, again.clone())),
            false => prep.compute_bound(),
        };
        match prep.stateful() {
            OpsKind::Tracked(mut prep) => {
                let x = prep.checkpoint(&x);
                prep.finish((norm, x, with, factors), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let inputs = [&gate, &up];
        let prep =
            SwigluBackward.prepare::<BalancedCheckpointing>(inputs.map(|input| input.node()));
        let forward = |[gate, up]: [FloatTensor<B>; 2]| B::swiglu_forward(gate, up);
        let y = forward(inputs.map(|input| input.primitive().clone()));
        let prep = computed_again(prep, inputs, forward);
        match prep.stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = inputs.map(|input| prep.checkpoint(input));
                prep.finish(state, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
