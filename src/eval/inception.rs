//! The network behind FID: Inception v3 with the weights of TensorFlow's release of 2015.
//!
//! Source: Szegedy et al., "Rethinking the Inception Architecture" (arXiv 1512.00567), in the
//! variant of `pytorch-fid` 0.3 (`inception.py`) behind all published figures: average pooling
//! excludes the padding, and the last block uses maximum pooling. Images are resized to 299x299 by
//! bilinear interpolation without antialiasing. Burn's own FID metric aligns corners and normalises
//! as for ImageNet, so its figures are not comparable.

mod architecture;
mod convolution;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::path::Path;

use burn::tensor::module::{avg_pool2d, interpolate, max_pool2d};
use burn::tensor::ops::{AvgPoolOptions, InterpolateMode, InterpolateOptions, MaxPoolOptions};
use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use sha2::{Digest, Sha256};

use self::architecture::{AVERAGE, BLOCKS, HALVE, MAXIMUM, STEM};
use self::convolution::{Convolution, Weights};
use super::metrics::Features;
use crate::checkpoint::torch_file::TorchFile;
use crate::device;
use crate::error::{Error, Result};
use crate::files::hex;

/// Name of the weights that `pytorch-fid` downloads.
pub const FILE: &str = "pt_inception-2015-12-05-6726825d.pth";
/// SHA-256 of [`FILE`].
pub const SHA256: &str = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2";
/// Features per image.
pub const WIDTH: usize = 2048;

/// Side of the network's input, in pixels.
const SIDE: usize = 299;
/// Batch size on a GPU. On the CPU images run one by one, as many at once as there are threads.
const BATCH: usize = 16;

/// The network with its weights.
#[derive(Debug)]
pub struct Inception {
    convolutions: BTreeMap<String, Convolution>,
    device: Device,
}

impl Inception {
    /// The network with the weights at `path`, a copy of [`FILE`], which is not shipped.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::File`] if it is another file.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        Self::open_with_digest(path, SHA256, device)
    }

    /// The network with weights whose SHA-256 is `digest`, in hexadecimal.
    ///
    /// # Errors
    /// As [`open`](Self::open); if a tensor is missing or has another shape.
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
        let mut convolutions = BTreeMap::new();
        for name in architecture::convolution_names() {
            if let Entry::Vacant(entry) = convolutions.entry(name) {
                let convolution = weights.convolution(entry.key(), device)?;
                entry.insert(convolution);
            }
        }
        Ok(Self { convolutions, device: device.clone() })
    }

    /// The features of `images`, which may differ in size.
    ///
    /// # Shapes
    /// The result holds `[images, 2048]` numbers.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the weights produce values that are not finite.
    pub fn features(&self, images: &[RgbImage]) -> Result<Features> {
        let batch = if device::is_cpu(&self.device) { 1 } else { BATCH };
        let batches: Vec<&[RgbImage]> = images.chunks(batch).collect();
        let found = device::each(&self.device, batches, |images| -> Vec<f32> {
            let pixels = images.iter().map(|image| self.pixels(image)).collect();
            self.forward(Tensor::cat(pixels, 0)).into_data().iter().collect()
        });
        let mut features = Features::new(WIDTH);
        found.iter().try_for_each(|found| features.extend(found))?;
        Ok(features)
    }

    /// The network's input, `[1, 3, 299, 299]` in [-1, 1].
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

    /// The output of a step of the stem (an empty `block`) or of a block.
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_another_digest_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "weights").unwrap();
        let message = Inception::open(file.path(), &Device::flex()).unwrap_err().to_string();
        assert!(message.contains(SHA256) && message.contains(FILE), "{message}");
        let missing = Inception::open(Path::new("no/such/file"), &Device::flex());
        assert!(matches!(missing.unwrap_err(), Error::Io { .. }));
    }

    #[test]
    fn a_missing_tensor_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        crate::checkpoint::torch_file::write(file.path(), None, &[], |_| Ok(Vec::new())).unwrap();
        let digest = hex(&Sha256::digest(std::fs::read(file.path()).unwrap()));
        let opened = Inception::open_with_digest(file.path(), &digest, &Device::flex());
        let message = opened.unwrap_err().to_string();
        assert!(message.contains("no tensor Conv2d_1a_3x3.conv.weight"), "{message}");
    }
}
