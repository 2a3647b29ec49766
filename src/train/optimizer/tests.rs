//! Muon on the matrices of experts, and steps of some rows.

use burn::tensor::Distribution;
use vq_tokenizer::init;

use super::*;
use crate::model::Experts;

#[derive(Module, Debug)]
struct Stacked {
    layers: Vec<Mixture>,
}

#[derive(Module, Debug)]
struct Mixture {
    experts: Experts,
}

/// The same matrices one by one.
#[derive(Module, Debug)]
struct Alone {
    layers: Vec<Matrix>,
}

#[derive(Module, Debug)]
struct Matrix {
    weight: Param<Tensor<2>>,
}

const SHAPES: [[usize; 3]; 2] = [[3, 2 * 5, 8], [3, 8, 5]];

fn random(shape: [usize; 3]) -> Tensor<3> {
    Tensor::from_data(
        init::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex()).into_data(),
        &Device::flex().autodiff(),
    )
}

/// Gate, up and down of every expert.
fn matrices([gate_up, down]: [Tensor<3>; 2]) -> Vec<Tensor<2>> {
    let one = |stack: &Tensor<3>, expert| stack.clone().narrow(0, expert, 1).squeeze_dim::<2>(0);
    let of_expert = |expert| {
        let both = one(&gate_up, expert);
        [both.clone().narrow(0, 0, 5), both.narrow(0, 5, 5), one(&down, expert)]
    };
    (0..3).flat_map(of_expert).collect()
}

#[test]
fn every_matrix_of_an_expert_is_one_for_muon() {
    let [gate_up, down] = SHAPES.map(random);
    let alone = matrices([gate_up.clone(), down.clone()]).into_iter();
    let alone = alone.map(|weight| Matrix { weight: Param::from_tensor(weight.detach()) });
    let mut alone = Alone { layers: alone.collect() };
    let [gate_up_proj, down_proj] = [gate_up, down].map(Param::from_tensor);
    let mut stacked =
        Stacked { layers: vec![Mixture { experts: Experts { gate_up_proj, down_proj } }] };
    let config = OptimizerConfig { kind: OptimizerKind::Muon, ..OptimizerConfig::default() };
    let mut optimizers = [0; 2].map(|_| Optimizer::new(config.clone()));
    for _ in 0..3 {
        let slopes = SHAPES.map(random);
        let Experts { gate_up_proj, down_proj } = &stacked.layers[0].experts;
        let [gate_up, down] = slopes.clone();
        let loss = (gate_up_proj.val() * gate_up).sum() + (down_proj.val() * down).sum();
        let gradients = GradientsParams::from_grads(loss.backward(), &stacked);
        stacked = optimizers[0].step(stacked, gradients, 0.1).expect("finite gradients").0;

        let pairs = alone.layers.iter().zip(matrices(slopes));
        let losses = pairs.map(|(matrix, slopes)| (matrix.weight.val() * slopes).sum());
        let loss = losses.reduce(|sum, loss| sum + loss).expect("matrices");
        let gradients = GradientsParams::from_grads(loss.backward(), &alone);
        alone = optimizers[1].step(alone, gradients, 0.1).expect("finite gradients").0;
    }
    assert!(optimizers[0].moments.values().all(|moments| moments.second.is_none()));
    let Experts { gate_up_proj, down_proj } = &stacked.layers[0].experts;
    let got = matrices([gate_up_proj.val(), down_proj.val()]);
    for (got, want) in got.into_iter().zip(&alone.layers) {
        let off = (got - want.weight.val()).abs().max().into_scalar::<f32>();
        assert!(off < 1e-5, "{off}");
    }
}

#[test]
fn experts_decay_and_routers_do_not() {
    let layer = "model.layers.3.mlp";
    for (name, rank, decay, muon) in [
        ("experts.gate_up_proj", 3, true, true),
        ("experts.down_proj", 3, true, true),
        ("gate.weight", 2, false, false),
        ("gate.e_score_correction_bias", 1, false, false),
        ("shared_experts.down_proj.weight", 2, true, true),
        ("shared_experts.down_proj.bias", 1, false, false),
    ] {
        let path = format!("{layer}.{name}");
        assert_eq!([decays(&path, rank), is_hidden_matrix(&path, rank)], [decay, muon], "{path}");
    }
}

#[test]
fn steps_of_some_rows_are_those_of_a_matrix_of_these_rows_and_keep_the_others() {
    let chosen = [1, 2, 5];
    let of = |matrix: &Tensor<2>| {
        Tensor::cat(chosen.map(|row| matrix.clone().narrow(0, row, 1)).to_vec(), 0)
    };
    let random = || random([1, 6, 4]).squeeze_dim::<2>(0);
    let start = random();
    let matrix = |weight: Tensor<2>| Matrix { weight: Param::from_tensor(weight.detach()) };
    let (mut whole, mut alone) = (matrix(start.clone()), matrix(of(&start)));
    let config = OptimizerConfig {
        lr: 0.1,
        weight_decay: 0.5,
        grad_clip: 0.3,
        ..OptimizerConfig::default()
    };
    let rows = Rows::new(chosen);
    let mut optimizers = [Optimizer::new(config.clone()).of_rows(rows), Optimizer::new(config)];
    for _ in 0..3 {
        let slope = random().detach();
        let gradients = |module: &Matrix, slope: Tensor<2>| {
            let loss = (module.weight.val() * slope).sum();
            GradientsParams::from_grads(loss.backward(), module)
        };
        let of_whole = gradients(&whole, slope.clone());
        let of_alone = gradients(&alone, of(&slope));
        let (stepped, norm) = optimizers[0].step(whole, of_whole, 0.1).unwrap();
        let (expected, expected_norm) = optimizers[1].step(alone, of_alone, 0.1).unwrap();
        assert_eq!(norm, expected_norm);
        (whole, alone) = (stepped, expected);
    }
    let (after, expected) = (whole.weight.val(), alone.weight.val());
    assert_eq!(of(&after).into_data(), expected.into_data());
    for row in [0, 3, 4] {
        let row = |matrix: &Tensor<2>| matrix.clone().narrow(0, row, 1).into_data();
        assert_eq!(row(&after), row(&start));
    }
    let moments = &optimizers[0].moments["weight"];
    assert_eq!([moments.first.dims(), moments.second.as_ref().unwrap().dims()], [[3 * 4]; 2]);
}
