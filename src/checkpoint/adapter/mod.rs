//! Adapters as directories in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! [`Adapter::open`] reads one for a model and checks every name and shape; [`Merged`] merges any number of them into
//! a model's tensors as those are read; [`AdapterParts::write`] writes one.
//! Source: PEFT 0.21.2, `tuners/lora/config.py` and `utils/save_and_load.py`.

mod config;
mod merge;
mod names;
mod open;
mod weighted;
mod write;

pub use config::{StoredConfig, is_adapter, read as read_config};
pub use merge::{Merge, Merged};
pub use open::Adapter;
pub use weighted::WeightedAdapter;
pub use write::AdapterParts;
