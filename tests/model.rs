//! The transformer against the reference implementation, and its properties.

use std::collections::BTreeMap;

use burn::module::{ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use calumma::checkpoint::Checkpoint;
use calumma::generate::sampling::log_probability;
use calumma::generate::{BLOCK, LanguageModel, ServingModel, Span};
use calumma::model::{CausalLm, ModelConfig, ModelInput, PagedCache, mask};

use crate::common::{Expected, assert_close, cpu, excess, fixture};

const MODEL: &str = "models/prenorm-gqa";

fn expected() -> Expected {
    Expected::open(&format!("{MODEL}/expected.safetensors"))
}

fn reference(device: &Device) -> (ModelConfig, CausalLm) {
    let json = std::fs::read_to_string(fixture(MODEL).join("config.json")).unwrap();
    let config =
        calumma::checkpoint::config_from_json(&serde_json::from_str(&json).unwrap()).unwrap();
    let model = config.init(device).unwrap();
    let model = Checkpoint::load_weights(&fixture(MODEL), &config, model).unwrap();
    (config, model)
}

fn ids(values: &[u32], rows: usize, device: &Device) -> Tensor<2, Int> {
    let values: Vec<i32> = values.iter().map(|&v| v as i32).collect();
    let seq = values.len() / rows;
    Tensor::from_data(TensorData::new(values, [rows, seq]), device)
}

fn positions(rows: usize, seq: usize, device: &Device) -> Tensor<2, Int> {
    ids(&(0..rows * seq).map(|i| (i % seq) as u32).collect::<Vec<_>>(), rows, device)
}

/// One row from position 0.
fn plain(values: &[u32], device: &Device) -> ModelInput {
    let seq = values.len();
    ModelInput {
        ids: ids(values, 1, device),
        positions: positions(1, seq, device),
        mask: mask::causal(seq, device),
    }
}

#[test]
fn hidden_states_and_logits_equal_the_reference() {
    let (device, expected) = (cpu(), expected());
    let (_, model) = reference(&device);
    for (case, ids) in [
        ("text_short", "text_short.input_ids"),
        ("text_labels", "text_labels.input_ids"),
        ("mixed_one_image", "mixed_one_image.inline_input_ids"),
    ] {
        let mut layer = 0;
        let hidden = model.hidden_states(plain(&expected.ids(ids), &device), |x| {
            let name = format!("{case}.hidden.{layer}");
            if expected.names().contains(&name) {
                assert_close(x, &expected.floats(&name), &name);
            }
            layer += 1;
        });
        assert_eq!(layer, 3);
        let name = format!("{case}.last_hidden_state");
        assert_close(&hidden, &expected.floats(&name), &name);
        let name = format!("{case}.raw_logits");
        assert_close(&model.logits(hidden), &expected.floats(&name), &name);
    }
}

#[test]
fn left_padded_rows_equal_the_reference_where_they_are_not_padding() {
    let (device, expected) = (cpu(), expected());
    let (_, model) = reference(&device);
    let (attended, shape) = expected.ints("text_batch_leftpad.attention_mask");
    let [rows, seq] = [shape[0], shape[1]];
    // Padding is a document of its own, so that the rest does not see it.
    let documents: Vec<u32> = attended.iter().map(|&attended| attended as u32).collect();
    let logits = model.forward(ModelInput {
        ids: ids(&expected.ids("text_batch_leftpad.input_ids"), rows, &device),
        positions: positions(rows, seq, &device), // the case counts pads
        mask: mask::packed(&documents, rows, &device),
    });
    let reference = expected.floats("text_batch_leftpad.raw_logits");
    let vocab = logits.dims()[2];
    let (ours, theirs): (Vec<f32>, Vec<f32>) =
        (logits.to_data().iter().collect(), reference.iter().collect());
    let mut compared = 0;
    for token in (0..rows * seq).filter(|&token| attended[token] == 1) {
        let range = token * vocab..(token + 1) * vocab;
        let a = TensorData::new(ours[range.clone()].to_vec(), [vocab]);
        let b = TensorData::new(theirs[range].to_vec(), [vocab]);
        assert!(excess(&a, &b, 2e-4, 1e-4) <= 1.0, "token {token}");
        compared += 1;
    }
    assert!(compared > seq);
}

/// The gradients of a module by path.
struct Gradients {
    gradients: GradientsParams,
    path: Vec<String>,
    found: BTreeMap<String, TensorData>,
}

impl ModuleVisitor for Gradients {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.found.insert(self.path.join("."), gradient.to_data());
        }
    }
}

#[test]
fn loss_and_gradients_equal_the_reference() {
    let (device, expected) = (cpu().autodiff(), expected());
    let (_, model) = reference(&device);
    let ids = expected.ids("text_labels.input_ids");
    let (labels, _) = expected.ints("text_labels.labels");
    let logits = model.forward(plain(&ids, &device));
    let [_, seq, vocab] = logits.dims();
    // The reference hides the image ids, 4 to 103, before its loss.
    let hidden = Tensor::<1, Int>::arange(0..vocab as i64, &device);
    let hidden = hidden.clone().greater_equal_elem(4).bool_and(hidden.lower_equal_elem(103));
    let logits = logits.reshape([seq, vocab]);
    let logits = logits.mask_fill(hidden.unsqueeze::<2>().expand([seq, vocab]), f32::MIN);
    let log_probabilities = activation::log_softmax(logits, 1);
    let targets: Vec<(usize, i64)> =
        (1..seq).filter(|&t| labels[t] != -100).map(|t| (t - 1, labels[t])).collect();
    let count = targets.len();
    let mut loss = Tensor::<1>::zeros([1], &device);
    for (place, label) in targets {
        let label = label as usize;
        let one = log_probabilities.clone().slice([place..place + 1, label..label + 1]);
        loss = loss - one.reshape([1]) / count as f64;
    }
    let want = expected.floats("text_labels.loss").iter::<f32>().next().unwrap();
    assert!((loss.clone().into_scalar::<f32>() - want).abs() <= 1e-5);

    let gradients = GradientsParams::from_grads(loss.backward(), &model);
    let mut gradients = Gradients { gradients, path: vec![], found: BTreeMap::new() };
    burn::module::Module::visit(&model, &mut gradients);
    let mut compared = 0;
    for name in expected.names() {
        let Some(path) = name.strip_prefix("text_labels.grad.") else { continue };
        let want = expected.floats(&name);
        let largest = want.iter::<f32>().map(f32::abs).fold(0.0, f32::max);
        let excess = excess(&gradients.found[path], &want, 1e-4 * largest, 0.0);
        assert!(excess <= 1.0, "{path}: {excess} times the tolerance");
        compared += 1;
    }
    assert!(compared >= 20);
}

/// A lane with a cache of its own.
struct Alone<'a> {
    serving: &'a ServingModel,
    cache: PagedCache,
    blocks: Vec<u32>,
    len: usize,
}

impl<'a> Alone<'a> {
    fn new(serving: &'a ServingModel, capacity: usize) -> Self {
        let blocks: Vec<u32> = (0..capacity.div_ceil(BLOCK) as u32).collect();
        let cache = serving.new_cache(blocks.len());
        Self { serving, cache, blocks, len: 0 }
    }

    /// The logits after each of `ids`.
    fn extend(&mut self, ids: &[u32]) -> Vec<Vec<f32>> {
        let columns = 0..self.serving.vocab_size();
        let (blocks, start, wanted) = (&self.blocks[..], self.len, ids.len());
        let span = Span { blocks, start, ids, wanted, columns };
        self.len += ids.len();
        self.serving.pass(&[span], &mut self.cache).unwrap().remove(0)
    }
}

#[test]
fn greedy_continuation_equals_the_reference() {
    let (device, expected) = (cpu(), expected());
    let (config, model) = reference(&device);
    let serving = ServingModel::new(config, model, device);
    let prompt = expected.ids("generate_text.prompt_ids");
    let sequence = expected.ids("generate_text.sequences");
    let mut lane = Alone::new(&serving, sequence.len());
    let mut logits = lane.extend(&prompt);
    let mut row = prompt.clone();
    while row.len() < sequence.len() {
        // Image ids are 4 to 103 here; the reference never generates them.
        let allowed = |id: &usize| !(4..=103).contains(id);
        let last = logits.last().unwrap();
        let best = (0..last.len())
            .filter(allowed)
            .max_by(|&a, &b| last[a].total_cmp(&last[b]).then(b.cmp(&a)));
        let id = best.unwrap() as u32;
        row.push(id);
        if row.len() < sequence.len() {
            logits = lane.extend(&[id]);
        }
    }
    assert_eq!(row, sequence);
}

fn tiny(swin_norm: bool) -> ModelConfig {
    ModelConfig {
        vocab_size: 32,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 64,
        initializer_range: 0.3,
        swin_norm,
        ..ModelConfig::default()
    }
}

fn data(logits: &[Vec<f32>]) -> TensorData {
    let values: Vec<f32> = logits.concat();
    TensorData::new(values, [logits.len(), logits[0].len()])
}

fn serving(config: &ModelConfig, seed: u64) -> ServingModel {
    let device = cpu();
    device.seed(seed);
    ServingModel::new(config.clone(), config.init(&device).unwrap(), device)
}

/// Ids that repeat from run to run.
fn some_ids(len: usize, salt: usize) -> Vec<u32> {
    (0..len).map(|place| ((place * place * 7 + place * 3 + salt * 11) % 32) as u32).collect()
}

#[test]
fn cached_decoding_matches_the_full_forward_in_both_norm_orders() {
    for swin_norm in [false, true] {
        let serving = serving(&ModelConfig { max_position_embeddings: 150, ..tiny(swin_norm) }, 3);
        let row = some_ids(140, 0);
        let full = serving.all_logits(&row).unwrap();
        for chunk in [1, 5, 64, 70] {
            let mut lane = Alone::new(&serving, row.len());
            let stepped: Vec<_> = row.chunks(chunk).flat_map(|ids| lane.extend(ids)).collect();
            let off = excess(&data(&stepped), &data(&full), 1e-5, 1e-5);
            assert!(off <= 1.0, "chunks of {chunk}: {off}");
        }
    }
}

/// Bit for bit, as far as every operation of the model has one order of arithmetic for all rows.
#[test]
fn logits_are_those_of_one_id_at_a_time_whatever_the_chunks_mates_and_blocks() {
    let config = ModelConfig { max_position_embeddings: 150, ..tiny(false) };
    let serving = serving(&config, 4);
    let rows = [some_ids(141, 1), some_ids(97, 2), some_ids(30, 3)];
    let alone: Vec<Vec<Vec<f32>>> = rows
        .iter()
        .map(|row| {
            let mut lane = Alone::new(&serving, row.len());
            row.iter().flat_map(|id| lane.extend(&[*id])).collect()
        })
        .collect();
    let tables: [&[u32]; 3] = [&[9, 2, 5], &[0, 7], &[4]];
    for chunks in [[1, 1, 1], [64, 2, 30], [3, 97, 1], [141, 40, 7], [17, 16, 5]] {
        let mut cache = serving.new_cache(10);
        serving.poison(&(0..10).collect::<Vec<_>>(), &mut cache);
        let mut lens = [0; 3];
        while lens.iter().zip(&rows).any(|(len, row)| *len < row.len()) {
            let running: Vec<usize> = (0..3).filter(|&n| lens[n] < rows[n].len()).collect();
            let spans: Vec<Span<'_>> = running
                .iter()
                .map(|&n| {
                    let end = rows[n].len().min(lens[n] + chunks[n]);
                    let ids = &rows[n][lens[n]..end];
                    // Lanes want different columns and numbers of rows.
                    let (wanted, columns) = (ids.len().min(1 + 7 * n), 4 * n..32);
                    Span { blocks: tables[n], start: lens[n], ids, wanted, columns }
                })
                .collect();
            let found = serving.pass(&spans, &mut cache).unwrap();
            for ((&n, span), found) in running.iter().zip(&spans).zip(found) {
                lens[n] += span.ids.len();
                let want: Vec<_> = alone[n][lens[n] - span.wanted..lens[n]]
                    .iter()
                    .map(|logits| logits[span.columns.clone()].to_vec())
                    .collect();
                assert_eq!(found, want, "chunks {chunks:?}, lane {n} up to {}", lens[n]);
            }
        }
    }
}

#[test]
fn lanes_that_begin_alike_share_blocks() {
    let serving = serving(&ModelConfig { max_position_embeddings: 150, ..tiny(false) }, 5);
    let beginning = some_ids(BLOCK + 10, 4);
    let rows = [1, 2].map(|salt| [&beginning[..], &some_ids(20, salt)].concat());
    let span = |blocks, start, ids, wanted| Span { blocks, start, ids, wanted, columns: 0..32 };
    let mut cache = serving.new_cache(4);
    serving.pass(&[span(&[3, 1], 0, &beginning, 0)], &mut cache).unwrap();
    // The full block is shared, the partial one copied.
    cache.copy_block(1, 2);
    let start = beginning.len();
    let spans =
        [span(&[3, 1], start, &rows[0][start..], 1), span(&[3, 2], start, &rows[1][start..], 1)];
    let found = serving.pass(&spans, &mut cache).unwrap();
    for (row, found) in rows.iter().zip(found) {
        let want = serving.all_logits(row).unwrap().split_off(row.len() - 1);
        assert!(excess(&data(&found), &data(&want), 1e-5, 1e-5) <= 1.0);
    }
}

#[test]
fn a_poisoned_block_shows_where_it_is_used_and_only_there() {
    let serving = serving(&tiny(false), 6);
    let span = |blocks| Span { blocks, start: 3, ids: &[7], wanted: 1, columns: 0..32 };
    let mut cache = serving.new_cache(3);
    let prompt = |blocks| Span { blocks, start: 0, ids: &[1, 2, 3], wanted: 0, columns: 0..32 };
    serving.pass(&[prompt(&[0]), prompt(&[2])], &mut cache).unwrap();
    serving.poison(&[2], &mut cache);
    let found = serving.pass(&[span(&[0]), span(&[2])], &mut cache).unwrap().concat();
    assert!(found[0].iter().all(|logit| logit.is_finite()));
    assert!(found[1].iter().all(|logit| logit.is_nan()));
}

#[test]
fn choices_scored_together_have_the_log_probabilities_of_each_alone() {
    let device = cpu();
    device.seed(8);
    let config = tiny(false);
    let model = config.init(&device).unwrap();
    let serving = ServingModel::new(config, model, device);
    let prompt = [1_u32, 2, 3, 4, 5];
    // More than are scored at one time, of 1 to 4 ids.
    let choices: Vec<Vec<u32>> =
        (0..150_u32).map(|n| (0..=n % 4).map(|i| (7 * n + 3 * i) % 32).collect()).collect();
    let found = serving.log_probabilities(&prompt, &choices).unwrap();
    for (choice, found) in choices.iter().zip(found) {
        let logits = serving.all_logits(&[&prompt[..], choice].concat()).unwrap();
        let of_choice = logits[prompt.len() - 1..].iter().zip(choice);
        let alone: f64 = of_choice.map(|(logits, &id)| log_probability(logits, id)).sum();
        assert!((found - alone).abs() < 1e-4, "{choice:?}: {found}, not {alone}");
    }
    assert!(serving.log_probabilities(&prompt, &[]).unwrap().is_empty());
    assert!(serving.log_probabilities(&prompt, &[vec![]]).is_err());
    assert!(serving.log_probabilities(&prompt, &[vec![1; 60]]).is_err());
}

#[test]
fn the_future_cannot_leak() {
    let device = cpu();
    device.seed(5);
    let model = tiny(false).init(&device).unwrap();
    let logits = |last: u32| {
        let logits = model.forward(plain(&[1, 2, 3, last], &device));
        logits.slice([0..1, 0..3]).to_data()
    };
    assert_eq!(logits(4), logits(29));
}

#[test]
fn packed_documents_do_not_see_each_other() {
    let device = cpu();
    device.seed(6);
    let model = tiny(false).init(&device).unwrap();
    let hidden = model.hidden(ModelInput {
        ids: ids(&[1, 2, 3, 9, 8, 7, 6], 1, &device),
        positions: ids(&[0, 1, 2, 0, 1, 2, 3], 1, &device),
        mask: mask::packed(&[0, 0, 0, 1, 1, 1, 1], 1, &device),
    });
    let alone = model.hidden(plain(&[9, 8, 7, 6], &device));
    let packed = hidden.slice([0..1, 3..7]).to_data();
    assert!(excess(&packed, &alone.to_data(), 1e-6, 1e-5) <= 1.0);
}

#[test]
fn spans_that_the_model_cannot_run_are_refused() {
    let serving = serving(&tiny(false), 1);
    let mut cache = serving.new_cache(2);
    let good = Span { blocks: &[1], start: 0, ids: &[1, 2, 31], wanted: 3, columns: 0..32 };
    let found = serving.pass(std::slice::from_ref(&good), &mut cache).unwrap();
    assert_eq!((found.len(), found[0].len(), found[0][0].len()), (1, 3, 32));
    let long = [1; 65];
    for (what, bad) in [
        ("no ids", Span { ids: &[], wanted: 0, ..good.clone() }),
        ("the vocabulary of 32", Span { ids: &[1, 32], wanted: 0, ..good.clone() }),
        ("context", Span { ids: &long, blocks: &[0, 1], ..good.clone() }),
        ("context", Span { start: 62, ..good.clone() }),
        ("do not fit 0 blocks", Span { blocks: &[], ..good.clone() }),
        ("no block 2", Span { blocks: &[2], ..good.clone() }),
        ("4 logits wanted", Span { wanted: 4, ..good.clone() }),
        ("0..33", Span { columns: 0..33, ..good.clone() }),
    ] {
        let error = serving.pass(&[bad], &mut cache).unwrap_err().to_string();
        assert!(error.contains(what), "{error}, not {what}");
    }
    let error = serving.pass(&[good.clone(), good], &mut cache).unwrap_err().to_string();
    assert!(error.contains("two spans write to block 1"), "{error}");
    assert!(serving.pass(&[], &mut cache).unwrap().is_empty());
    assert!(serving.all_logits(&[]).is_err());
    assert!(serving.all_logits(&[1; 65]).is_err());
}
