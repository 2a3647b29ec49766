//! Captions images.
//!
//! ```text
//! cargo run --release --example captioning -- [CHECKPOINT [IMAGE...]]
//! ```
//!
//! The default checkpoint is `checkpoints/demo`. Without an image, a scene is generated and its true
//! caption is printed after the model's.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::path::PathBuf;

use calumma::data::Dataset;
use calumma::data::scenes::Scenes;
use calumma::device::DeviceSpec;
use calumma::pipeline::Pipeline;
use vq_tokenizer::preprocess::{open_image, to_rgb};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let checkpoint = args.next().unwrap_or_else(|| "checkpoints/demo".into());
    let images: Vec<PathBuf> = args.collect();

    let pipeline = Pipeline::open(&checkpoint, &DeviceSpec::best().open()?)?;
    for path in &images {
        let image = to_rgb(open_image(path)?);
        println!("{}: {}", path.display(), pipeline.caption(&image)?);
    }
    if images.is_empty() {
        let scene = Scenes::new("scenes:val?count=1&seed=7".parse()?)?.get(0)?;
        println!("{}: {}", scene.source, pipeline.caption(&scene.images[0])?);
        println!("made as: {}", scene.fields["caption"]);
    }
    Ok(())
}
