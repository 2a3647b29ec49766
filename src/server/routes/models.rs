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

/// `max_model_len` is vLLM's name for the context; `generation` is what a request does not set.
fn described(model: &NamedPipeline, state: &State) -> Value {
    let pipeline = &model.pipeline;
    let size = pipeline.drawing_vq().and_then(|_| pipeline.size_of(pipeline.generation()));
    // By way of the text, in which a number in f32 has its own digits and not those of its f64.
    let generation = serde_json::to_string(pipeline.generation());
    let generation = generation.and_then(|text| serde_json::from_str::<Value>(&text)).ok();
    json!({
        "id": model.name,
        "object": "model",
        "created": state.started,
        "owned_by": "calumma",
        "max_model_len": pipeline.model().context(),
        "digest": pipeline.digest(),
        "generation": generation,
        "image_size": size.ok().map(|[width, height]| format!("{width}x{height}")),
    })
}
