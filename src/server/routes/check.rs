//! Bodies of requests as far as no model is needed to read them; for tests and fuzzing.

use super::chat::Chat;
use super::completions::Completion;
use super::generations::Generation;
use super::messages::{Item, Message};
use super::tokens::{Detokenize, Tokenize};
use crate::generate::GenerationConfig;
use crate::server::body::parse;
use crate::server::config::Limits;
use crate::server::fault::Fault;
use crate::server::form;
use crate::server::image_data::{bytes_of, opened};
use crate::server::sampling::Settings;

/// Reads the body of a POST to `route`: its form, its settings and its images.
///
/// # Errors
/// The message that a client would get; also for routes whose bodies are no JSON.
pub fn check_body(route: &str, body: &[u8], limits: &Limits) -> Result<(), String> {
    let checked = match route {
        "/v1/chat/completions" => chat(body, limits),
        "/v1/completions" => parse(body).and_then(|body: Completion| {
            form::grammar(body.response_format.as_ref(), body.structured_outputs.as_ref())?;
            settings(&body.settings(), limits)
        }),
        "/v1/images/generations" => {
            parse(body).and_then(|body: Generation| settings(&body.settings(), limits))
        }
        "/tokenize" => parse(body).and_then(|body: Tokenize| {
            body.messages.iter().flatten().try_for_each(|message| images(message, limits))
        }),
        "/detokenize" => parse::<Detokenize>(body).map(drop),
        _ => Err(Fault::no_route(route)),
    };
    checked.map_err(|fault| fault.to_string())
}

/// Reads the image at `url`, of which `limits` are checked before it is decoded.
///
/// # Errors
/// The message that a client would get.
pub fn check_image(url: &str, limits: &Limits) -> Result<(), String> {
    let image = bytes_of(url).and_then(|bytes| opened(&bytes, limits));
    image.map(drop).map_err(|fault| fault.to_string())
}

fn chat(body: &[u8], limits: &Limits) -> Result<(), Fault> {
    let body: Chat = parse(body)?;
    form::grammar(body.response_format.as_ref(), body.structured_outputs.as_ref())?;
    settings(&body.settings(), limits)?;
    body.messages.iter().try_for_each(|message| images(message, limits))
}

fn settings(settings: &Settings, limits: &Limits) -> Result<(), Fault> {
    settings.answers(limits)?;
    settings.over(&GenerationConfig::default(), limits).map(drop)
}

fn images(message: &Message, limits: &Limits) -> Result<(), Fault> {
    message.items().try_for_each(|item| match item {
        Item::Image(image) => opened(&image.bytes()?, limits).map(drop),
        Item::Text(_) => Ok(()),
    })
}
