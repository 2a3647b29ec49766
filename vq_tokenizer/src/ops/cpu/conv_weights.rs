//! Gradients of a convolution's weights and bias.
//!
//! Registers hold the gradients of several (input channel, tap) rows for a group of output channels while
//! the pixels are summed over. The order of the sums depends on the batch only, not on the number of
//! threads.

use std::array;
use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::plan::Plan;
use super::planes::{Dims, Layout, with_scratch};
use super::simd::{dispatch, lanes};

/// Vectors of output channels in registers.
const VECTORS: usize = 2;

/// Parts of the batch that are summed separately.
const PARTS: usize = 4;

/// Partial sums of a plane's bias gradient in f32, before they go to f64.
const BIAS_LANES: usize = 16;

/// Gradients `[outputs, inputs, elements]` of the kernel and `[outputs]` of the bias.
pub(super) fn weight_gradients(
    plan: &Plan,
    dims: Dims,
    x: &[f32],
    gradient: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let bias = bias_gradient(dims, gradient);
    // The channel axis that fills whole vectors better is the one computed in vectors.
    let work = |vectors: usize, rows: usize| vectors.next_multiple_of(VECTORS * lanes()) * rows;
    if work(dims.outputs, dims.inputs) <= work(dims.inputs, dims.outputs) {
        return (kernel_gradient(plan, dims, x, gradient), bias);
    }
    // The transposed convolution has the same kernel with input and output channels exchanged.
    let transposed = kernel_gradient(&plan.transpose(), dims.transpose(), gradient, x);
    let mut weights = vec![0.0; transposed.len()];
    for (index, from) in transposed.chunks_exact(plan.kernel).enumerate() {
        let (input, output) = (index / dims.outputs, index % dims.outputs);
        let place = (output * dims.inputs + input) * plan.kernel;
        weights[place..place + plan.kernel].copy_from_slice(from);
    }
    (weights, bias)
}

/// The gradient `[outputs, inputs, elements]` of the kernel.
fn kernel_gradient(plan: &Plan, dims: Dims, x: &[f32], gradient: &[f32]) -> Vec<f32> {
    let parts = PARTS.min(dims.batch.max(1));
    let splits = rayon::current_num_threads().div_ceil(parts).min(dims.inputs);
    let channels = dims.inputs.div_ceil(splits);
    let splits = dims.inputs.div_ceil(channels);
    let sums: Vec<Sums> = (0..parts * splits)
        .into_par_iter()
        .map(|task| {
            let (part, split) = (task / splits, task % splits);
            let images = part * dims.batch / parts..(part + 1) * dims.batch / parts;
            let channels = split * channels..dims.inputs.min((split + 1) * channels);
            let mut sums = Sums::new(plan, dims, channels);
            for image in images {
                sums.add(plan, dims, x, gradient, image);
            }
            sums
        })
        .collect();
    let size = dims.inputs * plan.kernel;
    let mut weights = vec![0.0; dims.outputs * size];
    let group = VECTORS * lanes();
    weights.par_chunks_mut(group * size).enumerate().for_each(|(index, weights)| {
        for sums in &sums {
            sums.collect(plan, index, size, weights);
        }
    });
    weights
}

/// The sum of `gradient` over images and pixels, `[outputs]`.
fn bias_gradient(dims: Dims, gradient: &[f32]) -> Vec<f32> {
    let pixels = dims.output_pixels();
    let channel = |output: usize| {
        let planes =
            (0..dims.batch).map(|n| &gradient[(n * dims.outputs + output) * pixels..][..pixels]);
        planes.map(sum).sum::<f64>() as f32
    };
    (0..dims.outputs).into_par_iter().with_min_len(8).map(channel).collect()
}

/// The sum of `values`.
fn sum(values: &[f32]) -> f64 {
    let mut sums = [0.0f32; BIAS_LANES];
    let chunks = values.chunks_exact(BIAS_LANES);
    let rest: f64 = chunks.remainder().iter().map(|v| f64::from(*v)).sum();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    rest + sums.iter().map(|v| f64::from(*v)).sum::<f64>()
}

/// Gradients of a range of input channels, per phase `[group of outputs][input, tap][output]`.
struct Sums {
    channels: Range<usize>,
    phases: Vec<Vec<f32>>,
}

impl Sums {
    /// Zeros for the input channels `channels`.
    fn new(plan: &Plan, dims: Dims, channels: Range<usize>) -> Self {
        let outputs = dims.outputs.next_multiple_of(VECTORS * lanes());
        let phases =
            plan.phases.iter().map(|t| vec![0.0; outputs * channels.len() * t.len()]).collect();
        Self { channels, phases }
    }

    /// Adds the gradient of one image.
    fn add(&mut self, plan: &Plan, dims: Dims, x: &[f32], gradient: &[f32], image: usize) {
        let inputs = dims.input_pixels();
        let first = (image * dims.inputs + self.channels.start) * inputs;
        let x = &x[first..first + self.channels.len() * inputs];
        let size = dims.outputs * dims.output_pixels();
        let gradient = &gradient[image * size..][..size];
        let layout = Layout::new(plan, dims);
        let group = VECTORS * lanes();
        with_scratch(|[planes, transposed]| {
            for strip in layout.strips() {
                layout.fill(x, strip, planes);
                for (phase, sums) in self.phases.iter_mut().enumerate() {
                    let [rows, cols] = layout.extent(phase, strip);
                    let sources: Vec<usize> = (0..self.channels.len())
                        .flat_map(|c| layout.offsets(phase).into_iter().map(move |o| (c, o)))
                        .map(|(c, offset)| c * layout.channel() + offset)
                        .collect();
                    if rows * cols == 0 || sources.is_empty() {
                        continue;
                    }
                    let channels = gradient.chunks(group * dims.output_pixels());
                    for (gradient, sums) in
                        channels.zip(sums.chunks_exact_mut(sources.len() * group))
                    {
                        transpose(&layout, phase, strip, gradient, transposed, group);
                        let pitch = layout.pitch;
                        dispatch(Rows {
                            planes,
                            pitch,
                            cols,
                            sources: &sources,
                            gradient: transposed,
                            sums,
                        });
                    }
                }
            }
        });
    }

    /// Adds the sums of group `index` of outputs to `weights`, `[output][input][element]`.
    fn collect(&self, plan: &Plan, index: usize, size: usize, weights: &mut [f32]) {
        let group = VECTORS * lanes();
        for (taps, sums) in plan.phases.iter().zip(&self.phases) {
            let rows = self.channels.len() * taps.len();
            let sums = sums[index * rows * group..][..rows * group].chunks_exact(group);
            for (row, sums) in sums.enumerate() {
                let input = self.channels.start + row / taps.len();
                for element in &taps[row % taps.len()].kernel {
                    let place = input * plan.kernel + element;
                    for (weights, sum) in weights.chunks_exact_mut(size).zip(sums) {
                        weights[place] += sum;
                    }
                }
            }
        }
    }
}

/// Transposes the channels of a phase's gradient to `[pixel][output]`, with zeros after the last channel.
fn transpose(
    layout: &Layout<'_>,
    phase: usize,
    strip: usize,
    gradient: &[f32],
    transposed: &mut Vec<f32>,
    group: usize,
) {
    let [rows, cols] = layout.extent(phase, strip);
    let (step, width) = (layout.plan.out_step, layout.dims.output[1]);
    let pixels = layout.dims.output_pixels();
    let channels = gradient.len() / pixels;
    transposed.resize(rows * cols * group, 0.0);
    if channels < group {
        transposed.fill(0.0);
    }
    for (row, pixels_of_row) in transposed.chunks_exact_mut(cols * group).enumerate() {
        let start = ((strip + row) * step + phase / step) * width + phase % step;
        let end = start + (cols - 1) * step + 1;
        // Eight channels at a time: few streams are read, and writes stay close together.
        for (index, channels) in gradient.chunks(8 * pixels).enumerate() {
            let lines: [&[f32]; 8] = array::from_fn(|i| {
                channels.get(i * pixels + start..i * pixels + end).unwrap_or(&[])
            });
            if lines.iter().all(|line| line.len() == end - start) {
                for (col, pixel) in pixels_of_row.chunks_exact_mut(group).enumerate() {
                    let pixel = &mut pixel[index * 8..index * 8 + 8];
                    for (to, line) in pixel.iter_mut().zip(lines) {
                        *to = line[col * step];
                    }
                }
            } else {
                for (lane, line) in lines.iter().enumerate() {
                    for (value, pixel) in
                        line.iter().step_by(step).zip(pixels_of_row.chunks_exact_mut(group))
                    {
                        pixel[index * 8 + lane] = *value;
                    }
                }
            }
        }
    }
}

/// All (input channel, tap) rows of one phase, strip and group of outputs.
struct Rows<'a> {
    planes: &'a [f32],
    pitch: usize,
    cols: usize,
    /// Where each row's pixels start in `planes`.
    sources: &'a [usize],
    /// `[pixel][output]`.
    gradient: &'a [f32],
    /// `[source][output]`.
    sums: &'a mut [f32],
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.sources.len().is_multiple_of(9) {
            self.run::<S, 9>(simd)
        } else {
            self.run::<S, 8>(simd)
        }
    }
}

impl Rows<'_> {
    /// Adds the gradients, `R` rows in registers at a time.
    #[inline(always)]
    fn run<S: Simd, const R: usize>(self, simd: S) {
        let group = VECTORS * S::F32_LANES;
        let sums = S::as_mut_simd_f32s(self.sums).0;
        let gradient = S::as_simd_f32s(self.gradient).0;
        for (sources, sums) in self.sources.chunks(R).zip(sums.chunks_mut(R * VECTORS)) {
            // A short last chunk repeats its last source; the surplus is dropped below.
            let sources: [usize; R] = array::from_fn(|r| sources[r.min(sources.len() - 1)]);
            let mut acc = [[simd.splat_f32s(0.0); VECTORS]; R];
            for (row, pixels) in gradient.chunks_exact(self.cols * group / S::F32_LANES).enumerate()
            {
                let start = row * self.pitch;
                let lines: [&[f32]; R] =
                    array::from_fn(|r| &self.planes[sources[r] + start..][..self.cols]);
                for (col, outputs) in pixels.chunks_exact(VECTORS).enumerate().take(self.cols) {
                    let outputs: [S::f32s; VECTORS] = array::from_fn(|v| outputs[v]);
                    for (acc, line) in acc.iter_mut().zip(lines) {
                        let pixel = simd.splat_f32s(line[col]);
                        for (acc, outputs) in acc.iter_mut().zip(outputs) {
                            *acc = simd.mul_add_e_f32s(outputs, pixel, *acc);
                        }
                    }
                }
            }
            for (sums, acc) in sums.chunks_exact_mut(VECTORS).zip(acc) {
                for (sum, acc) in sums.iter_mut().zip(acc) {
                    *sum = simd.add_f32s(*sum, acc);
                }
            }
        }
    }
}
