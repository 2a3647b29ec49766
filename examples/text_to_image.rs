//! Draws an image from a text.
//!
//! ```text
//! cargo run --release --example text_to_image -- checkpoints/demo "a red circle above a blue star"
//! ```
//!
//! The image is written to `image.png` or to the path given as third argument. The sampling
//! settings are those of the checkpoint; only the seed is fixed here, so that the same command
//! draws the same image.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::path::PathBuf;

use anyhow::Context;
use calumma::device::DeviceSpec;
use calumma::generate::GenerationConfig;
use calumma::pipeline::Pipeline;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let usage = "arguments: CHECKPOINT TEXT [IMAGE.png]";
    let checkpoint = PathBuf::from(args.next().context(usage)?);
    let text = args.next().context(usage)?;
    let path = args.next().unwrap_or_else(|| "image.png".to_owned());

    let pipeline = Pipeline::open(&checkpoint, &DeviceSpec::best().open()?)?;
    let config = GenerationConfig { seed: 1, ..pipeline.generation().clone() };
    for image in pipeline.draw_batch(&[&text], &config)? {
        image.save(&path).with_context(|| path.clone())?;
        println!("{path}: {text}, {}x{} pixels", image.width(), image.height());
    }
    Ok(())
}
