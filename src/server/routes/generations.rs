//! POST `/v1/images/generations`: images of a text.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};

use super::drawn::{DrawingEvent, Drawn, ImageUsage, PNG};
use super::faults::Faults;
use super::rows::{Shown, check_partial};
use super::stream;
use super::text_limit::check_text;
use crate::generate::{Event, GenerationConfig};
use crate::pipeline::Pipeline;
use crate::server::body::Json;
use crate::server::config::NamedPipeline;
use crate::server::fault::Fault;
use crate::server::image_data::png_in_base64;
use crate::server::metrics::Measure;
use crate::server::sampling::{Ignored, OneOrMany, Settings, request};
use crate::server::state::{State, now};
use crate::server::work::{Sender, Work};

request! {
    /// What to draw, and how.
    struct Generation {
        prompt: String,
        /// `WIDTHxHEIGHT` in pixels, or `auto`.
        size: Option<String>,
        /// `b64_json`.
        response_format: Option<String>,
        /// Images drawn for each that is kept, 1 to 64. In a stream: 1.
        candidates: Option<usize>,
        /// Whether the images come as events.
        stream: Option<bool>,
        /// How many times a stream shows the rows that are drawn, 0 to 64.
        partial_images: Option<usize>,
        #[serde(default, rename = "quality")]
        _quality: Ignored,
        #[serde(default, rename = "style")]
        _style: Ignored,
        #[serde(default, rename = "background")]
        _background: Ignored,
        #[serde(default, rename = "output_format")]
        _output_format: Ignored,
        #[serde(default, rename = "output_compression")]
        _output_compression: Ignored,
        #[serde(default, rename = "moderation")]
        _moderation: Ignored,
    }
}

/// What is drawn.
struct Drawing {
    prompt: String,
    config: GenerationConfig,
    count: usize,
    /// How many times the rows so far are shown.
    partial: usize,
}

/// A step of a drawing.
enum Part {
    /// The rows so far of an image, by the number of the image and of the step, in base64.
    Partial(usize, usize, String),
    /// All images in base64, and what they took.
    Drawn(Vec<String>, ImageUsage),
}

/// Draws images of a text
///
/// With `stream` the rows drawn so far come `partial_images` times, then the image.
#[utoipa::path(
    post,
    path = "/v1/images/generations",
    operation_id = "create_image",
    tag = "Images",
    request_body(
        content = Generation,
        example = json!({ "prompt": "a large red circle on a white background", "seed": 3 }),
    ),
    responses(
        (status = 200, description = "The images, or their steps", content(
            (Drawn = "application/json"),
            (DrawingEvent = "text/event-stream"),
        )),
        Faults,
    ),
)]
pub(super) async fn post(
    Shared(state): Shared<Arc<State>>,
    Json(body): Json<Generation>,
) -> Result<Response, Fault> {
    let settings = body.settings();
    check_format(body.response_format.as_deref())?;
    let (number, limits) = (state.model(body.model.as_deref())?, &state.config.limits);
    let (count, own) = (settings.answers(limits)?, state.opened(number).pipeline.generation());
    let mut config = settings.over(own, limits)?;
    let partial = check_partial(body.partial_images)?;
    let streams = body.stream == Some(true);
    // Images in progress are shown of the one that is kept.
    let candidates = if streams { 1 } else { own.candidates };
    config.candidates = body.candidates.unwrap_or(candidates);
    if streams && config.candidates > 1 {
        return Err(Fault::of("candidates", "a stream draws one candidate for each image"));
    }
    config.validate()?;
    let pipeline = &state.opened(number).pipeline;
    sized(&mut config, pipeline, body.size.as_deref())?;
    let [width, height] = pipeline.size_of(&config)?;
    let work = Work::new(&state, number, count * config.candidates)?;
    let seed = config.seed;
    let partial = if streams { partial } else { 0 };
    let drawing = Drawing { prompt: body.prompt, config, count, partial };
    let mut parts = work.start(move |work, to| draw(work, &drawing, to));
    let first = stream::first(&mut parts).await?;
    if streams {
        let size = format!("{width}x{height}");
        return Ok(stream::events(first, parts, move |part| events(part, &size, seed)));
    }
    // The places are free when the thread has ended.
    parts.next().await;
    match first {
        Part::Drawn(images, usage) => {
            Ok(axum::Json(Drawn::new(images, usage, seed)).into_response())
        }
        Part::Partial(..) => Err(Fault::internal()),
    }
}

/// The events of a stream.
fn events(part: Part, size: &str, seed: u64) -> Vec<DrawingEvent> {
    let event = |kind, index: usize, b64_json| DrawingEvent {
        kind,
        b64_json,
        created_at: now(),
        size: size.to_owned(),
        quality: "auto",
        background: "opaque",
        output_format: PNG,
        x_index: index,
        x_seed: seed.wrapping_add(index as u64),
        partial_image_index: None,
        usage: None,
    };
    match part {
        Part::Partial(index, step, base64) => {
            let event = event("image_generation.partial_image", index, base64);
            vec![DrawingEvent { partial_image_index: Some(step), ..event }]
        }
        Part::Drawn(images, usage) => {
            let completed = |(index, base64)| {
                let event = event("image_generation.completed", index, base64);
                DrawingEvent { usage: Some(usage), ..event }
            };
            images.into_iter().enumerate().map(completed).collect()
        }
    }
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

fn draw(work: &Work, drawing: &Drawing, to: &Sender<Part>) -> Result<(), Fault> {
    let Drawing { prompt, config, count, partial } = drawing;
    let NamedPipeline { name, pipeline } = work.model();
    check_text(pipeline, prompt.len() + config.negative_prompt.len())?;
    work.observe(Measure::Answers, *count);
    let of_one = work.in_turn(|| Ok(pipeline.drawing_requests(prompt, config)?))?;
    let mut requests = Vec::with_capacity(count * of_one.len());
    for index in 0..*count as u64 {
        requests.extend(of_one.iter().cloned().map(|mut request| {
            request.config.seed = request.config.seed.wrapping_add(index);
            request
        }));
    }
    let tokens = requests.first().map_or(0, |request| request.prompt.len());
    let mut assemblers: Vec<_> = requests.iter().map(|one| pipeline.assembler(one)).collect();
    let mut shown = vec![Shown::of(*partial); requests.len()];
    let drawn = work.run(requests, |index, event| {
        let Event::ImageProgress { done, total, width, .. } = event else { return Ok(()) };
        assemblers[index].push(event).map_err(Fault::failed)?;
        let Some(step) = shown[index].next(done, total, width) else { return Ok(()) };
        let rows = work.in_turn(|| assemblers[index].rows_so_far().map_err(Fault::failed))?;
        let Some(rows) = rows else { return Ok(()) };
        to.send(Part::Partial(index, step, png_in_base64(&rows)?))
    })?;
    let usage = ImageUsage::new(tokens, drawn.iter().map(|one| one.ids.len()).sum());
    let mut images = drawn.into_iter().flat_map(|one| one.images);
    let mut kept = Vec::with_capacity(*count);
    for _ in 0..*count {
        let mut candidates: Vec<_> = images.by_ref().take(config.candidates).collect();
        let best = work.in_turn(|| Ok(pipeline.best_drawing(&candidates, prompt)?))?;
        let codes = candidates.swap_remove(best);
        let image = work.decode(|| {
            let decoded = pipeline.drawing_vq()?.decode(std::slice::from_ref(&codes));
            Ok(decoded.map_err(Fault::failed)?.remove(0))
        })?;
        work.state().metrics.drawn(name);
        kept.push(png_in_base64(&image)?);
    }
    to.send(Part::Drawn(kept, usage))
}
