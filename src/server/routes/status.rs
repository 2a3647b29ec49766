//! Whether the server lives and is ready, and what it counts.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::{HeaderName, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::faults::Faults;
use crate::server::fault::Fault;
use crate::server::state::State;

/// The type of the text that Prometheus reads.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`.
    status: &'static str,
}

/// Says whether the server can answer
#[utoipa::path(
    get,
    path = "/health",
    tag = "Server",
    responses((status = 200, description = "It can", body = Health), Faults),
)]
pub(super) async fn health(Shared(state): Shared<Arc<State>>) -> Result<Json<Health>, Fault> {
    if state.ends() {
        return Err(Fault::unavailable("the server is ending"));
    }
    state.models().map(|_| Json(Health { status: "ok" }))
}

/// Says that the process lives
///
/// It needs no key.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "Server",
    security(()),
    responses((status = 200, description = "It lives")),
)]
pub(super) async fn livez() -> StatusCode {
    StatusCode::OK
}

/// Tells all counters
///
/// In the text format of OpenMetrics, which Prometheus reads; names are vLLM's after `calumma_`.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "Server",
    responses((status = 200, description = "The counters", body = String, content_type = OPEN_METRICS)),
)]
pub(super) async fn metrics(
    Shared(state): Shared<Arc<State>>,
) -> ([(HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], state.metrics.text())
}
