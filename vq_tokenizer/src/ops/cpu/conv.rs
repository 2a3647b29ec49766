//! Convolution by direct accumulation: no column matrix, registers hold a block of outputs and pixels.

use std::array;
use std::ops::Range;

use kernels::memory::unspecified;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::plan::{Plan, Tap};
use super::planes::{Dims, Layout, with_scratch};
use super::simd::{dispatch, lanes};

/// Vectors of pixels that one step computes.
const PIXELS: usize = 3;

/// A convolution kernel, `[.., .., elements]`, with the strides of its two channel axes.
#[derive(Clone, Copy)]
pub(super) struct Kernel<'a> {
    pub values: &'a [f32],
    /// Floats between output channels.
    pub output: usize,
    /// Floats between input channels.
    pub input: usize,
}

/// Output channels computed at once; times [`PIXELS`] they fill the registers.
fn block() -> usize {
    if lanes() == 8 { 4 } else { 8 }
}

/// The convolution of `x`, `[batch, inputs, h, w]`, by `plan`: `[batch, outputs, h', w']`.
pub(super) fn correlate(
    plan: &Plan,
    dims: Dims,
    x: &[f32],
    kernel: Kernel<'_>,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let pixels = dims.output_pixels();
    let len = dims.batch * dims.outputs * pixels;
    let writes_all = !x.is_empty() && plan.phases.iter().all(|taps| !taps.is_empty());
    let mut out = if writes_all { unspecified(len) } else { vec![0.0; len] };
    if out.is_empty() || x.is_empty() {
        return out;
    }
    let packed = Packed::new(plan, dims, kernel, bias);
    let layout = Layout::new(plan, dims);
    // Images run in parallel, and blocks of channels where there are fewer images than threads.
    let parts = rayon::current_num_threads().div_ceil(dims.batch);
    let blocks = dims.outputs.div_ceil(packed.block).div_ceil(parts);
    let part = blocks * packed.block * pixels;
    let images = x.par_chunks_exact(dims.inputs * dims.input_pixels());
    out.par_chunks_exact_mut(dims.outputs * pixels).zip(images).for_each(|(out, image)| {
        out.par_chunks_mut(part).enumerate().for_each(|(index, out)| {
            packed.run(&layout, image, index * blocks, out);
        });
    });
    out
}

/// Weights packed in the order in which the inner loop reads them.
struct Packed<'a> {
    block: usize,
    /// Per phase: `[block of outputs][input][tap][output in block]`.
    phases: Vec<Vec<f32>>,
    /// Padded to whole blocks.
    bias: Vec<f32>,
    plan: &'a Plan,
    dims: Dims,
}

impl<'a> Packed<'a> {
    /// Packs `kernel` and `bias`; without a bias zeros.
    fn new(plan: &'a Plan, dims: Dims, kernel: Kernel<'_>, bias: Option<&[f32]>) -> Self {
        let block = block();
        let blocks = dims.outputs.div_ceil(block);
        let pack = |taps: &Vec<Tap>| {
            let size = dims.inputs * taps.len() * block;
            let mut packed = vec![0.0; blocks * size];
            packed.par_chunks_exact_mut(size.max(1)).enumerate().for_each(|(index, packed)| {
                pack_block(
                    taps,
                    kernel,
                    index * block..dims.outputs.min((index + 1) * block),
                    packed,
                    block,
                );
            });
            packed
        };
        let mut padded = bias.map_or_else(Vec::new, <[f32]>::to_vec);
        padded.resize(blocks * block, 0.0);
        Self { block, phases: plan.phases.iter().map(pack).collect(), bias: padded, plan, dims }
    }

    /// Computes the channels of `out`, those from block `first` on, of one image.
    fn run(&self, layout: &Layout<'_>, image: &[f32], first: usize, out: &mut [f32]) {
        let pixels = self.dims.output_pixels();
        with_scratch(|[planes, tile]| {
            for strip in layout.strips() {
                layout.fill(image, strip, planes);
                for (phase, weights) in self.phases.iter().enumerate() {
                    let [rows, cols] = layout.extent(phase, strip);
                    let taps = self.plan.phases[phase].len();
                    let size = self.dims.inputs * taps * self.block;
                    if rows * cols == 0 || size == 0 {
                        continue;
                    }
                    let offsets = layout.offsets(phase);
                    let positions = (rows - 1) * layout.pitch + cols;
                    let stride = positions.next_multiple_of(lanes());
                    tile.resize(stride * self.block, 0.0);
                    for (index, out) in out.chunks_mut(self.block * pixels).enumerate() {
                        let index = first + index;
                        dispatch(Block {
                            planes,
                            channel: layout.channel(),
                            channels: self.dims.inputs,
                            offsets: &offsets,
                            weights: &weights[index * size..][..size],
                            bias: &self.bias[index * self.block..][..self.block],
                            stride,
                            out: tile,
                        });
                        for (tile, out) in
                            tile.chunks_exact(stride).zip(out.chunks_exact_mut(pixels))
                        {
                            scatter(layout, phase, strip, [rows, cols], tile, out);
                        }
                    }
                }
            }
        });
    }
}

/// Packs the weights of `outputs` as `[input][tap][output in block]`.
fn pack_block(
    taps: &[Tap],
    kernel: Kernel<'_>,
    outputs: Range<usize>,
    packed: &mut [f32],
    block: usize,
) {
    for (lane, output) in outputs.enumerate() {
        let values = &kernel.values[output * kernel.output..];
        for (input, packed) in packed.chunks_exact_mut(taps.len() * block).enumerate() {
            let values = &values[input * kernel.input..];
            for (tap, packed) in taps.iter().zip(packed.chunks_exact_mut(block)) {
                packed[lane] = match tap.kernel.as_slice() {
                    [element] => values[*element],
                    elements => elements.iter().map(|element| values[*element]).sum(),
                };
            }
        }
    }
}

/// Copies the rows of a phase from `tile`, `pitch` floats apart, to their place in a channel of the output.
fn scatter(
    layout: &Layout<'_>,
    phase: usize,
    strip: usize,
    [rows, cols]: [usize; 2],
    tile: &[f32],
    out: &mut [f32],
) {
    let (step, width) = (layout.plan.out_step, layout.dims.output[1]);
    for row in 0..rows {
        let from = &tile[row * layout.pitch..][..cols];
        let to = &mut out[((strip + row) * step + phase / step) * width..][..width];
        if step == 1 {
            to.copy_from_slice(from);
        } else {
            for (to, from) in to[phase % step..].iter_mut().step_by(step).zip(from) {
                *to = *from;
            }
        }
    }
}

/// A block of output channels over all positions of a strip.
struct Block<'a> {
    planes: &'a [f32],
    /// Floats between channels of `planes`.
    channel: usize,
    channels: usize,
    offsets: &'a [usize],
    /// `[channel][tap][output]`.
    weights: &'a [f32],
    bias: &'a [f32],
    /// Floats between channels of `out`, a multiple of the lanes.
    stride: usize,
    out: &'a mut [f32],
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::F32_LANES == 8 { self.run::<S, 4>(simd) } else { self.run::<S, 8>(simd) }
    }
}

impl Block<'_> {
    /// Computes all positions, [`PIXELS`] vectors at a time.
    #[inline(always)]
    fn run<S: Simd, const BLOCK: usize>(mut self, simd: S) {
        let vectors = self.stride / S::F32_LANES;
        let mut vector = 0;
        while vector + PIXELS <= vectors {
            self.step::<S, BLOCK, PIXELS>(simd, vector * S::F32_LANES);
            vector += PIXELS;
        }
        match vectors - vector {
            2 => self.step::<S, BLOCK, 2>(simd, vector * S::F32_LANES),
            1 => self.step::<S, BLOCK, 1>(simd, vector * S::F32_LANES),
            _ => {}
        }
    }

    /// Computes `V` vectors of pixels from position `start` on.
    #[inline(always)]
    fn step<S: Simd, const BLOCK: usize, const V: usize>(&mut self, simd: S, start: usize) {
        let mut sums: [[S::f32s; V]; BLOCK] =
            array::from_fn(|o| [simd.splat_f32s(self.bias[o]); V]);
        let weights = self.weights.chunks_exact(self.offsets.len() * BLOCK);
        for (channel, weights) in (0..self.channels).zip(weights) {
            let planes = &self.planes[channel * self.channel + start..];
            for (&offset, weights) in self.offsets.iter().zip(weights.chunks_exact(BLOCK)) {
                let pixels = S::as_simd_f32s(&planes[offset..offset + V * S::F32_LANES]).0;
                let pixels: [S::f32s; V] = array::from_fn(|v| pixels[v]);
                for (sums, weight) in sums.iter_mut().zip(weights) {
                    let weight = simd.splat_f32s(*weight);
                    for (sum, pixels) in sums.iter_mut().zip(pixels) {
                        *sum = simd.mul_add_e_f32s(pixels, weight, *sum);
                    }
                }
            }
        }
        for (out, sums) in self.out.chunks_exact_mut(self.stride).zip(sums) {
            let out = S::as_mut_simd_f32s(&mut out[start..start + V * S::F32_LANES]).0;
            out.copy_from_slice(&sums);
        }
    }
}
