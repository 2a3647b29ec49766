//! Which models there are.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State as Shared};
use serde::Serialize;
use utoipa::ToSchema;

use super::faults::Faults;
use crate::generate::{GenerationConfig, LanguageModel};
use crate::server::config::NamedPipeline;
use crate::server::fault::Fault;
use crate::server::state::State;

/// All models.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Models {
    /// `list`.
    object: &'static str,
    data: Vec<Model>,
}

/// The checkpoint, or an adapter to it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Model {
    id: String,
    /// `model`.
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    owned_by: &'static str,
    /// The context, in tokens.
    max_model_len: usize,
    /// Of the checkpoint's files.
    digest: Option<String>,
    /// What holds where a request does not set it.
    #[schema(value_type = Object)]
    generation: GenerationConfig,
    /// Width and height of drawings; null if it cannot draw.
    image_size: Option<String>,
}

/// Lists the models
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "list_models",
    tag = "Models",
    responses((status = 200, description = "The models", body = Models), Faults),
)]
pub(super) async fn list(Shared(state): Shared<Arc<State>>) -> Result<Json<Models>, Fault> {
    let data = state.models()?.iter().map(|model| described(model, &state)).collect();
    Ok(Json(Models { object: "list", data }))
}

/// Describes a model
#[utoipa::path(
    get,
    path = "/v1/models/{name}",
    operation_id = "get_model",
    tag = "Models",
    params(("name" = String, Path, description = "One of the models", example = "demo")),
    responses((status = 200, description = "The model", body = Model), Faults),
)]
pub(super) async fn one(
    Shared(state): Shared<Arc<State>>,
    Path(name): Path<String>,
) -> Result<Json<Model>, Fault> {
    let number = state.model(Some(&name))?;
    Ok(Json(described(&state.models()?[number], &state)))
}

/// `max_model_len` is vLLM's name.
fn described(model: &NamedPipeline, state: &State) -> Model {
    let pipeline = &model.pipeline;
    let size = pipeline.drawing_vq().and_then(|_| pipeline.size_of(pipeline.generation()));
    Model {
        id: model.name.clone(),
        object: "model",
        created: state.started,
        owned_by: "calumma",
        max_model_len: pipeline.model().context(),
        digest: pipeline.digest().map(str::to_owned),
        generation: pipeline.generation().clone(),
        image_size: size.ok().map(|[width, height]| format!("{width}x{height}")),
    }
}
