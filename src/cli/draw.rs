//! `calumma draw`: images drawn from texts.

use std::path::PathBuf;

use calumma::Result;
use clap::Args;
use serde_json::json;

use super::generate::{made_by, save_image};
use super::sampling::{Drawing, SamplingArgs};
use super::session::{Session, name};

/// Images per batch.
const BATCH: usize = 8;

/// Arguments of `draw`.
#[derive(Args)]
pub struct DrawArgs {
    /// Checkpoint directory
    checkpoint: PathBuf,
    /// Text to draw; one image each
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<String>,
    /// Directory for the images, which are named after the texts; nothing in it is overwritten
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Width to height of the images, as 16:9, with about as many pixels as usual; for checkpoints whose images may have
    /// any size
    #[arg(long, value_name = "W:H", value_parser = aspect)]
    aspect: Option<[usize; 2]>,
    /// Do not store prompt, seed and settings in the PNG files
    #[arg(long)]
    no_metadata: bool,
    #[command(flatten)]
    sampling: SamplingArgs<Drawing>,
}

/// Draws every text and writes one PNG each.
///
/// # Errors
/// Those of checkpoint, settings and output.
pub fn run(args: &DrawArgs, session: &Session) -> Result<()> {
    let pipeline = args.sampling.open(&args.checkpoint, session)?;
    let mut config = args.sampling.config(&pipeline, session);
    config.aspect = args.aspect.or(config.aspect);
    for texts in args.texts.chunks(BATCH) {
        let images = pipeline.draw_batch(texts, &config)?;
        for (text, image) in texts.iter().zip(&images) {
            let made_by =
                (!args.no_metadata).then(|| made_by("draw", text, &config, &pipeline, session));
            let path = save_image(&args.out, (text, config.seed), image, made_by.as_ref())?;
            session.line(format_args!("{}: {text}", path.display()))?;
            session.object(&json!({ "prompt": text, "path": name(&path), "seed": config.seed }))?;
            config.seed = config.seed.wrapping_add(1);
        }
    }
    Ok(())
}

/// An aspect ratio as it is written, `16:9`.
fn aspect(text: &str) -> std::result::Result<[usize; 2], String> {
    let sides = text.split_once(':').and_then(|(width, height)| {
        Some([width.trim().parse().ok()?, height.trim().parse().ok()?])
    });
    sides.ok_or_else(|| "allowed: WIDTH:HEIGHT, as 16:9".to_owned())
}
