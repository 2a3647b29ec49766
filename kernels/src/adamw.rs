//! One AdamW update over flat arrays in one pass.

use rayon::prelude::*;

use super::simd::vectorized;

/// One update of one parameter (arXiv 1711.05101).
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Decay of the first and the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Factor on the gradient, below 1 when it is clipped.
    pub gradient_scale: f64,
    /// Bias corrections of the moments: `1 - beta^step`.
    pub corrections: [f64; 2],
    /// Learning rate.
    pub lr: f64,
    /// Decoupled weight decay per unit of learning rate.
    pub decay: f64,
}

/// Elements per task.
const ELEMENTS: usize = 1 << 14;

/// The numbers of one update as kernels compute with them.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    /// Decay of the first and the second moment.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Factor on the gradient.
    pub gradient_scale: f32,
    /// Learning rate over the first moment's bias correction.
    pub rate: f32,
    /// The second moment's bias correction.
    pub correction: f32,
    /// Factor on the weight: decoupled decay.
    pub keep: f32,
}

impl Factors {
    /// The numbers of `update`, in f32.
    pub fn of(update: AdamW) -> Self {
        Self {
            betas: update.betas.map(|beta| beta as f32),
            eps: update.eps as f32,
            gradient_scale: update.gradient_scale as f32,
            rate: (update.lr / update.corrections[0]) as f32,
            correction: update.corrections[1] as f32,
            keep: (1.0 - update.lr * update.decay) as f32,
        }
    }
}

/// Updates `weight` and the two `moments` from `gradient`, all of one length.
pub fn update(update: AdamW, weight: &mut [f32], moments: [&mut [f32]; 2], gradient: &[f32]) {
    let factors = Factors::of(update);
    let [first, second] = moments.map(|moment| moment.par_chunks_mut(ELEMENTS));
    let arrays = weight.par_chunks_mut(ELEMENTS).zip(gradient.par_chunks(ELEMENTS));
    arrays.zip(first.zip(second)).for_each(|((weight, gradient), (first, second))| {
        vectorized(
            #[inline(always)]
            || update_part(factors, weight, gradient, first, second),
        );
    });
}

#[inline(always)]
fn update_part(
    Factors { betas: [beta1, beta2], eps, gradient_scale, rate, correction, keep }: Factors,
    weight: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let moments = first.iter_mut().zip(second);
    for ((weight, gradient), (first, second)) in weight.iter_mut().zip(gradient).zip(moments) {
        let gradient = gradient * gradient_scale;
        *first = *first * beta1 + gradient * (1.0 - beta1);
        *second = *second * beta2 + gradient * gradient * (1.0 - beta2);
        let root = (*second / correction).sqrt() + eps;
        *weight = *weight * keep - *first / root * rate;
    }
}
