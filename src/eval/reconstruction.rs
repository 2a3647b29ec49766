//! What an image tokenizer loses: images against what is left after codes and back, how much of the
//! codebook the data set uses, and on scenes whether the detector still reads the objects.

use std::path::Path;

use image::RgbImage;
use serde_json::json;
use vq_tokenizer::metrics::{CodebookUsage, ms_ssim, psnr, ssim};
use vq_tokenizer::{Codes, VqTokenizer};

use super::report::{Report, SampleRecord};
use super::score::Score;
use super::{Extent, each_batch, number, one_each};
use crate::data::scenes::{Detector, Object, Scene};
use crate::data::{self, BadSample, Dataset, Fields, ImageDirectory, Sample};
use crate::error::{Error, Result};
use crate::sheet::{Cell, Tone};

/// Equal images have an infinite PSNR; a mean needs a number.
pub const HIGHEST_PSNR: f64 = 100.0;

/// Pairs of images on the sheet.
const SHOWN: usize = 32;

/// Opens the data set that `spec` names; a directory without `metadata.jsonl` is taken as a folder
/// of images.
///
/// # Errors
/// As [`data::open`] and [`ImageDirectory::open`].
pub fn open(spec: &str) -> Result<Box<dyn Dataset>> {
    let dir = Path::new(spec);
    if dir.is_dir() && !dir.join("metadata.jsonl").exists() {
        return Ok(Box::new(ImageDirectory::open(dir)?));
    }
    data::open(spec)
}

/// An image before and after.
#[derive(Clone, Debug, PartialEq)]
pub struct Reconstruction {
    /// The image at the size at which it is encoded.
    pub original: RgbImage,
    /// Its codes.
    pub codes: Codes,
    /// The image that the codes give.
    pub decoded: RgbImage,
}

/// Encodes and decodes `images` by `vq`.
///
/// # Errors
/// Those of [`VqTokenizer::encode`] and [`VqTokenizer::decode`].
pub fn reconstruct(vq: &VqTokenizer, images: &[RgbImage]) -> Result<Vec<Reconstruction>> {
    let originals: Vec<_> = images.iter().map(|image| vq.preprocessor().resize(image)).collect();
    let codes = vq.encode(images)?;
    let decoded = vq.decode(&codes)?;
    let parts = originals.into_iter().zip(codes).zip(decoded);
    Ok(parts
        .map(|((original, codes), decoded)| Reconstruction { original, codes, decoded })
        .collect())
}

/// What [`evaluate`] found.
#[derive(Clone, Debug)]
pub struct ReconstructionScores {
    /// Mean peak signal-to-noise ratio in dB over RGB, each at most [`HIGHEST_PSNR`].
    pub psnr: Score,
    /// Mean structural similarity over RGB (11-tap Gaussian of sigma 1.5, data range 1).
    pub ssim: Score,
    /// Mean multi-scale structural similarity over RGB, of as many scales as fit.
    pub ms_ssim: Score,
    /// Mean PSNR of images in which every code's square has its mean colour: what as many numbers as
    /// there are codes give without a tokenizer.
    pub block_average: Score,
    /// Scenes whose objects, each with its shape and colour and no other, are read in the decoded
    /// image: the most that a model can reach that draws with this tokenizer. None without scenes.
    pub objects: Option<Score>,
    /// How often each code was used.
    pub usage: CodebookUsage,
    /// Every image.
    pub samples: Vec<SampleRecord>,
    /// Samples that could not be read.
    pub bad: Vec<BadSample>,
    /// Some images before and after.
    pub sheet: Vec<Cell>,
}

/// Compares every image of `dataset` with its reconstruction; `num_embeddings` is the size of the
/// codebook, `reconstruct` gives a [`Reconstruction`] for each of the images it gets.
///
/// # Errors
/// Those of `reconstruct`; when images before and after differ in size, a code is not in the
/// codebook, or more samples than [`crate::data::DEFAULT_TOLERANCE`] are unreadable.
pub fn evaluate(
    dataset: &dyn Dataset,
    extent: Extent,
    num_embeddings: usize,
    mut reconstruct: impl FnMut(&[RgbImage]) -> Result<Vec<Reconstruction>>,
) -> Result<ReconstructionScores> {
    let mut usage = CodebookUsage::new(num_embeddings);
    let (mut samples, mut sheet) = (Vec::new(), Vec::new());
    let (mut psnrs, mut ssims, mut objects) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ms_ssims, mut averages) = (Vec::new(), Vec::new());
    let detector = Detector::new();
    let bad = each_batch(dataset, extent, Ok, |batch| {
        let of_one = |(index, sample): (usize, Sample)| {
            let (source, scene) = (sample.source, truth(&sample.fields));
            let place = move |image| ((index, source.clone(), scene.clone()), image);
            sample.images.into_iter().map(place)
        };
        let (places, images): (Vec<_>, Vec<_>) = batch.into_iter().flat_map(of_one).unzip();
        let done = one_each(reconstruct(&images)?, images.len())?;
        for ((index, source, scene), one) in places.into_iter().zip(done) {
            check_codes(&one.codes, num_embeddings)?;
            usage.add(&one.codes.ids);
            let psnr = vq_psnr(&one.original, &one.decoded)?;
            let ssim = ssim(&one.original, &one.decoded)?;
            let ms_ssim = ms_ssim(&one.original, &one.decoded)?;
            let average = block_average(&one.original, one.codes.height, one.codes.width);
            averages.push(vq_psnr(&one.original, &average)?);
            psnrs.push(psnr);
            ssims.push(ssim);
            ms_ssims.push(ms_ssim);
            let read = scene.map(|scene| shows(&one.decoded, &scene, &detector));
            objects.extend(read);
            samples.push(record(
                index,
                source,
                [("psnr", psnr), ("ssim", ssim), ("ms_ssim", ms_ssim)],
                read,
            ));
            if sheet.len() < 2 * SHOWN {
                sheet.push(Cell::new(one.original).note(Tone::Muted, "original"));
                sheet.push(Cell::new(one.decoded).note(Tone::Plain, format!("{psnr:.1} dB")));
            }
        }
        Ok(())
    })?;
    let (psnr, ssim, ms_ssim) = (Score::mean(&psnrs), Score::mean(&ssims), Score::mean(&ms_ssims));
    let block_average = Score::mean(&averages);
    let objects = (!objects.is_empty()).then(|| Score::share(objects));
    Ok(ReconstructionScores {
        psnr,
        ssim,
        ms_ssim,
        block_average,
        objects,
        usage,
        samples,
        bad,
        sheet,
    })
}

fn vq_psnr(a: &RgbImage, b: &RgbImage) -> Result<f64> {
    Ok(psnr(a, b)?.min(HIGHEST_PSNR))
}

/// `image` with the mean colour of each of `rows` x `columns` parts.
fn block_average(image: &RgbImage, rows: usize, columns: usize) -> RgbImage {
    let part =
        |at: u32, len: u32, parts: usize| (at as usize * parts / len as usize).min(parts - 1);
    let (width, height) = image.dimensions();
    let place = |x, y| part(y, height, rows) * columns + part(x, width, columns);
    let mut sums = vec![[0.0_f64; 4]; rows * columns];
    for (x, y, pixel) in image.enumerate_pixels() {
        let sum = &mut sums[place(x, y)];
        sum.iter_mut().zip(pixel.0).for_each(|(sum, value)| *sum += f64::from(value));
        sum[3] += 1.0;
    }
    RgbImage::from_fn(width, height, |x, y| {
        let [r, g, b, count] = sums[place(x, y)];
        image::Rgb([r, g, b].map(|sum| (sum / count).round() as u8))
    })
}

/// The ground truth of a sample that is a scene.
fn truth(fields: &Fields) -> Option<Scene> {
    serde_json::from_value(fields.get("scene")?.clone()).ok()
}

/// Whether `detector` reads in `image` the shapes and colours of `scene`, all of them and no other.
fn shows(image: &RgbImage, scene: &Scene, detector: &Detector) -> bool {
    let kinds = |objects: &mut dyn Iterator<Item = Object>| {
        let mut kinds: Vec<_> = objects.map(|object| (object.shape, object.color)).collect();
        kinds.sort();
        kinds
    };
    let seen = kinds(&mut detector.detect(image).into_iter().map(|found| found.object));
    seen == kinds(&mut scene.objects.iter().copied())
}

fn check_codes(codes: &Codes, num_embeddings: usize) -> Result<()> {
    match codes.ids.iter().find(|id| **id as usize >= num_embeddings) {
        Some(id) => Err(Error::invalid(format!(
            "code {id} is not in the codebook; allowed: below {num_embeddings}"
        ))),
        None => Ok(()),
    }
}

fn record(
    doc_id: usize,
    id: String,
    measured: [(&'static str, f64); 3],
    objects: Option<bool>,
) -> SampleRecord {
    let mut scores = measured.to_vec();
    scores.extend(objects.map(|read| ("objects", number(read))));
    SampleRecord {
        doc_id,
        target: json!(id),
        response: json!(null),
        id,
        scores,
        ..SampleRecord::default()
    }
}

impl ReconstructionScores {
    /// The scores as a report on the data set called `dataset`: `psnr`, `ssim`, `ms_ssim`,
    /// `psnr_block_average`, `objects` (of scenes), `codebook_usage` (the share of codes used), `codebook_perplexity` and `dead_codes`.
    pub fn report(self, dataset: &str) -> Report {
        let whole = |value: f64| Score::whole(value, self.samples.len());
        let mut scores = vec![
            ("psnr", self.psnr),
            ("ssim", self.ssim),
            ("ms_ssim", self.ms_ssim),
            ("psnr_block_average", self.block_average),
        ];
        scores.extend(self.objects.map(|objects| ("objects", objects)));
        scores.extend([
            ("codebook_usage", whole(self.usage.used_share())),
            ("codebook_perplexity", whole(self.usage.perplexity())),
            ("dead_codes", whole(self.usage.dead() as f64)),
        ]);
        Report {
            task: "reconstruction",
            dataset: dataset.to_owned(),
            scores: scores.into_iter().map(|(name, score)| (name.to_owned(), score)).collect(),
            samples: self.samples,
            bad: self.bad,
            sheet: self.sheet,
            ..Report::default()
        }
    }
}
