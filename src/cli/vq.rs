//! `calumma vq`: image tokenizers.

use std::path::{Path, PathBuf};

use calumma::lock::DirectoryLock;
use calumma::recipe::read_recipe;
use calumma::train::{ImageTask, VqRecipe};
use calumma::{Error, Result};
use clap::{Args, Subcommand};
use image::{RgbImage, imageops};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use vq_tokenizer::metrics::{psnr, ssim};
use vq_tokenizer::{Codes, Tiles, VqTokenizer};

use super::eval::ReconstructionArgs;
use super::session::{Session, name};
use super::training::train_task;
use super::{images, open, sizes};

/// Images per batch.
const BATCH: usize = 32;

/// Subcommands of `calumma vq`.
#[derive(Subcommand)]
pub enum VqVerb {
    /// Train an image tokenizer as a recipe says; resumes if interrupted
    Train(TrainArgs),
    /// Evaluate an image tokenizer on a data set: PSNR, SSIM, MS-SSIM, codebook use
    Eval(ReconstructionArgs),
    /// Print the codes of images
    Encode(EncodeArgs),
    /// Decode codes to images
    Decode(DecodeArgs),
    /// Encode and decode images, and measure the loss: PSNR, SSIM
    Reconstruct(ReconstructArgs),
}

/// Codes per side above which an image is decoded in tiles.
const LARGE: usize = 128;

/// Arguments of `vq train`.
#[derive(Args)]
pub struct TrainArgs {
    /// TOML recipe with the sections run, model, data and batch
    recipe: PathBuf,
    /// Override a recipe value, such as optimizer.lr=3e-4; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Arguments of `vq encode`.
#[derive(Args)]
pub struct EncodeArgs {
    /// Directory of a checkpoint or an image tokenizer
    checkpoint: PathBuf,
    /// PNG, JPEG or WebP files
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    tiles: TileArgs,
}

/// How images are resized and tiled.
#[derive(Args)]
pub struct TileArgs {
    /// Keep the size of each image instead of resizing and cropping it; compute in tiles of PIXELS [512
    /// if no value is given]
    #[arg(long, value_name = "PIXELS", num_args = 0..=1, require_equals = true, default_missing_value = "512")]
    own_size: Option<usize>,
}

impl TileArgs {
    fn tiles(&self) -> Option<Tiles> {
        self.own_size.map(|side| Tiles { side, margin: Tiles::default().margin.min(side / 8) })
    }

    fn encode(&self, vq: &VqTokenizer, images: &[RgbImage]) -> Result<Vec<Codes>> {
        let Some(tiles) = self.tiles() else { return Ok(vq.encode(images)?) };
        images.iter().map(|image| Ok(vq.encode_tiled(image, tiles)?)).collect()
    }

    /// Pairs of the preprocessed image and its reconstruction.
    fn reconstruct(
        &self,
        vq: &VqTokenizer,
        images: &[RgbImage],
    ) -> Result<Vec<(RgbImage, RgbImage)>> {
        let codes = self.encode(vq, images)?;
        let Some(tiles) = self.tiles() else {
            let seen = images.iter().map(|image| vq.preprocessor().resize(image));
            return Ok(seen.zip(vq.decode(&codes)?).collect());
        };
        let pair = |(image, codes): (&RgbImage, Codes)| {
            let decoded = vq.decode_tiled(&codes, tiles)?;
            let (width, height) = decoded.dimensions();
            let (x, y) = ((image.width() - width) / 2, (image.height() - height) / 2);
            Ok((imageops::crop_imm(image, x, y, width, height).to_image(), decoded))
        };
        images.iter().zip(codes).map(pair).collect()
    }
}

/// Arguments of `vq decode`.
#[derive(Args)]
pub struct DecodeArgs {
    /// Directory of a checkpoint or an image tokenizer
    checkpoint: PathBuf,
    /// JSON file of objects with height, width and codes, as `vq encode --json` prints them
    codes: PathBuf,
    /// PNG to write or replace; further images get a number that is free
    #[arg(long, short, value_name = "PATH")]
    out: PathBuf,
}

/// Arguments of `vq reconstruct`.
#[derive(Args)]
pub struct ReconstructArgs {
    /// Directory of a checkpoint or an image tokenizer
    checkpoint: PathBuf,
    /// PNG, JPEG or WebP files
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Also write the reconstructions as PNG files to this directory; nothing in it is overwritten
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    tiles: TileArgs,
}

/// Runs `verb`.
///
/// # Errors
/// Those of recipe, checkpoint, images and device.
pub fn run(verb: VqVerb, session: &Session) -> Result<()> {
    match verb {
        VqVerb::Train(args) => train(&args, session),
        VqVerb::Eval(args) => super::eval::reconstruction(&args, session),
        VqVerb::Encode(args) => encode(&args, session),
        VqVerb::Decode(args) => decode(&args, session),
        VqVerb::Reconstruct(args) => reconstruct(&args, session),
    }
}

fn train(args: &TrainArgs, session: &Session) -> Result<()> {
    let mut recipe: VqRecipe = read_recipe(&args.recipe, &args.set)?;
    if let Some(seed) = session.seed() {
        recipe.run.seed = seed;
    }
    let (device, precision) = session.device_and_precision("training an image tokenizer")?;
    let lock = session.hold(DirectoryLock::alone(&recipe.run.path())?);
    let mut task = ImageTask::new(recipe.clone(), &device, precision)?;
    let parameters = sizes::parameters(task.model()).values().sum::<usize>();
    let parameters = sizes::count(parameters as f64);
    session.note(format_args!("{parameters} parameters, activations in {precision}"));
    train_task(&mut task, &recipe.plan(), &recipe, &lock, session)
}

fn tokenizer(dir: &Path, session: &Session) -> Result<VqTokenizer> {
    open::image_tokenizer(dir, &session.device_in_f32("the image tokenizer")?)
}

fn encode(args: &EncodeArgs, session: &Session) -> Result<()> {
    let images = images::open_all(&args.images)?;
    let tokenizer = tokenizer(&args.checkpoint, session)?;
    for (paths, images) in args.images.chunks(BATCH).zip(images.chunks(BATCH)) {
        for (path, codes) in paths.iter().zip(args.tiles.encode(&tokenizer, images)?) {
            let Codes { ids, height, width } = &codes;
            session.line(format_args!("{}: {height}x{width} codes", path.display()))?;
            for row in ids.chunks((*width).max(1)) {
                let row: Vec<String> = row.iter().map(|code| format!("{code:>5}")).collect();
                session.line(row.concat())?;
            }
            session.object(
                &json!({ "path": name(path), "height": height, "width": width, "codes": ids }),
            )?;
        }
    }
    Ok(())
}

/// An object with codes, or a list of them.
struct OneOrMany(Vec<Codes>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrManyVisitor)
    }
}

struct OneOrManyVisitor;

impl<'de> Visitor<'de> for OneOrManyVisitor {
    type Value = OneOrMany;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object with codes, height and width, or a list of them")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<OneOrMany, A::Error> {
        Codes::deserialize(MapAccessDeserializer::new(map)).map(|codes| OneOrMany(vec![codes]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> std::result::Result<OneOrMany, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(OneOrMany)
    }
}

/// The image tokenizer in `dir`; an error if it has no decoder.
fn tokenizer_with_decoder(dir: &Path, session: &Session) -> Result<VqTokenizer> {
    let tokenizer = tokenizer(dir, session)?;
    match tokenizer.has_decoder() {
        true => Ok(tokenizer),
        false => Err(Error::in_file(dir)(Error::NoImageDecoder)),
    }
}

fn decode(args: &DecodeArgs, session: &Session) -> Result<()> {
    let text = std::fs::read_to_string(&args.codes).map_err(Error::io(&args.codes))?;
    let text = text.trim_start_matches('\u{FEFF}');
    let codes: Vec<Codes> = serde_json::Deserializer::from_str(text)
        .into_iter::<OneOrMany>()
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(Error::because("expected objects with height, width and codes"))
        .map_err(Error::in_file(&args.codes))?
        .into_iter()
        .flat_map(|OneOrMany(codes)| codes)
        .collect();
    if codes.is_empty() {
        return Err(Error::file(&args.codes, "contains no codes"));
    }
    let tokenizer = tokenizer_with_decoder(&args.checkpoint, session)?;
    let decode = |codes: &Codes| match codes.height.max(codes.width) > LARGE {
        true => tokenizer.decode_tiled(codes, Tiles::default()),
        false => Ok(tokenizer.decode(std::slice::from_ref(codes))?.remove(0)),
    };
    let images = codes.iter().map(decode).collect::<std::result::Result<Vec<_>, _>>();
    let images = images.map_err(Error::in_file(&args.codes))?;
    for (index, image) in images.iter().enumerate() {
        let path = if index == 0 {
            images::save(&args.out, image, None)?;
            args.out.clone()
        } else {
            let dir = args.out.parent().unwrap_or(Path::new(""));
            images::save_new(dir, &stem(&args.out), image, None)?
        };
        let (width, height) = image.dimensions();
        session.line(format_args!("{}: {width}x{height}", path.display()))?;
        session.object(&json!({ "path": name(&path), "width": width, "height": height }))?;
    }
    Ok(())
}

fn reconstruct(args: &ReconstructArgs, session: &Session) -> Result<()> {
    let images = images::open_all(&args.images)?;
    let tokenizer = tokenizer_with_decoder(&args.checkpoint, session)?;
    let (mut sum_psnr, mut sum_ssim) = (0.0, 0.0);
    for (paths, images) in args.images.chunks(BATCH).zip(images.chunks(BATCH)) {
        let pairs = args.tiles.reconstruct(&tokenizer, images)?;
        for (path, (seen, decoded)) in paths.iter().zip(&pairs) {
            let (psnr, ssim) = (psnr(seen, decoded)?, ssim(seen, decoded)?);
            sum_psnr += psnr;
            sum_ssim += ssim;
            let save = |dir: &PathBuf| images::save_new(dir, &stem(path), decoded, None);
            let out = args.out.as_ref().map(save).transpose()?;
            session.line(format_args!("{}: PSNR {psnr:.2} dB, SSIM {ssim:.4}", path.display()))?;
            session.object(&json!({ "path": name(path), "out": out.as_deref().map(name), "psnr": psnr, "ssim": ssim }))?;
        }
    }
    let count = args.images.len();
    let (psnr, ssim) = (sum_psnr / count as f64, sum_ssim / count as f64);
    if count > 1 {
        session.line(format_args!("mean of {count}: PSNR {psnr:.2} dB, SSIM {ssim:.4}"))?;
    }
    session.object(&json!({ "mean": { "psnr": psnr, "ssim": ssim, "count": count } }))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
