//! The preprocessing configuration and its file, `preprocessor_config.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::resample::Resample;
use super::sizes::{Crop, Size};
use crate::error::{Error, Result};
use crate::json::read_json;

/// The implementation whose preprocessing is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// transformers' `ChameleonImageProcessor` (Pillow backend): the length of the long side is truncated,
    /// alpha is composited with rounding, pixels become `(x * rescale_factor - mean) / std`.
    #[default]
    HuggingFace,
    /// facebookresearch/chameleon: the lengths of both sides are rounded (half to even), alpha is blended
    /// with truncation, pixels become `x / 255 * 2 - 1`.
    Original,
    /// Lumina-mGPT: images get the size that fits their aspect ratio best, of sizes with at most as many
    /// pixels as the square of `shortest_edge` and sides that are multiples of `size_multiple`; pixels are
    /// scaled as by [`Rule::HuggingFace`].
    Flexible,
    /// transformers' `Emu3ImageProcessor`: images keep nearly their aspect ratio; sides are multiples of
    /// `size_multiple`, the number of pixels is from `min_pixels` to `max_pixels`, and transparency is ignored.
    Emu3,
}

impl Rule {
    /// Whether preprocessed images have various sizes.
    pub fn has_sizes(self) -> bool {
        matches!(self, Self::Flexible | Self::Emu3)
    }

    /// The class of transformers.
    fn class(self) -> &'static str {
        match self {
            Self::Emu3 => "Emu3ImageProcessor",
            Self::HuggingFace | Self::Original | Self::Flexible => "ChameleonImageProcessor",
        }
    }
}

/// How an image becomes pixels: the keys of `preprocessor_config.json`, plus `rule`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Keys", into = "Keys")]
pub struct PreprocessorConfig {
    /// The shorter side after resizing, in pixels.
    pub shortest_edge: usize,
    /// Height of the centre crop, in pixels.
    pub crop_height: usize,
    /// Width of the centre crop, in pixels.
    pub crop_width: usize,
    /// The resizing filter.
    pub resample: Resample,
    /// Multiplies bytes before the mean is subtracted; not used by [`Rule::Original`].
    pub rescale_factor: f64,
    /// Subtracted per channel after rescaling; not used by [`Rule::Original`].
    pub image_mean: [f32; 3],
    /// Divides each channel at the end; not used by [`Rule::Original`].
    pub image_std: [f32; 3],
    /// Sides are multiples of this many pixels; used only by rules with various sizes.
    pub size_multiple: usize,
    /// Minimum number of pixels; used only by [`Rule::Emu3`].
    pub min_pixels: usize,
    /// Maximum number of pixels; used only by [`Rule::Emu3`].
    pub max_pixels: usize,
    /// How sizes are rounded, transparency is blended and bytes are scaled.
    pub rule: Rule,
}

/// Lumina-mGPT's `size_multiple`.
const SIZE_MULTIPLE: usize = 32;

/// The largest side of a preprocessed image.
const MAX_CROP: usize = 8192;

/// The keys of the file.
#[derive(Serialize, Deserialize)]
struct Keys {
    image_processor_type: Option<String>,
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
    size: Option<Size>,
    crop_size: Option<Crop>,
    resample: Option<Resample>,
    rescale_factor: Option<f64>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
    #[serde(skip_serializing_if = "Option::is_none", alias = "spatial_factor")]
    size_multiple: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_pixels: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_pixels: Option<usize>,
    rule: Option<Rule>,
}

fn yes() -> bool {
    true
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
        let of_emu3 = keys.image_processor_type.as_deref() == Some(Rule::Emu3.class());
        let rule = keys.rule.unwrap_or(if of_emu3 { Rule::Emu3 } else { Rule::HuggingFace });
        let default = if rule == Rule::Emu3 { Self::emu3() } else { Self::hugging_face(512) };
        let (edge, pixels) = match keys.size {
            Some(Size::Edge(edge)) => (Some(edge), None),
            Some(Size::Pixels(pixels)) => (None, Some(pixels)),
            None => (None, None),
        };
        if pixels.is_some() && rule != Rule::Emu3 {
            let message = "size has min_pixels and max_pixels; only shortest_edge is supported";
            return Err(message.to_owned());
        }
        let [min_pixels, max_pixels] = pixels.unwrap_or([default.min_pixels, default.max_pixels]);
        let (crop_height, crop_width) = match keys.crop_size {
            Some(Crop(height, width)) => (height, width),
            None => (default.crop_height, default.crop_width),
        };
        let config = Self {
            shortest_edge: edge.unwrap_or(default.shortest_edge),
            crop_height,
            crop_width,
            resample: keys.resample.unwrap_or(default.resample),
            rescale_factor: keys.rescale_factor.unwrap_or(default.rescale_factor),
            image_mean: keys.image_mean.unwrap_or(default.image_mean),
            image_std: keys.image_std.unwrap_or(default.image_std),
            size_multiple: keys.size_multiple.unwrap_or(default.size_multiple),
            min_pixels: keys.min_pixels.unwrap_or(min_pixels),
            max_pixels: keys.max_pixels.unwrap_or(max_pixels),
            rule,
        };
        config.check()?;
        Ok(config)
    }
}

impl From<PreprocessorConfig> for Keys {
    fn from(config: PreprocessorConfig) -> Self {
        let of_emu3 = config.rule == Rule::Emu3;
        Self {
            image_processor_type: Some(config.rule.class().to_owned()),
            do_convert_rgb: true,
            do_resize: true,
            do_center_crop: true,
            do_rescale: true,
            do_normalize: true,
            size: (!of_emu3).then_some(Size::Edge(config.shortest_edge)),
            crop_size: Some(Crop(config.crop_height, config.crop_width)),
            resample: Some(config.resample),
            rescale_factor: Some(config.rescale_factor),
            image_mean: Some(config.image_mean),
            image_std: Some(config.image_std),
            size_multiple: config.rule.has_sizes().then_some(config.size_multiple),
            min_pixels: of_emu3.then_some(config.min_pixels),
            max_pixels: of_emu3.then_some(config.max_pixels),
            rule: Some(config.rule),
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
            min_pixels: 512 * 512,
            max_pixels: 1024 * 1024,
            rule: Rule::HuggingFace,
        }
    }

    /// The rule and constants of Emu3's release; without a size to follow, images have 720x720 pixels.
    pub fn emu3() -> Self {
        Self {
            resample: Resample::Bicubic,
            rescale_factor: 1.0 / 255.0,
            image_mean: [0.5; 3],
            image_std: [0.5; 3],
            size_multiple: 8,
            rule: Rule::Emu3,
            ..Self::hugging_face(720)
        }
    }

    /// Lumina-mGPT's rule for images of about `resolution` pixels squared.
    pub fn flexible(resolution: usize) -> Self {
        Self { rule: Rule::Flexible, ..Self::hugging_face(resolution) }
    }

    /// Lumina-mGPT's rule with sides that are multiples of `size_multiple` and pixels that span `[-1, 1]`, as
    /// in the original release.
    pub fn flexible_original(resolution: usize, size_multiple: usize) -> Self {
        Self { rescale_factor: 1.0 / 127.5, size_multiple, ..Self::flexible(resolution) }
    }

    /// The original release's rule for square images of `resolution` pixels; pixels span `[-1, 1]`.
    pub fn original(resolution: usize) -> Self {
        Self { rescale_factor: 1.0 / 127.5, rule: Rule::Original, ..Self::hugging_face(resolution) }
    }

    /// Checks the sizes; the error names the key, its value and what is allowed.
    fn check(&self) -> std::result::Result<(), String> {
        for (key, side) in [
            ("size.shortest_edge", self.shortest_edge),
            ("crop_size.height", self.crop_height),
            ("crop_size.width", self.crop_width),
        ] {
            if side == 0 || side > MAX_CROP {
                return Err(format!("{key} is {side}; allowed: 1 to {MAX_CROP}"));
            }
        }
        let (unit, edge) = (self.size_multiple, self.shortest_edge);
        if self.rule.has_sizes() && !(1..=edge).contains(&unit) {
            return Err(format!(
                "size_multiple is {unit}; allowed: 1 to {edge}, size.shortest_edge"
            ));
        }
        let (least, most) = (self.min_pixels, self.max_pixels);
        if least == 0 || least > most || most > MAX_CROP * MAX_CROP {
            let allowed = MAX_CROP * MAX_CROP;
            return Err(format!(
                "min_pixels is {least} and max_pixels {most}; allowed: 1 up to {allowed}, in this order"
            ));
        }
        Ok(())
    }

    /// Reads a `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::File`] if a key has a value that is not
    /// supported.
    pub fn load(path: &Path) -> Result<Self> {
        read_json(path, "not a preprocessor configuration")
    }

    /// Writes a `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("plain numbers always serialise");
        std::fs::write(path, text + "\n").map_err(Error::io(path))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// The configuration with `key` set to `value`, or the message of the error.
    fn load(key: &str, value: Value) -> std::result::Result<PreprocessorConfig, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("preprocessor_config.json");
        let mut json = json!(PreprocessorConfig::hugging_face(32));
        json[key] = value;
        std::fs::write(&path, json.to_string()).unwrap();
        PreprocessorConfig::load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_may_be_numbers_or_objects() {
        let square = PreprocessorConfig::hugging_face(32);
        let with_nulls = json!({ "shortest_edge": 32, "longest_edge": null });
        for (key, value) in [
            ("size", json!(32)),
            ("size", json!({ "shortest_edge": 32 })),
            ("size", with_nulls),
            ("size", Value::Null),
            ("crop_size", json!(32)),
            ("crop_size", json!({ "height": 32, "width": 32 })),
        ] {
            let found = load(key, value.clone()).unwrap();
            // Without a size, it is the release's.
            let edge = if value.is_null() { 512 } else { 32 };
            assert_eq!(found, PreprocessorConfig { shortest_edge: edge, ..square.clone() });
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_key_and_what_is_allowed() {
        for (key, value, allowed) in [
            ("size", json!({ "height": 32, "width": 32 }), "allowed: {\"shortest_edge\": PIXELS}"),
            ("size", json!({ "shortest_edge": 32, "longest_edge": 64 }), "\"shortest_edge\""),
            ("size", json!([32, 32]), "allowed: {\"shortest_edge\": PIXELS}"),
            ("size", json!(-1), "-1 is not supported"),
            ("size", json!(0), "allowed: 1 to 8192"),
            ("crop_size", json!({ "height": 32 }), "\"width\": PIXELS}"),
            ("crop_size", json!("32"), "\"32\" is not supported"),
            ("do_resize", json!("yes"), "expected a boolean"),
            ("do_resize", json!(false), "only true is supported"),
            ("resample", json!(9), "allowed: 1 (Lanczos)"),
            ("image_mean", json!([1.0]), "an array of length 3"),
            ("image_std", json!(["a", 1, 1]), "expected f32"),
            ("rescale_factor", json!({}), "expected f64"),
            ("rule", json!("best"), "unknown variant"),
        ] {
            let message = load(key, value.clone()).unwrap_err();
            assert!(message.contains(key) && message.contains(allowed), "{key} {value}: {message}");
            assert!(message.contains("preprocessor_config.json"), "{message}");
            assert!(!message.contains("untagged"), "{message}");
        }
    }
}
