//! The model in `checkpoints/demo`: complete, small, and as good at its three tasks as measured.

use std::path::{Path, PathBuf};

use calumma::checkpoint::Manifest;
use calumma::data::scenes::{Object, Scenes, detect};
use calumma::data::{Dataset, Sample};
use calumma::pipeline::Pipeline;
use image::RgbImage;
use vq_tokenizer::VqTokenizer;
use vq_tokenizer::metrics::psnr;

use crate::common::cpu;

/// Most bytes of everything below `checkpoints/`: 20 MiB.
const LIMIT: u64 = 20 << 20;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/demo")
}

fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| match path.is_dir() {
            true => bytes_below(&path),
            false => path.metadata().unwrap().len(),
        })
        .sum()
}

fn scenes(count: usize) -> Vec<Sample> {
    let spec = format!("scenes:val?count={count}&seed=77&size=64");
    let scenes = Scenes::new(spec.parse().unwrap()).unwrap();
    (0..count).map(|index| scenes.get(index).unwrap()).collect()
}

#[test]
fn the_shipped_checkpoint_is_whole_and_small() {
    Manifest::verify(&demo()).unwrap();
    assert!(!demo().join("trainer").exists());
    let bytes = bytes_below(demo().parent().unwrap());
    assert!(bytes < LIMIT, "{bytes} bytes");
}

#[test]
fn the_shipped_image_tokenizer_reconstructs_scenes_as_measured() {
    let dir = demo().join("vq_tokenizer");
    let tokenizer = VqTokenizer::load(&dir, &cpu()).unwrap();
    let images: Vec<_> = scenes(24).into_iter().map(|mut s| s.images.remove(0)).collect();
    let decoded = tokenizer.decode(&tokenizer.encode(&images).unwrap()).unwrap();
    let sum: f64 = images.iter().zip(&decoded).map(|(a, b)| psnr(a, b).unwrap()).sum();
    let mean = sum / images.len() as f64;
    // 32.62 were measured.
    assert!(mean >= 32.5, "{mean} dB");
}

#[test]
fn the_shipped_model_draws_captions_and_answers_as_measured() {
    /// All 24 were measured; one may fall on the other side of a rounding on another processor.
    const FLOOR: usize = 23;
    let pipeline = Pipeline::open(&demo(), &cpu()).unwrap();
    let spec = "scenes:val?count=24&seed=78&size=64&objects=1-1";
    let scenes = Scenes::new(spec.parse().unwrap()).unwrap();
    let objects: Vec<Object> = (0..24).map(|index| scenes.scene(index).objects[0]).collect();
    let images: Vec<_> = (0..24).map(|index| scenes.get(index).unwrap().images.remove(0)).collect();

    let questions: Vec<String> =
        objects.iter().map(|o| format!("what color is the {}?", o.shape.name())).collect();
    let config = pipeline.generation().clone().for_answers();
    let answers = pipeline.ask_batch(&images, &questions, &config).unwrap();
    let right = answers.iter().zip(&objects).filter(|(a, o)| *a == o.color.name()).count();
    assert!(right >= FLOOR, "{right} of 24 colours");

    let captions = pipeline.caption_batch(&images, &config).unwrap();
    let named = |(caption, o): &(&String, &Object)| {
        caption.contains(o.color.name()) && caption.contains(o.shape.name())
    };
    let right = captions.iter().zip(&objects).filter(named).count();
    assert!(right >= FLOOR, "{right} of 24 captions name color and shape");

    let text = |o: &Object| format!("a large {} {}", o.color.name(), o.shape.name());
    let texts: Vec<String> = objects.iter().map(text).collect();
    let drawn = pipeline.draw_batch(&texts, pipeline.generation()).unwrap();
    let shows = |(image, o): &(&RgbImage, &Object)| {
        detect(image).iter().any(|d| (d.object.shape, d.object.color) == (o.shape, o.color))
    };
    let right = drawn.iter().zip(&objects).filter(shows).count();
    // 23 were measured; without choosing among candidates it would be 19 (the README's 77.5 %).
    assert!(right >= 21, "{right} of 24 images show what was asked for");
    assert_eq!(drawn[0], pipeline.draw_batch(&texts[..1], pipeline.generation()).unwrap()[0]);
}
