//! How well an image tokenizer in training reconstructs, in numbers and to look at.

use image::RgbImage;
use vq_tokenizer::VqTokenizer;
use vq_tokenizer::metrics::{CodebookUsage, ms_ssim, psnr, ssim};

use crate::error::Result;
use crate::report::Metrics;
use crate::sheet::{Cell, Layout, Section, Tone, sheet};

/// Means over the images of `validation`, sets of preprocessed images with their names, and a sheet
/// with `shown` originals and reconstructions of each; neither without images.
///
/// # Errors
/// When an image is too small for SSIM.
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
    let names = ["psnr", "ssim", "ms_ssim"].map(Into::into);
    let mut metrics: Metrics =
        names.into_iter().zip(sums.map(|sum| sum / f64::from(count))).collect();
    metrics.push(("codes_used".into(), usage.used_share()));
    metrics.push(("perplexity".into(), usage.perplexity()));
    metrics.push(("dead_codes".into(), usage.dead() as f64));
    let layout = Layout { columns: 6, image: 128, ..Layout::default() };
    Ok((metrics, Some(sheet(&sections, &layout))))
}
