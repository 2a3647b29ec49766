//! The rows of experts on the CPU, with and without autodiff.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use kernels::experts::{self, Places};
use kernels::memory::unspecified;
use kernels::swiglu;

use super::backend::{contiguous, floats, tensor};

/// What `ops/experts.rs` says, in f32.
#[backend_extension(Autodiff, Flex)]
pub(crate) trait ExpertOps: Backend {
    /// SwiGLU of rows of a gate and its up.
    fn swiglu_halves(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// A row for each assignment.
    fn dispatch_rows(x: FloatTensor<Self>, places: Vec<i32>) -> FloatTensor<Self>;

    /// The weighted sums of the rows of tokens.
    fn combine_rows(
        x: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        places: Vec<i32>,
    ) -> FloatTensor<Self>;
}

/// Those of rows like `rows` for `tokens`.
fn places<'a>(of: &'a [i32], tokens: usize, rows: &FlexTensor) -> Places<'a> {
    Places { of, chosen: of.len() / tokens, width: rows.shape()[1] }
}

impl ExpertOps for Flex {
    fn swiglu_halves(x: FlexTensor) -> FlexTensor {
        let ([rows, width], x) = (x.shape().dims(), contiguous(x));
        let mut y = unspecified(rows * width / 2);
        swiglu::halves_forward(floats(&x), width / 2, &mut y);
        tensor(y, &[rows, width / 2])
    }

    fn dispatch_rows(x: FlexTensor, of: Vec<i32>) -> FlexTensor {
        let ([tokens, width], x) = (x.shape().dims(), contiguous(x));
        let y = experts::dispatch(places(&of, tokens, &x), floats(&x));
        tensor(y, &[of.len(), width])
    }

    fn combine_rows(x: FlexTensor, weights: FlexTensor, of: Vec<i32>) -> FlexTensor {
        let [tokens, _] = weights.shape().dims();
        let (x, weights) = (contiguous(x), contiguous(weights));
        let places = places(&of, tokens, &x);
        let y = experts::combine(places, floats(&x), Some(floats(&weights)));
        tensor(y, &[tokens, places.width])
    }
}

#[derive(Debug)]
struct HalvesBackward;

impl Backward<Flex, 1> for HalvesBackward {
    type State = FlexTensor;

    /// In place if the input shares its memory with no other tensor.
    fn backward(self, ops: Ops<FlexTensor, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        // A second owner would force a copy.
        let ([node], [mut x]) = (ops.parents, [ops.state].map(|x| x.to_contiguous()));
        let inner = dy.shape()[1];
        swiglu::halves_backward(x.storage_mut(), inner, floats(&dy));
        if let Some(node) = node {
            grads.register::<Flex>(node.id, x);
        }
    }
}

#[derive(Debug)]
struct DispatchBackward;

impl Backward<Flex, 1> for DispatchBackward {
    /// Places and the number of tokens.
    type State = (Vec<i32>, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let ([node], (of, tokens)) = (ops.parents, ops.state);
        if let Some(node) = node {
            let places = places(&of, tokens, &dy);
            let dx = experts::combine(places, floats(&dy), None);
            grads.register::<Flex>(node.id, tensor(dx, &[tokens, places.width]));
        }
    }
}

#[derive(Debug)]
struct CombineBackward;

impl Backward<Flex, 2> for CombineBackward {
    /// Rows, weights and places.
    type State = (FlexTensor, FlexTensor, Vec<i32>);

    /// In place if the rows share their memory with no other tensor.
    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let (x, weights, of) = ops.state;
        // A second owner would force a copy.
        let ([mut x], weights) = ([x].map(|x| x.to_contiguous()), contiguous(weights));
        let places = places(&of, weights.shape()[0], &x);
        let dw = experts::combine_backward(places, x.storage_mut(), floats(&weights), floats(&dy));
        let dw = tensor(dw, weights.layout().shape());
        for (node, gradient) in ops.parents.into_iter().zip([x, dw]) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

impl<C: CheckpointStrategy> ExpertOps for Autodiff<Flex, C> {
    fn swiglu_halves(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (node, x) = (x.node(), x.into_primitive());
        let y = Flex::swiglu_halves(x.clone());
        match HalvesBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(x, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn dispatch_rows(x: FloatTensor<Self>, places: Vec<i32>) -> FloatTensor<Self> {
        let (node, tokens) = (x.node(), x.shape()[0]);
        let y = Flex::dispatch_rows(x.into_primitive(), places.clone());
        match DispatchBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((places, tokens), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn combine_rows(
        x: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        places: Vec<i32>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weights.node()];
        let (x, weights) = (x.into_primitive(), weights.into_primitive());
        let y = Flex::combine_rows(x.clone(), weights.clone(), places.clone());
        match CombineBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, weights, places), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

pub(crate) fn swiglu_halves(x: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::swiglu_halves(x.into_dispatch()))
}

pub(crate) fn dispatch(x: Tensor<2>, places: &[i32]) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::dispatch_rows(x.into_dispatch(), places.to_vec()))
}

pub(crate) fn combine(x: Tensor<2>, weights: Tensor<2>, places: &[i32]) -> Tensor<2> {
    let (x, weights) = (x.into_dispatch(), weights.into_dispatch());
    Tensor::from_dispatch(Dispatch::combine_rows(x, weights, places.to_vec()))
}
