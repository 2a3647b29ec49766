//! One binary for all integration tests, one module per source module.
#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]

mod architecture;
mod benchmarks;
mod checkpoint;
mod cli;
mod common;
mod compare;
mod contamination;
mod data;
mod eval;
mod generate;
mod gradients;
mod kill;
mod lumina;
mod metrics;
mod mixture;
mod model;
mod optimizer;
mod overfit;
mod pack;
mod pipeline;
mod preprocess;
mod reference_generation;
mod remote;
mod report;
mod sampling;
mod scenes;
mod scripted;
mod shards;
mod shipped;
mod tokenize;
mod tokenize_properties;
mod train;
mod train_loop;
mod train_vq;
mod vq_tokenizer;
