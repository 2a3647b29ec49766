//! What training minimises.

mod next_token;
mod recompute;

pub use next_token::{LossConfig, NextToken, NextTokenBatch, NextTokenLoss};
