//! What training minimises.

mod next_token;

pub use next_token::{LossConfig, NextToken, NextTokenBatch, NextTokenLoss};
