//! Module weights in and out of safetensors files, named as the module's fields are.
//!
//! Every module of this workspace names its fields after the published checkpoints, so a path such as
//! `encoder.down.0.block.1.conv1.weight` is both the Rust path and the tensor name: no rename table.
//! Loading collects every missing, unexpected and mis-shaped tensor and reports all of them at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};

/// Tensors by name, in f32, on the host.
pub type NamedTensors = BTreeMap<String, TensorData>;

/// The float parameters of `module` by path, converted to f32.
pub fn collect<M: Module>(module: &M) -> NamedTensors {
    let mut collector = Collector::default();
    module.visit(&mut collector);
    collector.tensors
}

#[derive(Default)]
struct Collector {
    tensors: NamedTensors,
    path: Vec<String>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let data = param.val().to_data().convert_dtype(DType::F32);
        self.tensors.insert(self.path.join("."), data);
    }
}

/// `module` with every float parameter replaced by the tensor of its name.
///
/// `origin` names the source in errors. Tensors whose name fails `expected` are ignored; any other
/// name without a parameter is an error, as is a missing tensor or one of another shape.
///
/// # Errors
/// [`Error::File`] that lists all missing, unexpected and mis-shaped tensors.
pub fn load<M: Module>(
    module: M,
    mut tensors: NamedTensors,
    origin: &Path,
    expected: impl Fn(&str) -> bool,
) -> Result<M> {
    let mut loader =
        Loader { tensors: &mut tensors, path: Vec::new(), missing: Vec::new(), shapes: Vec::new() };
    let module = module.map(&mut loader);
    let (missing, shapes) = (loader.missing, loader.shapes);
    let unexpected: BTreeSet<_> = tensors.keys().filter(|name| expected(name)).collect();
    let mut problems = Vec::new();
    for (what, names) in [
        ("missing", missing),
        ("unexpected", unexpected.into_iter().cloned().collect()),
        ("of another shape", shapes),
    ] {
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

struct Loader<'a> {
    tensors: &'a mut NamedTensors,
    path: Vec<String>,
    missing: Vec<String>,
    shapes: Vec<String>,
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        let Some(data) = self.tensors.remove(&name) else {
            self.missing.push(name);
            return param;
        };
        let shape = param.val().dims();
        if data.shape().as_slice() != shape.as_slice() {
            self.shapes.push(format!("{name} {:?} instead of {shape:?}", data.shape().as_slice()));
            return param;
        }
        param.map(|old| {
            let device = old.device();
            let tensor = Tensor::from_data(data, &device);
            if old.is_require_grad() { tensor.require_grad() } else { tensor }
        })
    }
}

/// Reads every float tensor of a safetensors file, widened to f32.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::File`] when it is truncated or malformed.
pub fn read(path: &Path) -> Result<NamedTensors> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::file(path, format!("not a readable safetensors file: {e}")))?;
    let mut tensors = NamedTensors::new();
    for (name, view) in file.tensors() {
        let values = match view.dtype() {
            Dtype::F32 => view
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            // bf16 is the upper half of an f32.
            Dtype::BF16 => view
                .data()
                .chunks_exact(2)
                .map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16))
                .collect::<Vec<f32>>(),
            Dtype::F16 => view
                .data()
                .chunks_exact(2)
                .map(|b| half::f16::from_bits(u16::from_le_bytes([b[0], b[1]])).to_f32())
                .collect(),
            other => {
                let message = format!("tensor {name} is {other:?}; allowed: F32, BF16, F16");
                return Err(Error::file(path, message));
            }
        };
        tensors.insert(name, TensorData::new(values, view.shape().to_vec()));
    }
    Ok(tensors)
}

/// The number format of a written weight file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredDtype {
    /// 32-bit floats: exact.
    F32,
    /// bfloat16, rounded to nearest even: half the size, 8 significant bits.
    Bf16,
    /// IEEE half precision, rounded to nearest even: half the size, 11 significant bits, range 65504.
    F16,
}

/// The bytes of a safetensors file that holds `tensors`, with `metadata` in its header.
///
/// # Errors
/// [`Error::Invalid`] when the container cannot hold the tensors.
pub fn to_bytes(
    tensors: &NamedTensors,
    dtype: StoredDtype,
    metadata: Option<std::collections::HashMap<String, String>>,
) -> Result<Vec<u8>> {
    let mut encoded = Vec::with_capacity(tensors.len());
    for (name, data) in tensors {
        let values = data.iter::<f32>();
        let (kind, bytes): (_, Vec<u8>) = match dtype {
            StoredDtype::F32 => (Dtype::F32, values.flat_map(f32::to_le_bytes).collect()),
            StoredDtype::Bf16 => {
                (Dtype::BF16, values.flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect())
            }
            StoredDtype::F16 => {
                (Dtype::F16, values.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect())
            }
        };
        encoded.push((name.clone(), kind, data.shape().to_vec(), bytes));
    }
    let mut views = Vec::with_capacity(encoded.len());
    for (name, kind, shape, bytes) in &encoded {
        let view = safetensors::tensor::TensorView::new(*kind, shape.clone(), bytes)
            .map_err(|e| Error::Invalid(format!("tensor {name} cannot be stored: {e}")))?;
        views.push((name.as_str(), view));
    }
    safetensors::serialize(views, metadata)
        .map_err(|e| Error::Invalid(format!("weights cannot be stored: {e}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::{VqConfig, VqModel};
    use burn::tensor::Device;

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
    }

    #[test]
    fn every_problem_is_listed_at_once() {
        let mut tensors = collect(&model(1));
        let bias = tensors.remove("quant_conv.bias").unwrap();
        tensors.insert("quant_conv.scale".to_owned(), bias.clone());
        tensors.insert("quant_conv.weight".to_owned(), bias);
        let error = load(model(2), tensors.clone(), Path::new("w.safetensors"), |_| true);
        let message = error.unwrap_err().to_string();
        for part in [
            "w.safetensors: 1 tensors missing: quant_conv.bias",
            "1 tensors unexpected: quant_conv.scale",
            "1 tensors of another shape: quant_conv.weight [3] instead of [3, 4, 1, 1]",
        ] {
            assert!(message.contains(part), "{part} not in: {message}");
        }
        let error = load(model(2), tensors, Path::new("w"), |name| !name.ends_with("scale"));
        assert!(!error.unwrap_err().to_string().contains("unexpected"));
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
        let other = load(model(2), tensors.clone(), &path, |_| true).unwrap();
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
