//! Answers as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderName;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::server::fault::Fault;
use crate::server::sampling::{Ignored, Neutral};
use crate::server::work::Parts;

/// Silence after which a comment keeps the connection open.
const SILENCE: Duration = Duration::from_secs(10);

const NO_BUFFER: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What ends a stream.
const DONE: &str = "[DONE]";

/// What a stream holds besides the answer.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamOptions {
    /// Whether the last chunk tells how many tokens there were.
    pub(super) include_usage: Option<bool>,
    #[serde(default, rename = "continuous_usage_stats")]
    _continuous_usage_stats: Neutral,
    #[serde(default, rename = "include_obfuscation")]
    _include_obfuscation: Ignored,
}

/// A stream of the chunks that `chunks` makes of `first` and of every later part. A fault in the stream is an event with an
/// error, and ends it.
pub(super) fn events<T: Send + 'static, C: Serialize>(
    first: T,
    parts: Parts<T>,
    mut chunks: impl FnMut(T) -> Vec<C> + Send + 'static,
) -> Response {
    enum Next<T> {
        Part(T),
        Await,
        Done,
    }
    let start = (Next::Part(first), parts);
    let batches = stream::unfold(start, move |(next, mut parts)| {
        let made = match next {
            Next::Part(part) => Some((chunks(part).iter().map(data).collect(), Next::Await)),
            Next::Done => None,
            Next::Await => Some((Vec::new(), Next::Await)),
        };
        async move {
            let (mut values, mut after): (Vec<String>, _) = made?;
            if values.is_empty() {
                match parts.next().await {
                    Some(Ok(part)) => after = Next::Part(part),
                    Some(Err(fault)) => {
                        values.push(data(&fault.body()));
                        after = Next::Done;
                    }
                    None => {
                        values.push(DONE.to_owned());
                        after = Next::Done;
                    }
                }
            }
            Some((values, (after, parts)))
        }
    });
    let events = futures_util::StreamExt::flat_map(batches, |values| {
        stream::iter(
            values.into_iter().map(|data| Ok::<_, Infallible>(Event::default().data(data))),
        )
    });
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(SILENCE));
    // Proxies would collect what is to be seen at once.
    ([(NO_BUFFER, "no")], events).into_response()
}

fn data(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("answers have texts for keys")
}

/// The only part, when the thread that makes it has ended.
///
/// # Errors
/// The fault that came instead of it.
pub(super) async fn only<T>(mut parts: Parts<T>) -> Result<T, Fault> {
    let part = first(&mut parts).await?;
    parts.next().await;
    Ok(part)
}

/// The first part, or the fault that came instead of it.
///
/// # Errors
/// That fault.
pub(super) async fn first<T>(parts: &mut Parts<T>) -> Result<T, Fault> {
    parts.next().await.unwrap_or_else(|| Err(Fault::internal()))
}
