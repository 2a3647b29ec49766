//! AdamW, or Muon for the matrices of the hidden layers, with decoupled weight decay and clipping by
//! the global norm.
//!
//! The moments are keyed by parameter *path*, not by Burn's `ParamId`: a module loaded from a weight
//! file has new ids, and an optimizer keyed by id would silently restart. Sources: arXiv 1711.05101 (AdamW),
//! arXiv 2502.16982 (Muon, its update scaled to the size of AdamW's so that both share a learning rate).

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use tensor_files::{DeviceTensor, DeviceTensors, ParamPath, StoredDtype, WeightFiles};

use super::optimizer_config::{OptimizerConfig, OptimizerKind};
use super::rows::{self, Rows};
use crate::error::{Error, Result};
use crate::model::ops;
use kernels::adamw::AdamW;

/// An optimizer with its state.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    step: u32,
    moments: BTreeMap<String, Moments>,
    /// The rows of every parameter with a gradient that are trained; `None` for all.
    rows: Option<Rows>,
}

/// The state of one parameter, flat.
#[derive(Clone, Debug)]
struct Moments {
    /// AdamW's first moment, or Muon's momentum.
    first: Tensor<1>,
    /// AdamW's second moment.
    second: Option<Tensor<1>>,
}

impl Optimizer {
    /// An optimizer that has taken no step.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, step: 0, moments: BTreeMap::new(), rows: None }
    }

    /// The same for `rows` of every parameter that has a gradient: only they count for the norm, have moments and
    /// change.
    pub(super) fn of_rows(self, rows: Rows) -> Self {
        Self { rows: Some(rows), ..self }
    }

    /// Updates `module`. Returns it with the L2 norm of all gradients before clipping.
    ///
    /// # Errors
    /// The unchanged module and the norm if that is not finite; the optimizer is unchanged too.
    pub fn step<M: Module>(
        &mut self,
        module: M,
        gradients: GradientsParams,
        lr: f64,
    ) -> std::result::Result<(M, f64), (M, f64)> {
        let norm = self.norm(&module, &gradients);
        if !norm.is_finite() {
            return Err((module, norm));
        }
        Ok((self.update(module, gradients, norm, lr), norm))
    }

    /// The L2 norm of all `gradients` of `module`.
    pub(super) fn norm<M: Module>(&self, module: &M, gradients: &GradientsParams) -> f64 {
        let mut found = Flat { gradients, rows: self.rows.as_ref(), found: Vec::new() };
        module.visit(&mut found);
        let squares = ops::sum_of_squares(found.found);
        f64::from(squares.map_or(0.0, |sum| sum.into_scalar::<f32>())).sqrt()
    }

    /// [`step`](Self::step) for gradients whose `norm` is known and finite.
    pub(super) fn update<M: Module>(
        &mut self,
        module: M,
        gradients: GradientsParams,
        norm: f64,
        lr: f64,
    ) -> M {
        let clip = self.config.grad_clip;
        let scale = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        self.step += 1;
        let [beta1, beta2] = self.config.betas;
        let steps = f64::from(self.step);
        let mut update = Update {
            optimizer: self,
            gradients,
            path: ParamPath::default(),
            lr,
            scale,
            corrections: [1.0 - beta1.powf(steps), 1.0 - beta2.powf(steps)],
        };
        module.map(&mut update)
    }

    /// Sets the moments of `rows` of the matrix at `path`, which has `count`, to 0.
    pub(super) fn reset_rows(&mut self, path: &str, rows: &[usize], count: usize) {
        let Some(moments) = self.moments.get_mut(path) else { return };
        for moment in std::iter::once(&mut moments.first).chain(&mut moments.second) {
            let mask = rows::mask(rows, count, moment);
            *moment = moment.clone().mask_fill(mask, 0.0);
        }
    }

    /// Writes step and moments as one safetensors file.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let flat = |elements: &Tensor<1>| DeviceTensor {
            shape: elements.dims().to_vec(),
            elements: elements.clone(),
        };
        let mut tensors = DeviceTensors::new();
        for (name, Moments { first, second }) in &self.moments {
            let kind = if second.is_some() { "first" } else { "momentum" };
            tensors.insert(format!("{kind}.{name}"), flat(first));
            if let Some(second) = second {
                tensors.insert(format!("second.{name}"), flat(second));
            }
        }
        let device = self.moments.values().next().map(|moments| moments.first.device());
        let step = Tensor::from_data([self.step as f32], &device.unwrap_or_default());
        tensors.insert("step".to_owned(), flat(&step));
        Ok(tensor_files::write(path, &tensors, StoredDtype::F32)?)
    }

    /// Continues from what [`Self::save`] wrote, with the moments on `device`.
    ///
    /// # Errors
    /// [`Error::File`] if the file is malformed or lacks one of a pair of moments.
    pub fn restore(&mut self, path: &Path, device: &Device) -> Result<()> {
        let files = WeightFiles::open(path)?;
        let require = |name: &str| match files.contains(name) {
            true => Ok(()),
            false => Err(Error::file(path, format!("the optimizer state lacks {name}"))),
        };
        let read = |name: &str| -> Result<TensorData> {
            require(name)?;
            Ok(files.stored(name)?.to_data(FloatDType::F32)?)
        };
        let step = read("step")?.iter::<f32>().next().unwrap_or(0.0) as u32;
        let mut moments = BTreeMap::new();
        for (kind, name) in files.tensors().filter_map(|(key, ..)| key.split_once('.')) {
            let take = |kind: &str| {
                let data = read(&format!("{kind}.{name}"))?;
                Ok::<_, Error>(Tensor::from_data(data, device))
            };
            let kept = match kind {
                "first" => Moments { first: take("first")?, second: Some(take("second")?) },
                "second" => {
                    require(&format!("first.{name}"))?;
                    continue;
                }
                "momentum" => Moments { first: take("momentum")?, second: None },
                _ => continue,
            };
            moments.insert(name.to_owned(), kept);
        }
        (self.step, self.moments) = (step, moments);
        Ok(())
    }

    /// Checks that the moments are those of what is trained of parameters with these shapes, by name.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names the first that are not.
    pub(super) fn check(&self, shapes: &BTreeMap<String, Vec<usize>>) -> Result<()> {
        for (name, moments) in &self.moments {
            let Some(shape) = shapes.get(name) else { continue };
            let trained = match (&self.rows, shape.split_first()) {
                (Some(rows), Some((_, of_row))) => rows.len() * of_row.iter().product::<usize>(),
                _ => shape.iter().product(),
            };
            let [found] = moments.first.dims();
            if found != trained {
                return Err(Error::invalid(format!(
                    "moments of {name} are {found} numbers, this run trains {trained}: optimizer.train_rows is \
                     another than before; start a new run from the checkpoint with run.init"
                )));
            }
        }
        Ok(())
    }

    /// Updates taken so far.
    pub fn steps_taken(&self) -> u32 {
        self.step
    }
}

/// Whether a parameter decays: matrices and kernels do; norms, biases, embeddings and routers do not.
fn decays(path: &str, rank: usize) -> bool {
    let is_matrix = path.ends_with("weight") || is_factor(path) || stacked(path).is_some();
    let is_other = path.contains("norm") || path.contains("embed") || is_router(path);
    rank >= 2 && is_matrix && !is_other
}

/// Whether Muon updates a parameter: the matrices between embedding and output, those of experts one by one.
fn is_hidden_matrix(path: &str, rank: usize) -> bool {
    let is_matrix = rank == 2 || stacked(path).is_some();
    is_matrix && decays(path, rank) && path.contains("layers.") && !is_factor(path)
}

/// Whether a parameter is the matrix by which experts are chosen.
fn is_router(path: &str) -> bool {
    path.ends_with(".mlp.gate.weight")
}

/// The number of matrices of one expert in a parameter that is a stack of those of all, `[experts, rows, columns]`.
fn stacked(path: &str) -> Option<usize> {
    let stacks = [(".experts.gate_up_proj", 2), (".experts.down_proj", 1)];
    stacks.into_iter().find(|(end, _)| path.ends_with(end)).map(|(_, count)| count)
}

/// Whether a parameter is a factor of an adapter.
fn is_factor(path: &str) -> bool {
    path.contains(".lora.")
}

/// The gradients of all parameters, flat.
struct Flat<'a> {
    gradients: &'a GradientsParams,
    rows: Option<&'a Rows>,
    found: Vec<Tensor<1>>,
}

impl ModuleVisitor for Flat<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let gradient = gradient.inner();
            let gradient = self.rows.map_or(gradient.clone(), |rows| rows.of(&gradient));
            let count = gradient.shape().num_elements();
            self.found.push(gradient.reshape([count]));
        }
    }
}

struct Update<'a> {
    optimizer: &'a mut Optimizer,
    gradients: GradientsParams,
    path: ParamPath,
    lr: f64,
    scale: f64,
    corrections: [f64; 2],
}

/// Learning rate and weight decay of one parameter.
#[derive(Clone, Copy)]
struct Rate {
    lr: f64,
    decay: f64,
}

impl Update<'_> {
    fn updated<const D: usize>(&mut self, id: ParamId, weight: Tensor<D>) -> Tensor<D> {
        let Some(gradient) = self.gradients.remove::<D>(id) else { return weight };
        let gradient = gradient.inner();
        let Some(rows) = self.optimizer.rows.clone() else { return self.stepped(weight, gradient) };
        let values = self.stepped(rows.of(&weight), rows.of(&gradient));
        rows.put(weight, &values)
    }

    /// `weight` after a step with its `gradient`.
    fn stepped<const D: usize>(&mut self, weight: Tensor<D>, gradient: Tensor<D>) -> Tensor<D> {
        let path = self.path.name();
        let config = &self.optimizer.config;
        let group = config.group(&path);
        let decay = group.and_then(|group| group.weight_decay).unwrap_or(config.weight_decay);
        let rate = Rate {
            lr: self.lr
                * config.loraplus_scale(&path, D)
                * group.map_or(1.0, |group| group.lr_scale),
            decay: if decays(&path, D) { decay } else { 0.0 },
        };
        let muon = config.kind == OptimizerKind::Muon && is_hidden_matrix(&path, D);
        let count = gradient.shape().num_elements();
        let gradient: Tensor<1> = gradient.reshape([count]);
        let moments = self.optimizer.moments.remove(&path);
        let zeros = || Tensor::zeros([count], &gradient.device());
        let Moments { first, second } =
            moments.unwrap_or_else(|| Moments { first: zeros(), second: None });
        let (weight, moments) = if muon {
            let (weight, first) = self.muon(&path, weight, [first, gradient], rate);
            (weight, Moments { first, second: None })
        } else {
            let second = second.unwrap_or_else(zeros);
            let (weight, [first, second]) = self.adamw(weight, gradient, [first, second], rate);
            (weight, Moments { first, second: Some(second) })
        };
        self.optimizer.moments.insert(path, moments);
        weight
    }

    fn muon<const D: usize>(
        &self,
        path: &str,
        weight: Tensor<D>,
        [momentum, gradient]: [Tensor<1>; 2],
        Rate { lr, decay }: Rate,
    ) -> (Tensor<D>, Tensor<1>) {
        let update = ops::Muon { gradient_scale: self.scale, lr, decay };
        let Some(of_expert) = stacked(path) else {
            return ops::muon(update, weight, momentum, gradient);
        };
        let (shape, count) = (weight.dims(), weight.shape().num_elements());
        let (matrices, columns) = (shape[0] * of_expert, shape[D - 1]);
        let (len, weight) = (count / matrices, weight.reshape([count]));
        let updated = (0..matrices).map(|at| {
            let of = |all: &Tensor<1>| all.clone().narrow(0, at * len, len);
            let matrix = of(&weight).reshape([len / columns, columns]);
            let (matrix, momentum) = ops::muon(update, matrix, of(&momentum), of(&gradient));
            (matrix.reshape([len]), momentum)
        });
        let (weights, momenta): (Vec<Tensor<1>>, Vec<_>) = updated.unzip();
        (Tensor::cat(weights, 0).reshape(shape), Tensor::cat(momenta, 0))
    }

    fn adamw<const D: usize>(
        &self,
        weight: Tensor<D>,
        gradient: Tensor<1>,
        moments: [Tensor<1>; 2],
        Rate { lr, decay }: Rate,
    ) -> (Tensor<D>, [Tensor<1>; 2]) {
        let OptimizerConfig { betas, eps, .. } = self.optimizer.config;
        let (gradient_scale, corrections) = (self.scale, self.corrections);
        let update = AdamW { betas, eps, gradient_scale, corrections, lr, decay };
        ops::adamw(update, weight, moments, gradient)
    }
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let id = param.id;
        param.map(|weight| {
            let tracked = weight.is_require_grad();
            let weight = self.updated(id, weight.inner());
            let weight = Tensor::from_inner(weight);
            if tracked { weight.require_grad() } else { weight }
        })
    }
}
