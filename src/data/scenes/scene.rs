//! Scene description: objects with shape, colour and size on a light background.
//!
//! Lengths are in *units* of 1/64 of the image edge, so a scene does not depend on the image size.

use serde::{Deserialize, Serialize};

/// Units along each image edge; equal to pixels at 64x64.
pub const UNITS: u8 = 64;

/// Grid step of object centres; few positions align with an image tokenizer's 8x8 patches.
pub const GRID_STEP: u8 = 4;

/// Minimum gap between the bounding boxes of two objects, in units.
pub const MARGIN: u8 = 4;

/// Maximum number of objects in a scene.
pub const MAX_OBJECTS: usize = 4;

/// Shape of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// A filled disc.
    Circle,
    /// An upright square.
    Square,
    /// A triangle on its base.
    Triangle,
    /// A five-pointed star, one point up.
    Star,
    /// A square standing on a corner.
    Diamond,
    /// A vertical and a horizontal bar crossing.
    Cross,
    /// A heart with its point down.
    Heart,
    /// A disc with a concentric hole of half its diameter.
    Ring,
}

impl Shape {
    /// Every shape, in the order of the declaration.
    pub const ALL: [Self; 8] = [
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Star,
        Self::Diamond,
        Self::Cross,
        Self::Heart,
        Self::Ring,
    ];

    /// The singular noun.
    pub fn name(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Star => "star",
            Self::Diamond => "diamond",
            Self::Cross => "cross",
            Self::Heart => "heart",
            Self::Ring => "ring",
        }
    }

    /// The plural noun.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Circle => "circles",
            Self::Square => "squares",
            Self::Triangle => "triangles",
            Self::Star => "stars",
            Self::Diamond => "diamonds",
            Self::Cross => "crosses",
            Self::Heart => "hearts",
            Self::Ring => "rings",
        }
    }
}

/// Flat colour of an object, distinct from every other colour and background.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub enum Color {
    Red,
    Green,
    Blue,
    Yellow,
    Orange,
    Purple,
    Black,
    Pink,
}

impl Color {
    /// Every colour, in the order of the declaration.
    pub const ALL: [Self; 8] = [
        Self::Red,
        Self::Green,
        Self::Blue,
        Self::Yellow,
        Self::Orange,
        Self::Purple,
        Self::Black,
        Self::Pink,
    ];

    /// The colour's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Yellow => "yellow",
            Self::Orange => "orange",
            Self::Purple => "purple",
            Self::Black => "black",
            Self::Pink => "pink",
        }
    }

    /// The colour as sRGB, 0..=255. The Euclidean distance between any two is at least 95.
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [208, 20, 45],
            Self::Green => [20, 150, 60],
            Self::Blue => [30, 75, 225],
            Self::Yellow => [255, 222, 20],
            Self::Orange => [255, 128, 0],
            Self::Purple => [125, 35, 165],
            Self::Black => [20, 20, 20],
            Self::Pink => [255, 115, 195],
        }
    }
}

/// Size of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// 14 units across.
    Small,
    /// 20 units across.
    Medium,
    /// 28 units across.
    Large,
}

impl Size {
    /// Every size, smallest first.
    pub const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    /// The size as an adjective.
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        }
    }

    /// Edge length of the bounding box, in units.
    pub fn extent(self) -> u8 {
        match self {
            Self::Small => 14,
            Self::Medium => 20,
            Self::Large => 28,
        }
    }

    /// The next smaller size, if there is one.
    pub fn smaller(self) -> Option<Self> {
        match self {
            Self::Small => None,
            Self::Medium => Some(Self::Small),
            Self::Large => Some(Self::Medium),
        }
    }
}

/// Flat background colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub enum Background {
    #[serde(rename = "white")]
    White,
    #[serde(rename = "gray")]
    Gray,
    #[serde(rename = "cream")]
    Cream,
    #[serde(rename = "light blue")]
    LightBlue,
}

impl Background {
    /// Every background, in the order of the declaration.
    pub const ALL: [Self; 4] = [Self::White, Self::Gray, Self::Cream, Self::LightBlue];

    /// The tint's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::White => "white",
            Self::Gray => "gray",
            Self::Cream => "cream",
            Self::LightBlue => "light blue",
        }
    }

    /// The tint as sRGB, 0..=255; every channel is at least 200.
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::White => [255, 255, 255],
            Self::Gray => [214, 214, 214],
            Self::Cream => [255, 243, 208],
            Self::LightBlue => [204, 230, 255],
        }
    }
}

/// Object of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Object {
    /// Its shape.
    pub shape: Shape,
    /// Its colour.
    pub color: Color,
    /// Its size.
    pub size: Size,
    /// Distance of its centre from the left image edge, in units.
    pub x: u8,
    /// Distance of its centre from the top image edge, in units.
    pub y: u8,
}

impl Object {
    /// The bounding box as left, top, right and bottom in units; right and bottom are exclusive.
    pub fn bounds(&self) -> [i16; 4] {
        let half = i16::from(self.size.extent() / 2);
        let (x, y) = (i16::from(self.x), i16::from(self.y));
        [x - half, y - half, x + half, y + half]
    }

    /// Whether the gap between the bounding boxes is below `margin` units on both axes.
    pub fn touches(&self, other: &Self, margin: u8) -> bool {
        let (a, b, margin) = (self.bounds(), other.bounds(), i16::from(margin));
        let near = |axis: usize| a[axis] < b[axis + 2] + margin && b[axis] < a[axis + 2] + margin;
        near(0) && near(1)
    }
}

/// A scene, the ground truth of an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scene {
    /// The background colour.
    pub background: Background,
    /// One to four objects that do not overlap.
    pub objects: Vec<Object>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distance(a: [u8; 3], b: [u8; 3]) -> f32 {
        a.iter().zip(b).map(|(&a, b)| (f32::from(a) - f32::from(b)).powi(2)).sum::<f32>().sqrt()
    }

    #[test]
    fn colors_are_far_from_each_other_and_from_backgrounds() {
        for (i, a) in Color::ALL.iter().enumerate() {
            for b in &Color::ALL[i + 1..] {
                assert!(distance(a.rgb(), b.rgb()) >= 95.0, "{a:?} {b:?}");
            }
            for b in Background::ALL {
                assert!(distance(a.rgb(), b.rgb()) >= 95.0, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn scenes_survive_a_json_round_trip() {
        let object =
            Object { shape: Shape::Heart, color: Color::Pink, size: Size::Large, x: 20, y: 44 };
        let scene = Scene { background: Background::LightBlue, objects: vec![object] };
        let text = serde_json::to_string(&scene).expect("plain data");
        assert!(text.contains(r#""background":"light blue""#), "{text}");
        assert!(text.contains(r#""shape":"heart","color":"pink","size":"large","x":20,"y":44"#));
        assert_eq!(serde_json::from_str::<Scene>(&text).expect("own output"), scene);
    }
}
