//! Training an image tokenizer: losses and maintenance of the codebook.
//!
//! The loop, the optimizer and the checkpoints belong to the caller.

mod codebook;
mod discriminator;
mod lecam;
mod loss;
mod lpips;
mod ms_ssim;
mod objective;
mod revival;
mod rows;
mod semantic;

pub use codebook::{CodebookMaintenance, CodebookStart};
pub use discriminator::{AdversarialConfig, Discriminator};
pub use lecam::{AdversarialBatch, DiscriminatorLoss, Lecam};
pub use loss::VqLossConfig;
pub use lpips::Lpips;
pub use objective::{AuxiliaryLosses, VqLoss, VqObjective};
pub use revival::{Revival, RevivalConfig};
pub use semantic::{SemanticConfig, SemanticHead};
