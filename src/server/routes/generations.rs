//! POST `/v1/images/generations`: images of a text.

use std::sync::Arc;

use axum::extract::State as Shared;
use serde_json::{Value, json};

use super::answer::Usage;
use super::stream;
use crate::generate::GenerationConfig;
use crate::pipeline::Pipeline;
use crate::server::body::Json;
use crate::server::fault::Fault;
use crate::server::image_data::png_in_base64;
use crate::server::sampling::{OneOrMany, Settings, request};
use crate::server::state::{State, now};
use crate::server::work::{Work, send};

request! {
    /// The body.
    struct Generation {
        prompt: String,
        /// `WIDTHxHEIGHT` in pixels, or `auto`.
        size: Option<String>,
        response_format: Option<String>,
        /// Images drawn for each that is kept.
        candidates: Option<usize>,
        #[serde(default, rename = "quality")]
        _quality: serde::de::IgnoredAny,
        #[serde(default, rename = "style")]
        _style: serde::de::IgnoredAny,
        #[serde(default, rename = "moderation")]
        _moderation: serde::de::IgnoredAny,
    }
}

/// Draws images of a text.
pub(super) async fn post(
    Shared(state): Shared<Arc<State>>,
    Json(body): Json<Generation>,
) -> Result<axum::Json<Value>, Fault> {
    let settings = body.settings();
    check_format(body.response_format.as_deref())?;
    let (number, limits) = (state.model(body.model.as_deref())?, &state.config.limits);
    let (count, own) = (settings.answers(limits)?, state.opened(number).pipeline.generation());
    let mut config = settings.over(own, limits)?;
    config.candidates = body.candidates.unwrap_or(own.candidates);
    config.validate()?;
    sized(&mut config, &state.opened(number).pipeline, body.size.as_deref())?;
    let work = Work::new(&state, number, count * config.candidates)?;
    let prompt = body.prompt;
    let mut parts = work.start(move |work, to| send(to, draw(work, &prompt, &config, count)?));
    stream::first(&mut parts).await.map(axum::Json)
}

/// # Errors
/// If images are wanted in another form than in the response.
pub(super) fn check_format(format: Option<&str>) -> Result<(), Fault> {
    match format {
        None | Some("b64_json") => Ok(()),
        Some(other) => {
            let message = format!("response_format is {other:?}; allowed: b64_json");
            Err(Fault::of("response_format", message))
        }
    }
}

/// Makes `config` draw images of the size that is asked for.
///
/// # Errors
/// If the model does not draw images of this size.
fn sized(
    config: &mut GenerationConfig,
    pipeline: &Pipeline,
    size: Option<&str>,
) -> Result<(), Fault> {
    let Some(size) = size.filter(|size| *size != "auto") else { return Ok(()) };
    let numbers = size.split_once('x');
    let numbers = numbers.and_then(|(w, h)| Some([w.parse().ok()?, h.parse().ok()?]));
    let Some([width, height]) = numbers else {
        let message = format!("size is {size:?}; allowed: WIDTHxHEIGHT, auto");
        return Err(Fault::of("size", message));
    };
    let own = pipeline.size_of(config)?;
    if own == [width, height] {
        return Ok(());
    }
    let asked = GenerationConfig { aspect: Some([width, height]), ..config.clone() };
    match pipeline.size_of(&asked) {
        Ok(found) if found == [width, height] => {
            *config = asked;
            Ok(())
        }
        found => {
            let [width, height] = found.unwrap_or(own);
            let message = format!("size is {size}; allowed: {width}x{height}, auto");
            Err(Fault::of("size", message))
        }
    }
}

fn draw(
    mut work: Work,
    prompt: &str,
    config: &GenerationConfig,
    count: usize,
) -> Result<Value, Fault> {
    let state = work.shared();
    let model = state.opened(work.number());
    let pipeline = &model.pipeline;
    let mut requests = Vec::new();
    for index in 0..count as u64 {
        let seed = config.seed.wrapping_add(index);
        let config = GenerationConfig { seed, ..config.clone() };
        requests.extend(pipeline.drawing_requests(prompt, &config)?);
    }
    let tokens = requests.first().map_or(0, |request| request.prompt.len());
    let drawn = work.run(requests, |_, _| Ok(()))?;
    let usage = Usage { prompt: tokens, generated: drawn.iter().map(|one| one.ids.len()).sum() };
    let mut images = drawn.into_iter().flat_map(|one| one.images);
    let mut data = Vec::with_capacity(count);
    for _ in 0..count {
        let mut candidates: Vec<_> = images.by_ref().take(config.candidates).collect();
        let best = pipeline.best_drawing(&candidates, prompt)?;
        let codes = candidates.swap_remove(best);
        let image = pipeline.drawing_vq()?.decode(std::slice::from_ref(&codes))?.remove(0);
        state.metrics.drawn(&model.name);
        data.push(json!({ "b64_json": png_in_base64(&image)? }));
    }
    Ok(response(data, usage, config.seed))
}

/// The response with images.
pub(super) fn response(data: Vec<Value>, usage: Usage, seed: u64) -> Value {
    json!({
        "created": now(),
        "data": data,
        "output_format": "png",
        "x_seed": seed,
        "usage": {
            "input_tokens": usage.prompt,
            "output_tokens": usage.generated,
            "total_tokens": usage.prompt + usage.generated,
        },
    })
}
