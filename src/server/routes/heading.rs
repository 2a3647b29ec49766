//! What every response of a request says of itself.

use serde::Serialize;
use utoipa::ToSchema;

use super::parts::Usage;
use crate::generate::GenerationConfig;
use crate::server::state::now;
use crate::server::work::Work;

/// What every response of a request says of itself.
#[derive(Clone)]
pub(super) struct Heading {
    id: String,
    created: u64,
    model: String,
    fingerprint: Option<String>,
    seed: u64,
}

/// A response, or a chunk of one, with what it answers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Response<C> {
    id: String,
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    model: String,
    /// The beginning of the checkpoint's digest.
    system_fingerprint: Option<String>,
    choices: Vec<C>,
    /// In a stream only in the last chunk, on request.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    /// The seed of the first answer, also where none was given.
    x_seed: u64,
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
    pub(super) fn over<C>(
        &self,
        object: &'static str,
        choices: Vec<C>,
        usage: Option<Usage>,
    ) -> Response<C> {
        let Self { id, created, model, fingerprint, seed } = self.clone();
        let system_fingerprint = fingerprint;
        Response { id, object, created, model, system_fingerprint, choices, usage, x_seed: seed }
    }
}
