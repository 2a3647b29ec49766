//! From a loss on the last hidden states to the gradients of all weights.

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Gradients, Tensor};

use super::batch::input;
use crate::data::pack::PackedBatch;
use crate::model::{CausalLm, ModelInput};

/// How the backward pass obtains the activations of the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// The forward pass keeps them all.
    Keep,
    /// Activation checkpointing: the forward pass keeps only the input of each layer, the backward pass
    /// computes a layer again before it goes through it (arXiv 1604.06174). Memory holds the activations
    /// of one layer instead of all, for a third more work.
    Recompute {
        /// Seed of dropout: a layer is seeded before it is computed and again before it is recomputed.
        seed: u64,
    },
}

impl Activations {
    /// The choice of a recipe, for micro-batch `part` of a step whose dropout has the seed `seed`.
    pub(in crate::train) fn of(recompute: bool, seed: u64, part: usize) -> Self {
        match recompute {
            true => Self::Recompute {
                seed: seed.wrapping_mul(0x9E37_79B9).wrapping_add(part as u64) << 16,
            },
            false => Self::Keep,
        }
    }
}

/// The last hidden states of `batch` under `model`.
///
/// # Shapes
/// Returns `[rows, seq, hidden]`.
pub(in crate::train) fn hidden_of(model: &CausalLm, batch: &PackedBatch) -> Tensor<3> {
    model.hidden(input(model, batch))
}

/// The gradients of every weight of `model`, which lies on an autodiff device, over `batch`, and
/// the second value that `loss` returns.
///
/// `loss` maps the last hidden states after the final norm to a scalar to differentiate. It may use other
/// weights of the model, such as those of the output layer.
///
/// # Shapes
/// `loss` receives `[rows, seq, hidden]`.
///
/// # Panics
/// If the scalar does not depend on the hidden states.
pub fn backward<T>(
    model: &CausalLm,
    batch: &PackedBatch,
    activations: Activations,
    loss: impl FnOnce(Tensor<3>) -> (Tensor<1>, T),
) -> (GradientsParams, T) {
    backward_with(model, batch, activations, None, loss)
}

/// As [`backward`], with `noise` added to the embeddings.
///
/// # Shapes
/// `noise` `[rows, seq, hidden]`.
///
/// # Panics
/// As [`backward`].
pub fn backward_with<T>(
    model: &CausalLm,
    batch: &PackedBatch,
    activations: Activations,
    noise: Option<Tensor<3>>,
    loss: impl FnOnce(Tensor<3>) -> (Tensor<1>, T),
) -> (GradientsParams, T) {
    let input = input(model, batch);
    match activations {
        Activations::Keep => {
            let ModelInput { ids, positions, mask } = input;
            let x = with_noise(model.embed(ids), noise);
            let hidden = model.through_layers(x, &model.rope(positions), &mask, &mut |_| {});
            let (scalar, value) = loss(hidden);
            (GradientsParams::from_grads(scalar.backward(), model), value)
        }
        Activations::Recompute { seed } => by_layer(model, input, noise, seed, loss),
    }
}

fn with_noise(x: Tensor<3>, noise: Option<Tensor<3>>) -> Tensor<3> {
    match noise {
        Some(noise) => {
            let dtype = x.dtype();
            x + noise.cast(dtype)
        }
        None => x,
    }
}

/// The first pass through the layers has nothing to differentiate, so the tape keeps nothing of it: Burn frees what it
/// keeps in a backward pass only. Then each layer has a separate tape: with the gradient `dy` of its result the scalar
/// `sum(y * dy)` has the gradients of the whole loss.
fn by_layer<T>(
    model: &CausalLm,
    input: ModelInput,
    noise: Option<Tensor<3>>,
    seed: u64,
    loss: impl FnOnce(Tensor<3>) -> (Tensor<1>, T),
) -> (GradientsParams, T) {
    let ModelInput { ids, positions, mask } = input;
    let (rope, device) = (model.rope(positions), model.device());
    let layers = &model.model.layers;
    let seeded = |index: usize| {
        if model.has_dropout() {
            device.seed(seed.wrapping_add(index as u64));
        }
    };
    let mut gradients = GradientsAccumulator::new();
    let mut x = with_noise(model.embed(ids.clone()), noise).inner(); // [rows, seq, hidden]
    let mut inputs = Vec::with_capacity(layers.len());
    for (index, layer) in layers.iter().enumerate() {
        inputs.push(x.clone());
        seeded(index);
        let untracked = layer.clone().map(&mut Untracked);
        x = untracked.forward(Tensor::from_inner(x), &rope, &mask).inner();
    }

    let top = Tensor::from_inner(x).require_grad();
    let (scalar, value) = loss(model.model.norm.forward(top.clone()));
    let found = scalar.backward();
    let mut dy = gradient_of(&top, &found);
    gradients.accumulate(model, GradientsParams::from_grads(found, model));

    for (index, x) in inputs.into_iter().enumerate().rev() {
        let x = Tensor::from_inner(x).require_grad();
        seeded(index);
        let y = layers[index].forward(x.clone(), &rope, &mask);
        let found = (y * Tensor::from_inner(dy)).sum().backward();
        dy = gradient_of(&x, &found);
        gradients.accumulate(model, GradientsParams::from_grads(found, model));
    }
    let bottom = (model.embed(ids) * Tensor::from_inner(dy)).sum();
    // A frozen embedding leaves nothing to differentiate.
    if bottom.is_tracked() {
        let found = bottom.backward();
        gradients.accumulate(model, GradientsParams::from_grads(found, model));
    }
    (gradients.grads(), value)
}

/// Takes weights out of differentiation. Burn's `no_grad` does so to the original of a cloned module too, where its
/// weights are not initialised yet.
struct Untracked;

impl ModuleMapper for Untracked {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        Param::initialized(param.id, Tensor::from_inner(param.val().inner()))
    }
}

fn gradient_of(x: &Tensor<3>, found: &Gradients) -> Tensor<3> {
    x.grad(found).expect("the loss depends on the input of every layer")
}
