//! The rows of tokens on their way to experts and back.
//!
//! A token has an assignment for each of its experts, in ascending order of these; the assignments of all tokens follow
//! each other. The rows of an expert follow each other too, so an assignment has a place among the rows.

#[cfg(test)]
mod tests;

use rayon::prelude::*;

use super::math::dot;
use super::memory::unspecified;
use super::simd::vectorized;

/// Rows per task.
const ROWS: usize = 32;

/// Where the rows of tokens are.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// The row of each assignment, every row once.
    pub of: &'a [i32],
    /// Assignments of a token.
    pub chosen: usize,
    /// Columns of a row.
    pub width: usize,
}

impl Places<'_> {
    /// The assignment of each row.
    fn assignments(&self) -> Vec<u32> {
        let mut assignments = vec![0; self.of.len()];
        for (assignment, place) in (0..).zip(self.of) {
            assignments[*place as usize] = assignment;
        }
        assignments
    }
}

/// A row for each assignment: its token's row of `x`.
///
/// # Shapes
/// `x` `[tokens, width]`; returns `[tokens * chosen, width]`.
pub fn dispatch(places: Places<'_>, x: &[f32]) -> Vec<f32> {
    let Places { chosen, width, .. } = places;
    let mut y = unspecified(places.of.len() * width);
    let fill = |(y, assignments): (&mut [f32], &[u32])| {
        for (y, assignment) in y.chunks_exact_mut(width).zip(assignments) {
            y.copy_from_slice(&x[*assignment as usize / chosen * width..][..width]);
        }
    };
    let assignments = places.assignments();
    match assignments.len() {
        ..=ROWS => fill((&mut y, &assignments)),
        _ => y.par_chunks_mut(ROWS * width).zip(assignments.par_chunks(ROWS)).for_each(fill),
    }
    y
}

/// The sum of the rows of each token, each times its weight or 1, in the order of the assignments.
///
/// # Shapes
/// `rows` `[tokens * chosen, width]`, `weights` `[tokens, chosen]`; returns `[tokens, width]`.
pub fn combine(places: Places<'_>, rows: &[f32], weights: Option<&[f32]>) -> Vec<f32> {
    let Places { of, chosen, width } = places;
    let mut y = unspecified(of.len() / chosen * width);
    let fill = |(task, y): (usize, &mut [f32])| {
        vectorized(
            #[inline(always)]
            || {
                for (at, y) in y.chunks_exact_mut(width).enumerate() {
                    let assignments = (task * ROWS + at) * chosen..;
                    for (place, assignment) in assignments.take(chosen).enumerate() {
                        let row = &rows[of[assignment] as usize * width..][..width];
                        let weight = weights.map_or(1.0, |weights| weights[assignment]);
                        add_times(y, row, weight, place == 0);
                    }
                }
            },
        );
    };
    match y.len() / width {
        ..=ROWS => fill((0, &mut y)),
        _ => y.par_chunks_mut(ROWS * width).enumerate().for_each(fill),
    }
    y
}

/// Adds `row * weight` to `y`, or overwrites it.
#[inline(always)]
fn add_times(y: &mut [f32], row: &[f32], weight: f32, is_first: bool) {
    if is_first {
        y.iter_mut().zip(row).for_each(|(y, x)| *y = x * weight);
    } else {
        y.iter_mut().zip(row).for_each(|(y, x)| *y += x * weight);
    }
}

/// Replaces `rows` by their gradients, for `dy` of the result of [`combine`], and returns those of the weights.
///
/// # Shapes
/// As of [`combine`].
pub fn combine_backward(
    places: Places<'_>,
    rows: &mut [f32],
    weights: &[f32],
    dy: &[f32],
) -> Vec<f32> {
    let Places { of, chosen, width } = places;
    let assignments = places.assignments();
    let mut dw = vec![0.0; of.len()]; // in the order of the rows
    let blocks = rows.par_chunks_mut(ROWS * width).zip(dw.par_chunks_mut(ROWS));
    blocks.zip(assignments.par_chunks(ROWS)).for_each(|((rows, dw), assignments)| {
        vectorized(
            #[inline(always)]
            || {
                let rows = rows.chunks_exact_mut(width).zip(dw);
                for ((row, dw), assignment) in rows.zip(assignments) {
                    let assignment = *assignment as usize;
                    let dy = &dy[assignment / chosen * width..][..width];
                    *dw = dot(row, dy);
                    add_times(row, dy, weights[assignment], true);
                }
            },
        );
    });
    of.iter().map(|place| dw[*place as usize]).collect()
}
