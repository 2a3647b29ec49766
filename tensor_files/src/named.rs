//! A module's parameters on the host, by name.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};

use crate::path::ParamPath;

/// Tensors by name, in f32, on the host.
pub type NamedTensors = BTreeMap<String, TensorData>;

/// Tensors by name, each on its device.
pub type DeviceTensors = BTreeMap<String, DeviceTensor>;

/// A tensor on its device.
#[derive(Clone, Debug)]
pub struct DeviceTensor {
    /// The shape.
    pub shape: Vec<usize>,
    /// The elements in row-major order.
    pub elements: Tensor<1>,
}

impl DeviceTensor {
    /// The tensor on the host, in f32.
    pub fn to_data(&self) -> TensorData {
        let data = self.elements.to_data().convert_dtype(DType::F32);
        TensorData::from_bytes(data.into_bytes(), self.shape.clone(), DType::F32)
    }
}

/// The float parameters of `module` by name, where they are.
pub fn on_device<M: Module>(module: &M) -> DeviceTensors {
    let mut collector = Collector::default();
    module.visit(&mut collector);
    collector.tensors
}

/// The float parameters of `module` by name, converted to f32.
pub fn collect<M: Module>(module: &M) -> NamedTensors {
    on_device(module).into_iter().map(|(name, tensor)| (name, tensor.to_data())).collect()
}

/// The shapes of the float parameters of `module` by name; none is initialised for it.
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
    tensors: DeviceTensors,
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
        let value = param.val();
        let shape = value.dims().to_vec();
        let elements = value.reshape([shape.iter().product::<usize>()]);
        self.tensors.insert(self.path.name(), DeviceTensor { shape, elements });
    }
}

#[cfg(test)]
mod tests {
    use burn::module::{Module, Param};
    use burn::tensor::{Device, Tensor};

    use super::*;

    #[derive(Module, Debug)]
    enum Either {
        Vector(Vector),
        #[allow(dead_code, reason = "a second variant makes the first one a choice")]
        Scalar(Vector),
    }

    #[derive(Module, Debug)]
    struct Vector {
        bias: Param<Tensor<1>>,
    }

    #[derive(Module, Debug)]
    struct Network {
        layers: Vec<Either>,
        weight: Param<Tensor<2>>,
    }

    fn network(value: f32) -> Network {
        let device = Device::flex();
        let vector = Vector { bias: Param::from_data([value, value], &device) };
        Network {
            layers: vec![Either::Vector(vector)],
            weight: Param::from_data([[value, -value, 0.0]], &device),
        }
    }

    #[test]
    fn names_are_the_fields_without_variants() {
        let expected = [("layers.0.bias", vec![2]), ("weight", vec![1, 3])];
        let expected = expected.map(|(name, shape)| (name.to_owned(), shape));
        assert_eq!(shapes(&network(1.0)), expected.into());
        let found = collect(&network(1.0)).into_iter();
        let found = found.map(|(name, data)| (name, data.shape().to_vec()));
        assert_eq!(shapes(&network(1.0)), found.collect());
    }
}
