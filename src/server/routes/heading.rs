//! What every response of a request says of itself.

use serde_json::{Value, json};

use super::parts::Usage;
use crate::generate::GenerationConfig;
use crate::server::state::now;
use crate::server::work::Work;

/// What every response of a request says of itself.
#[derive(Clone)]
pub(super) struct Heading {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) fingerprint: Option<String>,
    pub(super) seed: u64,
}

impl Heading {
    pub(super) fn new(prefix: &str, work: &Work, config: &GenerationConfig) -> Self {
        Self {
            id: format!("{prefix}-{:032x}", rand::random::<u128>()),
            created: now(),
            model: work.model().name.clone(),
            fingerprint: work.pipeline().digest().map(str::to_owned),
            seed: config.seed,
        }
    }

    /// A response of the kind `object` with `choices`.
    pub(super) fn over(&self, object: &str, choices: Vec<Value>, usage: Option<Usage>) -> Value {
        let mut value = json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "x_seed": self.seed,
            "choices": choices,
        });
        if let Some(usage) = usage {
            value["usage"] = usage.to_json();
        }
        value
    }
}
