//! Padded planes of one image or of a strip of its rows.

use std::cell::Cell;

use super::plan::Plan;

/// Maximum number of floats in the planes of one strip: about the size of a core's second-level
/// cache.
const STRIP_FLOATS: usize = 192 * 1024;

/// Minimum number of rows of a strip: neighbouring strips share rows, which are copied twice.
const STRIP_ROWS: usize = 8;

/// Floats behind the last plane that a kernel may read, though no valid output depends on them.
const SLACK: usize = 256;

/// Sizes of a convolution; heights and widths in pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dims {
    pub batch: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub input: [usize; 2],
    pub output: [usize; 2],
}

impl Dims {
    /// The sizes of the transposed convolution.
    pub fn transpose(self) -> Self {
        Self {
            inputs: self.outputs,
            outputs: self.inputs,
            input: self.output,
            output: self.input,
            ..self
        }
    }

    /// Pixels of an input channel.
    pub fn input_pixels(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Pixels of an output channel.
    pub fn output_pixels(&self) -> usize {
        self.output[0] * self.output[1]
    }
}

/// The layout of the planes of a strip of output rows.
pub(super) struct Layout<'a> {
    pub plan: &'a Plan,
    pub dims: Dims,
    /// Floats between rows of a plane. The zeros at the end of a row are also those before the next row.
    pub pitch: usize,
    /// Phase rows of a strip; the last strip may have fewer.
    pub strip: usize,
    /// Rows of a phase, rounded up.
    pub rows: usize,
    /// Floats of one plane.
    plane: usize,
}

impl<'a> Layout<'a> {
    /// The layout of `plan`, with strips that fit the cache.
    pub fn new(plan: &'a Plan, dims: Dims) -> Self {
        let reach = plan.reach();
        let [rows, cols] = dims.output.map(|n| n.div_ceil(plan.out_step));
        let pitch = cols + usize::from(reach > 0);
        let fit = STRIP_FLOATS / (dims.inputs * plan.planes() * pitch).max(1);
        let strip = fit.saturating_sub(reach).max(STRIP_ROWS).min(rows);
        Self { plan, dims, pitch, strip, rows, plane: (strip + reach) * pitch }
    }

    /// Floats between channels.
    pub fn channel(&self) -> usize {
        self.plane * self.plan.planes()
    }

    /// The first row of each strip.
    pub fn strips(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.rows).step_by(self.strip)
    }

    /// Offsets of the taps of `phase` within a channel.
    pub fn offsets(&self, phase: usize) -> Vec<usize> {
        let offset = |row: usize, col: usize| row * self.pitch + col;
        let taps = self.plan.phases[phase].iter();
        taps.map(|t| t.plane * self.plane + offset(t.row, t.col)).collect()
    }

    /// Rows, within the strip from row `first`, and columns of `phase`.
    pub fn extent(&self, phase: usize, first: usize) -> [usize; 2] {
        let step = self.plan.out_step;
        let [height, width] = self.dims.output;
        let rows = height.saturating_sub(phase / step).div_ceil(step);
        let cols = width.saturating_sub(phase % step).div_ceil(step);
        [rows.saturating_sub(first).min(self.strip), cols]
    }

    /// Splits the channels of `image` into `planes`, for the strip from phase row `first`.
    pub fn fill(&self, image: &[f32], first: usize, planes: &mut Vec<f32>) {
        let channels = image.len() / self.dims.input_pixels();
        planes.resize(channels * self.channel() + SLACK, 0.0);
        let (planes, slack) = planes.split_at_mut(channels * self.channel());
        slack.fill(0.0);
        let step = self.plan.in_step;
        let images = image.chunks_exact(self.dims.input_pixels());
        for (channel, image) in planes.chunks_exact_mut(self.channel()).zip(images) {
            for (index, plane) in channel.chunks_exact_mut(self.plane).enumerate() {
                for (row, to) in plane.chunks_exact_mut(self.pitch).enumerate() {
                    let from = (first + row).checked_sub(self.plan.pad).and_then(|row| {
                        image.chunks_exact(self.dims.input[1]).nth(row * step + index / step)
                    });
                    match from {
                        Some(from) => self.fill_row(from, index % step, to),
                        None => to.fill(0.0),
                    }
                }
            }
        }
    }

    /// Fills a row of a plane with the pixels of one column parity, zeros at both ends.
    fn fill_row(&self, from: &[f32], parity: usize, to: &mut [f32]) {
        let (left, to) = to.split_at_mut(self.plan.pad);
        left.fill(0.0);
        let step = self.plan.in_step;
        let count = (from.len().saturating_sub(parity)).div_ceil(step).min(to.len());
        let (to, right) = to.split_at_mut(count);
        right.fill(0.0);
        match (step, parity) {
            (1, _) => to.copy_from_slice(&from[..count]),
            (_, 0) => every_second::<0>(from, to),
            _ => every_second::<1>(from, to),
        }
    }
}

/// Copies the values at even or odd indices; the constant lets the compiler use shuffles.
fn every_second<const PARITY: usize>(from: &[f32], to: &mut [f32]) {
    let pairs = from.chunks_exact(2);
    if let ([last], Some(to)) = (pairs.remainder(), to.get_mut(from.len() / 2)) {
        *to = *last;
    }
    for (to, pair) in to.iter_mut().zip(pairs) {
        *to = pair[PARITY];
    }
}

/// The result of `body` on this thread's scratch buffers, which are kept between calls.
pub(super) fn with_scratch<R>(body: impl FnOnce(&mut [Vec<f32>; 2]) -> R) -> R {
    thread_local! {
        static SCRATCH: Cell<[Vec<f32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
    }
    let mut scratch = SCRATCH.take();
    let result = body(&mut scratch);
    SCRATCH.set(scratch);
    result
}
