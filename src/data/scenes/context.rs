//! A scene with the split that limits what questions about it may mention.

use super::sample::{Split, is_held_out};
use super::scene::{Color, Object, Scene, Shape};

/// A scene and its split; questions mention only (shape, colour) pairs of that split.
pub(super) struct Context<'a> {
    pub(super) scene: &'a Scene,
    pub(super) split: Split,
}

impl<'a> Context<'a> {
    /// Infers the split from the scene's objects.
    pub(super) fn new(scene: &'a Scene) -> Self {
        let held_out = scene.objects.iter().all(|object| is_held_out(object.shape, object.color));
        Self { scene, split: if held_out { Split::HeldOut } else { Split::Train } }
    }

    pub(super) fn objects(&self) -> &'a [Object] {
        &self.scene.objects
    }

    /// Whether an object has this shape and colour.
    pub(super) fn shows(&self, shape: Shape, color: Color) -> bool {
        self.objects().iter().any(|object| object.shape == shape && object.color == color)
    }
}
