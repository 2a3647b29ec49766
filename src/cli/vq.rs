//! `calumma vq`: image tokenizers.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use calumma::recipe::read_recipe;
use calumma::train::{ImageTask, VqRecipe};
use calumma::{Error, Result};
use clap::{Args, Subcommand};
use image::{RgbImage, imageops};
use serde::Deserialize;
use serde_json::json;
use vq_tokenizer::metrics::{psnr, ssim};
use vq_tokenizer::{Codes, Tiles, VqTokenizer};

use super::eval::ReconstructionArgs;
use super::session::{Session, name};
use super::train::train_task;
use super::{images, open, sizes};

/// Images encoded at one time.
const BATCH: usize = 32;

/// What to do with image tokenizers.
#[derive(Subcommand)]
pub enum VqVerb {
    /// Train an image tokenizer by a recipe; a stopped run goes on where it was
    Train(TrainArgs),
    /// Score an image tokenizer on a data set: PSNR, SSIM, MS-SSIM, use of the codebook
    Eval(ReconstructionArgs),
    /// Print the codes of images
    Encode(EncodeArgs),
    /// Turn codes back into images
    Decode(DecodeArgs),
    /// Encode and decode images, and say how close the result is
    Reconstruct(ReconstructArgs),
}

/// Codes along a side above which an image is decoded in tiles.
const LARGE: usize = 128;

/// A recipe and changes to it.
#[derive(Args)]
pub struct TrainArgs {
    /// A TOML recipe with the sections run, model, data, batch
    recipe: PathBuf,
    /// Change a value of the recipe, such as optimizer.lr=3e-4
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Images to encode.
#[derive(Args)]
pub struct EncodeArgs {
    /// A checkpoint's or an image tokenizer's directory
    checkpoint: PathBuf,
    /// PNG, JPEG or WebP files
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    tiles: TileArgs,
}

/// Whether images keep their size.
#[derive(Args)]
pub struct TileArgs {
    /// Keep each image's own size instead of resizing and cropping it, and compute it in tiles of so
    /// many pixels
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

    /// Each image as it is seen, and what is left of it.
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

/// Codes to decode.
#[derive(Args)]
pub struct DecodeArgs {
    /// A checkpoint's or an image tokenizer's directory
    checkpoint: PathBuf,
    /// One or more objects with height, width and codes, as encode --json prints them
    codes: PathBuf,
    /// The PNG to write; of several images, all but the first get a number
    #[arg(long, short, value_name = "PATH")]
    out: PathBuf,
}

/// Images to reconstruct.
#[derive(Args)]
pub struct ReconstructArgs {
    /// A checkpoint's or an image tokenizer's directory
    checkpoint: PathBuf,
    /// PNG, JPEG or WebP files
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Where reconstructions go as PNG
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    tiles: TileArgs,
}

/// Does `verb`.
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
    let (device, precision) = session.device_that_computes("training an image tokenizer")?;
    let mut task = ImageTask::new(recipe.clone(), &device, precision)?;
    let parameters = sizes::parameters(task.model()).values().sum::<usize>();
    let parameters = sizes::count(parameters as f64);
    session.note(format_args!("{parameters} parameters, activations in {precision}"));
    train_task(&mut task, &recipe.plan(), &recipe, session)
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
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Codes),
    Many(Vec<Codes>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<Codes> {
        match self {
            Self::One(codes) => vec![codes],
            Self::Many(codes) => codes,
        }
    }
}

/// A tokenizer that has its decoder.
fn drawing_tokenizer(dir: &Path, session: &Session) -> Result<VqTokenizer> {
    let tokenizer = tokenizer(dir, session)?;
    match tokenizer.has_decoder() {
        true => Ok(tokenizer),
        false => Err(Error::in_file(dir)(Error::NoImageDecoder)),
    }
}

fn decode(args: &DecodeArgs, session: &Session) -> Result<()> {
    let text = std::fs::read_to_string(&args.codes).map_err(Error::io(&args.codes))?;
    let no_codes = |message: String| Error::file(&args.codes, message);
    let codes: Vec<Codes> = serde_json::Deserializer::from_str(&text)
        .into_iter::<OneOrMany>()
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|_| no_codes("expected objects with height, width and codes".to_owned()))?
        .into_iter()
        .flat_map(OneOrMany::into_vec)
        .collect();
    if codes.is_empty() {
        return Err(no_codes("holds no codes".to_owned()));
    }
    let tokenizer = drawing_tokenizer(&args.checkpoint, session)?;
    let decode = |codes: &Codes| match codes.height.max(codes.width) > LARGE {
        true => tokenizer.decode_tiled(codes, Tiles::default()),
        false => Ok(tokenizer.decode(std::slice::from_ref(codes))?.remove(0)),
    };
    let images = codes.iter().map(decode).collect::<std::result::Result<Vec<_>, _>>();
    let images = images.map_err(|e| no_codes(e.to_string()))?;
    for (index, image) in images.iter().enumerate() {
        let path = match index {
            0 => args.out.clone(),
            _ => args.out.with_file_name(format!("{}-{index}.png", stem(&args.out))),
        };
        images::save(&path, image, None)?;
        let (width, height) = image.dimensions();
        session.line(format_args!("{}: {width}x{height}", path.display()))?;
        session.object(&json!({ "path": name(&path), "width": width, "height": height }))?;
    }
    Ok(())
}

fn reconstruct(args: &ReconstructArgs, session: &Session) -> Result<()> {
    let images = images::open_all(&args.images)?;
    let tokenizer = drawing_tokenizer(&args.checkpoint, session)?;
    let (mut sum_psnr, mut sum_ssim) = (0.0, 0.0);
    let out = args.out.as_deref().map(|dir| Outputs::new(dir, &args.images));
    let mut out = out.transpose()?;
    for (paths, images) in args.images.chunks(BATCH).zip(images.chunks(BATCH)) {
        let pairs = args.tiles.reconstruct(&tokenizer, images)?;
        for (path, (seen, decoded)) in paths.iter().zip(&pairs) {
            let (psnr, ssim) = (psnr(seen, decoded)?, ssim(seen, decoded)?);
            sum_psnr += psnr;
            sum_ssim += ssim;
            let out = out.as_mut().map(|out| out.path(path));
            if let Some(out) = &out {
                images::save(out, decoded, None)?;
            }
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

/// Where reconstructions go: every image has a name of its own, and none that is an input's.
struct Outputs<'a> {
    dir: &'a Path,
    taken: HashSet<PathBuf>,
}

impl<'a> Outputs<'a> {
    fn new(dir: &'a Path, inputs: &[PathBuf]) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let whole = |path: &PathBuf| path.canonicalize().map_err(Error::io(path));
        Ok(Self { dir, taken: inputs.iter().map(whole).collect::<Result<_>>()? })
    }

    fn path(&mut self, input: &Path) -> PathBuf {
        let stem = stem(input);
        let names = (0..).map(|number| match number {
            0 => format!("{stem}.png"),
            _ => format!("{stem}-{number}.png"),
        });
        let whole = self.dir.canonicalize().unwrap_or_else(|_| self.dir.to_owned());
        let mut free = names.filter(|name| self.taken.insert(whole.join(name)));
        self.dir.join(free.next().expect("numbers never end"))
    }
}
