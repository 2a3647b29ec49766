//! Quality of an image tokenizer: images against their reconstructions, codebook usage, and on scenes whether
//! the detector still reads the objects.

use std::path::Path;

use image::RgbImage;
use serde_json::json;
use vq_tokenizer::metrics::{CodebookUsage, ms_ssim, psnr, ssim};
use vq_tokenizer::{Codes, VqTokenizer};

use super::batches::{Extent, each_batch, one_per_item};
use super::report::{Report, SampleRecord, indicator};
use super::score::Score;
use crate::data::scenes::{Detector, Object, Scene};
use crate::data::{self, BadSample, Dataset, Fields, ImageDirectory, ImageFolder, Sample};
use crate::error::{Error, Result};
use crate::sheet::{Cell, Tone};

/// The PSNR of equal images in dB, instead of infinity, which would spoil the mean.
pub const HIGHEST_PSNR: f64 = 100.0;

/// Pairs of images on the sheet.
const SHOWN: usize = 32;

/// The data set that `spec` names; a directory without metadata is one of plain image files.
///
/// # Errors
/// As [`data::open`] and [`ImageDirectory::open`].
pub fn open(spec: &str) -> Result<Box<dyn Dataset>> {
    let dir = Path::new(spec);
    if dir.is_dir() && !ImageFolder::has_metadata(dir) {
        return Ok(Box::new(ImageDirectory::open(dir)?));
    }
    data::open(spec)
}

/// An image and its reconstruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Reconstruction {
    /// The image, resized as for encoding.
    pub original: RgbImage,
    /// Its codes.
    pub codes: Codes,
    /// The image decoded from the codes.
    pub decoded: RgbImage,
}

/// The reconstructions of `images` by `vq`.
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

/// The result of [`evaluate`].
#[derive(Clone, Debug)]
pub struct ReconstructionScores {
    /// Mean peak signal-to-noise ratio in dB over RGB, each at most [`HIGHEST_PSNR`].
    pub psnr: Score,
    /// Mean structural similarity over RGB (11-tap Gaussian of sigma 1.5, data range 1).
    pub ssim: Score,
    /// Mean multi-scale structural similarity over RGB, with as many scales as fit.
    pub ms_ssim: Score,
    /// Mean PSNR of images in which every cell of the code grid has its mean colour: a baseline that keeps as
    /// many values per image as there are codes.
    pub block_average: Score,
    /// The share of scenes in whose decoded images the detector reads exactly the true objects by shape and
    /// colour: the upper limit for a model that draws with this tokenizer. `None` without scenes.
    pub objects: Option<Score>,
    /// How often each code was used.
    pub usage: CodebookUsage,
    /// A record of every image.
    pub samples: Vec<SampleRecord>,
    /// Samples that could not be read.
    pub bad: Vec<BadSample>,
    /// Some images before and after.
    pub sheet: Vec<Cell>,
}

/// Compares every image of `dataset` with its reconstruction.
///
/// `num_embeddings` is the size of the codebook; `reconstruct` returns a [`Reconstruction`] for
/// each image that it is given.
///
/// # Errors
/// Those of `reconstruct`; if an image changes its size, a code is not in the codebook, or more samples than
/// [`crate::data::DEFAULT_TOLERANCE`] are unreadable.
pub fn evaluate(
    dataset: &dyn Dataset,
    extent: Extent,
    num_embeddings: usize,
    mut reconstruct: impl FnMut(&[RgbImage]) -> Result<Vec<Reconstruction>>,
) -> Result<ReconstructionScores> {
    let mut all = Values::new(num_embeddings);
    let detector = Detector::new();
    let bad = each_batch(dataset, extent, Ok, |batch| {
        let of_one = |(index, sample): (usize, Sample)| {
            let (source, scene) = (sample.source, truth(&sample.fields));
            let origin = move |image| ((index, source.clone(), scene.clone()), image);
            sample.images.into_iter().map(origin)
        };
        let (origins, images): (Vec<_>, Vec<_>) = batch.into_iter().flat_map(of_one).unzip();
        let done = one_per_item(reconstruct(&images)?, images.len())?;
        for ((index, source, scene), one) in origins.into_iter().zip(done) {
            check_codes(&one.codes, num_embeddings)?;
            let objects = scene.map(|scene| shows(&one.decoded, &scene, &detector));
            all.add(index, source, one, objects)?;
        }
        Ok(())
    })?;
    Ok(ReconstructionScores {
        psnr: Score::mean(&all.psnr),
        ssim: Score::mean(&all.ssim),
        ms_ssim: Score::mean(&all.ms_ssim),
        block_average: Score::mean(&all.block_average),
        objects: (!all.objects.is_empty()).then(|| Score::share(all.objects)),
        usage: all.usage,
        samples: all.samples,
        bad,
        sheet: all.sheet,
    })
}

/// The values of all images so far.
struct Values {
    psnr: Vec<f64>,
    ssim: Vec<f64>,
    ms_ssim: Vec<f64>,
    block_average: Vec<f64>,
    objects: Vec<bool>,
    usage: CodebookUsage,
    samples: Vec<SampleRecord>,
    sheet: Vec<Cell>,
}

impl Values {
    fn new(num_embeddings: usize) -> Self {
        Self {
            psnr: Vec::new(),
            ssim: Vec::new(),
            ms_ssim: Vec::new(),
            block_average: Vec::new(),
            objects: Vec::new(),
            usage: CodebookUsage::new(num_embeddings),
            samples: Vec::new(),
            sheet: Vec::new(),
        }
    }

    /// Adds an image of sample `index`; `objects` says whether its objects are still read.
    fn add(
        &mut self,
        index: usize,
        source: String,
        one: Reconstruction,
        objects: Option<bool>,
    ) -> Result<()> {
        let Reconstruction { original, codes, decoded } = one;
        self.usage.add(&codes.ids);
        let psnr = limited_psnr(&original, &decoded)?;
        let ssim = ssim(&original, &decoded)?;
        let ms_ssim = ms_ssim(&original, &decoded)?;
        let average = block_average(&original, codes.height, codes.width);
        self.block_average.push(limited_psnr(&original, &average)?);
        self.psnr.push(psnr);
        self.ssim.push(ssim);
        self.ms_ssim.push(ms_ssim);
        self.objects.extend(objects);
        let mut scores = vec![("psnr", psnr), ("ssim", ssim), ("ms_ssim", ms_ssim)];
        scores.extend(objects.map(|read| ("objects", indicator(read))));
        self.samples.push(SampleRecord {
            doc_id: index,
            target: json!(source),
            response: json!(null),
            id: source,
            scores,
            ..SampleRecord::default()
        });
        if self.sheet.len() < 2 * SHOWN {
            self.sheet.push(Cell::new(original).note(Tone::Muted, "original"));
            self.sheet.push(Cell::new(decoded).note(Tone::Plain, format!("{psnr:.1} dB")));
        }
        Ok(())
    }
}

/// PSNR in dB, at most [`HIGHEST_PSNR`].
fn limited_psnr(a: &RgbImage, b: &RgbImage) -> Result<f64> {
    Ok(psnr(a, b)?.min(HIGHEST_PSNR))
}

/// `image` with each of `rows` x `columns` cells in its mean colour.
fn block_average(image: &RgbImage, rows: usize, columns: usize) -> RgbImage {
    let cell =
        |at: u32, len: u32, cells: usize| (at as usize * cells / len as usize).min(cells - 1);
    let (width, height) = image.dimensions();
    let index = |x, y| cell(y, height, rows) * columns + cell(x, width, columns);
    let mut sums = vec![[0.0_f64; 4]; rows * columns];
    for (x, y, pixel) in image.enumerate_pixels() {
        let sum = &mut sums[index(x, y)];
        sum.iter_mut().zip(pixel.0).for_each(|(sum, value)| *sum += f64::from(value));
        sum[3] += 1.0;
    }
    RgbImage::from_fn(width, height, |x, y| {
        let [r, g, b, count] = sums[index(x, y)];
        image::Rgb([r, g, b].map(|sum| (sum / count).round() as u8))
    })
}

/// The ground truth of a sample, if it is a scene.
fn truth(fields: &Fields) -> Option<Scene> {
    serde_json::from_value(fields.get("scene")?.clone()).ok()
}

/// Whether `detector` reads exactly the shapes and colours of `scene` in `image`.
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

impl ReconstructionScores {
    /// The scores as a report on the data set called `dataset`: `psnr`, `ssim`, `ms_ssim`,
    /// `psnr_block_average`, `objects` (on scenes), `codebook_usage` (the share of codes used),
    /// `codebook_perplexity` and `dead_codes`.
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
