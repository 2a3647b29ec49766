//! Latent attention over a paged cache (arXiv 2405.04434 section 2.1): all heads share one key for each token, its
//! latent and its rotated key, and the latent is the value as well.
//!
//! Scores are computed as the linear operation computes products of rows, and values are weighted as in [`super`],
//! so here too every query has one order of arithmetic, whatever else a pass computes.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::vectors::weigh;
use super::{BLOCK, LINES, Lane, PARALLEL, TILE, parts};
use crate::linear::forward_here;
use crate::memory::unspecified;

/// Tasks per thread, if there are enough lines.
const TASKS: usize = 4;

/// The rows of a pass; pairs are of the latents and of the rotated keys.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Scaled queries for the latents, `[rows, heads, width]`, and for the rotated keys, `[heads, rows, width]`.
    pub q: [&'a [f32]; 2],
    /// The new tokens' parts, `[rows, width]`.
    pub new: [&'a [f32]; 2],
    /// Their rows add up to `rows`.
    pub lanes: &'a [Lane<'a>],
    /// Query heads.
    pub heads: usize,
    /// Elements of both parts.
    pub widths: [usize; 2],
}

impl Rows<'_> {
    fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.rows).sum()
    }
}

/// Writes the latents and rotated keys of the new tokens to their places.
///
/// # Shapes
/// Each of `cache` `[blocks, BLOCK, width]`.
///
/// # Panics
/// If a lane has a block that the cache lacks, or too few blocks.
pub fn write(rows: &Rows<'_>, cache: [&mut [f32]; 2]) {
    let parts = parts(rows.lanes);
    for ((cache, new), width) in cache.into_iter().zip(rows.new).zip(rows.widths) {
        for part in &parts {
            let (to, len) = ((part.block * BLOCK + part.at) * width, part.count * width);
            cache[to..to + len].copy_from_slice(&new[part.row * width..][..len]);
        }
    }
}

/// The softmax of the scores of every row, over its lane's tokens up to its own, times their latents.
///
/// # Shapes
/// `cache` as for [`write()`], which has written the new tokens; `y` `[rows, heads, latent width]`.
///
/// # Panics
/// As for [`write()`].
pub fn forward(rows: &Rows<'_>, cache: [&[f32]; 2], y: &mut [f32]) {
    let width = rows.widths[0];
    let tasks = tasks(rows, y);
    let tokens: usize = rows.lanes.iter().map(|lane| lane.rows * (lane.start + lane.rows)).sum();
    let run = |task| Arch::new().dispatch(Run { rows, cache, task });
    if tokens * rows.heads * width < PARALLEL {
        tasks.into_iter().for_each(run);
    } else {
        tasks.into_par_iter().for_each(run);
    }
}

/// Some lines of one lane; a line is one head of one query.
struct Task<'a> {
    lane: Lane<'a>,
    /// The lane's first row in the pass.
    row: usize,
    /// The first line within the lane.
    line: usize,
    /// The results, `[lines, latent width]`.
    y: &'a mut [f32],
}

fn tasks<'a>(rows: &Rows<'a>, mut y: &'a mut [f32]) -> Vec<Task<'a>> {
    let wanted = rows.len() * rows.heads / (TASKS * rayon::current_num_threads());
    let at_once = wanted.next_multiple_of(TILE).clamp(TILE, LINES);
    let (mut tasks, mut row) = (Vec::new(), 0);
    for &lane in rows.lanes {
        let (own, behind) = y.split_at_mut(lane.rows * rows.heads * rows.widths[0]);
        let chunks = own.chunks_mut(at_once * rows.widths[0]).enumerate();
        tasks.extend(chunks.map(|(place, y)| Task { lane, row, line: place * at_once, y }));
        (y, row) = (behind, row + lane.rows);
    }
    tasks
}

struct Run<'a, 'b> {
    rows: &'b Rows<'a>,
    cache: [&'b [f32]; 2],
    task: Task<'b>,
}

impl WithSimd for Run<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { rows, cache, task: Task { lane, row, line, y } } = self;
        let mut y: Vec<&mut [f32]> = y.chunks_exact_mut(rows.widths[0]).collect();
        let seen = |l: usize| lane.start + (line + l) / rows.heads + 1;
        let last = seen(y.len() - 1);
        let blocks = &lane.blocks[..last.div_ceil(BLOCK)];
        let stride = blocks.len() * BLOCK;
        let mut scores = unspecified(y.len() * stride); // [lines, keys]
        let page = |part: usize, block: u32| {
            let len = BLOCK * rows.widths[part];
            &cache[part][block as usize * len..][..len]
        };
        let lines = line..line + y.len();
        let rotated = rotated_queries(rows, row, lines.clone());
        let first = row * rows.heads;
        let latent = &rows.q[0][(first + lines.start) * rows.widths[0]..];
        for (part, q) in [&latent[..lines.len() * rows.widths[0]], &rotated].into_iter().enumerate()
        {
            let width = rows.widths[part];
            for (place, &block) in blocks.iter().enumerate() {
                let keys = (last - place * BLOCK).min(BLOCK);
                let products = forward_here(q, &page(part, block)[..keys * width], width);
                let scores = scores.chunks_exact_mut(stride);
                for (scores, products) in scores.zip(products.chunks_exact(keys)) {
                    let scores = &mut scores[place * BLOCK..][..keys];
                    match part {
                        0 => scores.copy_from_slice(products),
                        _ => scores.iter_mut().zip(products).for_each(|(sum, more)| *sum += more),
                    }
                }
            }
        }
        weigh(simd, (&mut scores, stride), seen, blocks.iter().map(|&b| page(0, b)), &mut y);
    }
}

/// The queries of some lines of the lane that begins at `row` for the rotated keys: `[lines, width]`.
fn rotated_queries(rows: &Rows<'_>, row: usize, lines: Range<usize>) -> Vec<f32> {
    let (width, len) = (rows.widths[1], rows.len());
    let mut q = Vec::with_capacity(lines.len() * width);
    for line in lines {
        let start = (line % rows.heads * len + row + line / rows.heads) * width;
        q.extend_from_slice(&rows.q[1][start..start + width]);
    }
    q
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::noise;

    const HEADS: usize = 5;
    const WIDTHS: [usize; 2] = [21, 6];

    /// A sequence of `len` tokens: queries of each `[len, heads, width]` and its parts `[len, width]`.
    struct Sequence {
        q: [Vec<f32>; 2],
        parts: [Vec<f32>; 2],
    }

    impl Sequence {
        fn new(len: usize, seed: u64) -> Self {
            let seeds = [seed, seed + 1];
            let of = |heads: usize, from: u64| {
                [0, 1].map(|part| noise(len * heads * WIDTHS[part], seeds[part] + from))
            };
            Self { q: of(HEADS, 0), parts: of(1, 2) }
        }

        /// The result for token `at`, `[heads, latent width]`, by sums in f64.
        fn exact(&self, at: usize) -> Vec<f64> {
            let row = |of: &[f32], row: usize, width: usize| -> Vec<f64> {
                of[row * width..][..width].iter().map(|x| f64::from(*x)).collect()
            };
            let mut y = Vec::new();
            for head in 0..HEADS {
                let score = |key: usize| -> f64 {
                    let products = [0, 1].map(|part| {
                        let q = row(&self.q[part], at * HEADS + head, WIDTHS[part]);
                        let k = row(&self.parts[part], key, WIDTHS[part]);
                        q.iter().zip(&k).map(|(q, k)| q * k).sum::<f64>()
                    });
                    products.iter().sum()
                };
                let weights: Vec<f64> = (0..=at).map(|key| score(key).exp()).collect();
                let total: f64 = weights.iter().sum();
                let mut sum = vec![0.0; WIDTHS[0]];
                for (key, weight) in weights.iter().enumerate() {
                    let latent = row(&self.parts[0], key, WIDTHS[0]);
                    sum.iter_mut().zip(latent).for_each(|(sum, v)| *sum += weight * v / total);
                }
                y.extend(sum);
            }
            y
        }
    }

    /// Filled with NaN.
    fn cache(blocks: usize) -> [Vec<f32>; 2] {
        WIDTHS.map(|width| vec![f32::NAN; blocks * BLOCK * width])
    }

    /// One pass: the tokens of each lane are those of its sequence from `start` on.
    fn pass(cache: &mut [Vec<f32>; 2], spans: &[(&Sequence, Lane<'_>)]) -> Vec<f32> {
        let lanes: Vec<Lane<'_>> = spans.iter().map(|(_, lane)| *lane).collect();
        let mut q = [Vec::new(), Vec::new()];
        let mut new = [Vec::new(), Vec::new()];
        for head in 0..HEADS {
            for (sequence, lane) in spans {
                for token in lane.start..lane.start + lane.rows {
                    let start = (token * HEADS + head) * WIDTHS[1];
                    q[1].extend(&sequence.q[1][start..start + WIDTHS[1]]);
                }
            }
        }
        for (sequence, lane) in spans {
            let tokens = lane.start..lane.start + lane.rows;
            let of_tokens = |numbers: usize| tokens.start * numbers..tokens.end * numbers;
            q[0].extend(&sequence.q[0][of_tokens(HEADS * WIDTHS[0])]);
            for part in [0, 1] {
                new[part].extend(&sequence.parts[part][of_tokens(WIDTHS[part])]);
            }
        }
        let rows = Rows {
            q: q.each_ref().map(|q| &q[..]),
            new: new.each_ref().map(|new| &new[..]),
            lanes: &lanes,
            heads: HEADS,
            widths: WIDTHS,
        };
        write(&rows, cache.each_mut().map(|pages| &mut pages[..]));
        let mut y = vec![f32::NAN; rows.len() * HEADS * WIDTHS[0]];
        forward(&rows, cache.each_ref().map(|pages| &pages[..]), &mut y);
        y
    }

    /// A row's result in a pass with nothing else, token by token.
    fn one_by_one(sequence: &Sequence, len: usize) -> Vec<f32> {
        let mut cache = cache(len.div_ceil(BLOCK));
        let blocks: Vec<u32> = (0..len.div_ceil(BLOCK) as u32).collect();
        let lane = |start| Lane { blocks: &blocks, start, rows: 1 };
        (0..len).flat_map(|start| pass(&mut cache, &[(sequence, lane(start))])).collect()
    }

    #[test]
    fn results_equal_sums_in_f64() {
        let sequence = Sequence::new(140, 3);
        let got = one_by_one(&sequence, 140);
        let width = HEADS * WIDTHS[0];
        for at in [0, 1, 63, 64, 65, 127, 128, 139] {
            for (got, want) in got[at * width..].iter().zip(sequence.exact(at)) {
                assert!((f64::from(*got) - want).abs() < 2e-6, "token {at}: {got}, not {want}");
            }
        }
    }

    #[test]
    fn any_chunks_mates_and_blocks_give_the_bits_of_one_row_alone() {
        let (len, width) = (150, HEADS * WIDTHS[0]);
        let (one, other) = (Sequence::new(len, 5), Sequence::new(len, 50));
        let want = one_by_one(&one, len);
        for chunk in [2, 7, 33, 64, 70, 150] {
            let mut cache = cache(8);
            for start in (0..len).step_by(chunk) {
                let rows = chunk.min(len - start);
                let mate = Lane { blocks: &[2, 7, 1], start: start / 2, rows: rows.div_ceil(2) };
                let lane = Lane { blocks: &[5, 3, 0], start, rows };
                let y = pass(&mut cache, &[(&other, mate), (&one, lane)]);
                let of_lane = &y[mate.rows * width..];
                assert_eq!(of_lane, &want[start * width..][..rows * width], "chunks of {chunk}");
            }
        }
    }
}
