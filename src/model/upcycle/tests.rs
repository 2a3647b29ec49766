//! Sparse models from dense ones.

#![allow(clippy::unwrap_used, reason = "tests")]

use burn::tensor::{Device, Int};

use super::*;
use crate::model::{ModelInput, RouterScores, mask};

const VOCAB: usize = 20;

/// Five experts, two a token; the second layer stays dense.
fn config() -> ModelConfig {
    let experts = ExpertsConfig { dense_layers: vec![1], ..ExpertsConfig::new(5, 2, 10) };
    ModelConfig {
        vocab_size: VOCAB,
        hidden_size: 8,
        intermediate_size: 10,
        num_hidden_layers: 3,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        initializer_range: 0.4,
        experts: Some(experts),
        ..ModelConfig::default()
    }
}

fn dense(config: &ModelConfig, device: &Device) -> CausalLm {
    init::seed(3);
    ModelConfig { experts: None, ..config.clone() }.init(device).unwrap()
}

fn logits(model: &CausalLm) -> Vec<f32> {
    let device = model.device();
    let row = |values: Vec<i32>| {
        let shape = [1, values.len()];
        Tensor::<2, Int>::from_data(TensorData::new(values, shape), &device)
    };
    let input = ModelInput {
        ids: row((0..12).map(|at| at * 7 % VOCAB as i32).collect()),
        positions: row((0..12).collect()),
        mask: mask::causal(12, &device),
    };
    model.forward(input).into_data().iter().collect()
}

fn with(change: impl FnOnce(&mut ExpertsConfig)) -> ModelConfig {
    let mut config = config();
    change(config.experts.as_mut().unwrap());
    config
}

#[test]
fn an_upcycled_model_has_the_outputs_of_the_dense_one() {
    let device = Device::flex();
    let sigmoid = with(|experts| experts.scores = RouterScores::Sigmoid);
    let modal = with(|experts| {
        (experts.modality_groups, experts.modality_ids) = (Some([3, 2]), Some([9, 15]));
    });
    for config in [config(), sigmoid, modal] {
        let dense = dense(&config, &device);
        let want = logits(&dense);
        let sparse = dense.upcycled(&config, 0.0).unwrap();
        assert_eq!(
            tensor_files::shapes(&sparse),
            tensor_files::shapes(&config.init(&device).unwrap())
        );
        for (got, want) in logits(&sparse).iter().zip(&want) {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
    }
}

#[test]
fn redrawing_changes_a_share_of_the_channels_of_each_expert() {
    let device = Device::flex().autodiff();
    let config = config();
    let before = dense(&config, &device);
    let sparse = before.clone().upcycled(&config, 0.3).unwrap();
    let (Mlp::Dense(dense), Mlp::Sparse(layer)) =
        (&before.model.layers[2].mlp, &sparse.model.layers[2].mlp)
    else {
        panic!("a layer of the other kind");
    };
    let numbers = |x: Tensor<1>| x.into_data().iter::<f32>().collect::<Vec<f32>>();
    let copy = Tensor::cat(vec![dense.gate_proj.weight.val(), dense.up_proj.weight.val()], 0);
    let (gate_up, down) = (layer.experts.gate_up_proj.val(), layer.experts.down_proj.val());
    assert!(gate_up.is_require_grad() && layer.gate.weight.val().is_require_grad());
    let changed = |expert: usize| -> Vec<usize> {
        let [stack, of_down] =
            [&gate_up, &down].map(|x| x.clone().narrow(0, expert, 1).squeeze_dim::<2>(0));
        let rows = numbers((stack - copy.clone()).abs().sum_dim(1).squeeze_dim(1));
        let columns =
            numbers((of_down - dense.down_proj.weight.val()).abs().sum_dim(0).squeeze_dim(0));
        let changed: Vec<usize> = (0..10).filter(|at| columns[*at] > 0.0).collect();
        for half in rows.chunks(10) {
            assert_eq!((0..10).filter(|at| half[*at] > 0.0).collect::<Vec<_>>(), changed);
        }
        changed
    };
    let all: Vec<Vec<usize>> = (0..5).map(changed).collect();
    assert!(all.iter().all(|changed| changed.len() == 3), "{all:?}");
    assert!(all.iter().any(|changed| *changed != all[0]), "others for each expert: {all:?}");
}

#[test]
fn what_would_change_the_outputs_is_refused_by_name() {
    let said = |config: ModelConfig| config.check_upcycling().unwrap_err().to_string();
    for (config, key) in [
        (with(|experts| experts.norm_topk_prob = false), "norm_topk_prob is false"),
        (with(|experts| experts.routed_scaling_factor = 2.5), "routed_scaling_factor 2.5"),
        (with(|experts| experts.moe_intermediate_size = 5), "moe_intermediate_size is 5"),
        (with(|experts| experts.n_shared_experts = 1), "n_shared_experts is 1"),
        (ModelConfig { mlp_bias: true, ..config() }, "mlp_bias"),
        (ModelConfig { experts: None, ..config() }, "[model.experts]"),
    ] {
        let message = said(config);
        assert!(message.contains(key), "{message}");
    }
}
