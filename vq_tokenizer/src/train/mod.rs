//! What training an image tokenizer needs beside a loop: the loss and the care of the codebook.
//!
//! The loop, the optimizer and the checkpoints belong to the program that trains.

mod losses;
mod revival;

pub use losses::{VqLoss, VqLossConfig, VqObjective};
pub use revival::{Revival, RevivalConfig, initialise_codebook};
