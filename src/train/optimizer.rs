//! AdamW, or Muon for the matrices of the hidden layers, with decoupled weight decay and clipping by
//! the global norm.
//!
//! The moments are kept by parameter *path*, not by Burn's `ParamId`: a module loaded from a weight
//! file has new ids, and an optimizer keyed by id would silently restart. Sources: arXiv 1711.05101 (AdamW),
//! arXiv 2502.16982 (Muon, its update scaled to the size of AdamW's so that both share a rate).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::{AdjustLrFn, GradientsParams, MuonConfig, Optimizer as _, decay, momentum};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use tensor_files::ParamPath;

use super::groups::GroupConfig;
use crate::error::{Error, Result};
#[cfg(feature = "cpu")]
use crate::model::ops::{self, AdamW};

/// Settings of the optimizer; the defaults are the paper's (section 2.3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// How weights are updated.
    pub kind: OptimizerKind,
    /// Peak learning rate.
    pub lr: f64,
    /// Decay of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay per unit of learning rate; not on norms, biases and embeddings.
    pub weight_decay: f64,
    /// Largest allowed L2 norm of all gradients together; 0 turns clipping off.
    pub grad_clip: f64,
    /// Parameters with rules of their own; the first group that names one counts.
    pub groups: Vec<GroupConfig>,
}

/// Kinds of optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay.
    AdamW,
    /// Orthogonalised momentum for the matrices of the hidden layers, AdamW for everything else:
    /// embeddings, output, norms, biases and convolutions. `betas` and `eps` are AdamW's.
    Muon,
}

/// Muon's momentum, with Nesterov's step ahead (arXiv 2502.16982 section 2.1).
const MUON_MOMENTUM: f64 = 0.95;

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::AdamW,
            lr: 1e-4,
            betas: [0.9, 0.95],
            eps: 1e-5,
            weight_decay: 0.1,
            grad_clip: 1.0,
            groups: Vec::new(),
        }
    }
}

impl OptimizerConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let invalid = |key: &str, value: f64, range: &str| {
            Err(Error::invalid(format!("optimizer.{key} is {value}; allowed: {range}")))
        };
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return invalid("lr", self.lr, "above 0");
        }
        if let Some(beta) = self.betas.iter().find(|beta| !(0.0..1.0).contains(*beta)) {
            return invalid("betas", *beta, "[0, 1)");
        }
        for (key, value) in
            [("weight_decay", self.weight_decay), ("grad_clip", self.grad_clip), ("eps", self.eps)]
        {
            if !(value >= 0.0 && value.is_finite()) {
                return invalid(key, value, "at least 0");
            }
        }
        for group in &self.groups {
            let decay = group.weight_decay.unwrap_or(0.0);
            for (key, value) in [("lr_scale", group.lr_scale), ("weight_decay", decay)] {
                if !(value >= 0.0 && value.is_finite()) {
                    return invalid(&format!("groups.{key}"), value, "at least 0");
                }
            }
        }
        Ok(())
    }
}

/// The optimizer and its state.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    step: u32,
    moments: BTreeMap<String, Moments>,
}

/// What is kept of one parameter, flat; the shape is the parameter's.
#[derive(Clone, Debug)]
struct Moments {
    /// AdamW's first moment, or Muon's momentum.
    first: Tensor<1>,
    /// AdamW's alone.
    second: Option<Tensor<1>>,
}

impl Optimizer {
    /// An optimizer that has taken no step.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, step: 0, moments: BTreeMap::new() }
    }

    /// One update. Returns the new module and the L2 norm of all gradients before clipping.
    ///
    /// # Errors
    /// The module as it was and the norm, when that is not finite: nothing was changed then.
    pub fn step<M: Module>(
        &mut self,
        module: M,
        gradients: GradientsParams,
        lr: f64,
    ) -> std::result::Result<(M, f64), (M, f64)> {
        let mut norm = SquaredNorm { gradients: &gradients, sum: None };
        module.visit(&mut norm);
        let norm = f64::from(norm.sum.map_or(0.0, |sum| sum.into_scalar::<f32>())).sqrt();
        if !norm.is_finite() {
            return Err((module, norm));
        }
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
        Ok((module.map(&mut update), norm))
    }

    /// Forgets the moments of some rows of the matrix at `path`, because the rows were replaced.
    pub fn reset_rows(&mut self, path: &str, rows: &BTreeSet<usize>, width: usize) {
        let Some(moments) = self.moments.get_mut(path) else { return };
        for moment in std::iter::once(&mut moments.first).chain(&mut moments.second) {
            let device = moment.device();
            let mut values: Vec<f32> = moment.to_data().iter::<f32>().collect();
            for &row in rows {
                values[row * width..(row + 1) * width].fill(0.0);
            }
            let len = values.len();
            *moment = Tensor::from_data(TensorData::new(values, [len]), &device);
        }
    }

    /// Writes step and moments as one safetensors file.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = tensor_files::NamedTensors::new();
        for (name, Moments { first, second }) in &self.moments {
            let kind = if second.is_some() { "first" } else { "momentum" };
            tensors.insert(format!("{kind}.{name}"), first.to_data());
            if let Some(second) = second {
                tensors.insert(format!("second.{name}"), second.to_data());
            }
        }
        let step = TensorData::new(vec![self.step as f32], [1]);
        tensors.insert("step".to_owned(), step);
        let bytes = tensor_files::to_bytes(&tensors, tensor_files::StoredDtype::F32, None)?;
        std::fs::write(path, bytes).map_err(Error::io(path))
    }

    /// Reads what [`Self::save`] wrote, onto `device`.
    ///
    /// # Errors
    /// [`Error::File`] when the file is malformed or lacks one of a pair of moments.
    pub fn load(config: OptimizerConfig, path: &Path, device: &Device) -> Result<Self> {
        let mut tensors = tensor_files::read(path)?;
        let lacks = |what: String| Error::file(path, format!("the optimizer state lacks {what}"));
        let step = tensors.remove("step").ok_or_else(|| lacks("step".to_owned()))?;
        let step = step.iter::<f32>().next().unwrap_or(0.0) as u32;
        let mut moments = BTreeMap::new();
        let keys: Vec<String> = tensors.keys().cloned().collect();
        for (kind, name) in keys.iter().filter_map(|key| key.split_once('.')) {
            let mut take = |kind: &str| {
                let key = format!("{kind}.{name}");
                let data = tensors.remove(&key).ok_or_else(|| lacks(key))?;
                Ok::<_, Error>(Tensor::from_data(data, device))
            };
            let kept = match kind {
                "first" => Moments { first: take("first")?, second: Some(take("second")?) },
                "momentum" => Moments { first: take("momentum")?, second: None },
                _ => continue,
            };
            moments.insert(name.to_owned(), kept);
        }
        Ok(Self { config, step, moments })
    }

    /// Updates taken so far.
    pub fn steps_taken(&self) -> u32 {
        self.step
    }
}

/// Whether a parameter is decayed: matrices and kernels, not norms, biases and embeddings.
fn decays(path: &str, rank: usize) -> bool {
    rank >= 2 && path.ends_with("weight") && !path.contains("norm") && !path.contains("embed")
}

/// Whether Muon updates a parameter: the matrices between embedding and output.
fn is_hidden_matrix(path: &str, rank: usize) -> bool {
    rank == 2 && decays(path, rank) && path.contains("layers.")
}

struct SquaredNorm<'a> {
    gradients: &'a GradientsParams,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for SquaredNorm<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let squares = (gradient.clone() * gradient).sum();
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + squares,
                None => squares,
            });
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
        let path = self.path.name();
        let config = &self.optimizer.config;
        let group = config.group(&path);
        let decay = group.and_then(|group| group.weight_decay).unwrap_or(config.weight_decay);
        let rate = Rate {
            lr: self.lr * group.map_or(1.0, |group| group.lr_scale),
            decay: if decays(&path, D) { decay } else { 0.0 },
        };
        let muon = config.kind == OptimizerKind::Muon && is_hidden_matrix(&path, D);
        let count = gradient.shape().num_elements();
        let gradient: Tensor<1> = gradient.inner().reshape([count]);
        let moments = self.optimizer.moments.remove(&path);
        let zeros = || Tensor::zeros([count], &gradient.device());
        let Moments { first, second } =
            moments.unwrap_or_else(|| Moments { first: zeros(), second: None });
        let (weight, moments) = if muon {
            let (weight, first) = self.muon(weight, gradient, first, rate);
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
        weight: Tensor<D>,
        gradient: Tensor<1>,
        momentum: Tensor<1>,
        Rate { lr, decay }: Rate,
    ) -> (Tensor<D>, Tensor<1>) {
        let gradient = if self.scale == 1.0 { gradient } else { gradient * self.scale };
        let momentum = momentum * MUON_MOMENTUM + gradient.clone();
        let ahead = (momentum.clone() * MUON_MOMENTUM + gradient).reshape(weight.dims());
        // The momentum is kept here, by path; Burn's part is what follows it.
        let none = momentum::MomentumConfig { momentum: 0.0, dampening: 0.0, nesterov: false };
        let muon = MuonConfig::new()
            .with_momentum(none)
            .with_weight_decay(Some(decay::WeightDecayConfig::new(decay as f32)))
            .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
            .build();
        (muon.step(lr, weight, ahead, None).0, momentum)
    }

    fn adamw<const D: usize>(
        &self,
        weight: Tensor<D>,
        gradient: Tensor<1>,
        moments: [Tensor<1>; 2],
        rate: Rate,
    ) -> (Tensor<D>, [Tensor<1>; 2]) {
        #[cfg(feature = "cpu")]
        if ops::applies(&weight) && ops::applies(&gradient) && ops::applies(&moments[0]) {
            return self.fused(weight, gradient, moments, rate);
        }
        self.composed(weight, gradient, moments, rate)
    }

    /// The update in one pass over arrays of the host.
    #[cfg(feature = "cpu")]
    fn fused<const D: usize>(
        &self,
        weight: Tensor<D>,
        gradient: Tensor<1>,
        moments: [Tensor<1>; 2],
        Rate { lr, decay }: Rate,
    ) -> (Tensor<D>, [Tensor<1>; 2]) {
        let config = &self.optimizer.config;
        let update = AdamW {
            betas: config.betas.map(|beta| beta as f32),
            eps: config.eps as f32,
            gradient_scale: self.scale as f32,
            rate: (lr / self.corrections[0]) as f32,
            correction: self.corrections[1] as f32,
            keep: (1.0 - lr * decay) as f32,
        };
        ops::adamw(update, weight, moments, gradient)
    }

    fn composed<const D: usize>(
        &self,
        weight: Tensor<D>,
        mut gradient: Tensor<1>,
        [first, second]: [Tensor<1>; 2],
        Rate { lr, decay }: Rate,
    ) -> (Tensor<D>, [Tensor<1>; 2]) {
        let config = &self.optimizer.config;
        let ([beta1, beta2], eps) = (config.betas, config.eps);
        let shape = weight.dims();
        if self.scale != 1.0 {
            gradient = gradient * self.scale;
        }
        let first = first * beta1 + gradient.clone() * (1.0 - beta1);
        let second = second * beta2 + gradient.clone() * gradient * (1.0 - beta2);
        let root = (second.clone() / self.corrections[1]).sqrt() + eps;
        let update = first.clone() / root * (lr / self.corrections[0]);
        let weight = if decay > 0.0 { weight * (1.0 - lr * decay) } else { weight };
        (weight - update.reshape(shape), [first, second])
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
