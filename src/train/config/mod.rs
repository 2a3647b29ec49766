//! Recipes of training runs.

mod image;
mod language;
mod post_training;
mod run;

pub use image::{
    ImageBatchConfig, ImageShape, ImagesConfig, PerceptualConfig, VqRecipe, WarmupConfig,
};
pub use language::{BatchConfig, LanguageRecipe, ModelSizes};
pub use run::{AverageConfig, RunConfig};
