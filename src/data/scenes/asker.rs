//! A scene as questions are asked about it.

use super::sample::{Split, is_held_out};
use super::scene::{Color, Object, Scene, Shape};

/// A scene with the pairs that questions about it may name.
pub(super) struct Asker<'a> {
    pub(super) scene: &'a Scene,
    pub(super) split: Split,
}

impl<'a> Asker<'a> {
    pub(super) fn new(scene: &'a Scene) -> Self {
        let held_out = scene.objects.iter().all(|object| is_held_out(object.shape, object.color));
        Self { scene, split: if held_out { Split::HeldOut } else { Split::Train } }
    }

    pub(super) fn objects(&self) -> &'a [Object] {
        &self.scene.objects
    }

    pub(super) fn shows(&self, shape: Shape, color: Color) -> bool {
        self.objects().iter().any(|object| object.shape == shape && object.color == color)
    }
}
