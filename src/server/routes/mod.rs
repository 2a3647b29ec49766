//! The routes, one file for each kind.

mod answer;
mod chat;
mod check;
mod completions;
mod conversation;
mod drawn;
mod edits;
mod faults;
mod generations;
mod heading;
mod logprobs;
mod messages;
mod models;
mod openapi;
mod pages;
mod parts;
mod reply;
mod rows;
mod status;
mod stream;
mod text_limit;
mod tokens;
mod tools;

use std::sync::Arc;

pub use check::{check_body, check_image};

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use axum::{Json, Router};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::openapi::Document;
use super::access::guard;
use super::fault::Fault;
use super::state::State;

/// All routes.
pub(super) fn all(state: Arc<State>) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(chat::post))
        .routes(routes!(completions::post))
        .routes(routes!(generations::post))
        .routes(routes!(edits::post))
        .routes(routes!(models::list))
        .routes(routes!(tokens::tokenize))
        .routes(routes!(tokens::detokenize))
        .routes(routes!(status::health))
        .routes(routes!(status::livez))
        .routes(routes!(status::metrics))
        .split_for_parts();
    router
        .route("/v1/models/{*name}", get(models::one))
        .route("/", get(pages::play))
        .route("/docs", get(pages::docs))
        .route("/openapi.json", get(async || Json(document)))
        .method_not_allowed_fallback(no_method)
        .fallback(no_route)
        // `body` limits it.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(state.clone(), guard))
        .with_state(state)
}

async fn no_route(request: Request) -> Fault {
    Fault::no_route(request.uri().path())
}

async fn no_method(method: Method, request: Request) -> Fault {
    Fault::no_method(format!("{} does not take {method}", request.uri().path()))
}
