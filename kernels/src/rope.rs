//! LayerNorm per head, rotary embedding, scale and transposition to `[batch, heads, seq, head_dim]`, in
//! one pass forward and one backward.

use rayon::prelude::*;

use super::math::{dot, sum_by};
use super::norm::sum_parts;
use super::simd::vectorized;

/// Tokens per task, which fixes the order in which the weights' gradients are summed.
const TOKENS: usize = 64;

/// Inputs of both passes.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[batch, seq, heads, head_dim]`.
    pub x: &'a [f32],
    /// `[heads, head_dim]`.
    pub weight: &'a [f32],
    /// `[heads, head_dim]`.
    pub bias: &'a [f32],
    /// `[batch, seq, head_dim / 2]`.
    pub cos: &'a [f32],
    /// `[batch, seq, head_dim / 2]`.
    pub sin: &'a [f32],
    /// Factor on the output.
    pub scale: f32,
    /// Added to the variance.
    pub eps: f32,
    /// `[batch, seq, heads, head_dim]`, the shape of `x`.
    pub dims: [usize; 4],
}

/// Writes the result to `y`.
///
/// # Shapes
/// `y` `[batch, heads, seq, head_dim]`.
pub fn forward(inputs: Inputs<'_>, y: &mut [f32]) {
    let [_, seq, heads, head_dim] = inputs.dims;
    let block = seq * head_dim;
    let task = |(place, y): (usize, &mut [f32])| {
        vectorized(
            #[inline(always)]
            || forward_head(inputs, place / heads, place % heads, y),
        );
    };
    if inputs.x.len() <= TOKENS * heads * head_dim {
        y.chunks_exact_mut(block).enumerate().for_each(task);
    } else {
        y.par_chunks_exact_mut(block).enumerate().for_each(task);
    }
}

/// Writes the gradient of `x` to `dx`; returns those of weight and bias.
///
/// # Shapes
/// `dy` `[batch, heads, seq, head_dim]`, `dx` `[batch, seq, heads, head_dim]`.
pub fn backward(inputs: Inputs<'_>, dy: &[f32], dx: &mut [f32]) -> (Vec<f32>, Vec<f32>) {
    let [_, _, heads, head_dim] = inputs.dims;
    let width = heads * head_dim;
    let blocks = dx.par_chunks_mut(TOKENS * width).enumerate();
    let parts: Vec<Vec<f32>> = blocks
        .map(|(block, dx)| {
            let mut sums = vec![0.0; 2 * width];
            vectorized(
                #[inline(always)]
                || {
                    backward_tokens(inputs, block * TOKENS, dy, dx, &mut sums);
                },
            );
            sums
        })
        .collect();
    let mut d_weight = sum_parts(&parts, 2 * width);
    let d_bias = d_weight.split_off(width);
    (d_weight, d_bias)
}

/// One head of one row, `y` `[seq, head_dim]`.
#[inline(always)]
fn forward_head(inputs: Inputs<'_>, row: usize, head: usize, y: &mut [f32]) {
    let Inputs { x, weight, bias, cos, sin, scale, eps, dims: [_, seq, heads, head_dim] } = inputs;
    let half = head_dim / 2;
    let span = head * head_dim..(head + 1) * head_dim;
    let (w1, w2) = weight[span.clone()].split_at(half);
    let (b1, b2) = bias[span].split_at(half);
    for (i, y) in y.chunks_exact_mut(head_dim).enumerate() {
        let token = row * seq + i;
        let x = &x[(token * heads + head) * head_dim..][..head_dim];
        let (mean, inverse) = moments(x, eps);
        let angles = token * half..(token + 1) * half;
        let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
        let ((x1, x2), (y1, y2)) = (x.split_at(half), y.split_at_mut(half));
        let (w1, w2, b1, b2) = (&w1[..half], &w2[..half], &b1[..half], &b2[..half]);
        let (x1, x2, y1, y2) = (&x1[..half], &x2[..half], &mut y1[..half], &mut y2[..half]);
        let (cos, sin) = (&cos[..half], &sin[..half]);
        for i in 0..half {
            let first = (x1[i] - mean) * inverse * w1[i] + b1[i];
            let second = (x2[i] - mean) * inverse * w2[i] + b2[i];
            y1[i] = (first * cos[i] - second * sin[i]) * scale;
            y2[i] = (second * cos[i] + first * sin[i]) * scale;
        }
    }
}

/// The tokens from `start` on; the gradients of weight and bias are added to `sums`.
#[inline(always)]
fn backward_tokens(inputs: Inputs<'_>, start: usize, dy: &[f32], dx: &mut [f32], sums: &mut [f32]) {
    let Inputs { x, weight, cos, sin, scale, eps, dims: [_, seq, heads, head_dim], .. } = inputs;
    let half = head_dim / 2;
    let (d_weight, d_bias) = sums.split_at_mut(heads * head_dim);
    for (place, dx) in dx.chunks_exact_mut(head_dim).enumerate() {
        let (token, head) = (start + place / heads, place % heads);
        let x = &x[(token * heads + head) * head_dim..][..head_dim];
        let dy = &dy[((token / seq * heads + head) * seq + token % seq) * head_dim..][..head_dim];
        let angles = token * half..(token + 1) * half;
        unrotate(dy, &cos[angles.clone()], &sin[angles], scale, dx);
        let span = head * head_dim..(head + 1) * head_dim;
        let (weight, d_weight, d_bias) =
            (&weight[span.clone()], &mut d_weight[span.clone()], &mut d_bias[span]);
        let (mean, inverse) = moments(x, eps);
        for i in 0..head_dim {
            d_bias[i] += dx[i];
            d_weight[i] += dx[i] * (x[i] - mean) * inverse;
            dx[i] *= weight[i];
        }
        let offset = sum_by(dx, dx, |d, _| d) / head_dim as f32;
        let product = dot(dx, x) - mean * offset * head_dim as f32;
        let slope = product * inverse * inverse / head_dim as f32;
        for (dx, x) in dx.iter_mut().zip(x) {
            *dx = inverse * (*dx - offset - (x - mean) * slope);
        }
    }
}

/// The gradient with respect to what is rotated and scaled.
#[inline(always)]
fn unrotate(dy: &[f32], cos: &[f32], sin: &[f32], scale: f32, dx: &mut [f32]) {
    let half = cos.len();
    let ((d1, d2), (dx1, dx2)) = (dy.split_at(half), dx.split_at_mut(half));
    let (d2, dx2, sin) = (&d2[..half], &mut dx2[..half], &sin[..half]);
    for i in 0..half {
        dx1[i] = (d1[i] * cos[i] + d2[i] * sin[i]) * scale;
        dx2[i] = (d2[i] * cos[i] - d1[i] * sin[i]) * scale;
    }
}

/// Mean and `1 / sqrt(variance + eps)`.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = sum_by(x, x, |x, _| x) / count;
    let variance = sum_by(x, x, |x, _| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + eps).sqrt())
}
