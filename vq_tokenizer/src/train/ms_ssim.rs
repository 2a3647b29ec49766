//! Differentiable multi-scale structural similarity of tensors; see [`crate::metrics::ms_ssim`].

use burn::tensor::{Device, Tensor, TensorData, activation};

use crate::metrics::{C1, C2, WINDOW, kernel, scale_weights};

/// The mean multi-scale structural similarity of `a` and `b`, pixels in [-1, 1] with sides of at least 11;
/// 1 for equal images.
///
/// # Shapes
/// - a, b: `[batch, channels, H, W]`
/// - result: `[1]`
pub(super) fn ms_ssim(a: Tensor<4>, b: Tensor<4>) -> Tensor<1> {
    let [batch, channels, height, width] = a.dims();
    let planes = |x: Tensor<4>| (x + 1.0).reshape([batch * channels, height, width]) / 2.0;
    let (mut a, mut b) = (planes(a), planes(b));
    let weights = scale_weights(height.min(width));
    let mut product: Option<Tensor<1>> = None;
    for (scale, weight) in weights.iter().enumerate() {
        let (similarity, contrast) = ssim(a.clone(), b.clone());
        let last = scale + 1 == weights.len();
        // A negative value has no real power.
        let factor = activation::relu(if last { similarity } else { contrast });
        let factor = (factor + 1e-6).powf_scalar(*weight);
        product = Some(match product {
            Some(product) => product * factor,
            None => factor,
        });
        if !last {
            (a, b) = (halved(a), halved(b));
        }
    }
    product.expect("there is always one scale").mean()
}

/// The mean similarity of each plane, and the mean of its contrast and structure alone.
///
/// # Shapes
/// - a, b: `[planes, height, width]`
/// - results: `[planes]`
fn ssim(a: Tensor<3>, b: Tensor<3>) -> (Tensor<1>, Tensor<1>) {
    let [planes, height, width] = a.dims();
    let device = a.device();
    let (across, down) = (band(width, &device), band(height, &device));
    let blurred = |x: Tensor<3>| {
        let (columns, rows) = (width + 1 - WINDOW, height + 1 - WINDOW);
        let x = x.reshape([planes * height, width]).matmul(across.clone());
        let x = x.reshape([planes, height, columns]).swap_dims(1, 2);
        x.reshape([planes * columns, height]).matmul(down.clone()).reshape([planes, columns * rows])
    };
    let (mean_a, mean_b) = (blurred(a.clone()), blurred(b.clone()));
    let squares = mean_a.clone().square() + mean_b.clone().square();
    let products = mean_a * mean_b;
    let variances = blurred(a.clone().square() + b.clone().square()) - squares.clone();
    let covariance = blurred(a * b) - products.clone();
    let contrast = (covariance * 2.0 + C2) / (variances + C2);
    let similarity = (products * 2.0 + C1) / (squares + C1) * contrast.clone();
    let mean = |x: Tensor<2>| x.mean_dim(1).reshape([planes]);
    (mean(similarity), mean(contrast))
}

/// A matrix `[len, len - 10]` that applies the Gaussian window at every position where it fits.
fn band(len: usize, device: &Device) -> Tensor<2> {
    let places = len + 1 - WINDOW;
    let mut values = vec![0.0_f32; len * places];
    for place in 0..places {
        for (tap, weight) in kernel().iter().enumerate() {
            values[(place + tap) * places + place] = *weight as f32;
        }
    }
    Tensor::from_data(TensorData::new(values, [len, places]), device)
}

/// Means of 2x2 pixels; an odd last row or column is dropped.
///
/// # Shapes
/// - x: `[planes, height, width]`
/// - result: `[planes, height / 2, width / 2]`
fn halved(x: Tensor<3>) -> Tensor<3> {
    let [planes, height, width] = x.dims();
    let (rows, columns) = (height / 2, width / 2);
    let x = x.narrow(1, 0, 2 * rows).narrow(2, 0, 2 * columns);
    let x = x.reshape([planes * rows, 2, columns, 2]).mean_dim(3).mean_dim(1);
    x.reshape([planes, rows, columns])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::init;
    use crate::preprocess::PreprocessorConfig;
    use burn::tensor::Distribution;
    use image::RgbImage;

    #[test]
    fn the_similarity_equals_the_metric_on_images() {
        let device = Device::flex();
        for side in [16_u32, 64, 190] {
            let hash = |x: u32, y: u32| (x * 31 + y * 17 + x * y % 11) as u8;
            let a = RgbImage::from_fn(side, side, |x, y| image::Rgb([hash(x, y), hash(y, x), 90]));
            let b = RgbImage::from_fn(side, side, |x, y| {
                image::Rgb([hash(x, y) / 2 + 40, hash(y, x), hash(x, x) / 3])
            });
            let preprocessor = PreprocessorConfig::original(side as usize);
            let tensor =
                |x: &RgbImage| preprocessor.tensor(std::slice::from_ref(x), &device).unwrap();
            let got = ms_ssim(tensor(&a), tensor(&b)).into_scalar::<f32>();
            let want = crate::metrics::ms_ssim(&a, &b).unwrap();
            assert!((f64::from(got) - want).abs() < 1e-4, "{side}: {got} {want}");
            let same = ms_ssim(tensor(&a), tensor(&a)).into_scalar::<f32>();
            assert!((same - 1.0).abs() < 1e-4, "{same}");
        }
    }

    #[test]
    fn following_the_gradient_raises_the_similarity() {
        let device = Device::flex().autodiff();
        let noise = |device: &Device| {
            init::random([1, 3, 32, 32], Distribution::Uniform(-1.0, 1.0), device)
        };
        let (a, b) = (noise(&device).require_grad(), noise(&device));
        let before = ms_ssim(a.clone(), b.clone());
        let gradient = a.grad(&before.clone().backward()).unwrap();
        let moved = a.clone().inner() + gradient * 5.0;
        let after = ms_ssim(moved, b.inner()).into_scalar::<f32>();
        assert!(after > before.into_scalar::<f32>() + 1e-3);
    }
}
