//! The network behind FID: Inception v3 with the weights of TensorFlow's release of 2015.
//!
//! Source: Szegedy et al., "Rethinking the Inception Architecture" (arXiv 1512.00567), in the form of
//! `pytorch-fid` 0.3 (`inception.py`), which all published figures go back to: averages beside an image's edge
//! leave the padding out, and the last block pools by the maximum. Images are stretched to 299x299 without
//! smoothing. Burn's own FID metric stretches with aligned corners and normalises as for ImageNet, so its
//! figures are comparable with no others.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::path::Path;

use burn::tensor::module::{avg_pool2d, conv2d, interpolate, max_pool2d};
use burn::tensor::ops::{
    AvgPoolOptions, ConvOptions, InterpolateMode, InterpolateOptions, MaxPoolOptions,
};
use burn::tensor::{Device, Tensor, TensorData, activation};
use image::RgbImage;
use safetensors::Dtype;
use sha2::{Digest, Sha256};

use super::metrics::Features;
use crate::checkpoint::torch_file::TorchFile;
use crate::error::{Error, Result};
use crate::files::hex;

/// The file that `pytorch-fid` downloads.
pub const FILE: &str = "pt_inception-2015-12-05-6726825d.pth";
/// Its SHA-256.
pub const SHA256: &str = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2";
/// Numbers of an image's features.
pub const WIDTH: usize = 2048;

/// The side of the images that the network sees, in pixels.
const SIDE: usize = 299;
/// Added to the variances of the batch normalisation.
const EPSILON: f32 = 0.001;
/// Images computed at one time.
const BATCH: usize = 16;

/// Convolutions that halve the sides; they and [`VALID`] have no padding.
const STRIDED: [&str; 5] = [
    "Conv2d_1a_3x3",
    "Mixed_6a.branch3x3",
    "Mixed_6a.branch3x3dbl_3",
    "Mixed_7a.branch3x3_2",
    "Mixed_7a.branch7x7x3_4",
];
const VALID: [&str; 2] = ["Conv2d_2a_3x3", "Conv2d_4a_3x3"];

/// A step that has no weights, in place of a convolution's name.
const AVERAGE: &str = "(average)";
const MAXIMUM: &str = "(maximum)";
const HALVE: &str = "(halve)";

/// The names of a block's convolutions, branch by branch; branches that share their first steps repeat them.
type Branches = &'static [&'static [&'static str]];

const A: Branches = &[
    &["branch1x1"],
    &["branch5x5_1", "branch5x5_2"],
    &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"],
    &[AVERAGE, "branch_pool"],
];
const B: Branches =
    &[&["branch3x3"], &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], &[HALVE]];
const C: Branches = &[
    &["branch1x1"],
    &["branch7x7_1", "branch7x7_2", "branch7x7_3"],
    &["branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"],
    &[AVERAGE, "branch_pool"],
];
const D: Branches = &[
    &["branch3x3_1", "branch3x3_2"],
    &["branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"],
    &[HALVE],
];
const E: [&[&str]; 5] = [
    &["branch1x1"],
    &["branch3x3_1", "branch3x3_2a"],
    &["branch3x3_1", "branch3x3_2b"],
    &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a"],
    &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3b"],
];
const E_AVERAGE: Branches = &[E[0], E[1], E[2], E[3], E[4], &[AVERAGE, "branch_pool"]];
const E_MAXIMUM: Branches = &[E[0], E[1], E[2], E[3], E[4], &[MAXIMUM, "branch_pool"]];

/// The steps before the blocks.
const STEM: [&str; 7] = [
    "Conv2d_1a_3x3",
    "Conv2d_2a_3x3",
    "Conv2d_2b_3x3",
    HALVE,
    "Conv2d_3b_1x1",
    "Conv2d_4a_3x3",
    HALVE,
];
const BLOCKS: [(&str, Branches); 11] = [
    ("Mixed_5b", A),
    ("Mixed_5c", A),
    ("Mixed_5d", A),
    ("Mixed_6a", B),
    ("Mixed_6b", C),
    ("Mixed_6c", C),
    ("Mixed_6d", C),
    ("Mixed_6e", C),
    ("Mixed_7a", D),
    ("Mixed_7b", E_AVERAGE),
    ("Mixed_7c", E_MAXIMUM),
];

/// The network with its weights.
#[derive(Debug)]
pub struct Inception {
    convolutions: BTreeMap<String, Convolution>,
    device: Device,
}

/// A convolution with the batch normalisation after it, as one.
#[derive(Debug)]
struct Convolution {
    /// `[out, in, height, width]`.
    weight: Tensor<4>,
    /// `[out]`.
    bias: Tensor<1>,
    stride: usize,
    padding: [usize; 2],
}

impl Inception {
    /// Reads [`FILE`], which is not shipped, from `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read; [`Error::File`] when it is not that very file.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        Self::open_with_digest(path, SHA256, device)
    }

    /// As [`open`](Self::open), of weights with another SHA-256 in hexadecimal.
    ///
    /// # Errors
    /// As there; when a tensor is missing or of another form.
    pub fn open_with_digest(path: &Path, digest: &str, device: &Device) -> Result<Self> {
        let mut hasher = Sha256::new();
        let mut file = File::open(path).map_err(Error::io(path))?;
        std::io::copy(&mut file, &mut hasher).map_err(Error::io(path))?;
        let found = hex(&hasher.finalize());
        if found != digest {
            return Err(Error::file(
                path,
                format!("has the SHA-256 {found}, not {digest}, that of {FILE} of pytorch-fid"),
            ));
        }
        let weights = Weights { path, file: TorchFile::open(path)? };
        let of_blocks = BLOCKS.iter().flat_map(|(block, branches)| {
            branches.iter().copied().flatten().map(move |name| match name.starts_with('(') {
                true => (*name).to_owned(),
                false => format!("{block}.{name}"),
            })
        });
        let names = STEM.iter().map(|name| (*name).to_owned()).chain(of_blocks);
        let mut convolutions = BTreeMap::new();
        for name in names.filter(|name| !name.starts_with('(')) {
            if let Entry::Vacant(place) = convolutions.entry(name) {
                let convolution = weights.convolution(place.key(), device)?;
                place.insert(convolution);
            }
        }
        Ok(Self { convolutions, device: device.clone() })
    }

    /// The features of `images`, [`WIDTH`] numbers each; images may differ in size.
    ///
    /// # Errors
    /// [`Error::Invalid`] for weights that give numbers that are not finite.
    pub fn features(&self, images: &[RgbImage]) -> Result<Features> {
        let mut features = Features::new(WIDTH);
        for images in images.chunks(BATCH) {
            let pixels = images.iter().map(|image| self.pixels(image)).collect();
            let found = self.forward(Tensor::cat(pixels, 0)).into_data();
            features.extend(&found.iter::<f32>().collect::<Vec<_>>())?;
        }
        Ok(features)
    }

    /// `[1, 3, 299, 299]` in [-1, 1].
    fn pixels(&self, image: &RgbImage) -> Tensor<4> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let values = image.as_raw().iter().map(|value| f32::from(*value) / 255.0).collect();
        let values = TensorData::new::<f32, _>(values, [1, height, width, 3]);
        let pixels = Tensor::<4>::from_data(values, &self.device).permute([0, 3, 1, 2]);
        let options = InterpolateOptions::new(InterpolateMode::Bilinear)
            .with_align_corners(false)
            .with_output_size([SIDE, SIDE]);
        interpolate(pixels, options) * 2.0 - 1.0
    }

    /// `[batch, 3, 299, 299]` to `[batch, 2048]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = STEM.iter().fold(x, |x, step| self.step("", step, x));
        let x = BLOCKS.iter().fold(x, |x, (block, branches)| {
            let branch =
                |steps: &&[&str]| steps.iter().fold(x.clone(), |x, step| self.step(block, step, x));
            Tensor::cat(branches.iter().map(branch).collect(), 1)
        });
        x.mean_dims(&[2, 3]).reshape([-1, WIDTH as i32])
    }

    fn step(&self, block: &str, step: &str, x: Tensor<4>) -> Tensor<4> {
        match step {
            HALVE => max_pool2d(x, MaxPoolOptions::new([3, 3]).with_stride([2, 2])),
            MAXIMUM => {
                max_pool2d(x, MaxPoolOptions::new([3, 3]).with_stride([1, 1]).with_padding([1, 1]))
            }
            AVERAGE => avg_pool2d(
                x,
                AvgPoolOptions::new([3, 3])
                    .with_stride([1, 1])
                    .with_padding([1, 1])
                    .with_count_include_pad(false),
            ),
            name if block.is_empty() => self.convolutions[name].forward(x),
            name => self.convolutions[&format!("{block}.{name}")].forward(x),
        }
    }
}

impl Convolution {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let options = ConvOptions::new([self.stride; 2], self.padding, [1, 1], 1);
        activation::relu(conv2d(x, self.weight.clone(), Some(self.bias.clone()), options))
    }
}

/// The tensors of a file of weights.
struct Weights<'p> {
    path: &'p Path,
    file: TorchFile,
}

impl Weights<'_> {
    fn convolution(&self, name: &str, device: &Device) -> Result<Convolution> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn another_file_is_refused_before_it_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "weights").unwrap();
        let message = Inception::open(file.path(), &Device::flex()).unwrap_err().to_string();
        assert!(message.contains(SHA256) && message.contains(FILE), "{message}");
        let missing = Inception::open(Path::new("no/such/file"), &Device::flex());
        assert!(matches!(missing.unwrap_err(), Error::Io { .. }));
    }

    #[test]
    fn a_file_without_the_network_is_refused_by_tensor() {
        let file = tempfile::NamedTempFile::new().unwrap();
        crate::checkpoint::torch_file::write(file.path(), None, &[], |_| Ok(Vec::new())).unwrap();
        let digest = hex(&Sha256::digest(std::fs::read(file.path()).unwrap()));
        let opened = Inception::open_with_digest(file.path(), &digest, &Device::flex());
        let message = opened.unwrap_err().to_string();
        assert!(message.contains("no tensor Conv2d_1a_3x3.conv.weight"), "{message}");
    }
}
