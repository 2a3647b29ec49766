//! Random scenes as a pure function of seed, split and index.

use super::scene::{
    Background, Color, GRID_STEP, MARGIN, MAX_OBJECTS, Object, Scene, Shape, Size, UNITS,
};
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// Split of the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Training scenes, with 56 of the 64 (shape, colour) pairs.
    Train,
    /// Other scenes with the same pairs.
    Val,
    /// Scenes whose objects all have one of the 8 pairs that the other splits never show.
    HeldOut,
}

impl Split {
    /// Every split.
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::HeldOut];

    /// The split's name in specs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::HeldOut => "held-out",
        }
    }

    /// Whether scenes of this split may contain a `shape` of this `color`.
    pub fn allows(self, shape: Shape, color: Color) -> bool {
        is_held_out(shape, color) == (self == Self::HeldOut)
    }
}

/// Whether the pair is one of the eight excluded from training, one per shape and per colour.
pub fn is_held_out(shape: Shape, color: Color) -> bool {
    (3 * shape as usize + 1) % Color::ALL.len() == color as usize
}

/// The (shape, colour) pairs that scenes of `split` may contain.
pub fn pairs(split: Split) -> Vec<(Shape, Color)> {
    let all = Shape::ALL.into_iter().flat_map(|shape| Color::ALL.map(|color| (shape, color)));
    all.filter(|&(shape, color)| split.allows(shape, color)).collect()
}

/// Random stream of an item; streams are independent of how much the others were used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The stream for the scene.
    Scene,
    /// The stream for captions.
    Captions,
    /// The stream for questions.
    Questions,
}

/// The random number generator for one stream of item `index`.
pub fn item_rng(split: Split, seed: u64, index: u64, stream: Stream) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&index.to_le_bytes());
    key[16] = split as u8;
    key[17] = stream as u8;
    ChaCha8Rng::from_seed(key)
}

/// Scene `index` of `split` under `seed`; the number of objects is uniform over `objects`.
///
/// # Panics
/// If `objects` is empty or not within `1..=4`.
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
    *from.choose(rng).expect("callers pass non-empty lists")
}

/// The next object's (shape, colour) pair. It often shares an attribute with an earlier object, so
/// that counts above one and objects that differ in only one attribute are common.
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

/// Assigns sizes and places; if the objects do not fit, shrinks one at a time.
fn place(kinds: &[(Shape, Color)], rng: &mut ChaCha8Rng) -> Vec<Object> {
    let mut sizes: Vec<Size> = kinds.iter().map(|_| pick(&Size::ALL, rng)).collect();
    loop {
        for _ in 0..20 {
            if let Some(objects) = try_place(kinds, &sizes, rng) {
                return objects;
            }
        }
        let largest = sizes.iter_mut().max().expect("a scene has at least one object");
        // Small objects always fit after enough attempts.
        *largest = largest.smaller().unwrap_or(*largest);
    }
}

/// Places objects of the given sizes without overlap, if a few attempts succeed.
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

/// Allowed centre coordinates for objects of `size` on either axis: on the grid, inside the image,
/// and never on the boundary between two thirds, so that every position has one name.
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
    fn objects_stay_inside_the_image_and_apart() {
        for index in 0..2000 {
            let scene = scene_at(Split::Train, 3, index, 1..=4);
            for (i, object) in scene.objects.iter().enumerate() {
                assert!(object.bounds().iter().all(|&edge| (1..64).contains(&edge)));
                assert!(scene.objects[..i].iter().all(|other| !object.touches(other, MARGIN)));
            }
        }
    }

    #[test]
    fn scenes_depend_on_seed_split_and_index() {
        let base = scene_at(Split::Train, 1, 5, 1..=4);
        assert_eq!(base, scene_at(Split::Train, 1, 5, 1..=4));
        assert_ne!(base, scene_at(Split::Train, 2, 5, 1..=4));
        assert_ne!(base, scene_at(Split::Val, 1, 5, 1..=4));
        assert_ne!(base, scene_at(Split::Train, 1, 6, 1..=4));
    }
}
