//! Whether the server lives and is ready, and what it counts.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::{HeaderName, StatusCode, header};
use serde_json::{Value, json};

use crate::server::fault::Fault;
use crate::server::state::State;

/// The type of the text that Prometheus reads.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether it can answer.
pub(super) async fn health(Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, Fault> {
    if state.ends() {
        return Err(Fault::unavailable("the server is ending"));
    }
    state.models().map(|_| Json(json!({ "status": "ok" })))
}

/// Whether the process lives.
pub(super) async fn livez() -> StatusCode {
    StatusCode::OK
}

/// All counters.
pub(super) async fn metrics(
    Shared(state): Shared<Arc<State>>,
) -> ([(HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], state.metrics.text())
}
