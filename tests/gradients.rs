//! What must not change loss, metrics and gradients: packing, micro-batches, activation
//! checkpointing; and how far bfloat16 may change them.

use std::collections::BTreeMap;

use burn::optim::GradientsAccumulator;
use burn::tensor::{Tensor, TensorData};
use calumma::data::pack::{Document, PackedBatch, Packer};
use calumma::device::Precision;
use calumma::model::{CausalLm, ModelConfig};
use calumma::report::Metrics;
use calumma::tokenize::{CodedSegment, Processor, TokenSequence};
use calumma::train::objective::{
    Activations, LossConfig, NextToken, NextTokenBatch, NextTokenLoss, Predictions, Targets,
    backward,
};
use calumma::train::{GroupConfig, LanguageRecipe, LanguageTask, Optimizer, OptimizerConfig, Task};
use vq_tokenizer::Codes;

use crate::common::cpu;
use crate::overfit;
use crate::train::{named, recipe, tiny_batch, tiny_model, whole_step};

type Gradients = BTreeMap<String, TensorData>;

const OBJECTIVE: NextToken = NextToken {
    config: LossConfig {
        z_loss: 1e-3,
        image_weight: 0.5,
        text_weight: 1.5,
        neftune_noise_alpha: 0.0,
        router_z_loss: 0.0,
        bias_update_speed: 0.0,
    },
};

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
    let mut source = documents.iter().enumerate().map(|(number, tokens)| Document {
        tokens: tokens.clone(),
        source: (number % 2) as u32,
        ..Document::default()
    });
    let packed = packer.batch(|| Ok(source.next())).unwrap().unwrap();
    assert_eq!(packer.report().documents as usize, documents.len(), "all fit one batch");
    with_modalities(packed)
}

/// Gradients and loss of one step over all of `batches`.
fn step(model: &CausalLm, batches: &[NextTokenBatch]) -> (Gradients, NextTokenLoss) {
    let normalizer = OBJECTIVE.normalizer(batches);
    let (mut sum, mut total) = (GradientsAccumulator::new(), NextTokenLoss::default());
    for batch in batches {
        let (gradients, loss) = OBJECTIVE.gradients(model, batch, normalizer, Activations::Keep);
        sum.accumulate(model, gradients);
        total += loss;
    }
    (named(model, sum.grads()), total)
}

/// The rows of `batch`, one by one.
fn rows(batch: &NextTokenBatch) -> Vec<NextTokenBatch> {
    let (packed, seq_len) = (&batch.packed, batch.packed.seq_len);
    let row = |row: usize| {
        let tokens = row * seq_len..(row + 1) * seq_len;
        with_modalities(PackedBatch {
            ids: packed.ids[tokens.clone()].to_vec(),
            document_ids: packed.document_ids[tokens.clone()].to_vec(),
            positions: packed.positions[tokens.clone()].to_vec(),
            loss_mask: packed.loss_mask[tokens.clone()].to_vec(),
            sources: packed.sources[tokens].to_vec(),
            rows: 1,
            seq_len,
        })
    };
    (0..packed.rows).map(row).collect()
}

fn norm(gradients: &Gradients) -> f64 {
    let squares = gradients.values().flat_map(|g| g.iter::<f32>()).map(|g| f64::from(g).powi(2));
    squares.sum::<f64>().sqrt()
}

/// `got` is `want` within the rounding of sums in another order.
fn assert_same(got: f64, want: f64, what: &str) {
    assert!((got - want).abs() <= 1e-6 * want.abs(), "{what}: {got} {want}");
}

fn assert_same_loss(got: &NextTokenLoss, want: &NextTokenLoss) {
    assert_same(got.total, want.total, "loss");
    assert_eq!(got.sources.len(), want.sources.len());
    let sums = |loss: &NextTokenLoss| [&[loss.image, loss.text], &loss.sources[..]].concat();
    for (got, want) in sums(got).into_iter().zip(sums(want)) {
        assert_same(got.0, want.0, "sum of losses");
        assert_eq!(got.1, want.1, "number of targets");
    }
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

#[test]
fn a_packed_row_has_the_loss_and_gradients_of_its_documents_alone() {
    let model = tiny_model(&cpu().autodiff());
    let documents = documents(&[5, 9, 3, 7, 8]);
    let packed = batch(&documents, 1, 40);
    assert_eq!(packed.packed.num_tokens(), 32);
    let alone = documents.iter().enumerate().map(|(number, document)| {
        let mut alone = batch(std::slice::from_ref(document), 1, 12);
        let is_token = alone.packed.document_ids.clone();
        for (source, document) in alone.packed.sources.iter_mut().zip(is_token) {
            *source = if document == 0 { 0 } else { (number % 2) as u32 };
        }
        alone
    });
    let (got, loss) = step(&model, &alone.collect::<Vec<_>>());
    let (want, wanted) = step(&model, &[packed]);
    assert_same_loss(&loss, &wanted);
    assert_equal(&got, &want, ROUNDING);
}

#[test]
fn eight_rows_at_once_are_eight_micro_batches_of_one_row() {
    let model = tiny_model(&cpu().autodiff());
    let mut documents = documents(&[27, 5, 20, 9, 9, 9, 14, 12, 3, 22, 27, 26, 19, 6]);
    documents[10].loss_mask.fill(false);
    let whole = batch(&documents, 8, 27);
    let rows = rows(&whole);
    let counts = |row: &NextTokenBatch| {
        let targets = Targets::of(row);
        (targets.len(), targets.is_image.iter().filter(|is_image| **is_image).count())
    };
    let mut distinct: Vec<_> = rows.iter().map(counts).collect();
    assert!(distinct.contains(&(0, 0)), "a row has no target: {distinct:?}");
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() >= 5, "rows differ in number and kinds of targets: {distinct:?}");

    let (want, wanted) = step(&model, &[whole]);
    let (got, loss) = step(&model, &rows);
    assert_same_loss(&loss, &wanted);
    assert_same(norm(&got), norm(&want), "gradient norm");
    assert_equal(&got, &want, ROUNDING);
}

/// Eight documents too long to share a row of 64, with unequal numbers of targets and kinds of them.
fn unequal(processor: &Processor) -> Vec<TokenSequence> {
    let document = |number: usize| {
        let image = |salt: usize| {
            let ids = (0..16).map(|at| ((number * 131 + salt + at * at * 37) % 24) as u32);
            CodedSegment::Image(Codes { ids: ids.collect(), height: 4, width: 4 })
        };
        let text = CodedSegment::text(vec!["a"; 1 + number % 4].join(" "));
        let mut tokens = processor.document(&[image(0), text, image(5)]).unwrap();
        let len = tokens.ids.len();
        assert!((33..=64).contains(&len), "{len} tokens");
        tokens.loss_mask[..len - 3 - 4 * number].fill(false);
        tokens
    };
    (0..8).map(document).collect()
}

#[test]
fn a_training_step_and_an_evaluation_do_not_depend_on_the_split_into_micro_batches() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let overrides = overfit::prepare(dir, unequal);
    let metrics = |sequences: usize, accumulate: usize| -> [Metrics; 3] {
        let mut overrides = overrides.clone();
        overrides.extend([
            "loss.z_loss=1e-3".to_owned(),
            "loss.text_weight=1.5".to_owned(),
            "run.shown=0".to_owned(),
            "batch.seq_len=64".to_owned(),
            format!("batch.sequences={sequences}"),
            format!("batch.accumulate={accumulate}"),
        ]);
        let recipe: LanguageRecipe = recipe(dir, overfit::RECIPE, &overrides);
        let mut task = LanguageTask::new(recipe, &cpu(), Precision::F32, true).unwrap();
        let stepped = task.step(0, 1e-3).unwrap();
        assert_eq!(stepped.skipped, None);
        let mut interval = task.since_last();
        interval.retain(|(name, _)| name.starts_with("loss/") || name.ends_with("_share"));
        interval.retain(|(name, _)| name != "data_wait_share");
        [stepped.metrics, interval, task.evaluate().unwrap()]
    };
    let whole = metrics(8, 1);
    let names: Vec<&str> = whole[0].iter().map(|(name, _)| name.as_ref()).collect();
    assert_eq!(names, ["loss", "image_loss", "text_loss", "grad_norm"]);
    for (sequences, accumulate) in [(1, 8), (2, 4)] {
        for (got, want) in metrics(sequences, accumulate).iter().zip(&whole) {
            assert_eq!(got.len(), want.len());
            for ((name, got), (wanted, want)) in got.iter().zip(want) {
                assert_eq!(name, wanted);
                assert_same(*got, *want, name);
            }
        }
    }
}

#[test]
fn signed_weights_go_through_the_whole_model_with_and_without_checkpointing() {
    let model = tiny_model(&cpu().autodiff());
    let batch = tiny_batch();
    let targets = Targets::of(&batch);
    let weights = [1.0, -0.7, 0.0, 2.0, -1.5, 0.4, -0.1];
    let gradients = |activations| {
        let (gradients, log_probs) = backward(&model, &batch.packed, activations, |hidden| {
            let predictions = Predictions::new(&model, hidden, &targets);
            let log_probs: Vec<f32> = predictions.stats().iter().map(|s| s.log_prob).collect();
            let (surrogate, stats) = predictions.surrogate(&weights, 0.0);
            assert_eq!(log_probs, stats.iter().map(|s| s.log_prob).collect::<Vec<_>>());
            (surrogate, log_probs)
        });
        (named(&model, gradients), log_probs)
    };
    let (got, log_probs) = gradients(Activations::Keep);
    let (by_layer, again) = gradients(Activations::Recompute { seed: 1 });
    assert_eq!(log_probs, again);
    assert_equal(&by_layer, &got, 1e-6);
    // The same sum of log-probabilities with all logits on the tape.
    let (want, _) = backward(&model, &batch.packed, Activations::Keep, |hidden| {
        let [rows, seq, _] = hidden.dims();
        let logits = model.logits(hidden);
        let vocab = logits.dims()[2];
        let log_probs =
            burn::tensor::activation::log_softmax(logits.reshape([rows * seq, vocab]), 1);
        let mut loss = Tensor::<1>::zeros([1], &model.device());
        for (target, weight) in weights.iter().enumerate() {
            let (at, id) = (targets.predictors[target], targets.ids[target] as usize);
            loss = loss - log_probs.clone().slice([at..at + 1, id..id + 1]).reshape([1]) * *weight;
        }
        (loss, ())
    });
    assert_equal(&got, &named(&model, want), 1e-5);
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
        let normalizer = OBJECTIVE.normalizer(&[tiny_batch(), tiny_batch()]);
        let gradients =
            |activations| OBJECTIVE.gradients(&model, &tiny_batch(), normalizer, activations);
        // First with checkpointing, as weights are not initialised before they are used.
        let (got, loss) = gradients(Activations::Recompute { seed: 3 });
        let (want, again) = gradients(Activations::Keep);
        assert_eq!(loss, again);
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
    let (want, loss) = whole_step(&OBJECTIVE, &model, &tiny_batch());
    let want = named(&model, want);
    let mixed = model.in_mixed_precision();
    let (got, rounded) = whole_step(&OBJECTIVE, &mixed, &tiny_batch());
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
    let step = |config: &OptimizerConfig, activations: Activations| {
        let model = config.freeze(model.clone()).unwrap();
        let batch = tiny_batch();
        let normalizer = OBJECTIVE.normalizer(std::slice::from_ref(&batch));
        let (gradients, _) = OBJECTIVE.gradients(&model, &batch, normalizer, activations);
        // Without clipping: its norm counts only what is trained.
        let config = OptimizerConfig { grad_clip: 0.0, ..config.clone() };
        let (model, _) = Optimizer::new(config).step(model, gradients, 0.01).unwrap();
        tensor_files::collect(&model)
    };
    let before = tensor_files::collect(&model);
    let free = step(&plain, Activations::Keep);
    let grouped = step(&config, Activations::Keep);
    let by_layer = step(&config, Activations::Recompute { seed: 0 });
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
}

#[test]
fn frozen_parameters_have_no_gradient_and_all_others_have_one() {
    let group = GroupConfig {
        parameters: vec!["model.layers.*.mlp.*".to_owned(), "model.embed_tokens.*".to_owned()],
        lr_scale: 0.0,
        weight_decay: None,
    };
    let config = OptimizerConfig { groups: vec![group], ..OptimizerConfig::default() };
    let model = config.freeze(tiny_model(&cpu().autodiff())).unwrap();
    let normalizer = OBJECTIVE.normalizer(&[tiny_batch()]);
    for activations in [Activations::Keep, Activations::Recompute { seed: 0 }] {
        let (gradients, _) = OBJECTIVE.gradients(&model, &tiny_batch(), normalizer, activations);
        let gradients = named(&model, gradients);
        for name in tensor_files::shapes(&model).into_keys() {
            let is_frozen = name.contains(".mlp.") || name.contains("embed_tokens");
            assert_eq!(gradients.contains_key(&name), !is_frozen, "{name}");
        }
    }
}
