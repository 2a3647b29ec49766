//! A module's parameters on the host, by name.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};

use crate::path::ParamPath;

/// Tensors by name, in f32, on the host.
pub type NamedTensors = BTreeMap<String, TensorData>;

/// The float parameters of `module` by name, converted to f32.
pub fn collect<M: Module>(module: &M) -> NamedTensors {
    let mut collector = Collector::default();
    module.visit(&mut collector);
    collector.tensors
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
