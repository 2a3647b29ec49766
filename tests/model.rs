//! The transformer against the reference implementation, and its properties.

mod latent;
mod passes;

use std::collections::BTreeMap;

use burn::module::{ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use calumma::checkpoint::Checkpoint;
use calumma::generate::sampling::log_probability;
use calumma::generate::{BLOCK, LanguageModel, ServingModel, Span};
use calumma::model::{CausalLm, ModelConfig, ModelInput, PagedCache, mask};
use tensor_files::ParamPath;

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
    path: ParamPath,
    found: BTreeMap<String, TensorData>,
}

impl ModuleVisitor for Gradients {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.found.insert(self.path.name(), gradient.to_data());
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
    let mut gradients = Gradients { gradients, path: ParamPath::default(), found: BTreeMap::new() };
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

fn serving(config: &ModelConfig) -> ServingModel {
    let device = cpu();
    ServingModel::new(config.clone(), config.init(&device).unwrap(), device)
}

/// Ids that repeat from run to run.
fn some_ids(len: usize, salt: usize) -> Vec<u32> {
    (0..len).map(|place| ((place * place * 7 + place * 3 + salt * 11) % 32) as u32).collect()
}

#[test]
fn cached_decoding_matches_the_full_forward_in_both_norm_orders() {
    for swin_norm in [false, true] {
        let serving = serving(&ModelConfig { max_position_embeddings: 150, ..tiny(swin_norm) });
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

#[test]
fn choices_scored_together_have_the_log_probabilities_of_each_alone() {
    let device = cpu();
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
