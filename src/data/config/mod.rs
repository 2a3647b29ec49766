//! `[[data]]` and `[[validation]]` sections of recipes: one type for each way in which they are read.
//!
//! All sections are written with the same keys ([`Section`](section::Section)); a key that a purpose does not
//! read is an error, so that nothing in a recipe is silently without effect.

mod check;
mod document;
mod image;
mod sample;
mod section;
mod source;
mod template;
mod text;
mod weight;

pub use document::{DocumentContent, DocumentData};
pub use image::ImageData;
pub use sample::SampleData;
pub use source::SourceConfig;
pub use template::{TemplateConfig, WeightedTemplate};
pub use text::TextData;
pub use weight::Weight;
