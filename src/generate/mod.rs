//! Generation of text and images by a language model: one request, a batch of them, or with
//! classifier-free guidance.
//!
//! The model only computes logits ([`LanguageModel`]). The state machine in [`modality`] decides
//! which ids may follow, [`sampling`] chooses one of them, and [`guidance`] mixes the logits of
//! several views of a row. [`generator`] joins them. The rules are those of the original release
//! (facebookresearch/chameleon, `chameleon/inference/`).

pub mod config;
pub mod generator;
pub mod guidance;
mod lanes;
mod language_model;
pub mod modality;
mod preset;
mod request;
mod row;
mod rows;
pub mod sampling;
mod sampling_config;
mod serving;

pub use config::GenerationConfig;
pub use generator::Generator;
pub use guidance::{Branch, Guidance};
pub use language_model::LanguageModel;
pub use modality::{GenerationMode, ModalityRules, ModalityState};
pub use preset::Preset;
pub use request::{EndReason, Event, Generated, Request};
pub use sampling_config::SamplingConfig;
pub use serving::{ServingCache, ServingModel};
