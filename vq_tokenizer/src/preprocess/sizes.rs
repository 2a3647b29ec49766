//! The sizes in a `preprocessor_config.json`, in every form that programs write.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// `size`.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub(super) enum Size {
    /// The length of the shorter side.
    Edge(usize),
    /// Minimum and maximum number of pixels.
    Pixels([usize; 2]),
}

/// `crop_size`: height and width.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub(super) struct Crop(pub usize, pub usize);

impl TryFrom<Value> for Size {
    type Error = String;

    fn try_from(value: Value) -> std::result::Result<Self, String> {
        let edge = side(&value).or_else(|| members(&value, ["shortest_edge"]).map(|[edge]| edge));
        let pixels = || members(&value, ["min_pixels", "max_pixels"]).map(Self::Pixels);
        edge.map(Self::Edge).or_else(pixels).ok_or_else(|| {
            format!("{value} is not supported; allowed: {{\"shortest_edge\": PIXELS}} or PIXELS")
        })
    }
}

impl From<Size> for Value {
    fn from(size: Size) -> Self {
        match size {
            Size::Edge(shortest_edge) => json!({ "shortest_edge": shortest_edge }),
            Size::Pixels([least, most]) => json!({ "min_pixels": least, "max_pixels": most }),
        }
    }
}

impl TryFrom<Value> for Crop {
    type Error = String;

    fn try_from(value: Value) -> std::result::Result<Self, String> {
        let square = side(&value).map(|side| [side, side]);
        let found = square.or_else(|| members(&value, ["height", "width"]));
        found.map(|[height, width]| Self(height, width)).ok_or_else(|| {
            format!(
                "{value} is not supported; allowed: {{\"height\": PIXELS, \"width\": PIXELS}} or PIXELS"
            )
        })
    }
}

impl From<Crop> for Value {
    fn from(Crop(height, width): Crop) -> Self {
        json!({ "height": height, "width": width })
    }
}

fn side(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

/// The values of `keys`, the only members of an object that are not null.
fn members<const N: usize>(value: &Value, keys: [&str; N]) -> Option<[usize; N]> {
    let mut others = value.as_object()?.iter().filter(|(_, value)| !value.is_null());
    if others.any(|(key, _)| !keys.contains(&key.as_str())) {
        return None;
    }
    let mut found = [0; N];
    for (found, key) in found.iter_mut().zip(keys) {
        *found = side(value.get(key)?)?;
    }
    Some(found)
}
