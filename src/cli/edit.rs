//! `calumma edit`: a part of an image drawn anew.

use std::path::{Path, PathBuf};

use calumma::eval::metrics::{Seam, psnr_outside, seam};
use calumma::generate::GenerationConfig;
use calumma::pipeline::{EditPlan, EditRequest, EditScore, Edited, PixelMask, Region};
use calumma::{Error, Result};
use clap::{ArgGroup, Args, ValueEnum};
use image::RgbImage;
use serde_json::{Value, json};
use vq_tokenizer::preprocess::open_image;

use super::generate::{made_by, save_image};
use super::images;
use super::sampling::{Drawing, SamplingArgs};
use super::session::{Session, name};

/// Cells by which a mask is widened.
const DILATE: usize = 1;

/// Arguments of `edit`.
#[derive(Args)]
#[command(group(ArgGroup::new("region").required(true).args(["mask", "keep_rows", "extend_down"])))]
pub struct EditArgs {
    /// Checkpoint directory
    checkpoint: PathBuf,
    /// PNG, JPEG or WebP file
    image: PathBuf,
    /// What the whole image is to show; may be ""
    text: String,
    /// Draw what is marked in this image of the same size: white or, if parts of the file are transparent,
    /// whatever is not
    #[arg(long, value_name = "PATH", help_heading = "Region")]
    mask: Option<PathBuf>,
    /// Widen the mask by N cells; a cell is the square of pixels of one code [default: 1]
    #[arg(long, value_name = "N", conflicts_with_all = ["keep_rows", "extend_down"], help_heading = "Region")]
    dilate: Option<usize>,
    /// Keep the first K rows of codes and draw the rest
    #[arg(long, value_name = "K", help_heading = "Region")]
    keep_rows: Option<usize>,
    /// Move the image up by ROWS rows of codes and draw as many below it; the taller image is written as well
    #[arg(long, value_name = "ROWS", help_heading = "Region")]
    extend_down: Option<usize>,
    /// Put the original pixels back outside the drawn cells, mixed within half a cell of them
    #[arg(long)]
    paste: bool,
    /// How to choose among candidates [default: look-ahead if kept codes follow the first drawn one,
    /// otherwise caption]
    #[arg(long, value_enum)]
    score: Option<Score>,
    /// Directory for the images, which are named after the text; nothing in it is overwritten
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Number of results; the seed increases by 1 for each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    num: u16,
    /// Do not store text, seed and settings in the PNG files
    #[arg(long)]
    no_metadata: bool,
    #[command(flatten)]
    sampling: SamplingArgs<Drawing>,
}

/// How to choose among candidates.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Score {
    /// Probability of the kept codes that follow the first drawn one
    LookAhead,
    /// Probability of the text as the image's caption
    Caption,
    /// Both, multiplied
    Sum,
}

impl From<Score> for EditScore {
    fn from(score: Score) -> Self {
        match score {
            Score::LookAhead => Self::LookAhead,
            Score::Caption => Self::Caption,
            Score::Sum => Self::Sum,
        }
    }
}

/// The name of `score` in JSON, as on the command line.
fn score_name(score: EditScore) -> &'static str {
    match score {
        EditScore::LookAhead => "look-ahead",
        EditScore::Caption => "caption",
        EditScore::Sum => "sum",
    }
}

/// Draws the region anew and writes one PNG per result, and one of each taller image.
///
/// # Errors
/// Those of images, checkpoint, settings and output.
pub fn run(args: &EditArgs, session: &Session) -> Result<()> {
    let image = images::open(&args.image)?;
    let region = region(args, &image)?;
    let pipeline = args.sampling.open(&args.checkpoint, session)?;
    let request = EditRequest {
        image,
        text: args.text.clone(),
        region,
        count: args.num.into(),
        score: args.score.map(EditScore::from),
        config: args.sampling.config(&pipeline, session),
    };
    let plan = pipeline.plan_edit(&request)?;
    let reference = match session.json() {
        true => {
            let decoded = pipeline.drawing_vq()?.decode(std::slice::from_ref(&plan.source))?;
            decoded.first().map(|image| plan.moved(image))
        }
        false => None,
    };
    let edits = pipeline.edit_as_planned(&request, &plan)?;
    for (seed, edited) in (0..).map(|i| request.config.seed.wrapping_add(i)).zip(edits) {
        let config = GenerationConfig { seed, ..request.config.clone() };
        let score = score_name(plan.score(request.score));
        let made_by = (!args.no_metadata).then(|| {
            let by = made_by("edit", &args.text, &config, &pipeline, session);
            described(by, args, score)
        });
        let image = if args.paste { &plan.paste(&edited.image) } else { &edited.image };
        let path = save_image(&args.out, (&args.text, seed), image, made_by.as_ref())?;
        let tall = match pipeline.extended(&plan, &edited, args.paste)? {
            Some(tall) => Some(save_tall(args, seed, &tall, made_by.as_ref())?),
            None => None,
        };
        for path in [Some(&path), tall.as_ref()].into_iter().flatten() {
            session.line(format_args!("{}: {}", path.display(), args.text))?;
        }
        if let Some(reference) = &reference {
            let mut object = measured(&plan, &edited, reference)?;
            object["prompt"] = json!(args.text);
            object["path"] = json!(name(&path));
            object["tall"] = json!(tall.as_deref().map(name));
            object["seed"] = json!(seed);
            object["score"] = json!(score);
            session.object(&object)?;
        }
    }
    Ok(())
}

/// What is drawn anew in `image`.
fn region(args: &EditArgs, image: &RgbImage) -> Result<Region> {
    match (&args.mask, args.keep_rows, args.extend_down) {
        (Some(path), ..) => {
            let mask = PixelMask::from_image(&open_image(path)?);
            mask.check_size(image.dimensions()).map_err(Error::in_file(path))?;
            Ok(Region::Mask { mask, dilate: args.dilate.unwrap_or(DILATE) })
        }
        (_, Some(rows), _) => Ok(Region::KeepRows(rows)),
        (.., rows) => Ok(Region::ExtendDown(rows.expect("clap requires one of the three"))),
    }
}

/// `made_by` with what is special to an edit.
fn described(mut made_by: Value, args: &EditArgs, score: &str) -> Value {
    made_by["images"] = json!([name(&args.image)]);
    made_by["score"] = json!(score);
    made_by["paste"] = json!(args.paste);
    if let Some(mask) = &args.mask {
        made_by["mask"] = json!(name(mask));
        made_by["dilate"] = json!(args.dilate.unwrap_or(DILATE));
    }
    if let Some(rows) = args.keep_rows {
        made_by["keep_rows"] = json!(rows);
    }
    if let Some(rows) = args.extend_down {
        made_by["extend_down"] = json!(rows);
    }
    made_by
}

fn save_tall(
    args: &EditArgs,
    seed: u64,
    tall: &RgbImage,
    made_by: Option<&Value>,
) -> Result<PathBuf> {
    let dir = if args.out == Path::new(".") { Path::new("") } else { &args.out };
    images::save_new(dir, &format!("{}-{seed}-tall", images::slug(&args.text)), tall, made_by)
}

/// Candidates, and measures of the image before any original pixels are pasted. `reference` is what the
/// tokenizer makes of the original.
fn measured(plan: &EditPlan, edited: &Edited, reference: &RgbImage) -> Result<Value> {
    let hole = plan.hole.pixels(plan.side());
    let psnr = psnr_outside(&edited.image, reference, &hole)?;
    // Below an extended image the reference has nothing.
    let seam = match plan.extends() {
        true => None,
        false => seam(&edited.image, reference, &hole)?,
    };
    let pairs = plan.known.iter().zip(&edited.codes.ids);
    let kept: Vec<bool> = pairs.filter_map(|(known, code)| Some(known.as_ref()? == code)).collect();
    let equal = kept.iter().filter(|equal| **equal).count();
    Ok(json!({
        "codes_drawn": plan.hole.count(),
        "codes_kept": kept.len(),
        "codes_kept_equal": equal,
        "psnr_outside": psnr.filter(|psnr| psnr.is_finite()),
        "seam": seam.map(|seam| seam.edited),
        "seam_reference": seam.map(|seam| seam.reference),
        "seam_ratio": seam.as_ref().and_then(Seam::ratio),
        "best": edited.best,
        "candidates": edited.candidates.iter().map(|candidate| {
            json!({ "seed": candidate.seed, "score": candidate.score })
        }).collect::<Vec<_>>(),
    }))
}
