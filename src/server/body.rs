//! Bodies of requests, within the limits of size and time.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::fault::Fault;
use super::state::State;

/// Bodies from this size on are parsed on a thread of their own.
const LARGE: usize = 64 << 10;

/// Values in a body of JSON. One takes up to some hundred bytes while it is read, so that the limit of bytes does not bound
/// the memory.
const MOST_VALUES: usize = 1 << 18;

/// The whole body, and its share of the memory for bodies.
///
/// # Errors
/// If the server is full, or the body is too large or too slow.
pub(super) async fn read(
    request: Request,
    state: &State,
) -> Result<(Vec<u8>, OwnedSemaphorePermit), Fault> {
    let limits = &state.config.limits;
    if state.places.available_permits() == 0 {
        return Err(Fault::full());
    }
    let declared = request.headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let most = declared.unwrap_or(limits.body);
    if most > limits.body {
        return Err(Fault::too_large(limits.body));
    }
    let kib = u32::try_from(most.div_ceil(1024)).unwrap_or(u32::MAX);
    let memory = state.bodies.clone().try_acquire_many_owned(kib).map_err(|_| Fault::full())?;
    let body = timeout(limits.body_time, to_bytes(request.into_body(), limits.body)).await;
    let body = body.map_err(|_| Fault::slow_body())?;
    body.map(|body| (Vec::from(body), memory)).map_err(|error| {
        match std::error::Error::source(&error) {
            Some(source) if source.to_string().contains("limit") => Fault::too_large(limits.body),
            _ => Fault::invalid("the body is cut short or malformed"),
        }
    })
}

/// A body of JSON.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<Arc<State>> for Json<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &Arc<State>) -> Result<Self, Fault> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let message = format!("content-type {kind:?}; allowed: application/json");
            return Err(Fault::media_type(message));
        }
        let (body, memory) = read(request, state).await?;
        if body.len() < LARGE {
            return parse(&body).map(Self);
        }
        let parsed = spawn_blocking(move || {
            let _memory = memory;
            parse(&body)
        });
        let parsed = parsed.await;
        parsed.unwrap_or_else(|_| Err(Fault::internal())).map(Self)
    }
}

/// The value of a body, which ends with it.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    if values(body) > MOST_VALUES {
        return Err(Fault::invalid(format!("the body has more than {MOST_VALUES} values")));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        match path.as_str() {
            "." => Fault::invalid(error.inner().to_string()),
            _ => Fault::of(&path, format!("{path}: {}", error.inner())),
        }
    })?;
    json.end().map_err(|error| Fault::invalid(error.to_string()))?;
    Ok(value)
}

/// The number of values in JSON, or more: of the marks outside texts that begin or separate some.
fn values(body: &[u8]) -> usize {
    let (mut count, mut in_text, mut is_escaped) = (1, false, false);
    for byte in body {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_text,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' | b':' if !in_text => count += 1,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_texts() {
        for (body, count) in [
            ("1", 1),
            ("[]", 2),
            ("[1, 2, 3]", 4),
            (r#"{"a": [1, {}], "b": null}"#, 8),
            (r#""[[,,::{{""#, 1),
            (r#"["\"[,", "\\", 1]"#, 4),
        ] {
            assert_eq!(values(body.as_bytes()), count, "{body}");
        }
    }

    #[test]
    fn bodies_of_many_small_values_are_refused_before_they_are_read() {
        let list = |count: usize| format!("[{}1]", "1,".repeat(count - 1));
        assert_eq!(parse::<Vec<u8>>(list(1000).as_bytes()).unwrap().len(), 1000);
        let fault = parse::<Vec<u8>>(list(MOST_VALUES).as_bytes()).err().unwrap();
        assert!(fault.to_string().contains("more than 262144 values"), "{fault}");
    }
}
