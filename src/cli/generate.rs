//! `calumma generate`: one prompt to text and images as the model likes.

use std::path::{Path, PathBuf};

use calumma::Result;
use calumma::generate::{EndReason, GenerationConfig, GenerationMode};
use calumma::pipeline::{Pipeline, PipelineEvent};
use calumma::tokenize::Segment;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::sampling::SamplingArgs;
use super::session::{Session, name};
use super::{images, open};

/// Prompt, images and settings.
#[derive(Args)]
pub struct GenerateArgs {
    /// A checkpoint's directory
    checkpoint: PathBuf,
    /// The text to continue; <image> marks where an image goes
    #[arg(long, short, value_name = "TEXT")]
    prompt: String,
    /// An image of the prompt, in order; those without a mark stand before the text
    #[arg(long, value_name = "PATH")]
    image: Vec<PathBuf>,
    /// What may be made
    #[arg(long, value_enum, default_value_t = Modality::Auto)]
    modality: Modality,
    /// Where images go
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// How many continuations; each has a seed of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    num: u64,
    /// Leave prompt, seed and settings out of the images
    #[arg(long)]
    no_metadata: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// What may be made.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Modality {
    /// Text and images as the model likes
    Auto,
    /// Text only
    Text,
    /// Exactly one image
    Image,
}

impl From<Modality> for GenerationMode {
    fn from(modality: Modality) -> Self {
        match modality {
            Modality::Auto => Self::Auto,
            Modality::Text => Self::TextOnly,
            Modality::Image => Self::ImageOnly,
        }
    }
}

/// What an image's text chunk says: all that is needed to make it again.
pub fn made_by(
    verb: &str,
    prompt: &str,
    config: &GenerationConfig,
    pipeline: &Pipeline,
    session: &Session,
) -> Value {
    // Through text, which keeps an f32 of 0.7 as 0.7; as a value it would become 0.699999988.
    let settings = serde_json::to_string(config).and_then(|text| serde_json::from_str(&text));
    json!({
        "program": format!("calumma {}", env!("CARGO_PKG_VERSION")),
        "verb": verb,
        "prompt": prompt,
        "seed": config.seed,
        "device": session.device_name(),
        "precision": session.precision(),
        "settings": settings.unwrap_or(Value::Null),
        "checkpoint": pipeline.digest(),
    })
}

/// Continues the prompt.
///
/// # Errors
/// Those of images, checkpoint, settings and output.
pub fn run(args: &GenerateArgs, session: &Session) -> Result<()> {
    let prompt = Segment::from_prompt(&args.prompt, images::open_all(&args.image)?)?;
    let pipeline = open::pipeline(&args.checkpoint, session)?;
    let mut config = args.sampling.over_checkpoint(&pipeline, session);
    config.mode = args.modality.into();
    let first = config.seed;
    for index in 0..args.num {
        config.seed = first.wrapping_add(index);
        if args.num > 1 {
            session.note(format_args!("seed {}", config.seed));
        }
        continue_once(args, &prompt, &config, &pipeline, session)?;
    }
    Ok(())
}

/// One continuation: text to standard output as it comes, images to files.
fn continue_once(
    args: &GenerateArgs,
    prompt: &[Segment],
    config: &GenerationConfig,
    pipeline: &Pipeline,
    session: &Session,
) -> Result<()> {
    let made_by = (!args.no_metadata).then(|| {
        let mut value = made_by("generate", &args.prompt, config, pipeline, session);
        value["images"] = args.image.iter().map(|path| name(path)).collect();
        value
    });
    let mut told: Vec<Value> = Vec::new();
    let mut text = String::new();
    let mut num_images = 0;
    let mut end = None;
    pipeline.generate(prompt, config, |event| match event {
        PipelineEvent::Text(chunk) => {
            text.push_str(&chunk);
            session.text(chunk)
        }
        PipelineEvent::Image(image) => {
            push_text(&mut told, &mut text);
            let path = image_path(&args.out, &args.prompt, config.seed, num_images);
            num_images += 1;
            images::save(&path, &image, made_by.as_ref())?;
            told.push(json!({ "type": "image", "path": name(&path) }));
            session.text(format_args!("[image {}]", path.display()))
        }
        PipelineEvent::End(reason) => {
            end = Some(end_name(reason));
            Ok(())
        }
        PipelineEvent::ImageStart | PipelineEvent::ImageProgress { .. } => Ok(()),
    })?;
    push_text(&mut told, &mut text);
    session.text("\n")?;
    session.object(&json!({
        "prompt": args.prompt,
        "seed": config.seed,
        "segments": told,
        "end": end,
    }))
}

/// Why a continuation ended, as `--json` says it.
fn end_name(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Stop(_) => "stop",
        EndReason::MaxNewTokens => "max_tokens",
        EndReason::Context => "context",
        EndReason::ImageComplete => "image",
    }
}

fn push_text(told: &mut Vec<Value>, text: &mut String) {
    if !text.is_empty() {
        told.push(json!({ "type": "text", "text": std::mem::take(text) }));
    }
}

/// Where image `index` of a continuation goes.
pub fn image_path(dir: &Path, prompt: &str, seed: u64, index: usize) -> PathBuf {
    let again = if index > 0 { format!("-{index}") } else { String::new() };
    let name = format!("{}-{seed}{again}.png", images::slug(prompt));
    if dir == Path::new(".") { PathBuf::from(name) } else { dir.join(name) }
}
