//! Exponential moving average of a module's weights, on the device that holds them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use tensor_files::{DeviceTensor, ParamPath, StoredDtype, WeightFiles};

use super::rows;
use crate::checkpoint::ExpertStacks;
use crate::error::Result;

/// The averages of a module's parameters.
#[derive(Debug)]
pub(super) struct Average {
    decay: f64,
    /// By path and flat, as the optimizer keeps its moments.
    tensors: BTreeMap<String, Tensor<1>>,
    /// The parameters that are averaged; `None` for all.
    only: Option<BTreeSet<String>>,
}

impl Average {
    /// Averages that start at the weights of `module`; `decay` is the weight of the past.
    pub(super) fn new<M: Module>(decay: f64, module: &M) -> Self {
        Self::started(decay, module, None)
    }

    /// As [`Self::new`], of the parameters called `only`; the others stay as they are.
    pub(super) fn of<M: Module>(decay: f64, module: &M, only: BTreeSet<String>) -> Self {
        Self::started(decay, module, Some(only))
    }

    /// Starts anew at the weights of `module` called `only`.
    pub(super) fn restart<M: Module>(&mut self, module: &M, only: BTreeSet<String>) {
        *self = Self::started(self.decay, module, Some(only));
    }

    fn started<M: Module>(decay: f64, module: &M, only: Option<BTreeSet<String>>) -> Self {
        let mut average = Self { decay, tensors: BTreeMap::new(), only };
        average.update(module);
        average
    }

    /// Moves the averages towards the weights of `module`.
    pub(super) fn update<M: Module>(&mut self, module: &M) {
        module.visit(&mut Update { average: self, path: ParamPath::default() });
    }

    /// `module` outside autodiff with the averages as its weights.
    pub(super) fn load<M: Module>(&self, module: &M) -> M {
        module.valid().map(&mut Load { tensors: &self.tensors, path: ParamPath::default() })
    }

    /// Copies `rows` of the matrix at `path` from `module`: rows that were replaced have no past.
    pub(super) fn replace_rows<M: Module>(&mut self, path: &str, rows: &[usize], module: &M) {
        let Some(average) = self.tensors.remove(path) else { return };
        let mut copy = CopyRows { wanted: path, rows, average, path: ParamPath::default() };
        module.visit(&mut copy);
        self.tensors.insert(path.to_owned(), copy.average);
    }

    /// Continues from the averages in the weight file `released`.
    ///
    /// # Errors
    /// Those of the file, which must hold every parameter of `module` and no other.
    pub(super) fn restore<M: Module>(&mut self, released: &Path, module: &M) -> Result<()> {
        let files = ExpertStacks::new(WeightFiles::open(released)?, None);
        let averaged = tensor_files::load(module.valid(), files, released)?;
        *self = Self::new(self.decay, &averaged);
        Ok(())
    }

    /// Writes the averages to the weight file `path`.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let flat = |(name, elements): (&String, &Tensor<1>)| {
            let shape = elements.dims().to_vec();
            (name.clone(), DeviceTensor { shape, elements: elements.clone() })
        };
        let tensors = self.tensors.iter().map(flat).collect();
        Ok(tensor_files::write(path, &tensors, StoredDtype::F32)?)
    }

    /// Continues from what [`Self::save`] wrote.
    ///
    /// # Errors
    /// Those of the file, which must hold every average.
    pub(super) fn load_saved(&mut self, path: &Path) -> Result<()> {
        let files = WeightFiles::open(path)?;
        for (name, average) in &mut self.tensors {
            let data = files.stored(name)?.to_data(burn::tensor::FloatDType::F32)?;
            *average = Tensor::from_data(data, &average.device());
        }
        Ok(())
    }
}

/// Moves averages towards parameters.
struct Update<'a> {
    average: &'a mut Average,
    path: ParamPath,
}

impl ModuleVisitor for Update<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.name();
        if self.average.only.as_ref().is_some_and(|only| !only.contains(&path)) {
            return;
        }
        let weight: Tensor<1> = param.val().inner().flatten(0, D - 1);
        // The weights of past and present are rounded to f32 before they are applied.
        let decay = self.average.decay as f32;
        let average = match self.average.tensors.remove(&path) {
            Some(average) => average * decay + weight * (1.0 - decay),
            None => weight,
        };
        self.average.tensors.insert(path, average);
    }
}

/// Replaces parameters by their averages.
struct Load<'a> {
    tensors: &'a BTreeMap<String, Tensor<1>>,
    path: ParamPath,
}

impl ModuleMapper for Load<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.tensors.get(&self.path.name()) {
            Some(average) => param.map(|weight| average.clone().reshape(weight.dims())),
            None => param,
        }
    }
}

/// Copies rows of one matrix into its average.
struct CopyRows<'a> {
    wanted: &'a str,
    rows: &'a [usize],
    average: Tensor<1>,
    path: ParamPath,
}

impl ModuleVisitor for CopyRows<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.path.name() != self.wanted {
            return;
        }
        let weight = param.val().inner();
        let mask = rows::mask(self.rows, weight.dims()[0], &self.average);
        let weight: Tensor<1> = weight.flatten(0, D - 1);
        self.average = self.average.clone().mask_where(mask, weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, Distribution};
    use vq_tokenizer::init;

    fn values(module: &Linear) -> Vec<f32> {
        tensor_files::collect(module)["weight"].iter::<f32>().collect()
    }

    fn linear(device: &Device) -> Linear {
        let mut linear = LinearConfig::new(8, 40).init(device);
        linear.weight =
            Param::from_tensor(init::random([8, 40], Distribution::Uniform(-3.0, 3.0), device));
        linear
    }

    #[test]
    fn averages_have_the_bits_of_the_formula_in_f32() {
        let device = Device::flex().autodiff();
        let (first, second) = (linear(&device), linear(&device));
        let mut average = Average::new(0.997, &first);
        assert_eq!(values(&average.load(&second)), values(&first));
        average.update(&second);
        let pairs = values(&first).into_iter().zip(values(&second));
        let expected: Vec<f32> =
            pairs.map(|(old, new)| 0.997 * old + (1.0 - 0.997) * new).collect();
        assert_eq!(values(&average.load(&second)), expected);
    }

    #[test]
    fn replaced_rows_are_copied_and_the_others_stay() {
        let device = Device::flex().autodiff();
        let (first, second) = (linear(&device), linear(&device));
        let mut average = Average::new(0.5, &first);
        average.replace_rows("weight", &[1, 6], &second);
        let averaged = values(&average.load(&second));
        for (row, found) in averaged.chunks_exact(40).enumerate() {
            let from = if row == 1 || row == 6 { values(&second) } else { values(&first) };
            assert_eq!(found, &from[row * 40..][..40], "row {row}");
        }
    }
}
