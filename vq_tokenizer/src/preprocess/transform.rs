//! Images to the encoder's pixels, and decoded pixels to images.

use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;

use super::bounded;
use super::config::{PreprocessorConfig, Rule};
use super::flexible;
use super::placement::Placement;
use super::resample::{self, Window};
use crate::error::{Error, Result};

impl PreprocessorConfig {
    /// The shortest side of any preprocessed image, in pixels.
    pub fn shortest_side(&self) -> usize {
        self.sides().min().unwrap_or(0)
    }

    /// The longest side of any preprocessed image, in pixels.
    pub fn longest_side(&self) -> usize {
        self.sides().max().unwrap_or(0)
    }

    /// The sides of all sizes that a preprocessed image may have.
    fn sides(&self) -> impl Iterator<Item = usize> {
        let sizes = match self.rule {
            Rule::HuggingFace | Rule::Original => vec![(self.crop_width, self.crop_height)],
            Rule::Flexible => flexible::sizes(self.shortest_edge, self.size_multiple),
            Rule::Emu3 => {
                let unit = self.size_multiple;
                vec![(unit, self.max_pixels / unit / unit * unit)]
            }
        };
        sizes.into_iter().flat_map(|(width, height)| [width, height])
    }

    /// Width and height of an image after resizing, before the crop.
    pub(super) fn resized(&self, width: usize, height: usize) -> (usize, usize) {
        let short = width.min(height);
        match self.rule {
            Rule::Emu3 => {
                let bounds = (self.min_pixels, self.max_pixels);
                bounded::size((width, height), self.size_multiple, bounds)
            }
            Rule::HuggingFace | Rule::Flexible => {
                let long = |side: usize| (self.shortest_edge * side) as f64 / short as f64;
                let (new_width, new_height) = (long(width) as usize, long(height) as usize);
                if width <= height {
                    (self.shortest_edge, new_height)
                } else {
                    (new_width, self.shortest_edge)
                }
            }
            Rule::Original => {
                let factor = self.shortest_edge as f64 / short as f64;
                let side = |side: usize| (factor * side as f64).round_ties_even() as usize;
                (side(width), side(height))
            }
        }
    }

    /// Where [`resize`](Self::resize) puts the pixels of an image of `width` and `height`, both above 0.
    pub fn placement(&self, width: usize, height: usize) -> Placement {
        let source = (width, height);
        if self.rule == Rule::Flexible
            && let Some(found) = flexible::placement(
                source,
                &flexible::sizes(self.shortest_edge, self.size_multiple),
            )
        {
            return found;
        }
        let full = self.resized(width, height);
        if self.rule == Rule::Emu3 {
            return Placement { source, full, offset: (0, 0), size: full };
        }
        let size = (self.crop_width, self.crop_height);
        let start = |len, crop| {
            let (kept, padding) = middle(len, crop);
            kept.start as i64 - padding as i64
        };
        Placement { source, full, offset: (start(full.0, size.0), start(full.1, size.1)), size }
    }

    /// `image` resized to the shorter side and centre-cropped; with [`Rule::Flexible`] resized and cropped to
    /// the size that fits its aspect ratio best; with [`Rule::Emu3`] only resized.
    ///
    /// Equals Pillow's result byte for byte. A crop larger than the resized image is padded with black, and
    /// an image without pixels becomes black.
    pub fn resize(&self, image: &RgbImage) -> RgbImage {
        let (width, height) = (image.width() as usize, image.height() as usize);
        if self.rule == Rule::Flexible && width > 0 && height > 0 {
            let sizes = flexible::sizes(self.shortest_edge, self.size_multiple);
            return flexible::resize(image, &sizes).unwrap_or_default();
        }
        if self.rule == Rule::Emu3 && width > 0 && height > 0 {
            let full = self.resized(width, height);
            let window = Window { columns: 0..full.0, rows: 0..full.1 };
            return resample::resize(image, self.resample, full, window);
        }
        if (width, height) == (self.crop_width, self.crop_height)
            && width.min(height) == self.shortest_edge
        {
            return image.clone();
        }
        let mut output = RgbImage::new(self.crop_width as u32, self.crop_height as u32);
        if width == 0 || height == 0 {
            return output;
        }
        let full = self.resized(width, height);
        let (columns, left) = middle(full.0, self.crop_width);
        let (rows, top) = middle(full.1, self.crop_height);
        let part = resample::resize(image, self.resample, full, Window { columns, rows });
        image::imageops::replace(&mut output, &part, left as i64, top as i64);
        output
    }

    /// The encoder's pixels of images of one size, as [`PreprocessorConfig::resize`] returns them.
    ///
    /// # Shapes
    /// - result: `[batch, 3, height, width]`
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no image or the sizes differ.
    pub fn tensor(&self, images: &[RgbImage], device: &Device) -> Result<Tensor<4>> {
        let Some(first) = images.first() else {
            return Err(Error::invalid("no image to make a batch of"));
        };
        let (height, width) = (self.crop_height, self.crop_width);
        let has_size = first.dimensions() == (width as u32, height as u32);
        if !self.rule.has_sizes() && !has_size {
            return Err(Error::invalid(format!(
                "an image of {}x{} pixels in a batch of {width}x{height}; resize it first",
                first.width(),
                first.height()
            )));
        }
        self.pixels(images, device)
    }

    /// [`Self::tensor`] for images of any one size.
    ///
    /// # Shapes
    /// - result: `[batch, 3, height, width]`
    pub(crate) fn pixels(&self, images: &[RgbImage], device: &Device) -> Result<Tensor<4>> {
        let (width, height) = images.first().map_or((0, 0), RgbImage::dimensions);
        let (width, height) = (width as usize, height as usize);
        let levels = [0, 1, 2].map(|channel| self.levels(channel));
        let mut values = Vec::with_capacity(images.len() * 3 * height * width);
        for image in images {
            if image.dimensions() != (width as u32, height as u32) {
                return Err(Error::invalid(format!(
                    "an image of {}x{} pixels in a batch of {width}x{height}; resize it first",
                    image.width(),
                    image.height()
                )));
            }
            for (channel, levels) in levels.iter().enumerate() {
                let bytes = image.as_raw().iter().skip(channel).step_by(3);
                values.extend(bytes.map(|byte| levels[usize::from(*byte)]));
            }
        }
        Ok(Tensor::from_data(TensorData::new(values, [images.len(), 3, height, width]), device))
    }

    /// The pixel value of each byte in `channel`, computed in f64 up to where the reference rounds to f32.
    pub(super) fn levels(&self, channel: usize) -> Vec<f32> {
        let (mean, std) = (self.image_mean[channel], self.image_std[channel]);
        let level = |byte: u8| match self.rule {
            Rule::HuggingFace | Rule::Flexible | Rule::Emu3 => {
                ((f64::from(byte) * self.rescale_factor) as f32 - mean) / std
            }
            Rule::Original => (f64::from(byte) / 255.0 * 2.0 - 1.0) as f32,
        };
        (0..=u8::MAX).map(level).collect()
    }
}

/// The pixels that a centre crop to `crop` keeps of `len`, and their offset in the result.
fn middle(len: usize, crop: usize) -> (std::ops::Range<usize>, usize) {
    if len >= crop {
        let start = (len - crop) / 2;
        (start..start + crop, 0)
    } else {
        (0..len, (crop - len).div_ceil(2))
    }
}

/// The images of decoded pixels: clamped to `[-1, 1]`, scaled to 255, truncated.
///
/// # Shapes
/// - pixels: `[batch, 3, height, width]`
///
/// Source: `ImageTokenizer.pil_from_img_toks` of facebookresearch/chameleon.
pub fn to_images(pixels: Tensor<4>) -> Vec<RgbImage> {
    let [_, channels, height, width] = pixels.dims();
    let bytes: Vec<u8> = pixels
        .permute([0, 2, 3, 1])
        .into_data()
        .iter::<f32>()
        .map(|value| ((value.clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0) as u8)
        .collect();
    bytes
        .chunks_exact(channels * height * width)
        .map(|bytes| {
            RgbImage::from_raw(width as u32, height as u32, bytes.to_vec())
                .expect("each chunk has three bytes for every pixel")
        })
        .collect()
}
