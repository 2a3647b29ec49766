//! The OpenAPI document of all routes, from their types.

use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{faults, models};

/// The document, without the routes that [`all`](super::all) adds.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "calumma",
        description = "OpenAI's protocol, with images in and out. Fields that are not listed are refused by name.",
    ),
    // Axum writes this route in another way.
    paths(models::one),
    tags(
        (name = "Answers", description = "Text and images of a conversation or a text"),
        (name = "Images", description = "Images of a text, and images drawn anew in part"),
        (name = "Models", description = "What can be asked"),
        (name = "Tokens", description = "How the model sees texts and images"),
        (name = "Server", description = "How the server is"),
    ),
    modifiers(&Common),
)]
pub(super) struct Document;

/// What all routes have in common.
struct Common;

/// The name of the key in the document.
const KEY: &str = "key";

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        components.schemas.extend(faults::schemas());
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme(KEY, bearer);
        document.security = Some(vec![SecurityRequirement::new(KEY, Vec::<String>::new())]);
    }
}
