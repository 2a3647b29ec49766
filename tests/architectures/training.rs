//! The training step: loss and gradients, by transformers' names.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use calumma::checkpoint::{Checkpoint, weight_files};
use calumma::data::pack::PackedBatch;
use calumma::model::CausalLm;
use calumma::train::objective::{
    Activations, LossConfig, NextToken, NextTokenBatch, NextTokenLoss,
};
use tensor_files::{NamedTensors, ParamPath};

use crate::Case;
use crate::compare::{GRADIENT, LOSS, Outcome, Tolerance, all_close, close};
use crate::folder::Folder;
use crate::opened::Opened;
use crate::values::flat;

/// What the labels of transformers mark as no target.
const IGNORED: i64 = -100;

/// The loss of a batch and its gradients.
pub struct Step {
    loss: NextTokenLoss,
    gradients: BTreeMap<String, TensorData>,
    parameters: NamedTensors,
}

impl Step {
    pub fn of(opened: &Opened<'_>) -> Self {
        let config = opened.serving.config();
        let model = config.init(&Device::flex().autodiff()).unwrap();
        let model = Checkpoint::load_weights(opened.dir(), config, model).unwrap();
        let batch = batch(opened.folder);
        let objective = NextToken { config: LossConfig { z_loss: 0.0, ..LossConfig::default() } };
        let normalizer = objective.normalizer(std::slice::from_ref(&batch));
        let (gradients, loss) = objective.gradients(&model, &batch, normalizer, Activations::Keep);
        let gradients = by_name(&model, gradients);
        Self { loss, gradients, parameters: tensor_files::collect(&model) }
    }

    /// The whole loss.
    pub fn total(&self) -> f64 {
        self.loss.total
    }

    /// The gradient that transformers calls `name`.
    ///
    /// Stacks of experts' matrices may have other names here, and `gate_up_proj`, each expert's gate above its up,
    /// may be two stacks.
    fn gradient(&self, name: &str) -> Result<TensorData, String> {
        let found = |name: &str| {
            let found = self.gradients.get(name);
            found.or_else(|| self.gradients.get(&format!("{name}.weight")))
        };
        if let Some(gradient) = found(name) {
            return Ok(gradient.clone());
        }
        let halves = name.strip_suffix("gate_up_proj").and_then(|experts| {
            let half = |part: &str| found(&format!("{experts}{part}"));
            Some([half("gate_proj")?, half("up_proj")?])
        });
        let [gate, up] = halves.ok_or_else(|| format!("there is no gradient of {name}"))?;
        let [experts, rows, columns] = gate.shape().to_vec()[..] else {
            return Err(format!("the gate's shape is {:?}", gate.shape()));
        };
        let (gate, up) = (flat(gate), flat(up));
        let of_experts = gate.chunks_exact(rows * columns).zip(up.chunks_exact(rows * columns));
        let values: Vec<f32> = of_experts.flat_map(|(gate, up)| [gate, up].concat()).collect();
        Ok(TensorData::new(values, [experts, 2 * rows, columns]))
    }

    /// The matrix `values` of the parameter `name` with its rows as in the checkpoint's file, of which the parameter
    /// may have another order: rotary embeddings pair neighbouring rows in some files.
    fn in_file_order(&self, name: &str, values: TensorData, opened: &Opened<'_>) -> TensorData {
        let files = weight_files(opened.dir()).unwrap().1;
        let (Some(ours), true) = (self.parameters.get(name), files.contains(name)) else {
            return values;
        };
        let stored = files.stored(name).unwrap().to_data(FloatDType::F32).unwrap();
        let shape = values.shape().to_vec();
        let [_, columns] = shape[..] else { return values };
        let (stored, ours, flat_values) = (flat(&stored), flat(ours), flat(&values));
        let rows = |values: &[f32]| -> Vec<Vec<f32>> {
            values.chunks_exact(columns).map(<[f32]>::to_vec).collect()
        };
        let (stored, ours, rows) = (rows(&stored), rows(&ours), rows(&flat_values));
        let place = |row: &Vec<f32>| ours.iter().position(|own| own == row);
        let order: Option<Vec<usize>> = stored.iter().map(place).collect();
        match order {
            Some(order) if stored != ours => {
                let values: Vec<f32> = order.into_iter().flat_map(|at| rows[at].clone()).collect();
                TensorData::new(values, shape)
            }
            _ => values,
        }
    }
}

/// The rows of the fixture with their labels; without labels every id is a target.
fn batch(folder: &Folder) -> NextTokenBatch {
    let ids = folder.rows();
    let labels = match folder.has("labels") {
        true => folder.integers("labels"),
        false => ids.iter().map(|row| row.iter().map(|id| i64::from(*id)).collect()).collect(),
    };
    let (rows, seq_len) = (ids.len(), ids[0].len());
    let mut loss_mask = Vec::new();
    for (ids, labels) in ids.iter().zip(&labels) {
        for (at, (id, label)) in ids.iter().zip(labels).enumerate() {
            assert!(*label == IGNORED || *label == i64::from(*id), "labels are the ids");
            loss_mask.push(*label != IGNORED && at > 0);
        }
    }
    let packed = PackedBatch {
        ids: ids.concat(),
        document_ids: vec![1; rows * seq_len],
        positions: (0..rows).flat_map(|_| 0..seq_len as u32).collect(),
        loss_mask,
        sources: vec![0; rows * seq_len],
        rows,
        seq_len,
    };
    NextTokenBatch { is_image: vec![false; rows * seq_len], packed }
}

fn by_name(model: &CausalLm, gradients: GradientsParams) -> BTreeMap<String, TensorData> {
    struct Visitor {
        gradients: GradientsParams,
        path: ParamPath,
        found: BTreeMap<String, TensorData>,
    }
    impl ModuleVisitor for Visitor {
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
    let mut visitor = Visitor { gradients, path: ParamPath::default(), found: BTreeMap::new() };
    model.visit(&mut visitor);
    visitor.found
}

pub fn cases(folder: &Folder) -> Vec<Case> {
    if !folder.has("labels") {
        return Vec::new();
    }
    // Where routers have an auxiliary loss, `loss` and the gradients are those of the sum of both.
    let mut cases = vec![match folder.has("ce_loss") {
        true => Case::new("ce_loss", |opened| {
            let NextTokenLoss { image, text, .. } = &opened.step().loss;
            let mean = (image.0 + text.0) / (image.1 + text.1) as f64;
            all_close(&[mean as f32], &flat(&opened.folder.floats("ce_loss")), LOSS)
        }),
        false => Case::new("loss", |opened| {
            let total = opened.step().loss.total as f32;
            all_close(&[total], &flat(&opened.folder.floats("loss")), LOSS)
        }),
    }];
    for name in folder.names("grad.") {
        cases.push(Case::new(name.clone(), move |opened| {
            gradient(opened, &name, name.trim_start_matches("grad."))
        }));
    }
    cases
}

/// Compares the gradient `expected` of the fixture with that of the parameter `name`.
pub fn gradient(opened: &Opened<'_>, expected: &str, name: &str) -> Outcome {
    let want = opened.folder.floats(expected);
    let got = opened.step().in_file_order(name, opened.step().gradient(name)?, opened);
    let largest = want.iter::<f32>().fold(0.0_f32, |most, x| most.max(x.abs()));
    close(&got, &want, Tolerance { absolute: GRADIENT * largest, relative: 0.0 })
}
