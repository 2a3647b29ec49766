//! Reconstruction metrics and samples of an image tokenizer in training.

use image::RgbImage;
use vq_tokenizer::VqTokenizer;
use vq_tokenizer::metrics::{CodebookUsage, ms_ssim, psnr, ssim};

use super::best::Better;
use crate::error::Result;
use crate::report::Metrics;
use crate::sheet::{Cell, Layout, Section, Tone, sheet};

/// Metrics of an evaluation, in the order of [`score`], each with its better direction.
pub(super) const SCORES: [(&str, Better); 6] = [
    ("psnr", Better::Higher),
    ("ssim", Better::Higher),
    ("ms_ssim", Better::Higher),
    ("codes_used", Better::Higher),
    ("perplexity", Better::Higher),
    ("dead_codes", Better::Lower),
];

/// Metrics over all images of `validation`, named sets of preprocessed images, and a contact sheet of
/// `shown` originals and reconstructions from each set; neither without images.
///
/// # Errors
/// If an image is too small for SSIM.
pub(super) fn score(
    tokenizer: &VqTokenizer,
    validation: &[(String, Vec<RgbImage>)],
    shown: usize,
) -> Result<(Metrics, Option<RgbImage>)> {
    let mut usage = CodebookUsage::new(tokenizer.config().num_embeddings);
    let mut sums = [0.0; 3];
    let (mut count, mut sections) = (0, Vec::new());
    for (path, images) in validation {
        let codes = tokenizer.encode(images)?;
        let decoded = tokenizer.decode(&codes)?;
        codes.iter().for_each(|codes| usage.add(&codes.ids));
        let mut cells = Vec::new();
        for (image, decoded) in images.iter().zip(decoded) {
            let found = [psnr(image, &decoded)?, ssim(image, &decoded)?, ms_ssim(image, &decoded)?];
            sums.iter_mut().zip(found).for_each(|(sum, value)| *sum += value);
            count += 1;
            if cells.len() < 2 * shown {
                cells.push(Cell::new(image.clone()).note(Tone::Muted, "original"));
                let note = format!("{:.1} dB", found[0]);
                cells.push(Cell::new(decoded).note(Tone::Plain, note));
            }
        }
        sections.push(Section { heading: path.clone(), cells });
    }
    if count == 0 {
        return Ok((Metrics::new(), None));
    }
    let [psnr, ssim, ms_ssim] = sums.map(|sum| sum / f64::from(count));
    let (used, perplexity, dead) = (usage.used_share(), usage.perplexity(), usage.dead() as f64);
    let values = [psnr, ssim, ms_ssim, used, perplexity, dead];
    let metrics = SCORES.iter().zip(values).map(|((name, _), value)| ((*name).into(), value));
    let layout = Layout { columns: 6, image: 128, ..Layout::default() };
    Ok((metrics.collect(), Some(sheet(&sections, &layout))))
}
