//! Generation of text and images by a language model: one request, a batch of them, or with
//! classifier-free guidance.
//!
//! The model only computes logits ([`LanguageModel`]). The state machine in [`modality`] decides
//! which ids may follow, [`sampling`] chooses one of them, and [`guidance`] mixes the logits of
//! several views of a row. [`generator`] joins them. The rules are those of the original release
//! (facebookresearch/chameleon, `chameleon/inference/`).

mod blocks;
pub mod config;
pub mod constraint;
mod distribution;
mod draw;
mod draw_plan;
mod elementary;
pub mod engine;
mod engine_config;
mod gang;
pub mod generator;
pub mod grammar;
pub mod guidance;
mod lane;
mod language_model;
mod last_rows;
mod lookup;
pub mod modality;
mod noise;
mod on_device;
mod pass;
mod preset;
mod request;
pub mod sampling;
mod sampling_config;
mod serving;
mod stats;
pub mod stop;
mod walk;
pub mod window;

pub use config::GenerationConfig;
pub use constraint::Constraint;
pub use distribution::{Distribution, Logits};
pub use draw::{Draw, Drawn, NoDraw};
pub use engine::Engine;
pub use engine_config::EngineConfig;
pub use generator::Generator;
pub use grammar::{Grammar, GrammarCompiler};
pub use guidance::{Branch, Guidance, GuidanceRamp, GuidanceSchedule};
pub use language_model::{BLOCK, LanguageModel, Span};
pub use lookup::{PromptLookup, lookup};
pub use modality::{GenerationMode, ModalityRules, ModalityState};
pub use preset::Preset;
pub use request::{EndReason, Event, Generated, Logprobs, Request, RequestId};
pub use sampling_config::SamplingConfig;
pub use serving::ServingModel;
pub use stats::EngineStats;
pub use stop::StopStrings;
pub use window::{DraftKind, MAX_WINDOW, Window, WindowPolicy};
