//! Merging adapters into a model's tensors.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use tensor_files::TensorSource;

use super::config::read;
use super::open::Adapter;
use super::weighted::WeightedAdapter;
use crate::checkpoint::Manifest;
use crate::device::DeviceSpec;
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::model::adapter::{LowRank, LowRankEmbedding, TokenRows};

/// A weighted sum of adapters: `W + sum_i weight_i (W_i - W)`, with the weights `W_i` that each adapter makes of `W`.
///
/// Sums are in f32. A weight of -1 takes an adapter of plain factors out of weights that it was merged into.
#[derive(Debug)]
pub struct Merge {
    adapters: Vec<(Adapter, f64)>,
    device: Device,
}

impl Merge {
    /// The sum of `adapters`, each with its weight; computed on the CPU, whose products are in f32.
    ///
    /// # Errors
    /// Those of the device; [`Error::File`] if two of them replace the same values, or if one that replaces values or has magnitudes
    /// has another weight than 1: such an adapter is no sum.
    pub fn new(adapters: Vec<(Adapter, f64)>) -> Result<Self> {
        let mut replaced: BTreeMap<String, &Adapter> = BTreeMap::new();
        for (adapter, weight) in &adapters {
            let plan = adapter.plan();
            let replaces = plan.whole.keys().chain(plan.rows.keys());
            let magnitudes = plan.factors.iter().filter(|(_, f)| f.magnitude).map(|(name, _)| name);
            for name in replaces.chain(magnitudes) {
                if *weight != 1.0 {
                    return Err(Error::file(
                        adapter.dir(),
                        format!(
                            "its weight is {weight}; allowed: 1, because it replaces values of {name} (DoRA, \
                             modules_to_save, trainable_token_indices)"
                        ),
                    ));
                }
                if let Some(other) = replaced.insert(name.clone(), adapter) {
                    let (other, name) = (other.dir().display(), name);
                    let message = format!("replaces values of {name}, as does {other}");
                    return Err(Error::file(adapter.dir(), message));
                }
            }
        }
        let device = DeviceSpec::Cpu.open().or_else(|_| DeviceSpec::best().open())?;
        Ok(Self { adapters, device })
    }

    /// The sum of `adapters` for a model of the sizes `model`, and the sizes with them: the adapter of a reward model
    /// brings a head.
    ///
    /// # Errors
    /// As [`Adapter::open`] and [`Self::new`].
    pub fn open(
        adapters: &[WeightedAdapter],
        mut model: ModelConfig,
    ) -> Result<(Self, ModelConfig)> {
        for one in adapters {
            if read(&one.dir)?.config.has_score() {
                model.num_labels = 1;
            }
        }
        let open = |one: &WeightedAdapter| Ok((Adapter::open(&one.dir, &model)?, one.weight));
        Ok((Self::new(adapters.iter().map(open).collect::<Result<_>>()?)?, model))
    }

    /// A digest of the model whose files are `base` with these adapters.
    ///
    /// # Errors
    /// If a file of an adapter cannot be read.
    pub fn digest(&self, base: &Manifest) -> Result<String> {
        let mut digest = base.digest();
        for (adapter, weight) in &self.adapters {
            let files = Manifest::of(adapter.dir())?.digest();
            digest += &format!("+{files}*{weight}");
        }
        Ok(digest)
    }

    /// Whether there is no adapter.
    pub fn is_empty(&self) -> bool {
        self.adapters.is_empty()
    }

    /// The parameter called `name` of an adapter that is trained whole, in f32; `None` if none has it.
    ///
    /// # Errors
    /// Those of the adapters' files.
    pub fn whole(&self, name: &str) -> tensor_files::Result<Option<TensorData>> {
        let mut all = self.adapters.iter().map(|(adapter, _)| adapter);
        let adapter = all.find(|adapter| adapter.plan().whole.contains_key(module_of(name)));
        adapter.map_or(Ok(None), |adapter| adapter.read(name))
    }

    /// Whether one of the adapters changes the parameter called `name`.
    pub fn changes(&self, name: &str) -> bool {
        self.adapters.iter().any(|(adapter, _)| changes(adapter, name))
    }

    /// The parameter called `name`, which was `base`, in f32.
    ///
    /// # Errors
    /// Those of the adapters' files.
    pub fn merge(&self, name: &str, base: TensorData) -> tensor_files::Result<TensorData> {
        let changing: Vec<_> = self.adapters.iter().filter(|(a, _)| changes(a, name)).collect();
        let base = base.convert_dtype(DType::F32);
        match changing[..] {
            [] => Ok(base),
            [(adapter, weight)] if *weight == 1.0 => self.merged(adapter, name, base),
            _ => {
                let before = self.flat(&base);
                let mut sum = before.clone();
                for (adapter, weight) in &changing {
                    let merged = self.flat(&self.merged(adapter, name, base.clone())?);
                    sum = sum + (merged - before.clone()) * *weight;
                }
                let shape = base.shape().to_vec();
                Ok(TensorData::from_bytes(sum.into_data().into_bytes(), shape, DType::F32))
            }
        }
    }

    fn flat(&self, data: &TensorData) -> Tensor<1> {
        let count = data.num_elements();
        let data = TensorData::from_bytes(data.clone().into_bytes(), [count], DType::F32);
        Tensor::from_data(data, &self.device)
    }

    /// What `adapter` makes of the parameter called `name`.
    fn merged(
        &self,
        adapter: &Adapter,
        name: &str,
        base: TensorData,
    ) -> tensor_files::Result<TensorData> {
        if let Some(whole) = adapter.read(name)? {
            return Ok(whole);
        }
        let module = module_of(name);
        let mut weight = Tensor::<2>::from_data(base, &self.device);
        let read = |end: &str| adapter.read(&format!("{module}.{end}"));
        let matrix = |data: TensorData| Tensor::<2>::from_data(data, &self.device);
        if let (Some(factors), Some(a), Some(b)) =
            (adapter.plan().factors.get(module), read("lora.a")?, read("lora.b")?)
        {
            let (a, b, scale) = (matrix(a), matrix(b), factors.scale);
            weight = if is_embedding(module) {
                LowRankEmbedding::known(a, b, scale).merge(weight)
            } else {
                let magnitude = read("lora.magnitude")?;
                let magnitude = magnitude.map(|data| Tensor::from_data(data, &self.device));
                LowRank::known(a, b, magnitude, scale).merge(weight)
            };
        }
        let rows = if is_embedding(module) {
            read("rows.values")?
        } else {
            adapter.read("head_rows.values")?
        };
        if let (Some(ids), Some(rows)) = (adapter.plan().rows.get(module), rows) {
            weight = TokenRows::known(matrix(rows), ids).merge(weight);
        }
        Ok(weight.into_data())
    }
}

fn is_embedding(module: &str) -> bool {
    module.ends_with("embed_tokens")
}

/// The module of the parameter called `name`.
fn module_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(module, _)| module)
}

fn changes(adapter: &Adapter, name: &str) -> bool {
    let (module, plan) = (module_of(name), adapter.plan());
    plan.whole.contains_key(module)
        || name.ends_with(".weight")
            && (plan.factors.contains_key(module) || plan.rows.contains_key(module))
}

/// A model's tensors with adapters merged into them as they are read.
pub struct Merged<'a, S> {
    /// The model's own.
    pub base: S,
    /// The adapters.
    pub merge: &'a Merge,
}

impl<S: TensorSource> TensorSource for Merged<'_, S> {
    fn names(&self) -> Vec<String> {
        self.base.names()
    }

    fn tensor(
        &mut self,
        name: &str,
        dtype: FloatDType,
    ) -> tensor_files::Result<Option<TensorData>> {
        if !self.merge.changes(name) {
            return self.base.tensor(name, dtype);
        }
        let merged = match self.base.tensor(name, FloatDType::F32)? {
            Some(base) => Some(self.merge.merge(name, base)?),
            None => self.merge.whole(name)?,
        };
        Ok(merged.map(|merged| merged.convert_dtype(dtype.into())))
    }

    fn missing(&self, name: &str) -> Vec<String> {
        self.base.missing(name)
    }
}
