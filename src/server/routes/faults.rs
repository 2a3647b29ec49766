//! Faults in the OpenAPI document.

use std::collections::BTreeMap;

use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

use crate::server::fault::FaultBody;

/// What any route may answer instead.
pub(super) struct Faults;

const DESCRIPTION: &str = "A fault, in OpenAI's form. 400: the request; 401: the key; 404: there is no such model; 408: the body \
    was slow; 413: it is too large; 415: it is no JSON, or no form; 429, with `retry-after`: as many answers are in progress or \
    waiting as may be; 500: the server, whose log says why; 503: it loads or ends; 504: the answer took too long.";

impl IntoResponses for Faults {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let schema = Ref::from_schema_name(FaultBody::name());
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let response = ResponseBuilder::new().description(DESCRIPTION);
        let response = response.content("application/json", content).build();
        BTreeMap::from([("default".to_owned(), response.into())])
    }
}

/// The schemas that [`Faults`] refers to.
pub(super) fn schemas() -> Vec<(String, RefOr<utoipa::openapi::Schema>)> {
    let mut schemas = vec![(FaultBody::name().into_owned(), FaultBody::schema())];
    FaultBody::schemas(&mut schemas);
    schemas
}
