//! Tasks: what to measure, as the command line or a recipe configures it, and how it is measured on an open
//! checkpoint.

mod asking;
mod config;
mod evaluation;
mod identity;
mod images;
mod keys;
mod loss;
mod recipe;

pub use config::{
    Answering, Asking, CaptioningTask, Common, GenevalTask, LossTask, ReconstructionTask,
    TaskConfig, TextToImageTask, VqaTask,
};
pub use evaluation::Evaluation;
pub use images::reconstruct;
pub use recipe::{EvalRecipe, EvalRunConfig};
