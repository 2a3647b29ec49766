//! A module's parameters replaced by the tensors of a source.

use std::collections::BTreeSet;
use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, FloatDType, Tensor};

use crate::error::{Error, Mismatch, Result, ShapeMismatch};
use crate::path::ParamPath;
use crate::source::TensorSource;

/// `module` with every float parameter replaced by the tensor of its name, in f32.
///
/// `origin` names the source in errors.
///
/// # Errors
/// [`Error::Mismatch`] with all missing, unexpected and mis-shaped tensors; those of the source.
pub fn load<M: Module>(module: M, source: impl TensorSource, origin: &Path) -> Result<M> {
    load_as(module, source, origin, FloatDType::F32)
}

/// `module` with every float parameter replaced by the tensor of its name, in `dtype`.
///
/// Tensors are loaded one at a time, and lazy parameters are not initialised first, so memory holds the
/// weights once.
///
/// # Errors
/// As [`load`].
pub fn load_as<M: Module>(
    module: M,
    source: impl TensorSource,
    origin: &Path,
    dtype: FloatDType,
) -> Result<M> {
    load_where(module, source, origin, dtype, |_| true)
}

/// `module` with the parameters whose names are `wanted` replaced as by [`load`]; the others stay.
///
/// # Errors
/// As [`load`].
pub fn load_some<M: Module>(
    module: M,
    source: impl TensorSource,
    origin: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<M> {
    load_where(module, source, origin, FloatDType::F32, wanted)
}

fn load_where<M: Module>(
    module: M,
    mut source: impl TensorSource,
    origin: &Path,
    dtype: FloatDType,
    wanted: impl Fn(&str) -> bool,
) -> Result<M> {
    let mut loader = Loader {
        unused: source.names().into_iter().collect(),
        source: &mut source,
        dtype,
        wanted,
        path: ParamPath::default(),
        mismatch: Mismatch::default(),
        failure: None,
    };
    let module = module.map(&mut loader);
    let Loader { unused, mut mismatch, failure, .. } = loader;
    if let Some(failure) = failure {
        return Err(failure);
    }
    mismatch.unexpected = unused.into_iter().collect();
    match mismatch.is_empty() {
        true => Ok(module),
        false => Err(Error::Mismatch { path: origin.to_owned(), mismatch }),
    }
}

struct Loader<'a, S, W> {
    source: &'a mut S,
    dtype: FloatDType,
    /// Whether a parameter is replaced.
    wanted: W,
    path: ParamPath,
    /// Names in the source that no parameter has used so far.
    unused: BTreeSet<String>,
    mismatch: Mismatch,
    /// The first tensor that could not be read; no other is read after it.
    failure: Option<Error>,
}

impl<S: TensorSource, W: Fn(&str) -> bool> ModuleMapper for Loader<'_, S, W> {
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
        if !(self.wanted)(&name) {
            return param;
        }
        let data = match self.source.tensor(&name, self.dtype) {
            Ok(Some(data)) => data,
            Ok(None) => {
                self.mismatch.missing.extend(self.source.missing(&name));
                return param;
            }
            Err(failure) => {
                self.failure = Some(failure);
                return param;
            }
        };
        self.unused.remove(&name);
        let (found, expected) = (data.shape().to_vec(), param.lazy_shape().to_vec());
        if found != expected {
            self.mismatch.mis_shaped.push(ShapeMismatch { name, found, expected });
            return param;
        }
        // The device decides whether the parameter is tracked by autodiff.
        let tensor = Tensor::from_data(data, (&param.lazy_device(), DType::from(self.dtype)));
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::{DeviceTensor, NamedTensors, StoredDtype, WeightFiles, collect, read, write};

    #[derive(Module, Debug)]
    struct Projection {
        weight: Param<Tensor<2>>,
        bias: Param<Tensor<1>>,
    }

    /// Values of several magnitudes, those of half precision's smallest numbers among them.
    fn projection(seed: f32) -> Projection {
        let device = Device::flex();
        let row = |scale: f32| [seed * scale, -0.3 * scale, 1.7 * scale * seed];
        Projection {
            weight: Param::from_data([row(1.0), row(900.0), row(3e-7)], &device),
            bias: Param::from_data(row(0.01), &device),
        }
    }

    /// The file of `tensors` in `dtype`.
    fn to_bytes(tensors: &NamedTensors, dtype: StoredDtype) -> Vec<u8> {
        let device = Device::flex();
        let on_device = |(name, data): (&String, &TensorData)| {
            let shape = data.shape().to_vec();
            let elements = Tensor::<1>::from_data(
                TensorData::new(data.iter::<f32>().collect::<Vec<_>>(), [data.num_elements()]),
                &device,
            );
            (name.clone(), DeviceTensor { shape, elements })
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.path(), &tensors.iter().map(on_device).collect(), dtype).unwrap();
        std::fs::read(file.path()).unwrap()
    }

    fn bytes(tensors: &NamedTensors) -> Vec<u8> {
        to_bytes(tensors, StoredDtype::F32)
    }

    #[test]
    fn every_problem_is_listed_at_once() {
        let mut tensors = collect(&projection(1.0));
        let bias = tensors.remove("bias").unwrap();
        tensors.insert("scale".to_owned(), bias.clone());
        tensors.insert("weight".to_owned(), bias);
        let error = load(projection(2.0), tensors, Path::new("w.safetensors")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "w.safetensors: 1 tensors missing: bias; 1 tensors unexpected: scale; \
             1 tensors of another shape: weight [3] instead of [3, 3]"
        );
        let Error::Mismatch { mismatch, .. } = error else { panic!("{error}") };
        assert_eq!(mismatch.missing, ["bias"]);
        assert_eq!(mismatch.unexpected, ["scale"]);
        assert_eq!(mismatch.mis_shaped[0].expected, [3, 3]);
    }

    #[test]
    fn parameters_that_are_not_wanted_stay_and_are_not_missed() {
        let mut tensors = collect(&projection(1.0));
        tensors.remove("bias");
        let path = Path::new("memory");
        let module = load_some(projection(2.0), tensors.clone(), path, |name| name == "weight");
        let found = collect(&module.unwrap());
        assert_eq!(found["weight"], collect(&projection(1.0))["weight"]);
        assert_eq!(found["bias"], collect(&projection(2.0))["bias"]);
        let message = load_some(projection(2.0), tensors, path, |_| false).unwrap_err().to_string();
        assert!(message.contains("1 tensors unexpected: weight"), "{message}");
    }

    #[test]
    fn stored_tensors_come_back_as_precise_as_their_format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let tensors = collect(&projection(1.0));
        // Relative, and for half precision also absolute, because it has no small exponents.
        for (dtype, tolerance, floor) in [
            (StoredDtype::F32, 0.0, 0.0),
            (StoredDtype::Bf16, 1.0 / 256.0, 0.0),
            (StoredDtype::F16, 1.0 / 2048.0, 3e-8),
        ] {
            std::fs::write(&path, to_bytes(&tensors, dtype)).unwrap();
            let read = read(&path).unwrap();
            assert!(read.keys().eq(tensors.keys()));
            for (name, data) in &read {
                assert_eq!(data.shape(), tensors[name].shape());
                for (a, b) in data.iter::<f32>().zip(tensors[name].iter::<f32>()) {
                    assert!((a - b).abs() <= b.abs() * tolerance + floor, "{a} {b}");
                }
            }
        }
    }

    #[test]
    fn a_loaded_module_has_the_tensors_of_the_source_in_the_asked_format() {
        let tensors = collect(&projection(1.0));
        let path = Path::new("memory");
        let other = load(projection(2.0), tensors.clone(), path).unwrap();
        assert_eq!(bytes(&collect(&other)), bytes(&tensors));
        let narrow = load_as(projection(2.0), tensors, path, FloatDType::BF16).unwrap();
        assert_eq!(narrow.weight.val().dtype(), DType::BF16);
    }

    #[test]
    fn every_cut_and_every_changed_header_byte_is_an_error_or_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("small.safetensors");
        let model = projection(1.0);
        let bytes = to_bytes(&collect(&model), StoredDtype::F16);
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let outcome = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            WeightFiles::open(&path).and_then(|files| load(model.clone(), files, &path))
        };
        let whole = collect(&outcome(&bytes).unwrap());
        let cuts = (0..header).chain([header, bytes.len() - 1]);
        for len in cuts {
            let message = outcome(&bytes[..len]).unwrap_err().to_string();
            assert!(message.contains("small.safetensors"), "{len}: {message}");
        }
        for (at, mask) in (0..header).flat_map(|at| [1, 2, 32, 128].map(|mask| (at, mask))) {
            let mut changed = bytes.clone();
            changed[at] ^= mask;
            match outcome(&changed) {
                Err(error) => assert!(error.to_string().contains("small.safetensors"), "{error}"),
                // White space, or the order of keys.
                Ok(model) => assert!(
                    collect(&model).into_iter().eq(whole.clone()),
                    "byte {at} changed by {mask} changes weights unnoticed"
                ),
            }
        }
    }
}
