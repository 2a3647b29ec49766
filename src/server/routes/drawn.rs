//! Images as clients get them.

use serde::Serialize;
use utoipa::ToSchema;

use crate::server::state::now;

/// The form of all images.
pub(super) const PNG: &str = "png";

/// Images.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Drawn {
    /// Seconds since 1970.
    created: u64,
    data: Vec<DrawnImage>,
    /// `png`.
    output_format: &'static str,
    usage: ImageUsage,
    /// The seed of the first image, also where none was given.
    x_seed: u64,
}

#[derive(Debug, Serialize, ToSchema)]
struct DrawnImage {
    /// A PNG file in base64.
    b64_json: String,
}

impl Drawn {
    /// Of images in base64.
    pub(super) fn new(images: Vec<String>, usage: ImageUsage, seed: u64) -> Self {
        let data = images.into_iter().map(|b64_json| DrawnImage { b64_json }).collect();
        Self { created: now(), data, output_format: PNG, usage, x_seed: seed }
    }
}

/// How many tokens images took, codes included.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(super) struct ImageUsage {
    input_tokens: usize,
    output_tokens: usize,
    total_tokens: usize,
}

impl ImageUsage {
    pub(super) fn new(input_tokens: usize, output_tokens: usize) -> Self {
        Self { input_tokens, output_tokens, total_tokens: input_tokens + output_tokens }
    }
}

/// A step of a drawing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DrawingEvent {
    /// `image_generation.partial_image` or `image_generation.completed`.
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    /// A PNG file in base64: the rows so far, or the image.
    pub(super) b64_json: String,
    /// Seconds since 1970.
    pub(super) created_at: u64,
    /// Width and height of the whole image.
    pub(super) size: String,
    pub(super) quality: &'static str,
    pub(super) background: &'static str,
    /// `png`.
    pub(super) output_format: &'static str,
    /// The number of the image.
    pub(super) x_index: usize,
    /// Its seed.
    pub(super) x_seed: u64,
    /// The number of the step, if the image is not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) partial_image_index: Option<usize>,
    /// Of all images, if the image is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<ImageUsage>,
}
