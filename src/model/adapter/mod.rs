//! Adapters of the LoRA family: small trained additions to a frozen model.
//!
//! [`AdapterConfig`] has the keys of PEFT's `LoraConfig`; its [`plan`](AdapterConfig::plan) says for a model's sizes
//! which modules get factors, which are trained whole and which rows of embedding and head are replaced.
//! [`CausalLm::with_adapter`](crate::model::CausalLm::with_adapter) attaches one for training; its modules merge themselves
//! into a weight matrix. A layer with factors computes `x W^T + s (x A^T) B^T`, so the frozen `W` needs no gradient.
//! Sources: LoRA arXiv 2106.09685, rsLoRA arXiv 2312.03732, DoRA arXiv 2402.09353; PEFT 0.21.

mod attach;
mod config;
mod low_rank;
mod modules;
mod names;
mod patterns;
mod plan;
mod token_rows;

pub use config::{AdapterConfig, InitKind, RowIds};
pub use low_rank::{LowRank, LowRankEmbedding};
pub use modules::{ModuleKind, ModuleShape, SCORE, modules};
pub use names::{Names, OneOrMany};
pub use patterns::Patterns;
pub use plan::{AdapterPlan, Factors};
pub use token_rows::TokenRows;
