//! What training an image tokenizer needs beside a loop: the loss and the care of the codebook.
//!
//! The loop, the optimizer and the checkpoints belong to the program that trains.

mod adversarial;
mod codebook;
mod losses;
mod lpips;
mod ms_ssim;
mod revival;
mod semantic;

pub use adversarial::{AdversarialConfig, CriticLoss, Discriminator, Lecam, Seen};
pub use codebook::{CodebookCare, CodebookStart};
pub use losses::{Judges, VqLoss, VqLossConfig, VqObjective};
pub use lpips::Lpips;
pub use revival::{Revival, RevivalConfig};
pub use semantic::{SemanticConfig, SemanticHead};
