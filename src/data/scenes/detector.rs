//! Reads a rendered or generated picture back into objects.

use super::scene::Object;
use serde::{Deserialize, Serialize};

/// One object that the detector found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detected {
    /// What it looks like and where its centre lies.
    pub object: Object,
    /// How well the picture agrees with that reading, 0 to 1.
    pub confidence: f32,
}
