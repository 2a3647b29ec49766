//! From a loss on the last hidden states to the gradients of all weights.

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{DType, Gradients, Tensor};

use super::batch::input;
use super::routers::{Routed, RouterSums, RouterTerms};
use crate::data::pack::PackedBatch;
use crate::model::CausalLm;

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
    let (gradients, value, _) =
        backward_with(model, batch, activations, Additions::default(), loss);
    (gradients, value)
}

/// What is added on the way from embeddings to loss.
#[derive(Clone, Debug, Default)]
pub struct Additions<'a> {
    /// To the embeddings, `[rows, seq, hidden]`.
    pub noise: Option<Tensor<3>>,
    /// To the loss: those of routers.
    pub routers: Option<RouterTerms<'a>>,
}

/// As [`backward`], with `additions`; also returns what routers did and their part of the loss.
///
/// # Panics
/// As [`backward`].
pub fn backward_with<T>(
    model: &CausalLm,
    batch: &PackedBatch,
    activations: Activations,
    additions: Additions<'_>,
    loss: impl FnOnce(Tensor<3>) -> (Tensor<1>, T),
) -> (GradientsParams, T, (RouterSums, f64)) {
    match activations {
        Activations::Keep => {
            let Additions { noise, routers } = additions;
            let (x, surroundings) = model.begin(input(model, batch));
            let (hidden, routings) = model.routed(with_noise(x, noise), &surroundings, &mut |_| {});
            let (mut scalar, value) = loss(hidden);
            let routed = routers.and_then(|routers| routers.of(batch, &routings));
            if let Some(more) = routed.as_ref().and_then(Routed::total) {
                scalar = scalar + more;
            }
            let found = routed.map(|routed| routed.found).unwrap_or_default();
            (GradientsParams::from_grads(scalar.backward(), model), value, found)
        }
        Activations::Recompute { seed } => by_layer(model, batch, additions, seed, loss),
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
    batch: &PackedBatch,
    Additions { noise, routers }: Additions<'_>,
    seed: u64,
    loss: impl FnOnce(Tensor<3>) -> (Tensor<1>, T),
) -> (GradientsParams, T, (RouterSums, f64)) {
    let (input, device) = (input(model, batch), model.device());
    let ids = input.ids.clone();
    let (x, surroundings) = model.begin(input);
    let layers = &model.model.layers;
    let seeded = |index: usize| {
        if model.has_dropout() {
            device.seed(seed.wrapping_add(index as u64));
        }
    };
    let mut gradients = GradientsAccumulator::new();
    let mut x = with_noise(x, noise).inner(); // [rows, seq, hidden]
    let (mut inputs, mut routings) = (Vec::with_capacity(layers.len()), Vec::new());
    for (index, layer) in layers.iter().enumerate() {
        inputs.push(x.clone());
        seeded(index);
        let untracked = layer.clone().map(&mut Untracked);
        let (y, routing) = untracked.forward(Tensor::from_inner(x), &surroundings);
        x = y.inner();
        routings.extend(routing);
    }
    let routed = routers.and_then(|routers| routers.of(batch, &routings));

    let top = Tensor::from_inner(x).require_grad();
    let (scalar, value) = loss(model.model.norm.forward(top.clone()));
    let found = scalar.backward();
    let mut dy = gradient_of(&top, &found);
    gradients.accumulate(model, GradientsParams::from_grads(found, model));

    for (index, x) in inputs.into_iter().enumerate().rev() {
        let x = Tensor::from_inner(x).require_grad();
        seeded(index);
        let (y, routing) = layers[index].forward(x.clone(), &surroundings);
        let mut scalar = (y * Tensor::from_inner(dy)).sum();
        let added = routed.as_ref().map(|routed| &routed.loss).filter(|loss| !loss.is_zero());
        if let (Some(loss), Some(routing)) = (added, &routing) {
            scalar = scalar.cast(DType::F32) + loss.part(loss.sums(routing));
        }
        let found = scalar.backward();
        dy = gradient_of(&x, &found);
        gradients.accumulate(model, GradientsParams::from_grads(found, model));
    }
    let bottom = (model.embed(ids) * Tensor::from_inner(dy)).sum();
    // A frozen embedding leaves nothing to differentiate.
    if bottom.is_tracked() {
        let found = bottom.backward();
        gradients.accumulate(model, GradientsParams::from_grads(found, model));
    }
    (gradients.grads(), value, routed.map(|routed| routed.found).unwrap_or_default())
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::model::{ExpertLoads, ExpertsConfig, ModelConfig};

    /// A dense layer and two with experts.
    fn model() -> CausalLm {
        let experts = ExpertsConfig {
            n_shared_experts: 1,
            dense_layers: vec![0],
            router_aux_loss_coef: 0.1,
            ..ExpertsConfig::new(5, 2, 6)
        };
        let config = ModelConfig {
            vocab_size: 11,
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 3,
            num_attention_heads: 2,
            num_key_value_heads: 2,
            initializer_range: 0.4,
            experts: Some(experts),
            ..ModelConfig::default()
        };
        config.init(&Device::flex().autodiff()).unwrap()
    }

    /// Two rows, the second with padding.
    fn batch() -> PackedBatch {
        PackedBatch {
            ids: (0..18).map(|at| at * 5 % 11).collect(),
            document_ids: [vec![1; 14], vec![0; 4]].concat(),
            positions: (0..18).map(|at| at % 9).collect(),
            loss_mask: vec![true; 18],
            sources: vec![0; 18],
            rows: 2,
            seq_len: 9,
        }
    }

    #[test]
    fn recomputed_layers_have_the_gradients_of_the_losses_of_routers() {
        let (model, batch) = (model(), batch());
        let weights =
            Tensor::<1>::ones([2 * 9 * 8], &model.device()).cumsum(0).sin().reshape([2, 9, 8]);
        let (earlier, is_image) = (ExpertLoads::default(), [false; 18]);
        let gradients = |activations, balance| {
            let factors = [balance, 0.1 * balance];
            let routers = RouterTerms {
                factors,
                choices: model.experts().unwrap().choices(),
                tokens: 14,
                earlier: &earlier,
                is_image: &is_image,
            };
            let additions = Additions { noise: None, routers: Some(routers) };
            let loss = |hidden: Tensor<3>| ((hidden * weights.clone()).sum(), ());
            let (found, (), (sums, added)) =
                backward_with(&model, &batch, activations, additions, loss);
            assert_eq!((sums.loads.tokens, sums.loads.layers.len()), (14, 2));
            assert!(sums.loads.layers.iter().all(|loads| loads.iter().sum::<u64>() == 28));
            let gates = model.model.layers[1..].iter().map(|layer| {
                let crate::model::Mlp::Sparse(sparse) = &layer.mlp else { panic!("a dense layer") };
                let gradient = found.get::<2>(sparse.gate.weight.id).unwrap();
                gradient.into_data().iter::<f32>().collect::<Vec<_>>()
            });
            (gates.flatten().collect::<Vec<f32>>(), added)
        };
        let (kept, added) = gradients(Activations::Keep, 3.0);
        let (again, same) = gradients(Activations::Recompute { seed: 1 }, 3.0);
        assert!((added - same).abs() < 1e-5 && added > 3.0, "{added} {same}");
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(close(&kept, &again), "{kept:?} {again:?}");
        let (without, none) = gradients(Activations::Keep, 0.0);
        assert!(none == 0.0 && !close(&kept, &without), "the loss reaches the routers");
    }
}
