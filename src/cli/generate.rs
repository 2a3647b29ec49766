//! `calumma generate`: text and images generated from a prompt.

use std::path::{Path, PathBuf};

use calumma::Result;
use calumma::generate::{GenerationConfig, GenerationMode, Request};
use calumma::pipeline::{Pipeline, PipelineEvent};
use calumma::tokenize::Segment;
use clap::{Args, ValueEnum};
use image::RgbImage;
use serde_json::{Value, json};

use super::images;
use super::sampling::{Mixed, SamplingArgs, TextArgs, end_name};
use super::session::{Session, name};

/// Arguments of `generate`.
#[derive(Args)]
pub struct GenerateArgs {
    /// Checkpoint directory
    checkpoint: PathBuf,
    /// Text to continue; <image> marks the place of an --image
    #[arg(long, short, value_name = "TEXT")]
    prompt: String,
    /// Image of the prompt; repeat in order. Images without an <image> mark precede the text
    #[arg(long, value_name = "PATH")]
    image: Vec<PathBuf>,
    /// What to generate [default: text if it must follow a grammar, else what the checkpoint or --preset says]
    #[arg(long, value_enum)]
    modality: Option<Modality>,
    /// Directory for the images, which are named after the prompt; nothing in it is overwritten
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Number of continuations; the seed increases by 1 for each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    num: u64,
    /// Do not store prompt, seed and settings in the PNG files
    #[arg(long)]
    no_metadata: bool,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    sampling: SamplingArgs<Mixed>,
}

/// What to generate.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Modality {
    /// Text and images, as the model decides
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

/// The content of an image's text chunk: everything needed to reproduce the image.
pub fn made_by(
    verb: &str,
    prompt: &str,
    config: &GenerationConfig,
    pipeline: &Pipeline,
    session: &Session,
) -> Value {
    // Through text, since a direct conversion turns an f32 of 0.7 into 0.699999988.
    let settings = serde_json::to_string(config).and_then(|text| serde_json::from_str(&text));
    // Only inexact guesses change what is drawn.
    let window = (config.guess_slack > 0.0).then(|| pipeline.window().to_string());
    json!({
        "program": format!("calumma {}", env!("CARGO_PKG_VERSION")),
        "verb": verb,
        "prompt": prompt,
        "seed": config.seed,
        "device": session.device_name(),
        "precision": session.precision(),
        "settings": settings.unwrap_or(Value::Null),
        "window": window,
        "checkpoint": pipeline.digest(),
    })
}

/// Continues the prompt.
///
/// # Errors
/// Those of images, checkpoint, settings and output.
pub fn run(args: &GenerateArgs, session: &Session) -> Result<()> {
    let grammar = args.text.grammar()?;
    let prompt = Segment::from_prompt(&args.prompt, images::open_all(&args.image)?)?;
    let pipeline = args.sampling.open(&args.checkpoint, session)?;
    let mut config = args.text.over(args.sampling.config(&pipeline, session));
    config.mode = match args.modality {
        Some(modality) => modality.into(),
        None if grammar.is_some() => GenerationMode::TextOnly,
        None => config.mode,
    };
    let prompt = pipeline.encode_segments(&prompt)?;
    let constraint = grammar.map(|grammar| pipeline.constraint(&grammar)).transpose()?;
    let request = Request { constraint, ..pipeline.request(&prompt, &config)? };
    for index in 0..args.num {
        let seed = config.seed.wrapping_add(index);
        if args.num > 1 {
            session.note(format_args!("seed {seed}"));
        }
        let mut request = request.clone();
        request.config.seed = seed;
        continue_once(args, request, &pipeline, session)?;
    }
    Ok(())
}

/// Generates one continuation: prints text as it is generated, writes images to files.
fn continue_once(
    args: &GenerateArgs,
    request: Request,
    pipeline: &Pipeline,
    session: &Session,
) -> Result<()> {
    let config = request.config.clone();
    let made_by = (!args.no_metadata).then(|| {
        let mut value = made_by("generate", &args.prompt, &config, pipeline, session);
        value["images"] = args.image.iter().map(|path| name(path)).collect();
        value
    });
    let mut segments: Vec<Value> = Vec::new();
    let mut text = String::new();
    let mut end = None;
    pipeline.run(request, |event| match event {
        PipelineEvent::Text(chunk) => {
            text.push_str(&chunk);
            session.text(chunk)
        }
        PipelineEvent::Image(image) => {
            push_text(&mut segments, &mut text);
            let origin = (args.prompt.as_str(), config.seed);
            let path = save_image(&args.out, origin, &image, made_by.as_ref())?;
            segments.push(json!({ "type": "image", "path": name(&path) }));
            session.text(format_args!("[image {}]", path.display()))
        }
        PipelineEvent::End(reason) => {
            end = Some(end_name(reason));
            Ok(())
        }
        PipelineEvent::ImageStart | PipelineEvent::ImageProgress { .. } => Ok(()),
    })?;
    push_text(&mut segments, &mut text);
    session.text("\n")?;
    session.object(&json!({
        "prompt": args.prompt,
        "seed": config.seed,
        "segments": segments,
        "end": end,
    }))
}

/// Moves `text` into a segment, unless it is empty.
pub fn push_text(segments: &mut Vec<Value>, text: &mut String) {
    if !text.is_empty() {
        segments.push(json!({ "type": "text", "text": std::mem::take(text) }));
    }
}

/// Writes `image`, drawn from `prompt` with `seed`, as a new file in the directory `dir`; returns its path.
///
/// # Errors
/// As [`images::save_new`].
pub fn save_image(
    dir: &Path,
    (prompt, seed): (&str, u64),
    image: &RgbImage,
    made_by: Option<&Value>,
) -> Result<PathBuf> {
    let dir = if dir == Path::new(".") { Path::new("") } else { dir };
    images::save_new(dir, &format!("{}-{seed}", images::slug(prompt)), image, made_by)
}
