//! The Fréchet inception distance of two sets of images: FID for generated ones, rFID for reconstructions.

use std::path::Path;

use burn::tensor::Device;
use image::RgbImage;

use super::inception::{Inception, WIDTH};
use super::metrics::{Features, frechet_distance};
use super::score::Score;
use crate::error::Result;

/// The network and the features of both sets so far; 8 kB of memory per image.
#[derive(Debug)]
pub struct Fid {
    inception: Inception,
    real: Features,
    generated: Features,
}

impl Fid {
    /// Two empty sets, with the network at `path`; see [`Inception::open`].
    ///
    /// # Errors
    /// As [`Inception::open`].
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let inception = Inception::open(path, device)?;
        Ok(Self { inception, real: Features::new(WIDTH), generated: Features::new(WIDTH) })
    }

    /// Adds images to the reference set.
    ///
    /// # Errors
    /// As [`Inception::features`].
    pub fn add_real(&mut self, images: &[RgbImage]) -> Result<()> {
        self.real.append(self.inception.features(images)?)
    }

    /// Adds generated or reconstructed images.
    ///
    /// # Errors
    /// As [`Inception::features`].
    pub fn add_generated(&mut self, images: &[RgbImage]) -> Result<()> {
        self.generated.append(self.inception.features(images)?)
    }

    /// The distance, with the size of the smaller set as N. Small sets bias it upwards: papers use 50,000
    /// images, and below 2048 it tells little.
    ///
    /// # Errors
    /// If a set has fewer than two images.
    pub fn score(&self) -> Result<Score> {
        let n = self.real.len().min(self.generated.len());
        Ok(Score::whole(frechet_distance(&self.real, &self.generated)?, n))
    }
}
