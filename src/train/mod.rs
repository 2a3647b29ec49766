//! Training: one loop for the image tokenizer and the language model.
//!
//! [`run`] owns steps, schedule, evaluation, checkpoints, signals and the way back; a [`Task`] owns
//! model, data and loss. The loop is a pure function of recipe and checkpoint: stopped and started again it
//! gives the same weights, bit for bit on the CPU.

mod average;
mod companion;
mod config;
mod groups;
mod image_batches;
mod image_scores;
mod image_step;
mod image_task;
mod language_task;
mod loader;
pub mod objective;
mod optimizer;
mod run;
mod safety;
mod schedule;
mod shown;
mod state;

pub use config::{
    AverageConfig, BatchConfig, ImageBatchConfig, ImageShape, ImagesConfig, LanguageRecipe,
    ModelSizes, PerceptualConfig, RunConfig, VqRecipe, WarmupConfig,
};
pub use groups::GroupConfig;
pub use image_task::ImageTask;
pub use language_task::LanguageTask;
pub use loader::Loader;
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerKind};
pub use run::{Plan, RunSummary, Stepped, StopFlag, Task, run};
pub use safety::{SafetyConfig, SpikeDetector};
pub use schedule::{ScheduleConfig, ScheduleKind};
pub use state::{latest_checkpoint, newest_good_checkpoint};
