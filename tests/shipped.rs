//! The model in `checkpoints/demo`: whole, small, and able to do all three of its tasks.

use std::path::{Path, PathBuf};

use calumma::checkpoint::Manifest;
use calumma::data::scenes::Scenes;
use calumma::data::{Dataset, Sample};
use calumma::pipeline::Pipeline;
use vq_tokenizer::metrics::psnr;

use crate::common::cpu;

/// Everything below `checkpoints/` together, in bytes.
const LIMIT: u64 = 24_000_000;

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
fn the_shipped_model_draws_captions_and_answers() {
    let pipeline = Pipeline::open(&demo(), &cpu()).unwrap();
    let sample = scenes(1).remove(0);
    assert!(!pipeline.caption(&sample.images[0]).unwrap().is_empty());
    assert!(!pipeline.ask(&sample.images[0], "how many objects are there?").unwrap().is_empty());
    let picture = pipeline.draw("a large red circle").unwrap();
    assert_eq!(picture.dimensions(), (64, 64));
    assert_eq!(picture, pipeline.draw("a large red circle").unwrap());
}

#[test]
fn the_shipped_image_tokenizer_reconstructs_scenes_at_25_db() {
    let pipeline = Pipeline::open(&demo(), &cpu()).unwrap();
    let tokenizer = pipeline.vq().unwrap();
    let pictures: Vec<_> =
        scenes(24).into_iter().map(|mut sample| sample.images.remove(0)).collect();
    let decoded = tokenizer.decode(&tokenizer.encode(&pictures).unwrap()).unwrap();
    let sum: f64 = pictures.iter().zip(&decoded).map(|(a, b)| psnr(a, b).unwrap()).sum();
    let mean = sum / pictures.len() as f64;
    assert!(mean >= 25.0, "{mean} dB");
}
