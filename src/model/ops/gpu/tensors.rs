//! The kernels outside autodiff as functions on tensors, and which tensors they take.

use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use kernels::adamw::{AdamW, Factors};

use super::head_norm::HeadNorm;
use super::{
    cross_entropy as rows_of_logits, linear, muon as matrices, optimizer, paged, rms_norm, sampling,
};
use crate::model::ops::{Draws, HeadNormOf, Lanes, Muon, NormAndRope};

pub(crate) fn matmul(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    let (lhs, rhs) = (on_gpu(lhs), on_gpu(rhs));
    let dtype = lhs.dtype;
    from_gpu(linear::product(lhs, rhs, dtype))
}

pub(crate) fn add_matmul(sum: Tensor<2>, lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    sum + matmul(lhs, rhs)
}

pub(crate) fn add_rms_norm(
    x: Tensor<3>,
    y: Tensor<3>,
    weight: Tensor<1>,
    eps: f64,
) -> [Tensor<3>; 2] {
    rms_norm::add_forward(on_gpu(x), on_gpu(y), on_gpu(weight), eps as f32).map(from_gpu)
}

pub(crate) fn cross_entropy(
    logits: Tensor<2>,
    targets: Tensor<1, Int>,
    weights: Tensor<1>,
    z: f32,
) -> (Tensor<2>, Tensor<2>) {
    let targets = integers(targets);
    let [gradient, stats] =
        rows_of_logits::backward(on_gpu(logits), targets, on_gpu(weights), z).map(from_gpu);
    (gradient, stats)
}

pub(crate) fn token_stats(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<2> {
    from_gpu(rows_of_logits::forward(on_gpu(logits), integers(targets)))
}

pub(crate) fn draw(logits: Tensor<2>, draws: &Draws) -> Tensor<1, Int> {
    let table = integers(draws.table(&logits.device()));
    Tensor::from_primitive::<CubeBackend>(sampling::draw(on_gpu(logits), draws, table))
}

pub(crate) fn adamw<const D: usize>(
    update: AdamW,
    weight: Tensor<D>,
    moments: [Tensor<1>; 2],
    gradient: Tensor<1>,
) -> (Tensor<D>, [Tensor<1>; 2]) {
    let moments = moments.map(|moment| on_gpu(moment.cast(DType::F32)));
    let (weight, gradient) = (on_gpu(weight), on_gpu(gradient));
    let [weight, first, second] = optimizer::adamw(Factors::of(update), weight, moments, gradient);
    (from_gpu(weight), [from_gpu(first), from_gpu(second)])
}

pub(crate) fn muon<const D: usize>(
    update: Muon,
    weight: Tensor<D>,
    momentum: Tensor<1>,
    gradient: Tensor<1>,
) -> (Tensor<D>, Tensor<1>) {
    let momentum = on_gpu(momentum.cast(DType::F32));
    let [weight, momentum] = matrices::muon(update, on_gpu(weight), momentum, on_gpu(gradient));
    (from_gpu(weight), from_gpu(momentum))
}

pub(crate) fn sum_of_squares(tensors: Vec<Tensor<1>>) -> Tensor<1> {
    from_gpu(optimizer::sum_of_squares(tensors.into_iter().map(on_gpu).collect()))
}

/// Whether the kernels know the norm of `with`.
pub(crate) fn takes_norm(with: &NormAndRope) -> bool {
    matches!(with.norm, HeadNormOf::LayerNorm { .. })
}

/// With norms as [`takes_norm`] wants them.
pub(crate) fn paged_attention(
    qkv: [Tensor<4>; 3],
    norms: [NormAndRope; 2],
    cache: [Tensor<4>; 2],
    lanes: &Lanes<'_>,
) -> (Tensor<3>, [Tensor<4>; 2]) {
    let table = integers(lanes.table(&qkv[0].device()));
    let norms = norms.map(|with| {
        let HeadNormOf::LayerNorm { weight, bias } = with.norm else {
            unreachable!("the choice of kernels checks for LayerNorm")
        };
        HeadNorm {
            weight_and_bias: [weight, bias].map(on_gpu),
            cos_and_sin: with.cos_and_sin.map(on_gpu),
            factors: [with.scale as f32, with.eps as f32],
        }
    });
    let (y, cache) = paged::attention(qkv.map(on_gpu), norms, cache.map(on_gpu), table);
    (from_gpu(y), cache.map(from_gpu))
}

fn on_gpu<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
    let tensor = tensor.try_into_primitive::<CubeBackend>();
    tensor.expect("the choice of kernels checks for a GPU")
}

fn integers(tensor: Tensor<1, Int>) -> CubeTensor {
    let tensor = tensor.try_into_primitive::<CubeBackend>();
    tensor.expect("indices are on the device of the floats")
}

fn from_gpu<const D: usize>(tensor: CubeTensor) -> Tensor<D> {
    Tensor::from_primitive::<CubeBackend>(tensor)
}
