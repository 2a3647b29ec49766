//! Which models there are.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State as Shared};
use serde_json::{Value, json};

use crate::generate::LanguageModel;
use crate::server::config::NamedPipeline;
use crate::server::fault::Fault;
use crate::server::state::State;

/// All models.
pub(super) async fn list(Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, Fault> {
    let models: Vec<Value> = state.models()?.iter().map(|model| described(model, &state)).collect();
    Ok(Json(json!({ "object": "list", "data": models })))
}

/// One model.
pub(super) async fn one(
    Shared(state): Shared<Arc<State>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Fault> {
    let number = state.model(Some(&name))?;
    Ok(Json(described(&state.models()?[number], &state)))
}

/// `max_model_len` is vLLM's name for the context.
fn described(model: &NamedPipeline, state: &State) -> Value {
    let pipeline = &model.pipeline;
    let size = pipeline.drawing_vq().and_then(|_| pipeline.size_of(pipeline.generation()));
    json!({
        "id": model.name,
        "object": "model",
        "created": state.started,
        "owned_by": "calumma",
        "max_model_len": pipeline.model().context(),
        "digest": pipeline.digest(),
        "image_size": size.ok().map(|[width, height]| format!("{width}x{height}")),
    })
}
