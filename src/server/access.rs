//! Who may ask, and the headers of every response.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State as Shared};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use super::fault::Fault;
use super::state::State;

/// What needs no key: the page, which is the same for everyone and asks for the key, and whether the process lives.
const OPEN: [&str; 3] = ["/", "/docs", "/livez"];

/// What pages of other origins may read of a response's headers.
const EXPOSED: HeaderValue = HeaderValue::from_static("x-request-id, retry-after");

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// On every response that has none of its own.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    ),
];

/// Checks the key and the page that asks, adds headers, and counts the response.
pub(super) async fn guard(
    Shared(state): Shared<Arc<State>>,
    request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "other".to_owned());
    let id = format!("{:016x}", rand::random::<u64>());
    let span = tracing::error_span!("request", id, method = %request.method(), route);
    let origin = allowed_origin(&state, request.headers());
    let wanted = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let mut response = match &origin {
        Err(fault) => fault.clone().into_response(),
        Ok(Some(_)) if request.method() == Method::OPTIONS => {
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(_) if is_allowed(&state, &route, request.headers()) => {
            next.run(request).instrument(span.clone()).await
        }
        Ok(_) => Fault::no_key().into_response(),
    };
    let status = response.status().as_u16();
    state.metrics.answered(&route, status);
    span.in_scope(|| tracing::info!(status, "answered"));
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(value);
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    if let Ok(Some(origin)) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        if let Some(wanted) = wanted {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted);
        }
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

/// The listed origin of the page that asks, if one asks and its origin is not this server.
///
/// # Errors
/// If the page is of another origin; or if, without a key, the host is a name that a stranger may have pointed here.
fn allowed_origin(state: &State, headers: &HeaderMap) -> Result<Option<HeaderValue>, Fault> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if state.config.api_key.is_none() && state.config.address.ip().is_loopback() {
        let name = host
            .rsplit_once(':')
            .map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
        let address = name.trim_start_matches('[').trim_end_matches(']');
        if name != "localhost" && address.parse::<IpAddr>().is_err() {
            let message = format!("host {host:?}; without a key allowed: localhost, or an address");
            return Err(Fault::forbidden(message));
        }
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(None) };
    let is_listed = |listed: &String| listed.as_bytes() == origin.as_bytes();
    if state.config.origins.iter().any(is_listed) {
        return Ok(Some(origin.clone()));
    }
    let own = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    match own {
        Some((_, own)) if own == host => Ok(None),
        _ => Err(Fault::forbidden("pages of this origin may not ask; see --allow-origin")),
    }
}
