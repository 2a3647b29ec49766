//! Random augmentation of images for training an image tokenizer.

use image::RgbImage;
use image::imageops::{self, FilterType};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};

/// Augmentation settings; `true` in a recipe means mirroring and shifts of up to 4 pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Augment {
    /// Whether to mirror half of the images horizontally.
    pub flip: bool,
    /// Maximum shift along each axis in pixels; border pixels are repeated.
    pub shift: u32,
    /// Maximum fraction of each side that a random crop removes, in [0, 1); the crop is resized back.
    pub scale: f32,
    /// Maximum relative change of brightness, contrast and saturation, in [0, 1).
    pub colour: f32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(default)]
    flip: bool,
    #[serde(default)]
    shift: u32,
    #[serde(default)]
    scale: f32,
    #[serde(default)]
    colour: f32,
}

impl<'de> Deserialize<'de> for Augment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(AugmentVisitor)
    }
}

struct AugmentVisitor;

impl<'de> Visitor<'de> for AugmentVisitor {
    type Value = Augment;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("true, false, or a table of `flip`, `shift`, `scale` and `colour`")
    }

    fn visit_bool<E>(self, is_on: bool) -> std::result::Result<Augment, E> {
        Ok(match is_on {
            true => Augment { flip: true, shift: 4, ..Augment::default() },
            false => Augment::default(),
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> std::result::Result<Augment, A::Error> {
        let Keys { flip, shift, scale, colour } =
            Keys::deserialize(MapAccessDeserializer::new(table))?;
        Ok(Augment { flip, shift, scale, colour })
    }
}

impl Augment {
    /// Checks that every value is in range.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the allowed range.
    pub fn validate(&self) -> Result<()> {
        for (key, value) in [("scale", self.scale), ("colour", self.colour)] {
            if !(0.0..1.0).contains(&value) {
                let message = format!("augment.{key} is {value}; allowed: [0, 1)");
                return Err(Error::invalid(message));
            }
        }
        Ok(())
    }

    /// Returns a randomly changed image of the same size.
    pub fn apply(&self, mut image: RgbImage, rng: &mut ChaCha8Rng) -> RgbImage {
        if self.flip && rng.random::<bool>() {
            imageops::flip_horizontal_in_place(&mut image);
        }
        if self.shift > 0 {
            image = shifted(&image, i64::from(self.shift), rng);
        }
        if self.scale > 0.0 {
            image = enlarged(&image, self.scale, rng);
        }
        if self.colour > 0.0 {
            recolour(&mut image, self.colour, rng);
        }
        image
    }
}

/// `image` shifted by up to `max` pixels along each axis.
fn shifted(image: &RgbImage, max: i64, rng: &mut ChaCha8Rng) -> RgbImage {
    let (width, height) = image.dimensions();
    let (dx, dy) = (rng.random_range(-max..=max), rng.random_range(-max..=max));
    let moved =
        |at: u32, by: i64, len: u32| (i64::from(at) + by).clamp(0, i64::from(len) - 1) as u32;
    RgbImage::from_fn(width, height, |x, y| {
        *image.get_pixel(moved(x, dx, width), moved(y, dy, height))
    })
}

/// A random crop of `image`, smaller by a fraction of up to `max`, resized to the original size.
fn enlarged(image: &RgbImage, max: f32, rng: &mut ChaCha8Rng) -> RgbImage {
    let (width, height) = image.dimensions();
    let kept = 1.0 - rng.random_range(0.0..=max);
    let part = |len: u32| ((len as f32 * kept).round() as u32).max(1);
    let (w, h) = (part(width), part(height));
    let (x, y) = (rng.random_range(0..=width - w), rng.random_range(0..=height - h));
    let part = imageops::crop_imm(image, x, y, w, h).to_image();
    imageops::resize(&part, width, height, FilterType::CatmullRom)
}

/// Scales brightness, contrast (distance from the image mean) and saturation (distance from grey) by
/// factors within `max` of 1.
fn recolour(image: &mut RgbImage, max: f32, rng: &mut ChaCha8Rng) {
    let [brightness, contrast, saturation] =
        [(); 3].map(|()| rng.random_range(1.0 - max..=1.0 + max));
    let grey =
        |p: &[u8; 3]| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]);
    let count = (image.width() * image.height()).max(1) as f32;
    let mean = image.pixels().map(|p| grey(&p.0)).sum::<f32>() / count;
    for pixel in image.pixels_mut() {
        let grey = grey(&pixel.0);
        pixel.0 = pixel.0.map(|value| {
            let value = grey + (f32::from(value) - grey) * saturation;
            let value = mean + (value - mean) * contrast;
            (value * brightness).round().clamp(0.0, 255.0) as u8
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_recipe_gives_a_boolean_or_individual_keys() {
        let read = |text: &str| serde_json::from_str::<Augment>(text);
        assert_eq!(read("false").unwrap(), Augment::default());
        assert_eq!(
            read("true").unwrap(),
            Augment { flip: true, shift: 4, scale: 0.0, colour: 0.0 }
        );
        let keys = read(r#"{"scale": 0.2, "colour": 0.1}"#).unwrap();
        assert_eq!((keys.scale, keys.colour, keys.flip), (0.2, 0.1, false));
        let written = serde_json::to_string(&keys).unwrap();
        assert_eq!(read(&written).unwrap(), keys);
        for (text, expected) in [
            (r#"{"zoom": 1}"#, "unknown field `zoom`"),
            (r#"{"flip": 1}"#, "expected a boolean"),
            ("3", "expected true, false, or a table of `flip`"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert!(Augment { scale: 1.0, ..keys }.validate().is_err());
    }

    #[test]
    fn augmentation_keeps_the_size_and_depends_only_on_the_seed() {
        let all = Augment { flip: true, shift: 3, scale: 0.4, colour: 0.3 };
        let image = RgbImage::from_fn(24, 16, |x, y| image::Rgb([x as u8 * 9, y as u8 * 11, 80]));
        let changed = |seed| all.apply(image.clone(), &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(changed(1).dimensions(), (24, 16));
        assert_eq!(changed(1), changed(1));
        assert_ne!(changed(1), changed(2));
        let none = Augment::default().apply(image.clone(), &mut ChaCha8Rng::seed_from_u64(1));
        assert_eq!(none, image);
    }
}
