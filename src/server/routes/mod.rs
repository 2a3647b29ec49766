//! The routes, one file for each kind.

mod answer;
mod chat;
mod check;
mod completions;
mod conversation;
mod edits;
mod generations;
mod heading;
mod logprobs;
mod messages;
mod models;
mod pages;
mod parts;
mod rows;
mod status;
mod stream;
mod text_limit;
mod tokens;
mod tools;

use std::sync::Arc;

pub use check::{check_body, check_image};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use super::access::guard;
use super::fault::Fault;
use super::state::State;

/// All routes.
pub(super) fn all(state: Arc<State>) -> Router {
    Router::new()
        .route("/", get(pages::play))
        .route("/v1/chat/completions", post(chat::post))
        .route("/v1/completions", post(completions::post))
        .route("/v1/images/generations", post(generations::post))
        .route("/v1/images/edits", post(edits::post))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*name}", get(models::one))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/health", get(status::health))
        .route("/livez", get(status::livez))
        .route("/metrics", get(status::metrics))
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
