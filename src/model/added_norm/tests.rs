//! Added norms: outputs at share 0, weights at the lengths of what they replace, and the blend by its formula.

#![allow(clippy::unwrap_used, reason = "tests")]

use burn::module::Module;
use burn::tensor::Int;
use vq_tokenizer::init;

use super::*;
use crate::model::{Lane, PagedCache, QkNorm, mask};

const VOCAB: usize = 20;
const IDS: [u32; 6] = [3, 17, 8, 0, 11, 5];

fn config(qk_norm: QkNorm, qk_norm_share: f64) -> ModelConfig {
    ModelConfig {
        vocab_size: VOCAB,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: Some(6),
        qkv_bias: true,
        o_bias: qk_norm == QkNorm::Rms,
        initializer_range: 0.4,
        rms_norm_eps: 1e-3,
        qk_norm,
        qk_norm_share,
        ..ModelConfig::default()
    }
}

fn bare() -> CausalLm {
    init::seed(9);
    config(QkNorm::None, 1.0).init(&Device::flex()).unwrap()
}

fn normed(share: f64) -> CausalLm {
    bare().with_head_norms(&config(QkNorm::Rms, share))
}

fn row(values: &[u32], device: &Device) -> Tensor<2, Int> {
    let values: Vec<i32> = values.iter().map(|value| *value as i32).collect();
    let shape = [1, values.len()];
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn input(device: &Device) -> ModelInput {
    let positions: Vec<u32> = (0..IDS.len() as u32).collect();
    ModelInput {
        ids: row(&IDS, device),
        positions: row(&positions, device),
        mask: mask::causal(IDS.len(), device),
    }
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter().collect()
}

/// The last hidden states of one pass over all ids.
fn hidden(model: &CausalLm) -> Vec<f32> {
    numbers(model.hidden(input(&model.device())))
}

fn squares(model: &CausalLm) -> QueryKeySquares {
    let mut squares = QueryKeySquares::default();
    squares.add(model, input(&model.device()), &[true, true, false, true, true, true]);
    squares
}

/// Rows of queries (keys) of the first layer, in f64.
fn first_layer(model: &CausalLm, of_keys: bool) -> Vec<Vec<f64>> {
    let SelfAttention::Grouped(attention) = &model.model.layers[0].self_attn else { panic!() };
    let linear = if of_keys { &attention.k_proj } else { &attention.q_proj };
    let x = model.embed(row(&IDS, &model.device()));
    let y = linear.forward(model.model.layers[0].input_layernorm.forward(x));
    let width = y.dims()[2];
    numbers(y).chunks(width).map(|row| row.iter().map(|y| f64::from(*y)).collect()).collect()
}

#[test]
fn outputs_are_those_of_the_model_without_norms_to_the_bit() {
    let (want, model) = (hidden(&bare()), normed(0.0));
    assert_eq!(hidden(&model), want);
    let model = model.with_head_lengths(&squares(&bare()));
    assert_eq!(hidden(&model), want);
    let full = config(QkNorm::Rms, 1.0).init(&Device::flex()).unwrap();
    assert_eq!(tensor_files::shapes(&model), tensor_files::shapes(&full));
    assert_ne!(hidden(&model.with_norm_share(0.5)), want);
}

#[test]
fn a_pass_with_a_cache_is_that_of_all_ids_at_every_share() {
    for share in [0.0, 0.3, 1.0] {
        let model = normed(share).with_head_lengths(&squares(&bare()));
        let config = config(QkNorm::Rms, share);
        let mut cache = PagedCache::new(&config, 1, model.compute_dtype(), &model.device());
        let mut got = Vec::new();
        for (start, id) in IDS.iter().enumerate() {
            let lanes = [Lane { start, rows: 1, blocks: &[0] }];
            got.extend(numbers(model.pass(&[*id], &lanes, &mut cache)));
        }
        for (got, want) in got.iter().zip(hidden(&model)) {
            assert!((got - want).abs() < 1e-5, "share {share}: {got} {want}");
        }
    }
}

#[test]
fn weights_begin_at_the_root_mean_square_of_what_is_counted() {
    let bare = bare();
    let squares = squares(&bare);
    let roots: Vec<[f64; 2]> = squares.roots().collect();
    for (number, of_keys) in [false, true].into_iter().enumerate() {
        let rows = first_layer(&bare, of_keys);
        let counted = rows.iter().enumerate().filter(|(at, _)| *at != 2);
        let all: Vec<f64> = counted.flat_map(|(_, row)| row.iter().map(|y| y * y)).collect();
        let want = (all.iter().sum::<f64>() / all.len() as f64).sqrt();
        assert!((roots[0][number] / want - 1.0).abs() < 1e-6, "{roots:?} {want}");
    }
    // Twice the same batch has the same mean.
    let mut twice = squares.clone();
    twice.add(&bare, input(&bare.device()), &[true, true, false, true, true, true]);
    assert_eq!(twice.roots().collect::<Vec<_>>(), roots);

    let model = normed(0.0).with_head_lengths(&squares);
    let weights = tensor_files::collect(&model);
    for (layer, roots) in roots.iter().enumerate() {
        for (name, root) in ["q_norm", "k_norm"].iter().zip(roots) {
            let weight = &weights[&format!("model.layers.{layer}.self_attn.{name}.weight")];
            let weight: Vec<f32> = weight.iter().collect();
            assert_eq!(weight, [*root as f32; 6]);
        }
    }
}

#[test]
fn queries_are_blended_by_the_formula() {
    let model = normed(0.3).with_head_lengths(&squares(&bare()));
    let SelfAttention::Grouped(attention) = &model.model.layers[0].self_attn else { panic!() };
    let x = model.embed(row(&IDS, &model.device()));
    let x = model.model.layers[0].input_layernorm.forward(x);
    let blended = HeadNorm::before_split(attention.q_norm.as_ref(), attention.q_proj.forward(x));
    let root = squares(&bare()).roots().next().unwrap()[0];
    let want = first_layer(&model, false).into_iter().flat_map(|row| {
        let of_head = |head: &[f64]| {
            let mean = head.iter().map(|y| y * y).sum::<f64>() / head.len() as f64;
            let normed = |y: f64| y / (mean + 1e-3).sqrt() * root;
            head.iter().map(|y| 0.7 * y + 0.3 * normed(*y)).collect::<Vec<_>>()
        };
        row.chunks(6).flat_map(of_head).collect::<Vec<_>>()
    });
    for (got, want) in numbers(blended).iter().zip(want) {
        assert!((f64::from(*got) - want).abs() < 1e-5, "{got} {want}");
    }
}

#[test]
fn added_norms_have_gradients_unless_they_are_frozen() {
    let device = Device::flex().autodiff();
    let model = config(QkNorm::None, 1.0).init(&device).unwrap();
    let model = model.with_head_norms(&config(QkNorm::Rms, 0.5));
    let squares = squares(&model.valid());
    let SelfAttention::Grouped(attention) = &model.model.layers[0].self_attn else { panic!() };
    let Some(HeadNorm::Rms(norm)) = &attention.q_norm else { panic!() };
    assert!(filled(&norm.weight, 2.0).is_require_grad());
    assert!(!filled(&norm.weight.clone().set_require_grad(false), 2.0).is_require_grad());
    let model = model.with_head_lengths(&squares);
    let gradients = model.hidden(input(&device)).sum().backward();
    let SelfAttention::Grouped(attention) = &model.model.layers[1].self_attn else { panic!() };
    let Some(HeadNorm::Rms(norm)) = &attention.k_norm else { panic!() };
    let gradient = norm.weight.val().grad(&gradients).unwrap();
    assert!(numbers(gradient).iter().all(|entry| *entry != 0.0));
}
