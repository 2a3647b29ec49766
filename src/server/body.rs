//! Bodies of requests, within the limits of size and time.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::fault::Fault;
use super::state::State;

/// The whole body.
///
/// # Errors
/// If it is too large or too slow.
pub(super) async fn read(request: Request, state: &State) -> Result<Vec<u8>, Fault> {
    let limits = &state.config.limits;
    let too_large = || Fault::too_large(limits.body);
    let declared = request.headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|len| len > limits.body as u64) {
        return Err(too_large());
    }
    let body = timeout(limits.body_time, to_bytes(request.into_body(), limits.body)).await;
    body.map_err(|_| Fault::slow_body())?.map(Vec::from).map_err(|_| too_large())
}

/// A body of JSON.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<State>> for Json<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &Arc<State>) -> Result<Self, Fault> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let message = format!("content-type {kind:?}; allowed: application/json");
            return Err(Fault::media_type(message));
        }
        let body = read(request, state).await?;
        let mut json = serde_json::Deserializer::from_slice(&body);
        let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            match path.as_str() {
                "." => Fault::invalid(error.inner().to_string()),
                _ => Fault::of(&path, format!("{path}: {}", error.inner())),
            }
        })?;
        json.end().map_err(|error| Fault::invalid(error.to_string()))?;
        Ok(Self(value))
    }
}
