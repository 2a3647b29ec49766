//! Group normalisation with scale, shift and an optional swish.

use kernels::memory::unspecified;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::math::{RUN, sigmoid, sum};
use super::simd::dispatch;

/// Sizes and options of a normalisation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    /// Groups of channels of one image.
    pub groups: usize,
    /// Channels of one group.
    pub channels: usize,
    /// Pixels of one channel.
    pub pixels: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// Whether `y * sigmoid(y)` follows.
    pub swish: bool,
}

/// Mean and reciprocal standard deviation of one group of one image.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moments {
    mean: f32,
    scale: f32,
}

/// Gradients of the input, the scale and the shift.
pub(super) struct NormGradients {
    pub input: Vec<f32>,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

/// The normalisation of `x`, `[batch, channels, pixels]`, and its moments, `[batch, groups]`.
pub(super) fn forward(
    norm: Norm,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
) -> (Vec<f32>, Vec<Moments>) {
    let mut out = unspecified(x.len());
    let size = norm.channels * norm.pixels;
    let mut moments = vec![Moments::default(); x.len() / size];
    let groups = out.par_chunks_exact_mut(size).zip(x.par_chunks_exact(size));
    groups.zip(&mut moments).enumerate().with_min_len(8).for_each(
        |(index, ((out, x), moments))| {
            let first = index % norm.groups * norm.channels;
            let weight = &weight[first..first + norm.channels];
            let bias = &bias[first..first + norm.channels];
            *moments = dispatch(Forward { norm, x, weight, bias, out });
        },
    );
    (out, moments)
}

/// The gradients for the gradient `dy` of the output of [`forward`].
pub(super) fn backward(
    norm: Norm,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    moments: &[Moments],
    dy: &[f32],
) -> NormGradients {
    let size = norm.channels * norm.pixels;
    let mut input = unspecified(x.len());
    let mut sums = vec![[0.0f64; 2]; moments.len() * norm.channels];
    let groups = input.par_chunks_exact_mut(size).zip(sums.par_chunks_exact_mut(norm.channels));
    groups.enumerate().with_min_len(8).for_each(|(index, (dx, sums))| {
        let first = index % norm.groups * norm.channels;
        dispatch(Backward {
            norm,
            moments: moments[index],
            x: &x[index * size..][..size],
            weight: &weight[first..first + norm.channels],
            bias: &bias[first..first + norm.channels],
            dy: &dy[index * size..][..size],
            dx,
            sums,
        });
    });
    let mut totals = vec![[0.0f64; 2]; norm.groups * norm.channels];
    for sums in sums.chunks_exact(totals.len()) {
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total = [total[0] + sum[0], total[1] + sum[1]];
        }
    }
    let [bias, weight] = [0, 1].map(|i| totals.iter().map(|t| t[i] as f32).collect());
    NormGradients { input, weight, bias }
}

/// Scale and shift of one channel's values, as vectors.
#[derive(Clone, Copy)]
struct Values<S: Simd> {
    simd: S,
    mean: S::f32s,
    scale: S::f32s,
    shift: S::f32s,
    swish: bool,
}

// Methods, not closures: only forced inlining compiles them for the vector instructions.
impl<S: Simd> Values<S> {
    /// The output for the input `x`.
    #[inline(always)]
    fn apply(self, x: S::f32s) -> S::f32s {
        let simd = self.simd;
        let y = simd.mul_add_e_f32s(simd.sub_f32s(x, self.mean), self.scale, self.shift);
        if self.swish { simd.mul_f32s(y, sigmoid(simd, y)) } else { y }
    }

    /// The gradient before the swish for the output's gradient `dy`.
    #[inline(always)]
    fn before_swish(self, x: S::f32s, dy: S::f32s) -> S::f32s {
        if !self.swish {
            return dy;
        }
        let simd = self.simd;
        let y = simd.mul_add_e_f32s(simd.sub_f32s(x, self.mean), self.scale, self.shift);
        let s = sigmoid(simd, y);
        let rest = simd.sub_f32s(simd.splat_f32s(1.0), s);
        simd.mul_f32s(dy, simd.mul_add_e_f32s(simd.mul_f32s(y, s), rest, s))
    }

    /// `(x - mean) scale + shift + gradient weight`, the form of the input's gradient.
    #[inline(always)]
    fn input(self, x: S::f32s, gradient: S::f32s, weight: S::f32s) -> S::f32s {
        let simd = self.simd;
        let rest = simd.mul_add_e_f32s(simd.sub_f32s(x, self.mean), self.scale, self.shift);
        simd.mul_add_e_f32s(gradient, weight, rest)
    }
}

/// The forward pass of one group of one image.
struct Forward<'a> {
    norm: Norm,
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    out: &'a mut [f32],
}

impl Forward<'_> {
    /// Moments over all channels of the group.
    #[inline(always)]
    fn moments<S: Simd>(&self, simd: S) -> Moments {
        let (vectors, rest) = S::as_simd_f32s(self.x);
        let count = self.x.len() as f64;
        let rest_sum: f64 = rest.iter().map(|v| f64::from(*v)).sum();
        let mean = (sum(
            simd,
            vectors,
            #[inline(always)]
            |v| v,
        ) + rest_sum)
            / count;
        let centre = simd.splat_f32s(mean as f32);
        let squares = sum(
            simd,
            vectors,
            #[inline(always)]
            |v| {
                let v = simd.sub_f32s(v, centre);
                simd.mul_f32s(v, v)
            },
        );
        let rest: f64 = rest.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum();
        let variance = (squares + rest) / count;
        Moments { mean: mean as f32, scale: (variance + self.norm.epsilon).sqrt().recip() as f32 }
    }
}

impl WithSimd for Forward<'_> {
    type Output = Moments;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Moments {
        let moments = self.moments(simd);
        let mean = simd.splat_f32s(moments.mean);
        let pixels = self.norm.pixels;
        let channels = self.x.chunks_exact(pixels).zip(self.out.chunks_exact_mut(pixels));
        for ((x, out), (weight, bias)) in channels.zip(self.weight.iter().zip(self.bias)) {
            let shift = simd.splat_f32s(*bias);
            let scale = simd.splat_f32s(moments.scale * weight);
            let values = Values { simd, mean, scale, shift, swish: self.norm.swish };
            let (x, rest) = S::as_simd_f32s(x);
            let (out, rest_out) = S::as_mut_simd_f32s(out);
            for (out, x) in out.iter_mut().zip(x) {
                *out = values.apply(*x);
            }
            if !rest.is_empty() {
                let y = values.apply(simd.partial_load_f32s(rest));
                simd.partial_store_f32s(rest_out, y);
            }
        }
        moments
    }
}

/// The backward pass of one group of one image.
struct Backward<'a> {
    norm: Norm,
    moments: Moments,
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    /// Per channel: sums of the gradient before the swish, alone and times the normalised input.
    sums: &'a mut [[f64; 2]],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for channel in 0..self.norm.channels {
            self.through_swish(simd, channel);
        }
        let count = self.x.len() as f64;
        let sums = self.weight.iter().zip(&*self.sums);
        let [plain, scaled] = sums.fold([0.0; 2], |[plain, scaled], (weight, sums)| {
            [plain + f64::from(*weight) * sums[0], scaled + f64::from(*weight) * sums[1]]
        });
        let scale = f64::from(self.moments.scale);
        // dx = scale (weight g - mean(weight g) - normalised mean(weight g normalised))
        let shift = simd.splat_f32s((-scale * plain / count) as f32);
        let slope = simd.splat_f32s((-scale * scale * scaled / count) as f32);
        let mean = simd.splat_f32s(self.moments.mean);
        let pixels = self.norm.pixels;
        let channels = self.x.chunks_exact(pixels).zip(self.dx.chunks_exact_mut(pixels));
        for ((x, dx), weight) in channels.zip(self.weight) {
            let weight = simd.splat_f32s(self.moments.scale * weight);
            let values = Values { simd, mean, scale: slope, shift, swish: false };
            let (x, x_rest) = S::as_simd_f32s(x);
            let (dx, dx_rest) = S::as_mut_simd_f32s(dx);
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = values.input(*x, *dx, weight);
            }
            if !x_rest.is_empty() {
                let gradient = simd.partial_load_f32s(dx_rest);
                let gradient = values.input(simd.partial_load_f32s(x_rest), gradient, weight);
                simd.partial_store_f32s(dx_rest, gradient);
            }
        }
    }
}

impl Backward<'_> {
    /// Writes the gradient before the swish to `dx`, and its sums to `sums`.
    #[inline(always)]
    fn through_swish<S: Simd>(&mut self, simd: S, channel: usize) {
        let pixels = self.norm.pixels;
        let range = channel * pixels..(channel + 1) * pixels;
        let (x, x_rest) = S::as_simd_f32s(&self.x[range.clone()]);
        let (dy, dy_rest) = S::as_simd_f32s(&self.dy[range.clone()]);
        let (dx, dx_rest) = S::as_mut_simd_f32s(&mut self.dx[range]);
        let mean = simd.splat_f32s(self.moments.mean);
        let scale = simd.splat_f32s(self.moments.scale * self.weight[channel]);
        let shift = simd.splat_f32s(self.bias[channel]);
        let values = Values { simd, mean, scale, shift, swish: self.norm.swish };
        let mut totals = [0.0f64; 2];
        let runs = x.chunks(RUN).zip(dy.chunks(RUN)).zip(dx.chunks_mut(RUN));
        for ((x, dy), dx) in runs {
            let mut sums = [simd.splat_f32s(0.0); 2];
            for ((x, dy), dx) in x.iter().zip(dy).zip(dx) {
                let gradient = values.before_swish(*x, *dy);
                *dx = gradient;
                sums[0] = simd.add_f32s(sums[0], gradient);
                sums[1] = simd.mul_add_e_f32s(gradient, simd.sub_f32s(*x, mean), sums[1]);
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total += f64::from(simd.reduce_sum_f32s(sum));
            }
        }
        if !x_rest.is_empty() {
            // Lanes past the end load a gradient of 0 and add nothing.
            let x = simd.partial_load_f32s(x_rest);
            let gradient = values.before_swish(x, simd.partial_load_f32s(dy_rest));
            simd.partial_store_f32s(dx_rest, gradient);
            totals[0] += f64::from(simd.reduce_sum_f32s(gradient));
            let scaled = simd.mul_f32s(gradient, simd.sub_f32s(x, mean));
            totals[1] += f64::from(simd.reduce_sum_f32s(scaled));
        }
        self.sums[channel] = [totals[0], totals[1] * f64::from(self.moments.scale)];
    }
}
