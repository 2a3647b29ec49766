//! Detection rates on clean and degraded images, and no detections without objects.

use calumma::data::scenes::detector::background;
use calumma::data::scenes::{
    Background, Detected, Detector, Object, Scene, Scenes, Split, blank, detect, render, scene_at,
};
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, blur, crop_imm, replace, resize};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SCENES: u64 = 500;

fn scene(index: u64) -> Scene {
    scene_at(Split::Val, 7, index, 1..=4)
}

fn same(truth: &Object, found: &Object) -> bool {
    let look = |object: &Object| (object.shape, object.color, object.size);
    let near = truth.x.abs_diff(found.x) <= 2 && truth.y.abs_diff(found.y) <= 2;
    look(truth) == look(found) && near
}

/// The fractions of scenes read back exactly and of objects found.
fn rates(count: u64, image: impl Fn(&Scene, u64) -> RgbImage) -> [f64; 2] {
    let detector = Detector::new();
    let (mut exact, mut objects, mut found) = (0, 0, 0);
    for index in 0..count {
        let scene = scene(index);
        let read = detector.detect(&image(&scene, index));
        let seen = |truth: &&Object| read.iter().any(|read| same(truth, &read.object));
        let hits = scene.objects.iter().filter(seen).count();
        objects += scene.objects.len();
        found += hits;
        exact += u64::from(hits == scene.objects.len() && hits == read.len());
    }
    let rates = [exact as f64 / count as f64, found as f64 / objects as f64];
    eprintln!("scenes exact {:.4}, objects found {:.4} (N = {count})", rates[0], rates[1]);
    rates
}

fn noisy(image: &RgbImage, sigma: f32, seed: u64) -> RgbImage {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut image = image.clone();
    for channel in image.iter_mut() {
        // The sum of twelve uniform numbers has variance one.
        let normal = (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
        *channel = (f32::from(*channel) + sigma * normal).round().clamp(0.0, 255.0) as u8;
    }
    image
}

fn jpeg(image: &RgbImage, quality: u8) -> RgbImage {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(image).unwrap();
    image::load_from_memory(&bytes).unwrap().to_rgb8()
}

/// Replaces a random 8x8 patch by one of another scene with the same background, like a wrongly
/// generated code.
fn with_wrong_patch(image: &RgbImage, scene: &Scene, index: u64) -> RgbImage {
    let mut rng = ChaCha8Rng::seed_from_u64(index);
    let mut at = || rng.random_range(0..8u32) * 8;
    let other = Scene { background: scene.background, ..scene_at(Split::Val, 8, index, 1..=4) };
    let patch = crop_imm(&render(&other, 64), at(), at(), 8, 8).to_image();
    let mut image = image.clone();
    replace(&mut image, &patch, i64::from(at()), i64::from(at()));
    image
}

#[test]
fn rendered_scenes_read_back_exactly() {
    assert!(rates(2 * SCENES, |scene, _| render(scene, 64))[0] >= 0.995);
}

#[test]
fn image_size_does_not_matter() {
    for size in [48, 100, 256] {
        assert!(rates(60, |scene, _| render(scene, size))[0] >= 0.98, "{size}");
    }
}

#[test]
fn blurred_scenes_read_back() {
    assert!(rates(SCENES, |scene, _| blur(&render(scene, 64), 1.0))[0] >= 0.995);
    let half = |scene: &Scene, _| {
        let small = resize(&render(scene, 64), 32, 32, FilterType::Triangle);
        resize(&small, 64, 64, FilterType::CatmullRom)
    };
    assert!(rates(SCENES, half)[0] >= 0.99);
}

#[test]
fn noisy_scenes_read_back() {
    assert!(rates(SCENES, |scene, i| noisy(&render(scene, 64), 10.0, i))[0] >= 0.995);
    let both = |scene: &Scene, i| noisy(&blur(&render(scene, 64), 1.0), 10.0, i);
    assert!(rates(SCENES, both)[0] >= 0.99);
}

#[test]
fn compressed_scenes_read_back() {
    assert!(rates(SCENES, |scene, _| jpeg(&render(scene, 64), 40))[0] >= 0.99);
}

#[test]
fn a_wrong_patch_affects_only_objects_it_hits() {
    let wrong = |scene: &Scene, i| with_wrong_patch(&render(scene, 64), scene, i);
    let [exact, found] = rates(SCENES, wrong);
    assert!(exact >= 0.88 && found >= 0.98, "{exact} {found}");
}

#[test]
fn no_objects_are_detected_in_images_without_any() {
    for tint in Background::ALL {
        let empty = blank(tint, 64);
        assert_eq!(detect(&empty), []);
        assert_eq!(detect(&noisy(&empty, 10.0, 3)), []);
        assert_eq!(background(&noisy(&empty, 5.0, 4)), tint);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (width, height) in [(0, 0), (0, 9), (1, 1), (3, 200), (64, 64), (65, 63)] {
        let noise = RgbImage::from_fn(width, height, |_, _| image::Rgb(rng.random()));
        assert!(detect(&noise).len() <= 4, "{width}x{height}");
    }
}

/// Captions hold for the detected objects of their own scene; captions of other scenes hold only as
/// often as they happen to be true of the scene shown.
#[test]
fn swapped_images_score_at_chance() {
    let set = Scenes::new("scenes:val?count=400&seed=3".parse().unwrap()).unwrap();
    let detector = Detector::new();
    let read: Vec<Vec<Detected>> =
        (0..400).map(|index| detector.detect(&render(&set.scene(index), 64))).collect();
    for shift in [0, 1, 57, 200] {
        let (mut held, mut true_by_chance) = (0, 0);
        for index in 0..400 {
            let (captions, drawn) = set.captions(index);
            let (caption, other) = (&captions[drawn], (index + shift) % 400);
            held += i32::from(caption.satisfied_exactly(&read[other]));
            let shown = set.scene(other).objects;
            let holds = caption.claims.iter().all(|claim| claim.holds(&shown));
            true_by_chance += i32::from(holds && caption.objects == shown.len());
        }
        eprintln!("shift {shift}: {held} of 400 captions hold, {true_by_chance} are true");
        assert!((held - true_by_chance).abs() <= 1, "{shift}: {held} {true_by_chance}");
        assert!(if shift == 0 { held >= 398 } else { held <= 16 }, "{shift}: {held}");
    }
}
