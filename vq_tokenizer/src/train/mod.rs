//! What training an image tokenizer needs beside a loop: the loss and the care of the codebook.
//!
//! The loop, the optimizer and the checkpoints belong to the program that trains.

mod codebook;
mod losses;
mod revival;

pub use codebook::{CodebookCare, CodebookStart};
pub use losses::{VqLoss, VqLossConfig, VqObjective};
pub use revival::{Revival, RevivalConfig};
