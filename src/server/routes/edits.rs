//! POST `/v1/images/edits`: a part of an image drawn anew.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::multipart::MultipartError;
use axum::extract::{FromRequest, Multipart, Request, State as Shared};
use axum::http::header;
use image::{DynamicImage, RgbImage};
use utoipa::ToSchema;
use vq_tokenizer::preprocess::to_rgb;

use super::drawn::{Drawn, ImageUsage};
use super::faults::Faults;
use super::generations::check_format;
use super::stream;
use super::text_limit::check_text;
use crate::generate::GenerationConfig;
use crate::pipeline::{EditPlan, EditRequest, PixelMask, Region};
use crate::server::body;
use crate::server::config::NamedPipeline;
use crate::server::fault::Fault;
use crate::server::image_data::{opened, png_in_base64};
use crate::server::metrics::Measure;
use crate::server::sampling::Settings;
use crate::server::state::State;
use crate::server::work::Work;

/// Cells by which the mask is widened, as on the command line.
const DILATE: usize = 1;

/// The fields of the form.
#[derive(Default)]
struct Form {
    model: Option<String>,
    prompt: Option<String>,
    image: Option<Vec<u8>>,
    mask: Option<Vec<u8>>,
    size: Option<String>,
    response_format: Option<String>,
    candidates: Option<usize>,
    settings: Settings,
}

impl Form {
    /// # Errors
    /// If the field is unknown, or its value unusable.
    fn set(&mut self, name: &str, value: Vec<u8>) -> Result<(), Fault> {
        match name {
            "image" | "image[]" if self.image.is_some() => {
                return Err(Fault::of("image", "several images; allowed: one"));
            }
            "image" | "image[]" => self.image = Some(value),
            "mask" if self.mask.is_some() => {
                return Err(Fault::of("mask", "several masks; allowed: one"));
            }
            "mask" => self.mask = Some(value),
            _ => return self.set_text(name, String::from_utf8(value).ok()),
        }
        Ok(())
    }

    fn set_text(&mut self, name: &str, value: Option<String>) -> Result<(), Fault> {
        let unusable = || Fault::of(name, format!("{name} has an unusable value"));
        let value = value.ok_or_else(unusable)?;
        let settings = &mut self.settings;
        match name {
            "model" => self.model = Some(value),
            "prompt" => self.prompt = Some(value),
            "size" => self.size = Some(value),
            "response_format" => self.response_format = Some(value),
            "negative_prompt" => settings.negative_prompt = Some(value),
            "n" => settings.n = Some(value.parse().map_err(|_| unusable())?),
            "seed" => settings.seed = Some(value.parse().map_err(|_| unusable())?),
            "temperature" => settings.temperature = Some(value.parse().map_err(|_| unusable())?),
            "top_p" => settings.top_p = Some(value.parse().map_err(|_| unusable())?),
            "guidance_scale" => {
                settings.guidance_scale = Some(value.parse().map_err(|_| unusable())?);
            }
            "candidates" => self.candidates = Some(value.parse().map_err(|_| unusable())?),
            // What clients send for other servers, and changes nothing here.
            "user" | "quality" | "background" | "input_fidelity" | "output_format"
            | "output_compression" | "moderation" => {}
            _ => return Err(Fault::of(name, format!("there is no field {name}"))),
        }
        Ok(())
    }
}

/// The fields of the form, as the document has them.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
struct Edit {
    /// A PNG, JPEG or WebP file; as `image[]` too.
    #[schema(value_type = String, format = Binary)]
    image: (),
    /// A PNG file as large as the image. What is transparent in it, or in the image without one, is drawn anew.
    #[schema(value_type = Option<String>, format = Binary)]
    mask: (),
    /// The whole image that is wanted.
    prompt: String,
    model: Option<String>,
    /// That of the image, or `auto`.
    size: Option<String>,
    /// `b64_json`.
    response_format: Option<String>,
    /// Images drawn for each that is kept, 1 to 64.
    candidates: Option<usize>,
    /// How many images.
    n: Option<usize>,
    seed: Option<i64>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    guidance_scale: Option<f32>,
    negative_prompt: Option<String>,
}

/// Draws a part of an image anew
///
/// What is transparent in the mask is drawn; the rest keeps its pixels.
#[utoipa::path(
    post,
    path = "/v1/images/edits",
    operation_id = "edit_image",
    tag = "Images",
    request_body(content = Edit, content_type = "multipart/form-data"),
    responses((status = 200, description = "The images", body = Drawn), Faults),
)]
pub(super) async fn post(
    Shared(state): Shared<Arc<State>>,
    request: Request,
) -> Result<axum::Json<Drawn>, Fault> {
    let form = read(request, &state).await?;
    check_format(form.response_format.as_deref())?;
    let needed = |name: &str| Fault::of(name, format!("{name} is missing"));
    let prompt = form.prompt.ok_or_else(|| needed("prompt"))?;
    let image = form.image.ok_or_else(|| needed("image"))?;
    let (number, limits) = (state.model(form.model.as_deref())?, &state.config.limits);
    let own = state.opened(number).pipeline.generation();
    let count = form.settings.answers(limits)?;
    let mut config = form.settings.over(own, limits)?;
    config.candidates = form.candidates.unwrap_or(own.candidates);
    config.validate()?;
    let work = Work::new(&state, number, count * config.candidates)?;
    let (mask, size) = (form.mask, form.size);
    let parts = work.start(move |work, to| {
        let (edit, plan) = work.in_turn(|| {
            let limits = &work.state().config.limits;
            let image = opened(&image, limits)?;
            let mask = match mask {
                Some(mask) => transparent(&opened(&mask, limits)?),
                None => transparent(&image),
            };
            let mask = mask.ok_or_else(|| {
                Fault::of("mask", "nothing is transparent, neither in a mask nor in the image")
            })?;
            let (image, region) = (to_rgb(image), Region::Mask { mask, dilate: DILATE });
            check_text(work.pipeline(), prompt.len() + config.negative_prompt.len())?;
            let mut edit = EditRequest { image, text: prompt, region, count, score: None, config };
            let plan = work.pipeline().plan_edit(&edit)?;
            // From here on the plan has what is needed of them.
            (edit.image, edit.region) = (RgbImage::default(), Region::KeepRows(0));
            Ok((edit, plan))
        })?;
        to.send(draw(work, &edit, &plan, size.as_deref())?)
    });
    stream::only(parts).await.map(axum::Json)
}

/// The fields of a form, within the limits of size and time.
async fn read(request: Request, state: &State) -> Result<Form, Fault> {
    let kind = request.headers().get(header::CONTENT_TYPE).cloned();
    // They lift the limit that axum has for bodies.
    let extensions = request.extensions().clone();
    let (body, _memory) = body::read(request, state).await?;
    let mut whole = Request::new(Body::from(body));
    whole.headers_mut().extend(kind.map(|kind| (header::CONTENT_TYPE, kind)));
    *whole.extensions_mut() = extensions;
    let multipart = Multipart::from_request(whole, &()).await;
    let mut multipart = multipart
        .map_err(|error| Fault::media_type(format!("{error}; allowed: multipart/form-data")))?;
    let malformed =
        |error: MultipartError| Fault::invalid(format!("the form is malformed: {error}"));
    let mut form = Form::default();
    while let Some(field) = multipart.next_field().await.map_err(malformed)? {
        let name = field.name().unwrap_or_default().to_owned();
        form.set(&name, field.bytes().await.map_err(malformed)?.into())?;
    }
    Ok(form)
}

/// The transparent pixels, which OpenAI's protocol marks a region by; `None` if there are none.
fn transparent(image: &DynamicImage) -> Option<PixelMask> {
    let image = image.to_rgba8();
    let marked: Vec<bool> = image.pixels().map(|pixel| pixel.0[3] == 0).collect();
    if !marked.contains(&true) {
        return None;
    }
    PixelMask::new(image.width(), image.height(), marked).ok()
}

fn draw(
    work: &Work,
    edit: &EditRequest,
    plan: &EditPlan,
    size: Option<&str>,
) -> Result<Drawn, Fault> {
    let NamedPipeline { name, pipeline } = work.model();
    let (width, height) = plan.pixels.dimensions();
    if let Some(size) = size.filter(|size| *size != "auto" && *size != format!("{width}x{height}"))
    {
        let message = format!("size is {size}; allowed for this image: {width}x{height}, auto");
        return Err(Fault::of("size", message));
    }
    work.observe(Measure::Answers, edit.count);
    let requests: Vec<_> = pipeline.edit_requests(edit, plan)?.into_iter().flatten().collect();
    let tokens = requests.first().map_or(0, |request| request.prompt.len());
    let drawn = work.run(requests, |_, _| Ok(()))?;
    let usage = ImageUsage::new(tokens, drawn.iter().map(|one| one.ids.len()).sum());
    let mut images = drawn.into_iter().flat_map(|one| one.images);
    let GenerationConfig { candidates, seed, .. } = edit.config;
    let mut kept = Vec::with_capacity(edit.count);
    for index in 0..edit.count as u64 {
        let drawn: Vec<_> = images.by_ref().take(candidates).collect();
        let seed = seed.wrapping_add(index);
        let edited = work.in_turn(|| Ok(pipeline.best_edit(edit, plan, seed, drawn)?))?;
        work.state().metrics.drawn(name);
        kept.push(png_in_base64(&plan.paste(&edited.image))?);
    }
    Ok(Drawn::new(kept, usage, seed))
}
