//! Convolutions and their weights.

use std::path::Path;

use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData, activation};
use safetensors::Dtype;

use super::architecture::{STRIDED, VALID};
use crate::checkpoint::torch_file::TorchFile;
use crate::error::{Error, Result};

/// Added to the variances of the batch normalisation.
const EPSILON: f32 = 0.001;

/// A convolution with its batch normalisation folded in.
#[derive(Debug)]
pub(super) struct Convolution {
    /// `[out, in, height, width]`.
    weight: Tensor<4>,
    /// `[out]`.
    bias: Tensor<1>,
    stride: usize,
    padding: [usize; 2],
}

impl Convolution {
    /// The rectified output.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let options = ConvOptions::new([self.stride; 2], self.padding, [1, 1], 1);
        activation::relu(conv2d(x, self.weight.clone(), Some(self.bias.clone()), options))
    }
}

/// A file of weights.
pub(super) struct Weights<'p> {
    pub path: &'p Path,
    pub file: TorchFile,
}

impl Weights<'_> {
    /// The convolution `name` with its batch normalisation.
    pub fn convolution(&self, name: &str, device: &Device) -> Result<Convolution> {
        let (mut weight, shape) = self.tensor(&format!("{name}.conv.weight"))?;
        let [outputs, inputs, height, width] = shape[..] else {
            return Err(self.error(format!("tensor {name}.conv.weight has the shape {shape:?}")));
        };
        let [scale, shift, mean, variance] = ["weight", "bias", "running_mean", "running_var"]
            .map(|part| self.vector(&format!("{name}.bn.{part}"), outputs));
        let (scale, shift, mean, variance) = (scale?, shift?, mean?, variance?);
        let mut bias = shift;
        for (output, kernel) in weight.chunks_exact_mut(inputs * height * width).enumerate() {
            let factor = scale[output] / (variance[output] + EPSILON).sqrt();
            kernel.iter_mut().for_each(|value| *value *= factor);
            bias[output] -= mean[output] * factor;
        }
        let strided = STRIDED.contains(&name);
        let padded = !strided && !VALID.contains(&name);
        let weight = TensorData::new(weight, [outputs, inputs, height, width]);
        Ok(Convolution {
            weight: Tensor::from_data(weight, device),
            bias: Tensor::from_data(TensorData::new(bias, [outputs]), device),
            stride: if strided { 2 } else { 1 },
            padding: if padded { [height / 2, width / 2] } else { [0, 0] },
        })
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let (values, shape) = self.tensor(name)?;
        match shape[..] == [len] {
            true => Ok(values),
            false => Err(self.error(format!("tensor {name} has the shape {shape:?}, not [{len}]"))),
        }
    }

    fn tensor(&self, name: &str) -> Result<(Vec<f32>, &[usize])> {
        let bytes = self.file.read(name)?;
        let info = &self.file.tensors()[name];
        if info.dtype != Dtype::F32 {
            return Err(self.error(format!("tensor {name} is {:?}; allowed: F32", info.dtype)));
        }
        let values = bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value));
        Ok((values.collect(), &info.shape))
    }

    fn error(&self, message: String) -> Error {
        Error::file(self.path, message)
    }
}
