//! Reconstruction quality of images and usage of a codebook.

use image::RgbImage;

use crate::error::{Error, Result};

/// Width of the SSIM window, in pixels.
pub(crate) const WINDOW: usize = 11;
/// Standard deviation of the SSIM window, in pixels.
const SIGMA: f64 = 1.5;
/// SSIM's first stabiliser for a data range of 1: 0.01^2.
pub(crate) const C1: f64 = 0.0001;
/// SSIM's second stabiliser for a data range of 1: 0.03^2.
pub(crate) const C2: f64 = 0.0009;

/// Peak signal-to-noise ratio in dB over all channels; infinite for equal images.
///
/// # Errors
/// [`Error::Invalid`] if the sizes differ or there are no pixels.
pub fn psnr(a: &RgbImage, b: &RgbImage) -> Result<f64> {
    same_size(a, b)?;
    let squares = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| {
        let difference = u64::from(a.abs_diff(*b));
        difference * difference
    });
    let mean = squares.sum::<u64>() as f64 / a.as_raw().len() as f64;
    Ok(10.0 * (255.0 * 255.0 / mean).log10())
}

/// Structural similarity, mean over the three channels; 1 for equal images.
///
/// Wang et al. 2004 with an 11-tap Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03 and data range
/// 1, over positions where the window fits; equals scikit-image's `structural_similarity` with
/// `gaussian_weights=True, use_sample_covariance=False`.
///
/// # Errors
/// [`Error::Invalid`] if the sizes differ or a side is below 11 pixels.
pub fn ssim(a: &RgbImage, b: &RgbImage) -> Result<f64> {
    let (width, _) = fits_window(a, b)?;
    let sum: f64 = (0..3).map(|i| channel_ssim(&channel(a, i), &channel(b, i), width).0).sum();
    Ok(sum / 3.0)
}

/// Width and height of two images of one size, checked against the window.
fn fits_window(a: &RgbImage, b: &RgbImage) -> Result<(usize, usize)> {
    same_size(a, b)?;
    let (width, height) = (a.width() as usize, a.height() as usize);
    if width.min(height) < WINDOW {
        return Err(Error::invalid(format!(
            "an image of {width}x{height} pixels is too small for SSIM; sides of at least {WINDOW}"
        )));
    }
    Ok((width, height))
}

/// The values of a channel, in [0, 1].
fn channel(image: &RgbImage, channel: usize) -> Vec<f64> {
    image.as_raw().iter().skip(channel).step_by(3).map(|v| f64::from(*v) / 255.0).collect()
}

/// Weights of the scales of multi-scale SSIM, finest first.
const SCALES: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];

/// The weights of the scales that the window fits at, for images of shorter side `side`; at least one.
///
/// The published weights if all five scales fit (they sum to 1.0001), otherwise normalised to sum to 1.
pub(crate) fn scale_weights(side: usize) -> Vec<f64> {
    let fits = |scale: &usize| *scale == 0 || side >> scale >= WINDOW;
    let weights: Vec<f64> = (0..SCALES.len()).take_while(fits).map(|scale| SCALES[scale]).collect();
    if weights.len() == SCALES.len() {
        return weights;
    }
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// Multi-scale structural similarity, mean over the three channels; 1 for equal images.
///
/// Wang, Simoncelli and Bovik 2003: the product of [`ssim`] at the coarsest scale and of its contrast and
/// structure at the finer ones, each to the power of its weight; from scale to scale 2x2 pixels are averaged.
/// Below 176 pixels fewer than five scales fit, and their weights are normalised to sum to 1.
///
/// # Errors
/// As [`ssim`].
pub fn ms_ssim(a: &RgbImage, b: &RgbImage) -> Result<f64> {
    let (width, height) = fits_window(a, b)?;
    let weights = scale_weights(width.min(height));
    let channel_ms_ssim = |at: usize| {
        let (mut a, mut b) = (channel(a, at), channel(b, at));
        let (mut width, mut product) = (width, 1.0);
        for (scale, weight) in weights.iter().enumerate() {
            let (similarity, contrast) = channel_ssim(&a, &b, width);
            let last = scale + 1 == weights.len();
            // A negative value has no real power.
            product *= (if last { similarity } else { contrast }).max(0.0).powf(*weight);
            if !last {
                (a, b, width) = (halved(&a, width), halved(&b, width), width / 2);
            }
        }
        product
    };
    Ok((0..3).map(channel_ms_ssim).sum::<f64>() / 3.0)
}

/// Means of 2x2 pixels; an odd last row or column is dropped.
fn halved(values: &[f64], width: usize) -> Vec<f64> {
    let rows: Vec<&[f64]> = values.chunks_exact(width).collect();
    let pairs = rows.chunks_exact(2);
    let mean = |row: &[&[f64]], at: usize| {
        (row[0][at] + row[0][at + 1] + row[1][at] + row[1][at + 1]) / 4.0
    };
    pairs.flat_map(|pair| (0..width / 2).map(|at| mean(pair, 2 * at)).collect::<Vec<_>>()).collect()
}

/// Checks that two images have the same size and pixels.
fn same_size(a: &RgbImage, b: &RgbImage) -> Result<()> {
    if a.dimensions() != b.dimensions() || a.as_raw().is_empty() {
        return Err(Error::invalid(format!(
            "images of {}x{} and {}x{} pixels cannot be compared",
            a.width(),
            a.height(),
            b.width(),
            b.height()
        )));
    }
    Ok(())
}

/// The mean similarity of two channels, and the mean of its contrast and structure alone.
fn channel_ssim(a: &[f64], b: &[f64], width: usize) -> (f64, f64) {
    let product =
        |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a * b).collect() };
    let (mean_a, mean_b) = (blurred(a, width), blurred(b, width));
    let (aa, bb) = (blurred(&product(a, a), width), blurred(&product(b, b), width));
    let ab = blurred(&product(a, b), width);
    let (mut similarity, mut contrast) = (0.0, 0.0);
    for i in 0..mean_a.len() {
        let (ma, mb) = (mean_a[i], mean_b[i]);
        let variances = aa[i] - ma * ma + bb[i] - mb * mb;
        let contrast_here = (2.0 * (ab[i] - ma * mb) + C2) / (variances + C2);
        contrast += contrast_here;
        similarity += (2.0 * ma * mb + C1) / (ma * ma + mb * mb + C1) * contrast_here;
    }
    let count = mean_a.len() as f64;
    (similarity / count, contrast / count)
}

/// Gaussian-weighted means over every position where the window fits.
fn blurred(values: &[f64], width: usize) -> Vec<f64> {
    let kernel = kernel();
    let weighted = |window: &[f64]| window.iter().zip(&kernel).map(|(v, k)| v * k).sum::<f64>();
    let rows: Vec<f64> =
        values.chunks_exact(width).flat_map(|row| row.windows(WINDOW).map(weighted)).collect();
    let width = width + 1 - WINDOW;
    let height = rows.len() / width + 1 - WINDOW;
    (0..height * width)
        .map(|i| kernel.iter().enumerate().map(|(tap, k)| k * rows[i + tap * width]).sum())
        .collect()
}

/// The Gaussian window along one axis; sums to 1.
pub(crate) fn kernel() -> [f64; WINDOW] {
    let mut kernel = [0.0; WINDOW];
    for (i, weight) in kernel.iter_mut().enumerate() {
        let distance = i as f64 - (WINDOW / 2) as f64;
        *weight = (-distance * distance / (2.0 * SIGMA * SIGMA)).exp();
    }
    let sum: f64 = kernel.iter().sum();
    kernel.map(|weight| weight / sum)
}

/// How often each code of a codebook was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodebookUsage {
    counts: Vec<u64>,
}

impl CodebookUsage {
    /// Zero counts for a codebook of `num_embeddings` codes.
    pub fn new(num_embeddings: usize) -> Self {
        Self { counts: vec![0; num_embeddings] }
    }

    /// Adds `codes` to the counts.
    ///
    /// # Panics
    /// If a code is outside the codebook.
    pub fn add(&mut self, codes: &[u32]) {
        for code in codes {
            self.counts[*code as usize] += 1;
        }
    }

    /// The number of codes used at least once.
    pub fn used(&self) -> usize {
        self.counts.iter().filter(|count| **count > 0).count()
    }

    /// The number of codes never used.
    pub fn dead(&self) -> usize {
        self.counts.len() - self.used()
    }

    /// The share of codes used at least once, in `[0, 1]`.
    pub fn used_share(&self) -> f64 {
        self.used() as f64 / self.counts.len().max(1) as f64
    }

    /// 2 to the entropy in bits: the number of equally frequent codes with the same entropy; 0
    /// before any use.
    pub fn perplexity(&self) -> f64 {
        let total = self.counts.iter().sum::<u64>() as f64;
        if total == 0.0 {
            return 0.0;
        }
        let used = self.counts.iter().filter(|count| **count > 0);
        let entropy: f64 = used
            .map(|count| {
                let share = *count as f64 / total;
                -share * share.ln()
            })
            .sum();
        entropy.exp()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The two images of the reference values below.
    fn pair() -> (RgbImage, RgbImage) {
        let at = |x: u32, y: u32, c: u32| (x * 7 + y * 13 + c * 29 + x * y % 17 * 5) % 256;
        let image = |noise: u32| {
            RgbImage::from_fn(24, 19, |x, y| {
                let value = |c| {
                    let shift = (x * 31 + y * 17 + c * 11) % (noise + 1);
                    (at(x, y, c) + shift).min(255) as u8
                };
                image::Rgb([value(0), value(1), value(2)])
            })
        };
        (image(0), image(40))
    }

    #[test]
    fn equal_images_have_the_best_scores() {
        let (a, _) = pair();
        assert_eq!(psnr(&a, &a).unwrap(), f64::INFINITY);
        assert!((ssim(&a, &a).unwrap() - 1.0).abs() < 1e-12);
    }

    /// Reference: scikit-image 0.26, `structural_similarity(a / 255, b / 255, channel_axis=2,
    /// data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)` and
    /// `peak_signal_noise_ratio(a, b)` on the same two images.
    #[test]
    fn values_equal_scikit_image() {
        let (a, b) = pair();
        assert!((ssim(&a, &b).unwrap() - 0.963_835_646_985_038_8).abs() < 1e-12);
        assert!((psnr(&a, &b).unwrap() - 21.263_506_906_583_572).abs() < 1e-9);
    }

    #[test]
    fn a_difference_of_one_level_is_48_db() {
        let a = RgbImage::from_pixel(3, 2, image::Rgb([10, 20, 30]));
        let b = RgbImage::from_pixel(3, 2, image::Rgb([11, 21, 29]));
        assert!((psnr(&a, &b).unwrap() - 48.130_803_608_679_1).abs() < 1e-9);
    }

    #[test]
    fn different_sizes_and_small_images_are_refused() {
        let (a, small) = (RgbImage::new(12, 12), RgbImage::new(12, 10));
        assert!(psnr(&a, &small).unwrap_err().to_string().contains("12x10"));
        assert!(ssim(&small, &small).unwrap_err().to_string().contains("at least 11"));
    }

    #[test]
    fn perplexity_of_equally_used_codes_is_their_number() {
        let mut usage = CodebookUsage::new(8);
        assert_eq!(usage.perplexity(), 0.0);
        usage.add(&[1, 2, 3, 5, 5, 1, 2, 3]);
        assert!((usage.perplexity() - 4.0).abs() < 1e-12);
        assert_eq!((usage.used(), usage.dead(), usage.used_share()), (4, 4, 0.5));
    }
}
