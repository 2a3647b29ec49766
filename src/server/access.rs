//! Who may ask, and the headers of every response.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State as Shared};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use super::fault::Fault;
use super::state::State;

/// Routes that need no key: whether the process lives, and the page, which asks for one.
const OPEN: [&str; 2] = ["/", "/livez"];

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// On every response.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
             img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'",
        ),
    ),
];

/// Checks the key, adds headers, and counts the response.
pub(super) async fn guard(
    Shared(state): Shared<Arc<State>>,
    request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "other".to_owned());
    let id = format!("{:016x}", rand::random::<u64>());
    let span = tracing::info_span!("request", id, method = %request.method(), route);
    let origin = allowed_origin(&state, request.headers());
    let mut response = match origin.is_some() && request.method() == Method::OPTIONS {
        true => StatusCode::NO_CONTENT.into_response(),
        false if is_allowed(&state, &route, request.headers()) => {
            next.run(request).instrument(span).await
        }
        false => Fault::no_key().into_response(),
    };
    state.metrics.answered(&route, response.status().as_u16());
    let headers = response.headers_mut();
    headers.extend(HEADERS);
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        let allowed = HeaderValue::from_static("authorization, content-type");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    response
}

/// Whether the route needs no key, or the right one is given.
fn is_allowed(state: &State, route: &str, headers: &HeaderMap) -> bool {
    let Some(key) = &state.config.api_key else { return true };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    OPEN.contains(&route) || given.is_some_and(|(_, given)| key.is(given.trim()))
}

/// The origin of the page that asks, if it may.
fn allowed_origin(state: &State, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let is_listed = |listed: &String| listed.as_bytes() == origin.as_bytes();
    state.config.origins.iter().any(is_listed).then(|| origin.clone())
}
