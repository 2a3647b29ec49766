//! Training: one loop for the image tokenizer and the language model.
//!
//! [`run`] owns steps, schedule, evaluation, checkpoints, signals and rewinds; a [`Task`] owns model,
//! data and loss. The loop is a pure function of recipe and checkpoint: a resumed run gives the same
//! weights as an uninterrupted one, bit for bit on the CPU.

mod adapter;
mod answers;
mod average;
mod best;
mod config;
mod distributions;
mod expert_metrics;
mod freeze;
mod groups;
mod image_auxiliary;
mod image_batches;
mod image_codebook;
mod image_scores;
mod image_step;
mod image_task;
#[cfg(test)]
mod kernels_agree;
mod language_metrics;
mod language_state;
mod language_task;
mod loader;
pub mod objective;
mod optimizer;
mod optimizer_config;
mod order;
mod pace;
mod plan;
pub mod preference;
mod preview;
mod released;
pub mod reward;
pub mod rl;
mod rows;
mod run;
mod safety;
mod schedule;
mod shown;
mod state;
mod task;
mod trained;

pub use best::Better;
pub use config::{
    AddedNormConfig, AverageConfig, BatchConfig, ImageBatchConfig, ImageShape, ImagesConfig,
    LanguageRecipe, ModelSizes, PerceptualConfig, RunConfig, UpcycleConfig, VqRecipe, WarmupConfig,
};
pub use groups::GroupConfig;
pub use image_task::ImageTask;
pub use language_task::LanguageTask;
pub use loader::Loader;
pub use optimizer::Optimizer;
pub use optimizer_config::{OptimizerConfig, OptimizerKind, TrainRows};
pub use plan::Plan;
pub use run::{RunSummary, StopFlag, run, run_locked};
pub use safety::{SafetyConfig, SpikeDetector};
pub use schedule::{ScheduleConfig, ScheduleKind};
pub use state::{latest_checkpoint, newest_good_checkpoint};
pub use task::{Stepped, Task};
pub use trained::{NotFinite, Trained};
