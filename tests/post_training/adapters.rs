//! Adapters as PEFT saved them: logits, losses, gradients, merged weights and short trainings.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use calumma::checkpoint::Checkpoint;
use calumma::checkpoint::adapter::{Adapter, WeightedAdapter};
use calumma::data::pack::PackedBatch;
use calumma::model::{CausalLm, ModelConfig, ModelInput, mask};
use calumma::train::objective::{
    Activations, LossConfig, NextToken, NextTokenBatch, NextTokenLoss,
};
use calumma::train::{OptimizerConfig, Trained};
use serde_json::Value;
use tensor_files::ParamPath;

use crate::Table;
use crate::excess::excess;
use crate::tensors::{Values, flat};

const ABSOLUTE: f32 = 2e-4;
const RELATIVE: f32 = 1e-4;
/// Of a loss, of merged against unmerged logits, of a trained tensor.
const LOSS: f32 = 1e-5;
const MERGED: f32 = 1e-4;
const TRAINED: f32 = 1e-4;

/// Compares every adapter below `dir` with the values beside it; `base` is their model.
pub fn check(table: &mut Table, dir: &Path, base: &Path) {
    let inputs = Inputs::read(&dir.join("inputs.safetensors"));
    let checkpoint = Checkpoint::open(base, &Device::flex()).unwrap();
    let config = &checkpoint.config;
    table.case("the base without an adapter: logits", || {
        excess(&inputs.logits(&checkpoint.model), &inputs.base_logits, ABSOLUTE, RELATIVE)
    });
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|path| path.is_dir());
    names.sort();
    for adapter in names {
        one(table, &adapter, base, config, &inputs);
    }
    trainings(table, dir, base, config, &inputs);
}

/// Rows of ids with their targets, and what the base says of them.
struct Inputs {
    ids: Vec<Vec<u32>>,
    batch: NextTokenBatch,
    base_logits: Vec<f32>,
}

impl Inputs {
    fn read(path: &Path) -> Self {
        let values = Values::open(path);
        let ids = values.ids("input_ids");
        let labels = values.rows("labels");
        let (rows, seq_len) = (ids.len(), ids[0].len());
        let mut learnt = Vec::new();
        for (ids, labels) in ids.iter().zip(&labels) {
            for (at, (id, label)) in ids.iter().zip(labels).enumerate() {
                assert!(*label == -100 || *label == i64::from(*id), "labels are the ids");
                learnt.push(*label != -100 && at > 0);
            }
        }
        let packed = PackedBatch {
            ids: ids.concat(),
            document_ids: vec![1; rows * seq_len],
            positions: (0..rows).flat_map(|_| 0..seq_len as u32).collect(),
            loss_mask: learnt,
            sources: vec![0; rows * seq_len],
            rows,
            seq_len,
        };
        let batch = NextTokenBatch { is_image: vec![false; rows * seq_len], packed };
        Self { ids, batch, base_logits: flat(&values.floats("base_logits")) }
    }

    fn logits(&self, model: &CausalLm) -> Vec<f32> {
        let device = model.device();
        let packed = &self.batch.packed;
        let tensor = |values: &[u32]| {
            let values: Vec<i32> = values.iter().map(|v| *v as i32).collect();
            Tensor::<2, Int>::from_data(
                TensorData::new(values, [packed.rows, packed.seq_len]),
                &device,
            )
        };
        let logits = model.forward(ModelInput {
            ids: tensor(&self.ids.concat()),
            positions: tensor(&packed.positions),
            mask: mask::packed(&packed.document_ids, packed.rows, &device),
        });
        flat(&logits.to_data())
    }

    /// The loss and the gradients.
    fn gradients(&self, model: &CausalLm) -> (GradientsParams, NextTokenLoss) {
        let objective = NextToken { config: LossConfig { z_loss: 0.0, ..LossConfig::default() } };
        let normalizer = objective.normalizer(std::slice::from_ref(&self.batch));
        objective.gradients(model, &self.batch, normalizer, Activations::Keep)
    }
}

/// The base with `adapter` attached, to be trained.
fn attached(adapter: &Adapter, base: &Path, config: &ModelConfig) -> CausalLm {
    let model = config.init(&Device::flex().autodiff()).unwrap();
    adapter.attach(Checkpoint::load_weights(base, config, model).unwrap()).unwrap()
}

fn one(table: &mut Table, dir: &Path, base: &Path, config: &ModelConfig, inputs: &Inputs) {
    let name = dir.file_name().unwrap().to_string_lossy().into_owned();
    let adapter = match Adapter::open(dir, config) {
        Ok(adapter) => adapter,
        Err(error) => return table.line(&format!("{name}: opens"), false, &error.to_string()),
    };
    let expected = Values::open(&dir.join("expected.safetensors"));
    let model = attached(&adapter, base, config);
    let unmerged = inputs.logits(&model);
    table.case(&format!("{name}: logits"), || {
        excess(&unmerged, &flat(&expected.floats("logits")), ABSOLUTE, RELATIVE)
    });
    let (gradients, loss) = inputs.gradients(&model);
    table.case(&format!("{name}: loss"), || {
        excess(&[loss.total as f32], &flat(&expected.floats("loss")), LOSS, 0.0)
    });
    let found = by_name(&model, gradients, &adapter);
    table.case(&format!("{name}: gradients"), || {
        let wanted = names(&expected, "grad.");
        assert_eq!(wanted.len(), found.len(), "a gradient for each trained tensor and no other");
        wanted
            .iter()
            .map(|name| {
                let want = flat(&expected.floats(&format!("grad.{name}")));
                let largest = want.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                excess(&found[name], &want, 1e-4 * largest, 0.0)
            })
            .fold(0.0, f32::max)
    });
    let weighted = WeightedAdapter { dir: dir.to_owned(), weight: 1.0 };
    let merged =
        Checkpoint::open_with(base, &Device::flex(), FloatDType::F32, &[weighted]).unwrap().model;
    table.case(&format!("{name}: merged logits equal unmerged ones"), || {
        excess(&inputs.logits(&merged), &unmerged, MERGED, MERGED)
    });
    let weights = tensor_files::collect(&merged);
    for weight in names(&expected, "merged.") {
        table.case(&format!("{name}: merged {weight}"), || {
            let want = flat(&expected.floats(&format!("merged.{weight}")));
            excess(&flat(&weights[&weight]), &want, ABSOLUTE, RELATIVE)
        });
    }
}

/// The names that begin with `prefix`, without it.
fn names(values: &Values, prefix: &str) -> Vec<String> {
    let names = values.names();
    names.iter().filter_map(|name| name.strip_prefix(prefix)).map(str::to_owned).collect()
}

/// The gradients under PEFT's names.
fn by_name(
    model: &CausalLm,
    gradients: GradientsParams,
    adapter: &Adapter,
) -> BTreeMap<String, Vec<f32>> {
    struct Visitor<'a> {
        gradients: GradientsParams,
        adapter: &'a Adapter,
        path: ParamPath,
        found: BTreeMap<String, Vec<f32>>,
    }
    impl ModuleVisitor for Visitor<'_> {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, container_type: &str) {
            self.path.exit(container_type);
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(gradient) = self.gradients.get::<D>(param.id) else { return };
            let name = self.path.name();
            let stored = self.adapter.stored_name(&name).unwrap_or(&name).to_owned();
            self.found.insert(stored, flat(&gradient.to_data()));
        }
    }
    let path = ParamPath::default();
    let mut visitor = Visitor { gradients, adapter, path, found: BTreeMap::new() };
    model.visit(&mut visitor);
    visitor.found
}

/// The short trainings of `expected.json`, from the adapter `plain`.
fn trainings(table: &mut Table, dir: &Path, base: &Path, config: &ModelConfig, inputs: &Inputs) {
    let text = std::fs::read_to_string(dir.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    for (name, settings) in expected["training"].as_object().unwrap() {
        let number = |key: &str| settings[key].as_f64().unwrap();
        let start = settings["start"].as_str().unwrap().split('/').next().unwrap();
        let adapter = Adapter::open(&dir.join(start), config).unwrap();
        let model = attached(&adapter, base, config);
        let (lr, ratio) = (number("lr_a"), number("lr_b") / number("lr_a"));
        let optimizer = OptimizerConfig {
            lr,
            betas: [0, 1].map(|at| settings["betas"][at].as_f64().unwrap()),
            eps: number("eps"),
            weight_decay: number("weight_decay"),
            grad_clip: 0.0,
            loraplus_lr_ratio: (ratio != 1.0).then_some(ratio),
            ..OptimizerConfig::default()
        };
        let names = tensor_files::shapes(&model).into_keys();
        let part = names.filter(|name| adapter.plan().trains(name)).collect();
        let before = tensor_files::collect(&model);
        let mut trained = Trained::part(model, optimizer, 0.0, part);
        let losses: Vec<f64> =
            settings["losses"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let mut found = Vec::new();
        for _ in &losses {
            let (gradients, loss) = inputs.gradients(trained.module());
            trained.add(gradients);
            trained.apply(lr).unwrap();
            found.push(loss.total as f32);
        }
        table.case(&format!("training with {name}: losses"), || {
            let want: Vec<f32> = losses.iter().map(|loss| *loss as f32).collect();
            excess(&found, &want, 0.0, 1e-3)
        });
        let after = tensor_files::collect(trained.module());
        let expected = Values::open(&dir.join(format!("trained_{name}.safetensors")));
        let stored: BTreeMap<&str, &str> = after
            .keys()
            .filter_map(|ours| Some((adapter.stored_name(ours)?, ours.as_str())))
            .collect();
        table.case(&format!("training with {name}: trained tensors"), || {
            let names = expected.names();
            let off = |name: &String| {
                let found = flat(&after[stored[name.as_str()]]);
                excess(&found, &flat(&expected.floats(name)), TRAINED, 0.0)
            };
            names.iter().map(off).fold(0.0, f32::max)
        });
        table.case(&format!("training with {name}: frozen weights keep their bytes"), || {
            let frozen = after.iter().filter(|(name, _)| !adapter.plan().trains(name));
            let same = frozen.clone().all(|(name, data)| data.bytes() == before[name].bytes());
            if same && frozen.count() > 0 { 0.0 } else { f32::INFINITY }
        });
    }
}
