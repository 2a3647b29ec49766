//! Image files to the tensor the encoder reads, and the decoder's tensor to images.
//!
//! Three rules are in the world and give different pixels: the original release's, that of Hugging
//! Face's `ChameleonImageProcessor`, and Lumina-mGPT's for images of any aspect.
//! [`PreprocessorConfig`] says which one a tokenizer was made with.

mod flexible;
mod image_file;
mod resample;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use serde::{Deserialize, Serialize};

pub use image_file::{MAX_PIXELS, MAX_SIDE, decode_image, open_image, to_rgb, to_rgb_by};
pub use resample::Resample;
use resample::Window;

use crate::error::{Error, Result};

/// Whose preprocessing is followed where the two differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// transformers' `ChameleonImageProcessor` (Pillow backend): the long side is truncated, alpha is
    /// composited with rounding, pixels become `(x * rescale_factor - mean) / std`.
    #[default]
    HuggingFace,
    /// facebookresearch/chameleon: both sides are rounded (half to even), alpha is blended with
    /// truncation, pixels become `x / 255 * 2 - 1`.
    Original,
    /// Lumina-mGPT: the image covers the one of many sizes that fits its aspect best, all with about
    /// as many pixels as the square of `shortest_edge` and sides that are multiples of `size_multiple`;
    /// pixels become what they are with [`Rule::HuggingFace`].
    Flexible,
}

/// How an image becomes pixels: the keys of `preprocessor_config.json`, plus `rule`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Keys", into = "Keys")]
pub struct PreprocessorConfig {
    /// The shorter side after resizing, in pixels.
    pub shortest_edge: usize,
    /// Height of the part cut from the middle, in pixels.
    pub crop_height: usize,
    /// Width of the part cut from the middle, in pixels.
    pub crop_width: usize,
    /// The filter of the resizing.
    pub resample: Resample,
    /// The factor on bytes before the mean is subtracted; not used by [`Rule::Original`].
    pub rescale_factor: f64,
    /// Subtracted per channel after rescaling; not used by [`Rule::Original`].
    pub image_mean: [f32; 3],
    /// Divisor per channel; not used by [`Rule::Original`].
    pub image_std: [f32; 3],
    /// What sides are multiples of, in pixels; used by [`Rule::Flexible`] alone.
    pub size_multiple: usize,
    /// Whose rounding, blending and scaling.
    pub rule: Rule,
}

/// What Lumina-mGPT's sides are multiples of.
const SIZE_MULTIPLE: usize = 32;

/// The file as it is written.
#[derive(Serialize, Deserialize)]
struct Keys {
    #[serde(default = "processor_type")]
    image_processor_type: String,
    #[serde(default = "yes")]
    do_convert_rgb: bool,
    #[serde(default = "yes")]
    do_resize: bool,
    #[serde(default = "yes")]
    do_center_crop: bool,
    #[serde(default = "yes")]
    do_rescale: bool,
    #[serde(default = "yes")]
    do_normalize: bool,
    size: Option<Edge>,
    crop_size: Option<Crop>,
    resample: Option<Resample>,
    rescale_factor: Option<f64>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_multiple: Option<usize>,
    #[serde(default)]
    rule: Rule,
}

fn processor_type() -> String {
    "ChameleonImageProcessor".to_owned()
}

fn yes() -> bool {
    true
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Edge {
    Named { shortest_edge: usize },
    Bare(usize),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Crop {
    Named { height: usize, width: usize },
    Bare(usize),
}

impl TryFrom<Keys> for PreprocessorConfig {
    type Error = String;

    fn try_from(keys: Keys) -> std::result::Result<Self, String> {
        for (key, on) in [
            ("do_convert_rgb", keys.do_convert_rgb),
            ("do_resize", keys.do_resize),
            ("do_center_crop", keys.do_center_crop),
            ("do_rescale", keys.do_rescale),
            ("do_normalize", keys.do_normalize),
        ] {
            if !on {
                return Err(format!("{key} is false; only true is supported"));
            }
        }
        let default = Self::hugging_face(512);
        let (crop_height, crop_width) = match keys.crop_size {
            Some(Crop::Named { height, width }) => (height, width),
            Some(Crop::Bare(side)) => (side, side),
            None => (default.crop_height, default.crop_width),
        };
        let config = Self {
            shortest_edge: match keys.size {
                Some(Edge::Named { shortest_edge } | Edge::Bare(shortest_edge)) => shortest_edge,
                None => default.shortest_edge,
            },
            crop_height,
            crop_width,
            resample: keys.resample.unwrap_or(default.resample),
            rescale_factor: keys.rescale_factor.unwrap_or(default.rescale_factor),
            image_mean: keys.image_mean.unwrap_or(default.image_mean),
            image_std: keys.image_std.unwrap_or(default.image_std),
            size_multiple: keys.size_multiple.unwrap_or(SIZE_MULTIPLE),
            rule: keys.rule,
        };
        for (key, side) in [
            ("size.shortest_edge", config.shortest_edge),
            ("crop_size.height", crop_height),
            ("crop_size.width", crop_width),
        ] {
            if side == 0 || side > MAX_CROP {
                return Err(format!("{key} is {side}; allowed: 1 to {MAX_CROP}"));
            }
        }
        let (unit, edge) = (config.size_multiple, config.shortest_edge);
        if config.rule == Rule::Flexible && !(1..=edge).contains(&unit) {
            return Err(format!(
                "size_multiple is {unit}; allowed: 1 to {edge}, size.shortest_edge"
            ));
        }
        Ok(config)
    }
}

/// The largest side of a preprocessed image.
const MAX_CROP: usize = 8192;

impl From<PreprocessorConfig> for Keys {
    fn from(config: PreprocessorConfig) -> Self {
        Self {
            image_processor_type: processor_type(),
            do_convert_rgb: true,
            do_resize: true,
            do_center_crop: true,
            do_rescale: true,
            do_normalize: true,
            size: Some(Edge::Named { shortest_edge: config.shortest_edge }),
            crop_size: Some(Crop::Named { height: config.crop_height, width: config.crop_width }),
            resample: Some(config.resample),
            rescale_factor: Some(config.rescale_factor),
            image_mean: Some(config.image_mean),
            image_std: Some(config.image_std),
            size_multiple: (config.rule == Rule::Flexible).then_some(config.size_multiple),
            rule: config.rule,
        }
    }
}

impl PreprocessorConfig {
    /// Hugging Face's rule and constants for square images of `resolution` pixels.
    pub fn hugging_face(resolution: usize) -> Self {
        Self {
            shortest_edge: resolution,
            crop_height: resolution,
            crop_width: resolution,
            resample: Resample::Lanczos,
            rescale_factor: 0.0078,
            image_mean: [1.0; 3],
            image_std: [1.0; 3],
            size_multiple: SIZE_MULTIPLE,
            rule: Rule::HuggingFace,
        }
    }

    /// Lumina-mGPT's rule for images of about `resolution` pixels squared.
    pub fn flexible(resolution: usize) -> Self {
        Self { rule: Rule::Flexible, ..Self::hugging_face(resolution) }
    }

    /// Lumina-mGPT's sizes with sides that are multiples of `size_multiple`, and the original release's
    /// pixels: all of `[-1, 1]`.
    pub fn flexible_original(resolution: usize, size_multiple: usize) -> Self {
        Self { rescale_factor: 1.0 / 127.5, size_multiple, ..Self::flexible(resolution) }
    }

    /// The original release's rule for square images of `resolution` pixels: all of `[-1, 1]`.
    pub fn original(resolution: usize) -> Self {
        Self { rescale_factor: 1.0 / 127.5, rule: Rule::Original, ..Self::hugging_face(resolution) }
    }

    /// Reads a `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::File`] when a key has a value that is not
    /// supported.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        serde_json::from_str(&text)
            .map_err(|e| Error::file(path, format!("not a preprocessor configuration: {e}")))
    }

    /// Writes a `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("plain numbers always serialise");
        std::fs::write(path, text + "\n").map_err(Error::io(path))
    }

    /// The shortest side that a preprocessed image may have, in pixels.
    pub fn shortest_side(&self) -> usize {
        self.sides().min().unwrap_or(0)
    }

    /// The longest side that a preprocessed image may have, in pixels.
    pub fn longest_side(&self) -> usize {
        self.sides().max().unwrap_or(0)
    }

    fn sides(&self) -> impl Iterator<Item = usize> {
        let sizes = match self.rule {
            Rule::HuggingFace | Rule::Original => vec![(self.crop_width, self.crop_height)],
            Rule::Flexible => flexible::sizes(self.shortest_edge, self.size_multiple),
        };
        sizes.into_iter().flat_map(|(width, height)| [width, height])
    }

    /// Width and height of an image after resizing, before the crop.
    fn resized(&self, width: usize, height: usize) -> (usize, usize) {
        let short = width.min(height);
        match self.rule {
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

    /// `image` resized so that its shorter side fits, and the middle cut out; with [`Rule::Flexible`] to
    /// the size of its aspect.
    ///
    /// Where the crop is larger than the resized image the rest is black. The result equals
    /// Pillow's byte for byte. An image without pixels becomes a black one.
    pub fn resize(&self, image: &RgbImage) -> RgbImage {
        let (width, height) = (image.width() as usize, image.height() as usize);
        if self.rule == Rule::Flexible && width > 0 && height > 0 {
            let sizes = flexible::sizes(self.shortest_edge, self.size_multiple);
            return flexible::resize(image, &sizes).unwrap_or_default();
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

    /// The pixels the encoder reads, `[batch, 3, height, width]`, of images of one size that
    /// [`PreprocessorConfig::resize`] returned.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is no image or one has another size.
    pub fn tensor(&self, images: &[RgbImage], device: &Device) -> Result<Tensor<4>> {
        let Some(first) = images.first() else {
            return Err(Error::invalid("no image to make a batch of".to_owned()));
        };
        let (height, width) = (self.crop_height, self.crop_width);
        let has_size = first.dimensions() == (width as u32, height as u32);
        if self.rule != Rule::Flexible && !has_size {
            return Err(Error::invalid(format!(
                "an image of {}x{} pixels in a batch of {width}x{height}; resize it first",
                first.width(),
                first.height()
            )));
        }
        self.pixels(images, device)
    }

    /// As [`Self::tensor`], of images of any one size.
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

    /// The value of each byte in `channel`. In 64-bit floats up to where the reference rounds to 32.
    fn levels(&self, channel: usize) -> Vec<f32> {
        let (mean, std) = (self.image_mean[channel], self.image_std[channel]);
        let level = |byte: u8| match self.rule {
            Rule::HuggingFace | Rule::Flexible => {
                ((f64::from(byte) * self.rescale_factor) as f32 - mean) / std
            }
            Rule::Original => (f64::from(byte) / 255.0 * 2.0 - 1.0) as f32,
        };
        (0..=u8::MAX).map(level).collect()
    }
}

/// The kept pixels of a side of `len` that is cut to `crop`, and where they begin in the result.
fn middle(len: usize, crop: usize) -> (std::ops::Range<usize>, usize) {
    if len >= crop {
        let start = (len - crop) / 2;
        (start..start + crop, 0)
    } else {
        (0..len, (crop - len).div_ceil(2))
    }
}

/// The images of `[batch, 3, height, width]`: clamped to `[-1, 1]`, scaled to 255, truncated.
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
                .expect("three channels of height times width bytes")
        })
        .collect()
}
