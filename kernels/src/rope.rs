//! The norm of each head, rotary embedding, scale and transposition to `[batch, heads, seq, head_dim]`, in
//! one pass forward and one backward.

use rayon::prelude::*;

use super::math::{dot, sum_by};
use super::norm::{inverse_root, sum_parts};
use super::simd::vectorized;

/// Tokens per task, which fixes the order in which the weights' gradients are summed.
const TOKENS: usize = 64;

/// What is done to a head before it is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// LayerNorm with a weight and bias row per head.
    Layer,
    /// `x / sqrt(mean(x^2) + eps) * weight`, with one weight row for all heads.
    Rms,
    /// Nothing.
    None,
}

impl Norm {
    /// Runs `body` compiled for each norm by itself, so that its loops do not ask which it is.
    #[inline(always)]
    fn as_constant(self, body: impl FnOnce(Self)) {
        match self {
            Self::Layer => body(Self::Layer),
            Self::Rms => body(Self::Rms),
            Self::None => body(Self::None),
        }
    }

    /// The numbers in weight and bias, 0 for those that the norm does not have.
    #[inline(always)]
    fn sizes(self, heads: usize, head_dim: usize) -> [usize; 2] {
        match self {
            Self::Layer => [heads * head_dim; 2],
            Self::Rms => [head_dim, 0],
            Self::None => [0, 0],
        }
    }
}

/// Inputs of both passes.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The norm of a head.
    pub norm: Norm,
    /// `[batch, seq, heads, head_dim]`.
    pub x: &'a [f32],
    /// `[heads, head_dim]` for LayerNorm, `[head_dim]` for RMSNorm; nothing is read without a norm.
    pub weight: &'a [f32],
    /// `[heads, head_dim]`, which LayerNorm alone reads.
    pub bias: &'a [f32],
    /// `[batch, seq, head_dim / 2]`.
    pub cos: &'a [f32],
    /// `[batch, seq, head_dim / 2]`.
    pub sin: &'a [f32],
    /// Factor on the output.
    pub scale: f32,
    /// Added to the variance, or to the mean square.
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
            || {
                let (row, head) = (place / heads, place % heads);
                inputs.norm.as_constant(
                    #[inline(always)]
                    |norm| forward_head(norm, inputs, row, head, y),
                );
            },
        );
    };
    if inputs.x.len() <= TOKENS * heads * head_dim {
        y.chunks_exact_mut(block).enumerate().for_each(task);
    } else {
        y.par_chunks_exact_mut(block).enumerate().for_each(task);
    }
}

/// Writes the gradient of `x` to `dx`; returns those of weight and bias, empty for what the norm does not have.
///
/// # Shapes
/// `dy` `[batch, heads, seq, head_dim]`, `dx` `[batch, seq, heads, head_dim]`.
pub fn backward(inputs: Inputs<'_>, dy: &[f32], dx: &mut [f32]) -> (Vec<f32>, Vec<f32>) {
    let [_, _, heads, head_dim] = inputs.dims;
    let [of_weight, of_bias] = inputs.norm.sizes(heads, head_dim);
    let blocks = dx.par_chunks_mut(TOKENS * heads * head_dim).enumerate();
    let parts: Vec<Vec<f32>> = blocks
        .map(|(block, dx)| {
            let mut sums = vec![0.0; of_weight + of_bias];
            let start = block * TOKENS;
            vectorized(
                #[inline(always)]
                || {
                    inputs.norm.as_constant(
                        #[inline(always)]
                        |norm| backward_tokens(norm, inputs, start, dy, dx, &mut sums),
                    );
                },
            );
            sums
        })
        .collect();
    let mut d_weight = sum_parts(&parts, of_weight + of_bias);
    let d_bias = d_weight.split_off(of_weight);
    (d_weight, d_bias)
}

/// One head of one row, `y` `[seq, head_dim]`.
#[inline(always)]
fn forward_head(norm: Norm, inputs: Inputs<'_>, row: usize, head: usize, y: &mut [f32]) {
    let Inputs { x, weight, bias, cos, sin, scale, eps, dims: [_, seq, heads, head_dim], .. } =
        inputs;
    let half = head_dim / 2;
    let span = head * head_dim..(head + 1) * head_dim;
    let unused = &x[..head_dim];
    let (weight, bias) = match norm {
        Norm::Layer => (&weight[span.clone()], &bias[span]),
        Norm::Rms => (&weight[..head_dim], unused),
        Norm::None => (unused, unused),
    };
    let ((w1, w2), (b1, b2)) = (weight.split_at(half), bias.split_at(half));
    for (i, y) in y.chunks_exact_mut(head_dim).enumerate() {
        let token = row * seq + i;
        let x = &x[(token * heads + head) * head_dim..][..head_dim];
        let (mean, inverse) = match norm {
            Norm::Layer => moments(x, eps),
            Norm::Rms => (0.0, inverse_root(x, eps)),
            Norm::None => (0.0, 1.0),
        };
        let angles = token * half..(token + 1) * half;
        let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
        let ((x1, x2), (y1, y2)) = (x.split_at(half), y.split_at_mut(half));
        let (w1, w2, b1, b2) = (&w1[..half], &w2[..half], &b1[..half], &b2[..half]);
        let (x1, x2, y1, y2) = (&x1[..half], &x2[..half], &mut y1[..half], &mut y2[..half]);
        let (cos, sin) = (&cos[..half], &sin[..half]);
        let normal = |x: f32, w: f32, b: f32| match norm {
            Norm::Layer => (x - mean) * inverse * w + b,
            Norm::Rms => x * inverse * w,
            Norm::None => x,
        };
        for i in 0..half {
            let first = normal(x1[i], w1[i], b1[i]);
            let second = normal(x2[i], w2[i], b2[i]);
            y1[i] = (first * cos[i] - second * sin[i]) * scale;
            y2[i] = (second * cos[i] + first * sin[i]) * scale;
        }
    }
}

/// The tokens from `start` on; the gradients of weight and bias are added to `sums`.
#[inline(always)]
fn backward_tokens(
    norm: Norm,
    inputs: Inputs<'_>,
    start: usize,
    dy: &[f32],
    dx: &mut [f32],
    sums: &mut [f32],
) {
    let Inputs { x, weight, cos, sin, scale, eps, dims: [_, seq, heads, head_dim], .. } = inputs;
    let half = head_dim / 2;
    let (d_weight, d_bias) = sums.split_at_mut(norm.sizes(heads, head_dim)[0]);
    for (place, dx) in dx.chunks_exact_mut(head_dim).enumerate() {
        let (token, head) = (start + place / heads, place % heads);
        let x = &x[(token * heads + head) * head_dim..][..head_dim];
        let dy = &dy[((token / seq * heads + head) * seq + token % seq) * head_dim..][..head_dim];
        let angles = token * half..(token + 1) * half;
        unrotate(dy, &cos[angles.clone()], &sin[angles], scale, dx);
        let span = head * head_dim..(head + 1) * head_dim;
        match norm {
            Norm::Layer => {
                let weights = (&weight[span.clone()], &mut d_weight[span.clone()]);
                layer_backward(x, weights, &mut d_bias[span], eps, dx);
            }
            Norm::Rms => rms_backward(x, &weight[..head_dim], &mut d_weight[..head_dim], eps, dx),
            Norm::None => {}
        }
    }
}

/// Of one head; `dx` is the gradient of its result and becomes that of `x`.
#[inline(always)]
fn layer_backward(
    x: &[f32],
    (weight, d_weight): (&[f32], &mut [f32]),
    d_bias: &mut [f32],
    eps: f32,
    dx: &mut [f32],
) {
    let head_dim = x.len();
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

/// As [`layer_backward`], of a head without a mean and a bias.
#[inline(always)]
fn rms_backward(x: &[f32], weight: &[f32], d_weight: &mut [f32], eps: f32, dx: &mut [f32]) {
    let head_dim = x.len();
    let inverse = inverse_root(x, eps);
    for i in 0..head_dim {
        d_weight[i] += dx[i] * x[i] * inverse;
        dx[i] *= weight[i];
    }
    let slope = dot(dx, x) * inverse * inverse / head_dim as f32;
    for (dx, x) in dx.iter_mut().zip(x) {
        *dx = inverse * (*dx - x * slope);
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
