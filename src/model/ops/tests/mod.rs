//! Compares the kernels of every device at hand with the composed operations on the CPU: results, gradients,
//! repeatability. With the feature `wgpu`, a Vulkan driver is needed, of a GPU or in software.

#![allow(clippy::unwrap_used, reason = "tests")]

mod differentiable;
mod latent;
mod off_tape;
mod paged;

use std::cell::OnceCell;

use burn::tensor::{DType, Device, Distribution, Gradients, Int, Tensor, TensorData};

use kernels::rope::Norm;
use vq_tokenizer::init;

use super::{HeadNormOf, Kernels, NormAndRope, forced};
use crate::model::Rope;

/// Kernels, where and in which number format they run, and how far they may be off.
struct Side {
    kernels: Kernels,
    device: Device,
    dtype: DType,
    tolerance: f32,
}

fn sides() -> Vec<Side> {
    let side =
        |kernels, device: Device, dtype, tolerance| Side { kernels, device, dtype, tolerance };
    let cpu = side(Kernels::Cpu, Device::flex(), DType::F32, 1e-5);
    let gpu = forced::gpu().into_iter().flat_map(|(kernels, gpu)| {
        let formats = [(DType::F32, 1e-5), (DType::F16, 4e-3)];
        formats.map(|(dtype, tolerance)| side(kernels, gpu.clone(), dtype, tolerance))
    });
    std::iter::once(cpu).chain(gpu).collect()
}

impl Side {
    /// `values` on this side's device, as a leaf of the tape if `device` is one with autodiff.
    fn leaf(&self, values: &[f32], device: &Device) -> Tensor<1> {
        Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (device, self.dtype))
    }

    /// `values` as this side's number format holds them.
    fn rounded(&self, values: &[f32]) -> Vec<f32> {
        host(&self.leaf(values, &self.device))
    }
}

/// Normally distributed numbers.
fn normal(len: usize) -> Vec<f32> {
    host(&init::random([len], Distribution::Normal(0.0, 1.0), &Device::flex()))
}

fn host<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data().iter().collect()
}

fn integers(values: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (device, DType::I32))
}

/// All norms of heads.
const NORMS: [Norm; 3] = [Norm::Layer, Norm::Rms, Norm::None];

/// The numbers in each weight of a norm.
fn weight_sizes(norm: Norm, heads: usize, head_dim: usize) -> Vec<usize> {
    match norm {
        Norm::Layer => vec![heads * head_dim; 2],
        Norm::Rms => vec![head_dim],
        Norm::None => Vec::new(),
    }
}

/// With weights of [`weight_sizes`].
fn norm_and_rope(
    norm: Norm,
    weights: &[Tensor<1>],
    [heads, head_dim]: [usize; 2],
    rope: &Rope,
    scale: f64,
) -> NormAndRope {
    let row_per_head = |at: usize| weights[at].clone().reshape([heads, head_dim]);
    let norm = match norm {
        Norm::Layer => HeadNormOf::LayerNorm { weight: row_per_head(0), bias: row_per_head(1) },
        Norm::Rms => HeadNormOf::Rms { weight: weights[0].clone() },
        Norm::None => HeadNormOf::None,
    };
    NormAndRope { norm, cos_and_sin: rope.tables(), scale, eps: 1e-5 }
}

/// Largest difference relative to the largest magnitude of `want`, or to 1 if that is smaller.
fn error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().map(|w| w.abs()).fold(1.0, f32::max);
    let errors = got.iter().zip(want).map(|(g, w)| if g == w { 0.0 } else { (g - w).abs() });
    errors.map(|e| if e.is_nan() { f32::INFINITY } else { e }).fold(0.0, f32::max) / largest
}

/// The result of an operation and the gradients of its weighted sum.
type Found = (Vec<f32>, Vec<Vec<f32>>);

/// Compares `run` on random numbers, `sizes` of them for each of its inputs, on every side with the composed
/// operations on the CPU, and twice on one side.
fn compare<const D: usize>(name: &str, sizes: &[usize], run: impl Fn(&[Tensor<1>]) -> Tensor<D>) {
    let inputs: Vec<Vec<f32>> = sizes.iter().map(|size| normal(*size)).collect();
    let weights = OnceCell::new();
    for side in sides() {
        let inputs: Vec<_> = inputs.iter().map(|values| side.rounded(values)).collect();
        let found = |side: &Side| -> Found {
            let device = side.device.clone().autodiff();
            let leaves = inputs.iter().map(|values| side.leaf(values, &device).require_grad());
            let leaves: Vec<_> = leaves.collect();
            let (y, runs) = forced::on(side.kernels, || run(&leaves));
            // Where an operation has no kernel of its own it is made of others.
            assert!(!runs.is_empty(), "{name} runs no operation");
            let weights = weights.get_or_init(|| normal(y.shape().num_elements()));
            let weights = side.leaf(weights, &device);
            let weighted = y.clone() * weights.reshape(y.dims());
            let gradients: Gradients = weighted.cast(DType::F32).sum().backward();
            let of = |leaf: &Tensor<1>| host(&leaf.grad(&gradients).expect("a gradient"));
            (host(&y), leaves.iter().map(of).collect())
        };
        let reference = Side {
            kernels: Kernels::Composed,
            device: Device::flex(),
            dtype: DType::F32,
            tolerance: 0.0,
        };
        let (want, of_want) = found(&reference);
        let got = found(&side);
        let name = format!("{name} on {:?} in {:?}", side.kernels, side.dtype);
        let worst = error(&got.0, &want);
        assert!(worst < side.tolerance, "{name}: the result is off by {worst}");
        for (place, (got, want)) in got.1.iter().zip(&of_want).enumerate() {
            let worst = error(got, want);
            assert!(worst < side.tolerance, "{name}: gradient {place} is off by {worst}");
        }
        assert!(found(&side) == got, "{name}: two runs differ");
    }
}
