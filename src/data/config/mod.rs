//! `[[data]]` and `[[validation]]` sections of recipes: one type per kind of source.
//!
//! All sections share the same keys ([`Section`](section::Section)); a key that a kind of source
//! does not read is an error, so that no setting is silently ignored.

mod check;
mod document;
mod image;
mod sample;
mod section;
mod source;
mod template;
mod text;
mod too_long;
mod weight;

pub use document::{DocumentContent, DocumentData};
pub use image::ImageData;
pub use sample::SampleData;
pub use source::SourceConfig;
pub(super) use template::CHAT_TEMPLATE;
pub use template::{TemplateConfig, WeightedTemplate};
pub use text::TextData;
pub use too_long::TooLong;
pub use weight::Weight;
