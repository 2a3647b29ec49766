//! Compares paged attention with sums in f64, and with itself in other company.

use pulp::{Arch, Simd, WithSimd};

use super::{BLOCK, Lane, Rows, Run, forward, tasks, write};
use crate::noise::noise;

#[derive(Clone, Copy, Debug)]
struct Heads {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// A sequence of `len` tokens: queries, keys and values of each, `[len, heads, head_dim]`.
struct Sequence {
    heads: Heads,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Sequence {
    fn new(heads: Heads, len: usize, seed: u64) -> Self {
        let all = |heads: usize, head_dim: usize| len * heads * head_dim;
        let (of_q, of_k) = (all(heads.heads, heads.head_dim), all(heads.kv_heads, heads.head_dim));
        Self { heads, q: noise(of_q, seed), k: noise(of_k, seed + 1), v: noise(of_k, seed + 2) }
    }

    /// The result for token `at`, `[heads, head_dim]`.
    fn exact(&self, at: usize) -> Vec<f64> {
        let Heads { heads, kv_heads, head_dim } = self.heads;
        let row = |of: &[f32], place: usize| -> Vec<f64> {
            of[place * head_dim..][..head_dim].iter().map(|x| f64::from(*x)).collect()
        };
        let mut y = Vec::new();
        for head in 0..heads {
            let (q, kv_head) = (row(&self.q, at * heads + head), head * kv_heads / heads);
            let score = |key: usize| -> f64 {
                let k = row(&self.k, key * kv_heads + kv_head);
                q.iter().zip(&k).map(|(q, k)| q * k).sum()
            };
            let weights: Vec<f64> = (0..=at).map(|key| score(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut sum = vec![0.0; head_dim];
            for (key, weight) in weights.iter().enumerate() {
                let v = row(&self.v, key * kv_heads + kv_head);
                sum.iter_mut().zip(v).for_each(|(sum, v)| *sum += weight * v / total);
            }
            y.extend(sum);
        }
        y
    }
}

/// Blocks of keys and values, filled with NaN.
struct Cache {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Cache {
    fn new(heads: Heads, blocks: usize) -> Self {
        let pages = vec![f32::NAN; blocks * heads.kv_heads * BLOCK * heads.head_dim];
        Self { keys: pages.clone(), values: pages }
    }

    /// One pass: the tokens of each lane are those of its sequence from `start` on. Returns
    /// `[rows, heads * head_dim]`.
    fn pass(&mut self, spans: &[(&Sequence, Lane<'_>)]) -> Vec<f32> {
        self.pass_by(spans, forward)
    }

    fn pass_by(
        &mut self,
        spans: &[(&Sequence, Lane<'_>)],
        run: impl Fn(&Rows<'_>, &[f32], &[f32], &mut [f32]),
    ) -> Vec<f32> {
        let Heads { heads, kv_heads, head_dim } = spans[0].0.heads;
        let lanes: Vec<Lane<'_>> = spans.iter().map(|(_, lane)| *lane).collect();
        let mut tokens: Vec<(&Sequence, usize)> = Vec::new();
        for (sequence, lane) in spans {
            tokens.extend((lane.start..lane.start + lane.rows).map(|token| (*sequence, token)));
        }
        let head_first = |of: fn(&Sequence) -> &[f32], heads: usize| -> Vec<f32> {
            let mut all = Vec::new();
            for head in 0..heads {
                for (sequence, token) in &tokens {
                    let start = (token * heads + head) * head_dim;
                    all.extend(&of(sequence)[start..start + head_dim]);
                }
            }
            all
        };
        let (q, k) = (head_first(|s| &s.q, heads), head_first(|s| &s.k, kv_heads));
        let width = kv_heads * head_dim;
        let v: Vec<f32> = tokens
            .iter()
            .flat_map(|(sequence, token)| sequence.v[token * width..][..width].to_vec())
            .collect();
        let rows = Rows { q: &q, k: &k, v: &v, lanes: &lanes, heads, kv_heads, head_dim };
        write(&rows, &mut self.keys, &mut self.values);
        let mut y = vec![f32::NAN; tokens.len() * heads * head_dim];
        run(&rows, &self.keys, &self.values, &mut y);
        y
    }
}

const SHAPES: [Heads; 5] = [
    Heads { heads: 2, kv_heads: 2, head_dim: 16 },
    Heads { heads: 4, kv_heads: 2, head_dim: 6 },
    Heads { heads: 6, kv_heads: 1, head_dim: 40 },
    Heads { heads: 3, kv_heads: 3, head_dim: 64 },
    Heads { heads: 8, kv_heads: 2, head_dim: 104 },
];

/// A row's result in a pass with nothing else, token by token.
fn one_by_one(sequence: &Sequence, len: usize) -> Vec<f32> {
    let blocks: Vec<u32> = (0..len.div_ceil(BLOCK) as u32).collect();
    let mut cache = Cache::new(sequence.heads, blocks.len());
    (0..len)
        .flat_map(|start| cache.pass(&[(sequence, Lane { blocks: &blocks, start, rows: 1 })]))
        .collect()
}

#[test]
fn results_equal_sums_in_f64() {
    for heads in SHAPES {
        let sequence = Sequence::new(heads, 150, 5);
        let got = one_by_one(&sequence, 150);
        let width = heads.heads * heads.head_dim;
        for at in [0, 1, 62, 63, 64, 65, 127, 128, 149] {
            for (got, want) in got[at * width..].iter().zip(sequence.exact(at)) {
                let off = (f64::from(*got) - want).abs();
                assert!(off < 2e-6, "{heads:?} token {at}: {got}, not {want}");
            }
        }
    }
}

#[test]
fn any_chunks_mates_and_blocks_give_the_bits_of_one_row_alone() {
    for heads in SHAPES {
        let len = 205;
        let (one, other) = (Sequence::new(heads, len, 5), Sequence::new(heads, len, 50));
        let [want, want_other] = [&one, &other].map(|sequence| one_by_one(sequence, len));
        let width = heads.heads * heads.head_dim;
        for chunk in [2, 3, 5, 31, 33, 64, 70, 130, 205] {
            let mut cache = Cache::new(heads, 16);
            let blocks = [[9, 3, 14, 0], [2, 11, 1, 5]];
            for start in (0..len).step_by(chunk) {
                let rows = chunk.min(len - start);
                // The mate goes the other way through chunks of its own.
                let mate = Lane { blocks: &blocks[1], start: start / 2, rows: rows.div_ceil(2) };
                let lane = Lane { blocks: &blocks[0], start, rows };
                let y = cache.pass(&[(&other, mate), (&one, lane)]);
                let (of_mate, of_lane) = y.split_at(mate.rows * width);
                assert_eq!(of_lane, &want[start * width..][..rows * width], "{heads:?} {chunk}");
                if start % 2 == 0 && chunk % 2 == 0 {
                    let want = &want_other[mate.start * width..][..mate.rows * width];
                    assert_eq!(of_mate, want, "{heads:?} {chunk}, mate");
                }
            }
        }
    }
}

#[test]
fn lanes_share_the_blocks_of_a_common_beginning() {
    let heads = SHAPES[2];
    let one = Sequence::new(heads, 140, 1);
    let mut other = Sequence::new(heads, 140, 7);
    let [of_q, of_k] = [heads.heads, heads.kv_heads].map(|heads_| BLOCK * heads_ * heads.head_dim);
    other.q[..of_q].copy_from_slice(&one.q[..of_q]);
    other.k[..of_k].copy_from_slice(&one.k[..of_k]);
    other.v[..of_k].copy_from_slice(&one.v[..of_k]);
    let width = heads.heads * heads.head_dim;
    let mut cache = Cache::new(heads, 6);
    cache.pass(&[(&one, Lane { blocks: &[4], start: 0, rows: BLOCK })]);
    let rows = 140 - BLOCK;
    let y = cache.pass(&[
        (&one, Lane { blocks: &[4, 0, 2], start: BLOCK, rows }),
        (&other, Lane { blocks: &[4, 3, 1], start: BLOCK, rows }),
    ]);
    for (y, sequence) in y.chunks_exact(rows * width).zip([&one, &other]) {
        assert_eq!(y, &one_by_one(sequence, 140)[BLOCK * width..]);
    }
}

/// Attention by vectors of one kind.
struct By<'a, 'b> {
    rows: &'b Rows<'a>,
    keys: &'b [f32],
    values: &'b [f32],
    y: &'b mut [f32],
}

impl WithSimd for By<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { rows, keys, values, y } = self;
        for task in tasks(rows, y) {
            Run { rows, keys, values, task }.with_simd(simd);
        }
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn vectors_of_any_width_give_the_same_bits() {
    let (Arch::V4(_), Some(v3)) = (Arch::new(), pulp::x86::V3::try_new()) else { return };
    for heads in SHAPES {
        let sequence = Sequence::new(heads, 90, 3);
        let lane = Lane { blocks: &[0, 1], start: 0, rows: 90 };
        let mut cache = Cache::new(heads, 2);
        let wide = cache.pass(&[(&sequence, lane)]);
        let narrow = cache.pass_by(&[(&sequence, lane)], |rows, keys, values, y| {
            Simd::vectorize(v3, By { rows, keys, values, y });
        });
        assert_eq!(wide, narrow, "{heads:?}");
    }
}
