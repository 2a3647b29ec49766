//! Errors as clients of OpenAI's protocol expect them.

use std::fmt;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::Error;

/// Seconds after which a client may ask again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// A refused or failed request.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
}

impl Fault {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code: None, param: None, message: message.into() }
    }

    /// The client's fault.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// The value of `param` is at fault.
    pub(super) fn of(param: &str, message: impl Into<String>) -> Self {
        Self { param: Some(param.to_owned()), ..Self::invalid(message) }
    }

    /// The model `name` is none of `known`.
    pub(super) fn no_model(name: &str, known: &[&str]) -> Self {
        let message = format!("there is no model {name:?}; allowed: {}", known.join(", "));
        Self {
            status: StatusCode::NOT_FOUND,
            code: Some("model_not_found"),
            ..Self::of("model", message)
        }
    }

    pub(super) fn no_route(path: &str) -> Self {
        let message = format!("there is nothing at {path}");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
    }

    pub(super) fn no_method(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
    }

    pub(super) fn no_key() -> Self {
        Self {
            code: Some("invalid_api_key"),
            ..Self::new(
                StatusCode::UNAUTHORIZED,
                "authentication_error",
                "a key is needed: Authorization: Bearer KEY",
            )
        }
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("the body is too large; allowed: {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    pub(super) fn slow_body() -> Self {
        let message = "the body did not come in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message)
    }

    pub(super) fn media_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message)
    }

    /// The server has as much to do as it may have.
    pub(super) fn full() -> Self {
        Self {
            code: Some("queue_full"),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
                "too many requests are waiting; try again later",
            )
        }
    }

    /// The server takes no requests: it ends, or has not begun.
    pub(super) fn unavailable(message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message)
    }

    pub(super) fn late() -> Self {
        let message = "the answer took longer than the server allows";
        Self {
            code: Some("timeout"),
            ..Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", message)
        }
    }

    /// The server's own fault; what it is goes to the log.
    pub(super) fn internal() -> Self {
        let message = "the server failed; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// The prompt is longer than the model's context.
    pub(super) fn too_long(message: impl Into<String>) -> Self {
        Self { code: Some("context_length_exceeded"), ..Self::invalid(message) }
    }

    /// The server's own fault, which is logged.
    pub(super) fn failed(error: impl Into<Error>) -> Self {
        tracing::error!("{}", error.into());
        Self::internal()
    }

    /// The page that asks may not.
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "invalid_request_error", message)
    }

    /// The same with the place in the request before the message.
    pub(super) fn within(self, place: &str) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }

    /// The body of a response, and the data of an event in a stream.
    pub(super) fn body(&self) -> FaultBody {
        let error = FaultDetails {
            message: self.message.clone(),
            kind: self.kind,
            param: self.param.clone(),
            code: self.code,
        };
        FaultBody { error }
    }
}

/// Why a request was refused or has failed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FaultBody {
    error: FaultDetails,
}

#[derive(Debug, Serialize, ToSchema)]
struct FaultDetails {
    /// What is wrong, where, and what is allowed.
    message: String,
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The field at fault.
    param: Option<String>,
    /// Such as `model_not_found`, `context_length_exceeded` or `queue_full`.
    code: Option<&'static str>,
}

/// For errors of a request's own content, before it runs.
impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::PromptTooLong { .. } => Self::too_long(error.to_string()),
            Error::Invalid { .. }
            | Error::ImageCount { .. }
            | Error::NoImageTokenizer
            | Error::NoImageDecoder
            | Error::Vq(vq_tokenizer::Error::Invalid { .. } | vq_tokenizer::Error::NoDecoder) => {
                Self::invalid(error.to_string())
            }
            error => Self::failed(error),
        }
    }
}

impl From<vq_tokenizer::Error> for Fault {
    fn from(error: vq_tokenizer::Error) -> Self {
        Error::from(error).into()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER);
            }
            // OpenAI's clients would ask again.
            StatusCode::GATEWAY_TIMEOUT => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}
