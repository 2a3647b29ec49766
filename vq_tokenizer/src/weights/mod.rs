//! Module weights in and out of safetensors files, named as the module's fields are.
//!
//! Every module of this workspace names its fields after the published checkpoints, so a path such as
//! `encoder.down.0.block.1.conv1.weight` is both the Rust path and the tensor name: no rename table.
//! Loading collects every missing, unexpected and mis-shaped tensor and reports all of them at once.

mod files;
mod map;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, FloatDType, Tensor, TensorData};

use crate::error::{Error, Result};

pub use self::files::{StoredTensor, WeightFiles};
pub use self::map::{MappedFile, map_file};
pub use self::store::{StoredDtype, TensorInfo, to_bytes, write_file};

/// The name of the parameter that a visitor is at: the fields on the way to it, joined by dots. Variants
/// of enums have no part in it.
#[derive(Clone, Debug, Default)]
pub struct ParamPath(Vec<String>);

impl ParamPath {
    /// To call in `enter_module`.
    pub fn enter(&mut self, name: &str, container_type: &str) {
        if !is_variant(container_type) {
            self.0.push(name.to_owned());
        }
    }

    /// To call in `exit_module`.
    pub fn exit(&mut self, container_type: &str) {
        if !is_variant(container_type) {
            self.0.pop();
        }
    }

    /// The name.
    pub fn name(&self) -> String {
        self.0.join(".")
    }
}

/// How Burn's derived visits call the step from an enum into its variant.
fn is_variant(container_type: &str) -> bool {
    container_type.starts_with("Enum:")
}

/// Tensors by name, in f32, on the host.
pub type NamedTensors = BTreeMap<String, TensorData>;

/// The float parameters of `module` by path, converted to f32.
pub fn collect<M: Module>(module: &M) -> NamedTensors {
    let mut collector = Collector::default();
    module.visit(&mut collector);
    collector.tensors
}

/// Moves `averages`, of the names and shapes of `module`'s parameters, towards these: to `decay` of what
/// they are and the rest of what the parameters are.
///
/// # Panics
/// When a parameter is missing from `averages` or of another shape.
pub fn average<M: Module>(averages: &mut NamedTensors, module: &M, decay: f64) {
    let decay = decay as f32;
    for (name, data) in collect(module) {
        let average = averages.get_mut(&name).expect("an average for every parameter");
        let (new, old) = (data.iter::<f32>(), average.iter::<f32>());
        let values: Vec<f32> =
            old.zip(new).map(|(old, new)| decay * old + (1.0 - decay) * new).collect();
        *average = TensorData::new(values, data.shape().to_vec());
    }
}

/// Names and shapes of the float parameters of `module`, none of which is initialised for it.
pub fn shapes<M: Module>(module: &M) -> BTreeMap<String, Vec<usize>> {
    let mut shapes = Shapes::default();
    module.visit(&mut shapes);
    shapes.shapes
}

#[derive(Default)]
struct Shapes {
    shapes: BTreeMap<String, Vec<usize>>,
    path: ParamPath,
}

impl ModuleVisitor for Shapes {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.shapes.insert(self.path.name(), param.lazy_shape().to_vec());
    }
}

#[derive(Default)]
struct Collector {
    tensors: NamedTensors,
    path: ParamPath,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let data = param.val().to_data().convert_dtype(DType::F32);
        self.tensors.insert(self.path.name(), data);
    }
}

/// Tensors that are taken one by one.
pub trait TensorSource {
    /// Every name.
    fn names(&self) -> Vec<String>;

    /// The tensor called `name` with its values in `dtype`, or `None` when there is none. It is asked
    /// for at most once.
    ///
    /// # Errors
    /// When it cannot be read, or holds no floats.
    fn tensor(&mut self, name: &str, dtype: FloatDType) -> Result<Option<TensorData>>;
}

impl TensorSource for NamedTensors {
    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }

    fn tensor(&mut self, name: &str, dtype: FloatDType) -> Result<Option<TensorData>> {
        Ok(self.remove(name).map(|data| data.convert_dtype(dtype.into())))
    }
}

/// `module` with every float parameter replaced by the tensor of its name, in f32.
///
/// `origin` names the source in errors.
///
/// # Errors
/// [`Error::File`] that lists all missing, unexpected and mis-shaped tensors; those of the source.
pub fn load<M: Module>(module: M, source: impl TensorSource, origin: &Path) -> Result<M> {
    load_as(module, source, origin, FloatDType::F32)
}

/// As [`load`], the parameters in `dtype`. One tensor is in the works at a time, and parameters that
/// were never touched are not initialised, so memory holds the weights once.
///
/// # Errors
/// As [`load`].
pub fn load_as<M: Module>(
    module: M,
    mut source: impl TensorSource,
    origin: &Path,
    dtype: FloatDType,
) -> Result<M> {
    let unexpected = source.names().into_iter().collect();
    let mut loader = Loader {
        source: &mut source,
        dtype,
        path: ParamPath::default(),
        missing: Vec::new(),
        unexpected,
        shapes: Vec::new(),
        failure: None,
    };
    let module = module.map(&mut loader);
    let Loader { missing, unexpected, shapes, failure, .. } = loader;
    if let Some(failure) = failure {
        return Err(failure);
    }
    let unexpected = Vec::from_iter(unexpected);
    let mut problems = Vec::new();
    for (what, names) in
        [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    {
        if !names.is_empty() {
            problems.push(format!("{} tensors {what}: {}", names.len(), abridged(&names)));
        }
    }
    if problems.is_empty() { Ok(module) } else { Err(Error::file(origin, problems.join("; "))) }
}

fn abridged(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

struct Loader<'a, S> {
    source: &'a mut S,
    dtype: FloatDType,
    path: ParamPath,
    missing: Vec<String>,
    unexpected: BTreeSet<String>,
    shapes: Vec<String>,
    /// The first tensor that could not be read; no other is read after it.
    failure: Option<Error>,
}

impl<S: TensorSource> ModuleMapper for Loader<'_, S> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.failure.is_some() {
            return param;
        }
        let name = self.path.name();
        let data = match self.source.tensor(&name, self.dtype) {
            Ok(Some(data)) => data,
            Ok(None) => {
                self.missing.push(name);
                return param;
            }
            Err(failure) => {
                self.failure = Some(failure);
                return param;
            }
        };
        self.unexpected.remove(&name);
        let shape = param.lazy_shape();
        if data.shape().as_slice() != shape.as_slice() {
            let (found, wanted) = (data.shape().as_slice(), shape.as_slice());
            self.shapes.push(format!("{name} {found:?} instead of {wanted:?}"));
            return param;
        }
        // Whether it is trained is settled by the device: on the tape or off it.
        let tensor = Tensor::from_data(data, (&param.lazy_device(), DType::from(self.dtype)));
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
}

/// Every float tensor of a safetensors file, widened to f32, in memory.
///
/// # Errors
/// As [`WeightFiles::open`], and for a tensor that is no float.
pub fn read(path: &Path) -> Result<NamedTensors> {
    let mut files = WeightFiles::open(path)?;
    let mut tensors = NamedTensors::new();
    for name in files.names() {
        let data = files.tensor(&name, FloatDType::F32)?;
        tensors.extend(data.map(|data| (name, data)));
    }
    Ok(tensors)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::{VqConfig, VqModel};
    use burn::tensor::Device;
    use safetensors::Dtype;

    fn model(seed: u64) -> VqModel {
        let device = Device::flex();
        device.seed(seed);
        let config = VqConfig {
            base_channels: 32,
            channel_multiplier: vec![1, 2],
            num_res_blocks: 1,
            attn_resolutions: Some(vec![4]),
            resolution: 8,
            latent_channels: 4,
            embed_dim: 3,
            num_embeddings: 5,
            ..VqConfig::default()
        };
        config.init(&device)
    }

    #[test]
    fn names_are_those_of_the_published_checkpoints() {
        let tensors = collect(&model(1));
        for name in [
            "encoder.conv_in.weight",
            "encoder.down.0.downsample.conv.bias",
            "encoder.down.1.block.0.nin_shortcut.weight",
            "encoder.down.1.attn.0.proj_out.weight",
            "encoder.mid.attn_1.norm.weight",
            "quantize.embedding.weight",
            "quant_conv.weight",
            "post_quant_conv.bias",
            "decoder.mid.block_2.conv2.weight",
            "decoder.up.1.block.1.norm1.bias",
            "decoder.up.1.upsample.conv.weight",
            "decoder.norm_out.weight",
        ] {
            assert!(tensors.contains_key(name), "{name} is missing");
        }
        assert!(!tensors.contains_key("encoder.down.1.downsample.conv.bias"));
        assert_eq!(tensors["encoder.conv_in.weight"].shape().as_slice(), [32, 3, 3, 3]);
        let found = tensors.iter().map(|(name, data)| (name.clone(), data.shape().to_vec()));
        assert_eq!(shapes(&model(1)), found.collect());
    }

    #[test]
    fn every_problem_is_listed_at_once() {
        let mut tensors = collect(&model(1));
        let bias = tensors.remove("quant_conv.bias").unwrap();
        tensors.insert("quant_conv.scale".to_owned(), bias.clone());
        tensors.insert("quant_conv.weight".to_owned(), bias);
        let error = load(model(2), tensors.clone(), Path::new("w.safetensors"));
        let message = error.unwrap_err().to_string();
        for part in [
            "w.safetensors: 1 tensors missing: quant_conv.bias",
            "1 tensors unexpected: quant_conv.scale",
            "1 tensors of another shape: quant_conv.weight [3] instead of [3, 4, 1, 1]",
        ] {
            assert!(message.contains(part), "{part} not in: {message}");
        }
    }

    #[test]
    fn stored_tensors_come_back_as_precise_as_their_format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let tensors = collect(&model(1));
        // Relative, and for half precision also absolute, because it has no small exponents.
        for (dtype, tolerance, floor) in [
            (StoredDtype::F32, 0.0, 0.0),
            (StoredDtype::Bf16, 1.0 / 256.0, 0.0),
            (StoredDtype::F16, 1.0 / 2048.0, 3e-8),
        ] {
            std::fs::write(&path, to_bytes(&tensors, dtype, None).unwrap()).unwrap();
            let read = read(&path).unwrap();
            assert!(read.keys().eq(tensors.keys()));
            for (name, data) in &read {
                assert_eq!(data.shape(), tensors[name].shape());
                for (a, b) in data.iter::<f32>().zip(tensors[name].iter::<f32>()) {
                    assert!((a - b).abs() <= b.abs() * tolerance + floor, "{a} {b}");
                }
            }
        }
        let other = load(model(2), tensors.clone(), &path).unwrap();
        let bytes = |tensors| to_bytes(tensors, StoredDtype::F32, None).unwrap();
        assert_eq!(bytes(&collect(&other)), bytes(&tensors));
    }

    #[test]
    fn integers_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ids.safetensors");
        let view = safetensors::tensor::TensorView::new(Dtype::I64, vec![1], &[0; 8]).unwrap();
        std::fs::write(&path, safetensors::serialize([("ids", view)], None).unwrap()).unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("tensor ids is I64"), "{message}");
    }
}
