//! The sparse layer against a loop over tokens and experts, and its symmetries.

#![allow(clippy::unwrap_used, reason = "tests")]

use burn::module::{Module, ModuleMapper};
use burn::tensor::{DType, Distribution, Int, Tensor, TensorData};

use super::*;
use crate::model::ops::{Kernels, forced};
use crate::model::{ExpertGroups, RouterLoss, RouterScores};

const HIDDEN: usize = 12;
const INNER: usize = 7;

/// Softmax, `num_experts` experts, of which `num_experts_per_tok` are chosen.
fn experts(num_experts: usize, num_experts_per_tok: usize) -> ExpertsConfig {
    ExpertsConfig::new(num_experts, num_experts_per_tok, INNER)
}

/// As DeepSeek-V3: sigmoid, groups, a factor and shared experts.
fn grouped() -> ExpertsConfig {
    ExpertsConfig {
        n_shared_experts: 2,
        scores: RouterScores::Sigmoid,
        routed_scaling_factor: 2.5,
        groups: Some(ExpertGroups { n_group: 4, topk_group: 2, by_two_best: true }),
        ..experts(8, 3)
    }
}

fn layer(experts: &ExpertsConfig, device: &Device) -> SparseFeedForward {
    let config =
        ModelConfig { hidden_size: HIDDEN, initializer_range: 0.4, ..ModelConfig::default() };
    init::seed(3);
    let mut layer = SparseFeedForward::new(&config, experts, device);
    if let Some(bias) = &mut layer.gate.e_score_correction_bias {
        let values = (0..experts.num_experts).map(|at| (at * 5 % 8) as f32 * 0.1).collect();
        let values = TensorData::new::<f32, _>(values, [experts.num_experts]);
        *bias = Param::from_data(values, device).set_require_grad(false);
    }
    layer
}

fn input(tokens: usize, device: &Device) -> Tensor<3> {
    let shape = [1, tokens, HIDDEN];
    let x = init::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex());
    Tensor::from_data(x.into_data(), device)
}

fn host<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data().iter().collect()
}

fn assert_near(got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= tolerance, "{got} {want}");
    }
}

/// `matrix x` for the matrix number `at` of a stack.
fn times(stack: &[f32], at: usize, rows: usize, x: &[f64]) -> Vec<f64> {
    let matrix = &stack[at * rows * x.len()..][..rows * x.len()];
    let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
    matrix.chunks_exact(x.len()).map(dot).collect()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// The result for one token, with the experts and weights of `chosen`.
fn reference(layer: &SparseFeedForward, x: &[f32], chosen: &[(u32, f32)]) -> Vec<f32> {
    let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    let (gate_up, down) =
        (host(&layer.experts.gate_up_proj.val()), host(&layer.experts.down_proj.val()));
    let mut sum = vec![0.0; HIDDEN];
    for &(expert, weight) in chosen {
        let both = times(&gate_up, expert as usize, 2 * INNER, &x);
        let (gate, up) = both.split_at(INNER);
        let inside: Vec<f64> = gate.iter().zip(up).map(|(gate, up)| silu(*gate) * up).collect();
        let y = times(&down, expert as usize, HIDDEN, &inside);
        sum.iter_mut().zip(y).for_each(|(sum, y)| *sum += f64::from(weight) * y);
    }
    sum.into_iter().map(|sum| sum as f32).collect()
}

#[test]
fn every_token_goes_through_its_experts_and_no_other() {
    let device = Device::flex();
    for config in [experts(6, 2), experts(5, 5), grouped()] {
        let layer = layer(&config, &device);
        let x = input(90, &device);
        let (y, routing) = layer.routed(x.clone(), None);
        let shared = layer.shared_experts.as_ref().map(|shared| host(&shared.forward(x.clone())));
        let weights = host(&routing.weights);
        let chosen = config.num_experts_per_tok;
        for (token, x) in host(&x).chunks_exact(HIDDEN).enumerate() {
            let of_token = token * chosen..(token + 1) * chosen;
            let experts = &routing.experts[of_token.clone()];
            assert!(experts.is_sorted_by(|a, b| a < b), "{experts:?}");
            let of_token: Vec<_> =
                experts.iter().copied().zip(weights[of_token].iter().copied()).collect();
            let total: f32 = of_token.iter().map(|(_, weight)| weight).sum();
            assert!((total - config.routed_scaling_factor as f32).abs() < 1e-5);
            let mut want = reference(&layer, x, &of_token);
            if let Some(shared) = &shared {
                let shared = &shared[token * HIDDEN..][..HIDDEN];
                want.iter_mut().zip(shared).for_each(|(want, shared)| *want += shared);
            }
            assert_near(&host(&y)[token * HIDDEN..][..HIDDEN], &want, 2e-5);
        }
    }
}

#[test]
fn one_expert_is_the_dense_layer() {
    let device = Device::flex();
    let sparse = layer(&experts(1, 1), &device);
    let config = ModelConfig { hidden_size: HIDDEN, ..ModelConfig::default() };
    let mut dense = FeedForward::of_width(&config, INNER, &device);
    let stack = sparse.experts.gate_up_proj.val().squeeze_dim::<2>(0);
    dense.gate_proj.weight = Param::from_tensor(stack.clone().narrow(0, 0, INNER));
    dense.up_proj.weight = Param::from_tensor(stack.narrow(0, INNER, INNER));
    dense.down_proj.weight = Param::from_tensor(sparse.experts.down_proj.val().squeeze_dim(0));
    let x = input(40, &device);
    assert_eq!(host(&sparse.forward(x.clone())), host(&dense.forward(x)));
}

/// `param` with what was at the index `order[i]` at `i`.
fn permuted<const D: usize>(param: &Param<Tensor<D>>, order: &[i32]) -> Param<Tensor<D>> {
    let weight = param.val();
    let numbers = TensorData::new(order.to_vec(), [order.len()]);
    let numbers = Tensor::<1, Int>::from_data(numbers, &weight.device());
    Param::from_tensor(weight.select(0, numbers))
}

#[test]
fn the_order_of_experts_means_nothing() {
    let device = Device::flex();
    // Groups stay together.
    for (config, order) in
        [(experts(6, 3), vec![4, 2, 0, 5, 1, 3]), (grouped(), vec![5, 4, 0, 1, 7, 6, 3, 2])]
    {
        let layer = layer(&config, &device);
        let mut other = layer.clone();
        other.gate.weight = permuted(&layer.gate.weight, &order);
        let bias = layer.gate.e_score_correction_bias.as_ref();
        other.gate.e_score_correction_bias = bias.map(|bias| permuted(bias, &order));
        other.experts.gate_up_proj = permuted(&layer.experts.gate_up_proj, &order);
        other.experts.down_proj = permuted(&layer.experts.down_proj, &order);
        let x = input(50, &device);
        assert_near(&host(&other.forward(x.clone())), &host(&layer.forward(x)), 1e-5);
    }
}

#[test]
fn a_token_has_the_same_bits_alone_and_in_any_order() {
    let device = Device::flex();
    let layer = layer(&grouped(), &device);
    let x = input(37, &device);
    let all = host(&layer.forward(x.clone()));
    let turned = host(&layer.forward(x.clone().flip([1])));
    for token in 0..37 {
        let want = &all[token * HIDDEN..][..HIDDEN];
        assert_eq!(&turned[(36 - token) * HIDDEN..][..HIDDEN], want, "token {token}");
        assert_eq!(host(&layer.forward(x.clone().narrow(1, token, 1))), want, "token {token}");
    }
}

#[test]
fn weights_in_bfloat16_are_widened_as_they_are_read() {
    struct Narrow(DType);
    impl ModuleMapper for Narrow {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|weight| weight.cast(self.0))
        }
    }
    let device = Device::flex();
    let narrow = layer(&grouped(), &device).map(&mut Narrow(DType::BF16));
    let wide = narrow.clone().map(&mut Narrow(DType::F32));
    let x = input(20, &device);
    let (y, runs) = forced::on(Kernels::Cpu, || narrow.forward(x.clone()));
    assert_eq!(runs["grouped_linear"], 2);
    assert_near(&host(&y), &host(&wide.forward(x)), 1e-5);
}

fn balance(routing: Routing) -> Tensor<1> {
    let layers = [routing];
    RouterLoss::balance(&layers, None).total(&layers)
}

/// The result, and the gradients of input and weights for its weighted sum and the balance loss.
fn gradients(layer: &SparseFeedForward, x: &Tensor<3>, weights: &Tensor<3>) -> Vec<Vec<f32>> {
    let x = x.clone().require_grad();
    let (y, routing) = layer.routed(x.clone(), None);
    let loss = (y.clone() * weights.clone()).sum() + balance(routing);
    let found = loss.backward();
    let bias = layer.gate.e_score_correction_bias.as_ref().unwrap();
    assert!(bias.val().grad(&found).is_none(), "it is for the choice alone");
    let shared = layer.shared_experts.as_ref().unwrap();
    vec![
        host(&y),
        host(&x.grad(&found).unwrap()),
        host(&layer.gate.weight.val().grad(&found).unwrap()),
        host(&layer.experts.gate_up_proj.val().grad(&found).unwrap()),
        host(&layer.experts.down_proj.val().grad(&found).unwrap()),
        host(&shared.up_proj.weight.val().grad(&found).unwrap()),
    ]
}

#[test]
fn gradients_are_those_of_the_composed_operations() {
    let device = Device::flex().autodiff();
    let layer = layer(&grouped(), &device);
    // Experts with many tokens, few and none.
    for tokens in [1, 9, 200] {
        let (x, weights) = (input(tokens, &device), input(tokens, &device));
        let on = |kernels| forced::on(kernels, || gradients(&layer, &x, &weights)).0;
        let (got, want) = (on(Kernels::Cpu), on(Kernels::Composed));
        for (got, want) in got.iter().zip(&want) {
            let largest = want.iter().map(|want| want.abs()).fold(1.0, f32::max);
            assert_near(got, want, 1e-5 * largest);
        }
        assert_eq!(on(Kernels::Cpu), got, "two runs differ");
    }
}

/// Tokens whose choices are clear: no step of a weight changes one, so that the loss is smooth.
#[test]
fn gradients_of_the_router_are_finite_differences() {
    const STEP: f32 = 5e-3;
    let device = Device::flex().autodiff();
    let mut layer = layer(&grouped(), &device);
    let (x, weights) = (input(4, &device), input(4, &device));
    let chosen = layer.routed(x.clone(), None).1.experts;
    assert_ne!(chosen[..3], chosen[3..6], "tokens have experts of their own");
    let gradient = gradients(&layer, &x, &weights)[2].clone();
    let values = host(&layer.gate.weight.val());
    let mut loss = |at: usize, step: f32| {
        let mut moved = values.clone();
        moved[at] += step;
        layer.gate.weight = Param::from_data(TensorData::new(moved, [8, HIDDEN]), &device);
        let (y, routing) = layer.routed(x.clone(), None);
        assert_eq!(routing.experts, chosen, "weight {at}");
        ((y * weights.clone()).sum() + balance(routing)).into_scalar::<f32>()
    };
    for (at, want) in gradient.iter().enumerate() {
        let got = (loss(at, STEP) - loss(at, -STEP)) / (2.0 * STEP);
        assert!((got - want).abs() < 1e-2 * want.abs().max(1.0), "{at}: {got} {want}");
    }
}
