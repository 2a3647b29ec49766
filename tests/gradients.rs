//! What must not change a gradient: packing, accumulation, activation checkpointing; and how far bfloat16
//! may move it.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::TensorData;
use calumma::data::pack::{Document, PackedBatch, Packer};
use calumma::model::{CausalLm, ModelConfig};
use calumma::tokenize::TokenSequence;
use calumma::train::objective::{LossConfig, NextToken, NextTokenBatch, NextTokenLoss};
use calumma::train::{GroupConfig, Optimizer, OptimizerConfig};

use crate::common::cpu;
use crate::train::{named, tiny_batch, tiny_model};

type Gradients = BTreeMap<String, TensorData>;

const OBJECTIVE: NextToken =
    NextToken { config: LossConfig { z_loss: 1e-3, image_weight: 0.5, text_weight: 1.5 } };

/// Documents with targets here and there, image codes from 20 on.
fn documents(lens: &[usize]) -> Vec<TokenSequence> {
    let id = |document: usize, at: usize| ((document * 31 + at * 17) % 23 + 1) as u32;
    let document = |(number, &len): (usize, &usize)| TokenSequence {
        ids: (0..len).map(|at| id(number, at)).collect(),
        loss_mask: (0..len).map(|at| at > 0 && (at + number) % 3 != 0).collect(),
    };
    lens.iter().enumerate().map(document).collect()
}

fn with_modalities(packed: PackedBatch) -> NextTokenBatch {
    NextTokenBatch { is_image: packed.ids.iter().map(|&id| id >= 20).collect(), packed }
}

/// One batch of `rows` rows that holds all of `documents`, document `n` from source `n % 2`.
fn batch(documents: &[TokenSequence], rows: usize, seq_len: usize) -> NextTokenBatch {
    let mut packer = Packer::new(rows, seq_len, 0).unwrap();
    let mut source = documents
        .iter()
        .enumerate()
        .map(|(number, tokens)| Document { tokens: tokens.clone(), source: (number % 2) as u32 });
    let packed = packer.batch(|| Ok(source.next())).unwrap().unwrap();
    assert_eq!(packer.report().documents as usize, documents.len(), "all fit one batch");
    with_modalities(packed)
}

/// The sum over batches of each one's gradient and loss, by the share of targets' weight in it.
fn weighted(model: &CausalLm, batches: &[NextTokenBatch]) -> (Gradients, f64) {
    let weight = |batch: &NextTokenBatch| -> f64 {
        let targets = batch.packed.loss_mask.iter().zip(&batch.is_image).filter(|(m, _)| **m);
        targets.map(|(_, is_image)| if *is_image { 0.5 } else { 1.5 }).sum()
    };
    let whole: f64 = batches.iter().map(weight).sum();
    let mut sum = GradientsAccumulator::new();
    let mut total = 0.0;
    for batch in batches {
        let share = weight(batch) / whole;
        let (gradients, loss) = OBJECTIVE.gradients(model, batch, share);
        sum.accumulate(model, gradients);
        total += loss.total * share;
    }
    (named(model, sum.grads()), total)
}

/// Sums in another order differ by about a hundred roundings of f32, of the largest value.
const ROUNDING: f32 = 3e-5;

fn assert_equal(got: &Gradients, want: &Gradients, tolerance: f32) {
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    for (name, want) in want {
        let largest = want.iter::<f32>().map(f32::abs).fold(0.0, f32::max);
        for (got, want) in got[name].iter::<f32>().zip(want.iter::<f32>()) {
            let allowed = tolerance * largest.max(1e-3);
            assert!((got - want).abs() <= allowed, "{name}: {got} {want} of at most {largest}");
        }
    }
}

fn without_z(objective: &NextToken) -> NextToken {
    NextToken { config: LossConfig { z_loss: 0.0, ..objective.config.clone() } }
}

#[test]
fn a_packed_row_has_the_loss_and_gradients_of_its_documents_alone() {
    let model = tiny_model(&cpu().autodiff());
    let documents = documents(&[5, 9, 3, 7, 8]);
    let packed = batch(&documents, 1, 40);
    assert_eq!(packed.packed.num_tokens(), 32);
    let alone: Vec<NextTokenBatch> =
        documents.iter().map(|d| batch(std::slice::from_ref(d), 1, 12)).collect();
    // The z-loss is a mean over targets whatever they weigh, so the shares of the parts differ.
    let objective = without_z(&OBJECTIVE);
    let one = |batch: &NextTokenBatch, share| objective.gradients(&model, batch, share);
    let weight = |batch: &NextTokenBatch| -> f64 {
        let targets = batch.packed.loss_mask.iter().zip(&batch.is_image).filter(|(m, _)| **m);
        targets.map(|(_, is_image)| if *is_image { 0.5 } else { 1.5 }).sum()
    };
    let whole = weight(&packed);
    let mut sum = GradientsAccumulator::new();
    let mut total = 0.0;
    for part in &alone {
        let (gradients, loss) = one(part, weight(part) / whole);
        sum.accumulate(&model, gradients);
        total += loss.total * weight(part) / whole;
    }
    let (want, loss) = one(&packed, 1.0);
    assert!((loss.total - total).abs() < 1e-5 * total, "{} {total}", loss.total);
    assert_equal(&named(&model, want), &named(&model, sum.grads()), ROUNDING);
}

#[test]
fn accumulating_two_batches_is_one_of_twice_the_size() {
    let model = tiny_model(&cpu().autodiff());
    // Equal documents in both halves, so that each half has half of the targets.
    let half = documents(&[9, 9, 9]);
    let double: Vec<TokenSequence> = half.iter().chain(&half).cloned().collect();
    let (double, halves) = (batch(&double, 2, 27), [batch(&half, 1, 27), batch(&half, 1, 27)]);
    let (got, total) = weighted(&model, &halves);
    let (want, loss) = OBJECTIVE.gradients(&model, &double, 1.0);
    assert!((loss.total - total).abs() < 1e-5 * total);
    assert_equal(&got, &named(&model, want), ROUNDING);
}

#[test]
fn activation_checkpointing_changes_no_gradient() {
    let device = cpu().autodiff();
    let config = ModelConfig {
        vocab_size: 24,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 3,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        initializer_range: 0.4,
        ..ModelConfig::default()
    };
    for tied in [false, true] {
        let model =
            ModelConfig { tie_word_embeddings: tied, ..config.clone() }.init(&device).unwrap();
        let (want, loss) = OBJECTIVE.gradients(&model, &tiny_batch(), 0.5);
        let (got, again) = OBJECTIVE.gradients_by_layer(&model, &tiny_batch(), 0.5, 3);
        assert_eq!(loss.total, again.total);
        assert_equal(&named(&model, got), &named(&model, want), 1e-6);
    }
}

#[test]
fn losses_by_modality_and_by_source_add_up() {
    let model = tiny_model(&cpu());
    let NextTokenLoss { image, text, sources, .. } = OBJECTIVE.loss(&model, &tiny_batch());
    assert_eq!(sources.len(), 2);
    let sum = |parts: &[(f64, usize)]| {
        parts.iter().fold((0.0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
    };
    let (by_modality, by_source) = (sum(&[image, text]), sum(&sources));
    assert_eq!(by_modality.1, by_source.1);
    assert!((by_modality.0 - by_source.0).abs() < 1e-9);
    assert!(sources.iter().all(|(_, count)| *count > 0));
}

#[test]
fn mixed_precision_moves_gradients_by_the_rounding_of_bfloat16() {
    let model = tiny_model(&cpu().autodiff());
    let (want, loss) = OBJECTIVE.gradients(&model, &tiny_batch(), 1.0);
    let want = named(&model, want);
    let mixed = model.in_mixed_precision();
    let (got, rounded) = OBJECTIVE.gradients(&mixed, &tiny_batch(), 1.0);
    assert!((loss.total - rounded.total).abs() < 0.01 * loss.total);
    let got = named(&mixed, got);
    let norm = |data: &TensorData| data.iter::<f32>().map(|v| v * v).sum::<f32>().sqrt();
    for (name, want) in &want {
        let got = &got[name];
        assert_eq!(got.dtype(), want.dtype(), "{name}: the optimizer sees f32");
        let difference: f32 = got
            .iter::<f32>()
            .zip(want.iter::<f32>())
            .map(|(a, b)| (a - b) * (a - b))
            .sum::<f32>()
            .sqrt();
        // A product of bfloat16 values is off by 2^-8 in each factor; a few of them follow each other.
        assert!(difference < 0.06 * norm(want).max(1e-3), "{name}: {difference}");
        assert!(difference > 0.0 || norm(want) == 0.0, "{name} was not rounded at all");
    }
}

#[test]
fn frozen_parameters_stay_and_groups_have_their_own_rate() {
    let device = cpu().autodiff();
    let group = |parameters: &str, lr_scale| GroupConfig {
        parameters: vec![parameters.to_owned()],
        lr_scale,
        weight_decay: Some(0.0),
    };
    let config = OptimizerConfig {
        lr: 0.01,
        weight_decay: 0.0,
        groups: vec![group("model.layers.*.mlp.*", 0.0), group("lm_head.*", 0.1)],
        ..OptimizerConfig::default()
    };
    let plain = OptimizerConfig { groups: Vec::new(), ..config.clone() };
    let model = tiny_model(&device);
    let step = |config: &OptimizerConfig, by_layer: bool| {
        let model = config.freeze(model.clone()).unwrap();
        let (gradients, _): (GradientsParams, _) = match by_layer {
            true => OBJECTIVE.gradients_by_layer(&model, &tiny_batch(), 1.0, 0),
            false => OBJECTIVE.gradients(&model, &tiny_batch(), 1.0),
        };
        // Without clipping: its norm counts only what is trained.
        let config = OptimizerConfig { grad_clip: 0.0, ..config.clone() };
        let (model, _) = Optimizer::new(config).step(model, gradients, 0.01).unwrap();
        tensor_files::collect(&model)
    };
    let before = tensor_files::collect(&model);
    let (free, by_layer) = (step(&plain, false), step(&config, true));
    let grouped = step(&config, false);
    for (name, before) in &before {
        let change = |after: &TensorData| -> Vec<f32> {
            after.iter::<f32>().zip(before.iter::<f32>()).map(|(a, b)| a - b).collect()
        };
        let (free, grouped) = (change(&free[name]), change(&grouped[name]));
        assert_eq!(grouped, change(&by_layer[name]), "{name}");
        let scale = match name {
            name if name.contains(".mlp.") => 0.0,
            name if name.starts_with("lm_head") => 0.1,
            _ => 1.0,
        };
        for (free, grouped) in free.iter().zip(&grouped) {
            assert!((free * scale - grouped).abs() < 1e-6, "{name}: {free} {grouped}");
        }
    }
    let wrong = OptimizerConfig { groups: vec![group("layers.*", 0.0)], ..plain.clone() };
    let message = wrong.freeze(model.clone()).unwrap_err().to_string();
    assert!(message.contains("no parameter is called layers.*"), "{message}");
    let all = OptimizerConfig { groups: vec![group("*", 0.0)], ..plain };
    assert!(all.freeze(model.clone()).unwrap_err().to_string().contains("freezes every parameter"));
    assert!(model.num_params() > 0);
}
