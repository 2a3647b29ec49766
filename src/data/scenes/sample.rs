//! Drawing scenes at random: a pure function of seed, split and index.

use super::scene::{
    Background, Color, GRID_STEP, MARGIN, MAX_OBJECTS, Object, Scene, Shape, Size, UNITS,
};
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// Which part of the endless set a scene belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Scenes to train on: 56 of the 64 (shape, colour) pairs.
    Train,
    /// Other scenes of the same pairs.
    Val,
    /// Scenes whose every object has one of the 8 pairs that the other splits never show.
    HeldOut,
}

impl Split {
    /// Every split.
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::HeldOut];

    /// The name in specs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::HeldOut => "held-out",
        }
    }

    /// Whether scenes of this split may show `color` on `shape`.
    pub fn allows(self, shape: Shape, color: Color) -> bool {
        is_held_out(shape, color) == (self == Self::HeldOut)
    }
}

/// Whether the pair is one of the eight kept from training: one per shape and one per colour.
pub fn is_held_out(shape: Shape, color: Color) -> bool {
    (3 * shape as usize + 1) % Color::ALL.len() == color as usize
}

/// The (shape, colour) pairs that scenes of `split` may show.
pub fn pairs(split: Split) -> Vec<(Shape, Color)> {
    let all = Shape::ALL.into_iter().flat_map(|shape| Color::ALL.map(|color| (shape, color)));
    all.filter(|&(shape, color)| split.allows(shape, color)).collect()
}

/// Independent random streams of one item, so that none depends on how much another drew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The scene itself.
    Scene,
    /// Its captions.
    Captions,
    /// Its questions.
    Questions,
}

/// The generator for one stream of item `index`.
pub fn item_rng(split: Split, seed: u64, index: u64, stream: Stream) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&index.to_le_bytes());
    key[16] = split as u8;
    key[17] = stream as u8;
    ChaCha8Rng::from_seed(key)
}

/// The scene number `index` of `split` under `seed`, with a number of objects drawn evenly
/// from `objects`.
///
/// # Panics
/// If `objects` is empty or reaches outside `1..=4`.
pub fn scene_at(split: Split, seed: u64, index: u64, objects: RangeInclusive<usize>) -> Scene {
    assert!(
        !objects.is_empty() && *objects.start() >= 1 && *objects.end() <= MAX_OBJECTS,
        "a scene holds 1 to {MAX_OBJECTS} objects, not {objects:?}"
    );
    let mut rng = item_rng(split, seed, index, Stream::Scene);
    let background = pick(&Background::ALL, &mut rng);
    let count = rng.random_range(objects);
    let allowed = pairs(split);
    let mut kinds = Vec::with_capacity(count);
    for _ in 0..count {
        kinds.push(next_kind(&kinds, &allowed, &mut rng));
    }
    Scene { background, objects: place(&kinds, &mut rng) }
}

/// A random element.
pub(super) fn pick<T: Copy>(from: &[T], rng: &mut ChaCha8Rng) -> T {
    *from.choose(rng).expect("the callers pass lists with at least one element")
}

/// The next object's pair: often one that shares something with an earlier object, so that
/// counts above one, and objects told apart by one attribute only, are common.
fn next_kind(
    earlier: &[(Shape, Color)],
    allowed: &[(Shape, Color)],
    rng: &mut ChaCha8Rng,
) -> (Shape, Color) {
    if earlier.is_empty() {
        return pick(allowed, rng);
    }
    let (shape, color) = pick(earlier, rng);
    let related: Vec<_> = match rng.random_range(0..20) {
        0..6 => return (shape, color),
        6..9 => allowed.iter().filter(|pair| pair.0 == shape && pair.1 != color).collect(),
        9..12 => allowed.iter().filter(|pair| pair.1 == color && pair.0 != shape).collect(),
        _ => Vec::new(),
    };
    related.choose(rng).map_or_else(|| pick(allowed, rng), |pair| **pair)
}

/// Gives every kind a size and a place; shrinks one object at a time where all do not fit.
fn place(kinds: &[(Shape, Color)], rng: &mut ChaCha8Rng) -> Vec<Object> {
    let mut sizes: Vec<Size> = kinds.iter().map(|_| pick(&Size::ALL, rng)).collect();
    loop {
        for _ in 0..20 {
            if let Some(objects) = try_place(kinds, &sizes, rng) {
                return objects;
            }
        }
        let largest = sizes.iter_mut().max().expect("a scene has at least one object");
        // All small: they always fit in the end, so just try again.
        *largest = largest.smaller().unwrap_or(*largest);
    }
}

fn try_place(
    kinds: &[(Shape, Color)],
    sizes: &[Size],
    rng: &mut ChaCha8Rng,
) -> Option<Vec<Object>> {
    let mut objects: Vec<Object> = Vec::with_capacity(kinds.len());
    for (&(shape, color), &size) in kinds.iter().zip(sizes) {
        let centers = centers(size);
        let candidate = (0..10).find_map(|_| {
            let (x, y) = (pick(&centers, rng), pick(&centers, rng));
            let object = Object { shape, color, size, x, y };
            objects.iter().all(|other| !other.touches(&object, MARGIN)).then_some(object)
        })?;
        objects.push(candidate);
    }
    Some(objects)
}

/// Where centres of objects of `size` may lie on either axis: on the grid, inside the
/// image, and never on the border between two thirds, so that every position has one name.
fn centers(size: Size) -> Vec<u8> {
    let half = size.extent() / 2;
    (0..UNITS)
        .step_by(usize::from(GRID_STEP))
        .filter(|&c| c > half && c + half < UNITS && c != 24 && c != 40)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn held_out_pairs_are_one_per_shape_and_per_color() {
        let held_out = pairs(Split::HeldOut);
        assert_eq!(held_out.len(), 8);
        assert_eq!(held_out.iter().map(|pair| pair.0).collect::<HashSet<_>>().len(), 8);
        assert_eq!(held_out.iter().map(|pair| pair.1).collect::<HashSet<_>>().len(), 8);
        assert_eq!(pairs(Split::Train).len(), 56);
        assert_eq!(pairs(Split::Train), pairs(Split::Val));
    }

    #[test]
    fn objects_stay_inside_and_apart() {
        for index in 0..2000 {
            let scene = scene_at(Split::Train, 3, index, 1..=4);
            for (i, object) in scene.objects.iter().enumerate() {
                assert!(object.bounds().iter().all(|&edge| (1..64).contains(&edge)));
                assert!(scene.objects[..i].iter().all(|other| !object.touches(other, MARGIN)));
            }
        }
    }

    #[test]
    fn seed_split_and_index_all_change_the_scene() {
        let base = scene_at(Split::Train, 1, 5, 1..=4);
        assert_eq!(base, scene_at(Split::Train, 1, 5, 1..=4));
        assert_ne!(base, scene_at(Split::Train, 2, 5, 1..=4));
        assert_ne!(base, scene_at(Split::Val, 1, 5, 1..=4));
        assert_ne!(base, scene_at(Split::Train, 1, 6, 1..=4));
    }
}
