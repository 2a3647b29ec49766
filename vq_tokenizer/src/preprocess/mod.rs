//! Image files to the encoder's tensor, and the decoder's tensor to images.
//!
//! Four rules are in use and give different pixels: the original release's, that of Hugging Face's
//! `ChameleonImageProcessor`, and Lumina-mGPT's and Emu3's for images of any aspect ratio. [`PreprocessorConfig`] says
//! which one a tokenizer was trained with.

mod bounded;
mod config;
mod flexible;
mod image_file;
mod jpeg;
mod limits;
mod orientation;
mod placement;
mod resample;
mod sizes;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
mod transform;

pub use config::{PreprocessorConfig, Rule};
pub use image_file::{decode_image, decode_image_within, open_image, to_rgb, to_rgb_by};
pub use limits::{DecodeLimits, MAX_PIXELS, MAX_SIDE};
pub use placement::Placement;
pub use resample::Resample;
pub use transform::to_images;
