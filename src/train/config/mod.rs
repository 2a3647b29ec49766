//! Recipes of training runs.

mod image;
mod language;
mod model;
mod post_training;
mod run;

pub use image::{
    ImageBatchConfig, ImageShape, ImagesConfig, PerceptualConfig, VqRecipe, WarmupConfig,
};
pub use language::{BatchConfig, LanguageRecipe};
pub use model::{AddedNormConfig, ModelSizes, UpcycleConfig};
pub use run::{AverageConfig, RunConfig};
