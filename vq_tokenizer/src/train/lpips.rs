//! The perceptual distance LPIPS with VGG-16; the user supplies the weights.
//!
//! Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (arXiv
//! 1801.03924), version 0.1 of its `lpips` package. The file holds torchvision's `features.N.weight` and
//! `features.N.bias` of VGG-16 and the package's `linK.model.1.weight`, 31 tensors in all.

use std::path::Path;

use burn::module::{Initializer, Module, Param};
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Tensor, TensorData, activation};

use crate::error::Result;
use crate::layers::Conv2d;
use tensor_files::WeightFiles;

/// Output channels of VGG-16's convolutions by stage; a max pooling separates stages.
const STAGES: [&[usize]; 5] = [&[64, 64], &[128, 128], &[256; 3], &[512; 3], &[512; 3]];
/// Subtracted from pixels in [-1, 1], per channel.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
/// Divides the shifted pixels, per channel.
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// The frozen network and the weights of its features.
#[derive(Module, Debug)]
pub struct Lpips {
    /// All convolutions in order; torchvision's indices also count activations and poolings.
    convolutions: Vec<Conv2d>,
    /// `[1, channels, 1, 1]` of each stage.
    weights: Vec<Param<Tensor<4>>>,
}

impl Lpips {
    /// Reads the weights from the safetensors file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the file cannot be read; [`Error::File`](crate::Error::File) if
    /// tensors are missing, unexpected or of another shape.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let files = WeightFiles::open(path)?.renamed(|name| Some(parameter_name(name)));
        Ok(tensor_files::load(Self::init(device), files, path)?.no_grad())
    }

    /// Random convolutions and feature weights of 1.
    fn init(device: &Device) -> Self {
        let mut inputs = 3;
        let mut convolutions = Vec::new();
        for channels in STAGES.iter().flat_map(|stage| stage.iter()) {
            convolutions.push(Conv2d::new(inputs, *channels, 3, device));
            inputs = *channels;
        }
        let weight = |stage: &&[usize]| Initializer::Ones.init([1, stage[0], 1, 1], device);
        Self { convolutions, weights: STAGES.iter().map(weight).collect() }
    }

    /// The mean distance of `a` and `b`, pixels in [-1, 1] with sides of at least 16; 0 for equal images.
    ///
    /// # Shapes
    /// - a, b: `[batch, 3, H, W]`
    /// - result: `[1]`
    pub fn distance(&self, a: Tensor<4>, b: Tensor<4>) -> Tensor<1> {
        let mut convolutions = self.convolutions.iter();
        let (mut a, mut b) = (scaled(a), scaled(b));
        let mut sum: Option<Tensor<1>> = None;
        for (index, (stage, weight)) in STAGES.iter().zip(&self.weights).enumerate() {
            if index > 0 {
                let pool = |x| max_pool2d(x, MaxPoolOptions::new([2, 2]));
                (a, b) = (pool(a), pool(b));
            }
            for conv in convolutions.by_ref().take(stage.len()) {
                (a, b) = (activation::relu(conv.forward(a)), activation::relu(conv.forward(b)));
            }
            let difference = normalised(a.clone()) - normalised(b.clone());
            let distance = (difference.square() * weight.val()).sum_dim(1).mean();
            sum = Some(match sum {
                Some(sum) => sum + distance,
                None => distance,
            });
        }
        sum.expect("there are five stages")
    }
}

/// The parameter of [`Lpips`] for a tensor name of the file.
fn parameter_name(name: &str) -> String {
    if let Some((stage, _)) = name.strip_prefix("lin").and_then(|rest| rest.split_once('.')) {
        return format!("weights.{stage}");
    }
    let convolution = |rest: &str| {
        let (place, kind) = rest.split_once('.')?;
        let place: usize = place.parse().ok()?;
        let index = torchvision_indices().position(|known| known == place)?;
        Some(format!("convolutions.{index}.{kind}"))
    };
    name.strip_prefix("features.").and_then(convolution).unwrap_or_else(|| name.to_owned())
}

/// Indices of the convolutions in torchvision's `features`: an activation follows each convolution, a pooling
/// each stage.
fn torchvision_indices() -> impl Iterator<Item = usize> {
    let stages = STAGES.iter().enumerate();
    let stages = stages.flat_map(|(stage, channels)| channels.iter().map(move |_| stage));
    stages.enumerate().map(|(index, stage)| 2 * index + stage)
}

/// Pixels in [-1, 1] in the range that VGG-16 was trained on.
fn scaled(x: Tensor<4>) -> Tensor<4> {
    let constant = |values: [f32; 3]| {
        Tensor::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), &x.device())
    };
    let (shift, scale) = (constant(SHIFT), constant(SCALE));
    (x - shift) / scale
}

/// Features with the channel vector of every position scaled to length 1.
fn normalised(x: Tensor<4>) -> Tensor<4> {
    let length = (x.clone().square().sum_dim(1) + 1e-20).sqrt();
    x / (length + 1e-10)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::init;
    use burn::tensor::Distribution;
    use tensor_files::{StoredDtype, on_device, write};

    #[test]
    fn tensor_names_are_those_of_torchvision_and_lpips() {
        let indices: Vec<usize> = torchvision_indices().collect();
        assert_eq!(indices, [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]);
        assert_eq!(parameter_name("features.10.bias"), "convolutions.4.bias");
        assert_eq!(parameter_name("lin3.model.1.weight"), "weights.3");
        assert_eq!(parameter_name("classifier.0.weight"), "classifier.0.weight");
    }

    /// Pseudo-random numbers in [-0.5, 0.5) that the reference program computes alike.
    fn values(count: usize, seed: u64) -> Vec<f32> {
        let value = |at: u64| {
            let mut hash = (at.wrapping_mul(2_654_435_761)) & 0xffff_ffff;
            hash ^= hash >> 15;
            hash = (hash * 2_246_822_519) & 0xffff_ffff;
            hash ^= hash >> 13;
            (hash as f64 / 4_294_967_296.0 - 0.5) as f32
        };
        (0..count as u64).map(|at| value(at + seed * 1_000_003)).collect()
    }

    /// The expected value is from PyTorch with the same weights and images.
    #[test]
    fn the_distance_equals_the_reference() {
        let device = Device::flex();
        let mut tensors = tensor_files::NamedTensors::new();
        let (mut inputs, mut seed) = (3, 1);
        for (index, channels) in STAGES.iter().flat_map(|stage| stage.iter()).enumerate() {
            let scale = (24.0 / (inputs * 9) as f64).sqrt() as f32;
            let kernel = values(channels * inputs * 9, seed).iter().map(|v| v * scale).collect();
            let kernel = TensorData::new::<f32, _>(kernel, [*channels, inputs, 3, 3]);
            let bias = values(*channels, seed + 1).iter().map(|v| v * 0.1).collect();
            tensors.insert(format!("convolutions.{index}.weight"), kernel);
            let bias = TensorData::new::<f32, _>(bias, [*channels]);
            tensors.insert(format!("convolutions.{index}.bias"), bias);
            (inputs, seed) = (*channels, seed + 2);
        }
        for (index, stage) in STAGES.iter().enumerate() {
            let weight = values(stage[0], 100 + index as u64).iter().map(|v| v.abs()).collect();
            let weight = TensorData::new::<f32, _>(weight, [1, stage[0], 1, 1]);
            tensors.insert(format!("weights.{index}"), weight);
        }
        let lpips =
            tensor_files::load(Lpips::init(&device), tensors, Path::new("made up")).unwrap();
        let image = |seed| {
            let values = values(3 * 32 * 32, seed).iter().map(|v| 2.0 * v).collect();
            Tensor::from_data(TensorData::new::<f32, _>(values, [1, 3, 32, 32]), &device)
        };
        let distance = lpips.distance(image(201), image(202)).into_scalar::<f32>();
        assert!((distance - 0.379_031_42).abs() < 1e-4, "{distance}");
    }

    #[test]
    fn equal_images_have_distance_zero_and_weights_get_no_gradient() {
        let device = Device::flex().autodiff();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vgg.safetensors");
        let theirs = |name: &str| match name.strip_prefix("weights.") {
            Some(stage) => format!("lin{stage}.model.1.weight"),
            None => {
                let (index, kind) = name["convolutions.".len()..].split_once('.').unwrap();
                let place = torchvision_indices().nth(index.parse().unwrap()).unwrap();
                format!("features.{place}.{kind}")
            }
        };
        let tensors = on_device(&Lpips::init(&device)).into_iter();
        let tensors = tensors.map(|(name, tensor)| (theirs(&name), tensor)).collect();
        write(&path, &tensors, StoredDtype::F16).unwrap();
        let lpips = Lpips::load(&path, &device).unwrap();
        let image = || init::random([1, 3, 16, 16], Distribution::Default, &device);
        let (a, b) = (image().require_grad(), image());
        assert_eq!(lpips.distance(a.clone(), a.clone()).into_scalar::<f32>(), 0.0);
        let distance = lpips.distance(a.clone(), b);
        assert!(distance.clone().into_scalar::<f32>() > 0.0);
        let gradients = distance.backward();
        assert!(a.grad(&gradients).is_some());
        assert!(lpips.convolutions[0].weight.val().grad(&gradients).is_none());
        write(&path, &Default::default(), StoredDtype::F16).unwrap();
        assert!(
            Lpips::load(&path, &device).unwrap_err().to_string().contains("31 tensors missing")
        );
    }
}
