//! The input pixels that a convolution reads, in one form for every geometry.
//!
//! The input is split into `in_step^2` planes (pixels of equal row and column parity), the output
//! likewise into `out_step^2` phases. In these coordinates every output of one phase is a weighted
//! sum of plane pixels at fixed offsets, so one kernel serves stride 2, nearest-neighbour upsampling
//! and the transposed convolution of each.

use crate::ops::options::Geometry;

/// An input pixel that the outputs of a phase read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tap {
    /// `row parity * in_step + column parity`.
    pub plane: usize,
    /// Row in the padded plane, relative to the output's row in its phase.
    pub row: usize,
    /// Column in the padded plane, relative to the output's column in its phase.
    pub col: usize,
    /// The kernel elements whose sum is the weight of the pixel.
    pub kernel: Vec<usize>,
}

/// A convolution as taps per output phase.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Elements of the kernel, 1 or 9.
    pub kernel: usize,
    /// Planes per dimension of the input.
    pub in_step: usize,
    /// Rows of zeros above and columns of zeros at the left of each plane.
    pub pad: usize,
    /// Phases per dimension of the output.
    pub out_step: usize,
    /// The taps of phase `row parity * out_step + column parity`.
    pub phases: Vec<Vec<Tap>>,
}

/// A tap along one dimension.
struct Line {
    phase: usize,
    plane: usize,
    offset: usize,
    element: usize,
}

/// The taps along one dimension of a kernel of `side`.
fn lines(geometry: Geometry, side: usize) -> Vec<Line> {
    let line = |phase, plane, offset, element| Line { phase, plane, offset, element };
    match (geometry, side) {
        (Geometry::Up, 3) => {
            let offset = |phase: usize, k: usize| (phase + k).div_ceil(2);
            (0..6).map(|i| line(i / 3, 0, offset(i / 3, i % 3), i % 3)).collect()
        }
        (Geometry::Down, 3) => (0..3).map(|k| line(0, k & 1, k >> 1, k)).collect(),
        (Geometry::Same, 1 | 3) => (0..side).map(|k| line(0, 0, k, k)).collect(),
        _ => unreachable!("no {geometry:?} convolution has a kernel of side {side}"),
    }
}

impl Plan {
    /// The plan of a square kernel of `side` 3, or 1 for [`Geometry::Same`].
    pub fn new(geometry: Geometry, side: usize) -> Self {
        let (in_step, pad, out_step) = match geometry {
            Geometry::Same => (1, side / 2, 1),
            Geometry::Down => (2, 0, 1),
            Geometry::Up => (1, 1, 2),
        };
        let mut phases = vec![Vec::new(); out_step * out_step];
        let lines = lines(geometry, side);
        for (v, h) in lines.iter().flat_map(|v| lines.iter().map(move |h| (v, h))) {
            let plane = v.plane * in_step + h.plane;
            let phase = &mut phases[v.phase * out_step + h.phase];
            add(phase, plane, [v.offset, h.offset], &[v.element * side + h.element]);
        }
        Self { kernel: side * side, in_step, pad, out_step, phases }
    }

    /// The plan of the transposed convolution: from the output's gradient to the input's.
    pub fn transpose(&self) -> Self {
        let reach = self.reach();
        let mut phases = vec![Vec::new(); self.in_step * self.in_step];
        for (plane, taps) in self.phases.iter().enumerate() {
            for tap in taps {
                let offset = [reach - tap.row, reach - tap.col];
                add(&mut phases[tap.plane], plane, offset, &tap.kernel);
            }
        }
        let pad = reach - self.pad;
        let (in_step, out_step) = (self.out_step, self.in_step);
        Self { kernel: self.kernel, in_step, pad, out_step, phases }
    }

    /// The largest offset of a tap; it is the same for rows and columns.
    pub fn reach(&self) -> usize {
        self.phases.iter().flatten().map(|tap| tap.row.max(tap.col)).max().unwrap_or(0)
    }

    /// Planes of one channel.
    pub fn planes(&self) -> usize {
        self.in_step * self.in_step
    }
}

/// Adds a tap to `phase`, or the kernel elements to the tap of the same pixel.
fn add(phase: &mut Vec<Tap>, plane: usize, [row, col]: [usize; 2], kernel: &[usize]) {
    match phase.iter_mut().find(|t| (t.plane, t.row, t.col) == (plane, row, col)) {
        Some(tap) => tap.kernel.extend_from_slice(kernel),
        None => phase.push(Tap { plane, row, col, kernel: kernel.to_vec() }),
    }
}

impl Geometry {
    /// Height and width of the output for those of the input.
    pub(super) fn output(self, [height, width]: [usize; 2]) -> [usize; 2] {
        match self {
            Self::Same => [height, width],
            Self::Down => [height / 2, width / 2],
            Self::Up => [2 * height, 2 * width],
        }
    }
}
