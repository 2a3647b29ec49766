//! The Fréchet inception distance of two sets of images: FID of drawn ones, rFID of reconstructed ones.

use std::path::Path;

use burn::tensor::Device;
use image::RgbImage;

use super::inception::{Inception, WIDTH};
use super::metrics::{Features, frechet_distance};
use super::score::Score;
use crate::error::Result;

/// Features of both sets while their images come in; 8 kB of memory an image.
#[derive(Debug)]
pub struct Fid {
    inception: Inception,
    real: Features,
    made: Features,
}

impl Fid {
    /// Opens the network at `path`; see [`Inception::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let inception = Inception::open(path, device)?;
        Ok(Self { inception, real: Features::new(WIDTH), made: Features::new(WIDTH) })
    }

    /// Adds images that others are held against.
    ///
    /// # Errors
    /// As [`Inception::features`].
    pub fn add_real(&mut self, images: &[RgbImage]) -> Result<()> {
        self.real.append(self.inception.features(images)?)
    }

    /// Adds images that were drawn or reconstructed.
    ///
    /// # Errors
    /// As [`Inception::features`].
    pub fn add_made(&mut self, images: &[RgbImage]) -> Result<()> {
        self.made.append(self.inception.features(images)?)
    }

    /// The distance; N is the smaller number of images. It is biased upwards by small sets: papers take
    /// 50,000 images, and with fewer than 2048 it tells little.
    ///
    /// # Errors
    /// When a set has fewer than two images.
    pub fn score(&self) -> Result<Score> {
        let n = self.real.len().min(self.made.len());
        Ok(Score::whole(frechet_distance(&self.real, &self.made)?, n))
    }
}
