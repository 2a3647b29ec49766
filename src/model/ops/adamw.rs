//! One AdamW update over flat arrays in one pass.

use rayon::prelude::*;

use super::simd::wide;

/// Elements of one task.
const ELEMENTS: usize = 1 << 14;

/// The numbers of one update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamW {
    /// Decay of the moments.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Factor on the gradient: clipping.
    pub gradient_scale: f32,
    /// Learning rate over the first moment's bias correction.
    pub rate: f32,
    /// The second moment's bias correction.
    pub correction: f32,
    /// Factor on the weight: decoupled decay.
    pub keep: f32,
}

impl AdamW {
    /// Updates `weight` and the `moments` from `gradient`, all of one length.
    pub fn update(self, weight: &mut [f32], moments: [&mut [f32]; 2], gradient: &[f32]) {
        let [first, second] = moments.map(|moment| moment.par_chunks_mut(ELEMENTS));
        let arrays = weight.par_chunks_mut(ELEMENTS).zip(gradient.par_chunks(ELEMENTS));
        arrays.zip(first.zip(second)).for_each(|((weight, gradient), (first, second))| {
            update_part(self, weight, gradient, first, second);
        });
    }
}

wide! {
    fn update_part(
        adam: AdamW,
        weight: &mut [f32],
        gradient: &[f32],
        first: &mut [f32],
        second: &mut [f32],
    ) {
        let [beta1, beta2] = adam.betas;
        let moments = first.iter_mut().zip(second);
        for ((weight, gradient), (first, second)) in weight.iter_mut().zip(gradient).zip(moments) {
            let gradient = gradient * adam.gradient_scale;
            *first = *first * beta1 + gradient * (1.0 - beta1);
            *second = *second * beta2 + gradient * gradient * (1.0 - beta2);
            let root = (*second / adam.correction).sqrt() + adam.eps;
            *weight = *weight * adam.keep - *first / root * adam.rate;
        }
    }
}
