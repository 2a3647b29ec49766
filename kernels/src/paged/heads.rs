//! Products of the rows of every head with a weight of its own. A row's result does not depend on the other rows.

use std::borrow::Cow;
use std::ops::Range;

use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::vectors::weigh_keys;
use super::{PARALLEL, TILE, tiles};
use crate::linear::forward_here;
use crate::matrix::Element;
use crate::memory::unspecified;

/// Maximum number of rows per task; they and a head's weight stay in the cache.
const ROWS: usize = 64;

/// Numbers in one of the formats of weights.
#[derive(Clone, Copy, Debug)]
pub enum Numbers<'a> {
    /// As they are computed with.
    F32(&'a [f32]),
    /// Widened for every product.
    Bf16(&'a [bf16]),
}

/// Some rows of a weight of every head.
#[derive(Clone, Debug)]
pub struct HeadWeights<'a> {
    /// `[heads, outputs, inputs]`.
    pub numbers: Numbers<'a>,
    /// Its sizes.
    pub shape: [usize; 3],
    /// Which of the `outputs` rows of every head are used.
    pub part: Range<usize>,
}

impl HeadWeights<'_> {
    /// `x W`.
    ///
    /// # Shapes
    /// `x` `[rows, heads, part]`; returns `[rows, heads, inputs]`.
    pub fn product(&self, x: &[f32]) -> Vec<f32> {
        self.by_heads(x, [self.part.len(), self.shape[2]], |x, weight, y| {
            Arch::new().dispatch(Product { x, weight, y });
        })
    }

    /// `x W^T`.
    ///
    /// # Shapes
    /// `x` `[rows, heads, inputs]`; returns `[rows, heads, part]`.
    pub fn transposed_product(&self, x: &[f32]) -> Vec<f32> {
        let [inputs, outputs] = [self.shape[2], self.part.len()];
        self.by_heads(x, [inputs, outputs], |x, weight, y| {
            let products = forward_here(&x.concat(), weight, inputs);
            for (y, products) in y.iter_mut().zip(products.chunks_exact(outputs)) {
                y.copy_from_slice(products);
            }
        })
    }

    /// `compute` gets some rows of one head, the head's weight, and where the results go.
    fn by_heads(
        &self,
        x: &[f32],
        [from, to]: [usize; 2],
        compute: impl Fn(&[&[f32]], &[f32], &mut [&mut [f32]]) + Sync,
    ) -> Vec<f32> {
        let heads = self.shape[0];
        let rows = x.len() / (heads * from);
        let mut y = unspecified(rows * heads * to);
        let chunks = rows.div_ceil(ROWS);
        let mut tasks: Vec<Vec<&mut [f32]>> =
            (0..heads * chunks).map(|_| Vec::with_capacity(rows.min(ROWS))).collect();
        for (line, y) in y.chunks_exact_mut(to).enumerate() {
            tasks[line % heads * chunks + line / heads / ROWS].push(y);
        }
        let run = |(task, mut y): (usize, Vec<&mut [f32]>)| {
            let (head, first) = (task / chunks, task % chunks * ROWS);
            let row = |row: usize| &x[((first + row) * heads + head) * from..][..from];
            let x: Vec<&[f32]> = (0..y.len()).map(row).collect();
            compute(&x, &self.of_head(head), &mut y);
        };
        if x.len() * to < PARALLEL {
            tasks.into_iter().enumerate().for_each(run);
        } else {
            tasks.into_par_iter().enumerate().for_each(run);
        }
        y
    }

    /// The rows of one head in f32, `[part, inputs]`.
    fn of_head(&self, head: usize) -> Cow<'_, [f32]> {
        let [_, outputs, inputs] = self.shape;
        let first = head * outputs + self.part.start;
        let range = first * inputs..(first + self.part.len()) * inputs;
        match self.numbers {
            Numbers::F32(numbers) => Cow::Borrowed(&numbers[range]),
            Numbers::Bf16(numbers) => numbers[range].iter().map(|w| w.wide()).collect(),
        }
    }
}

/// `x W`, every element one chain of multiply-adds in the order of the rows of the weight.
struct Product<'a, 'b, 'c> {
    x: &'a [&'b [f32]],
    weight: &'a [f32],
    y: &'a mut [&'c mut [f32]],
}

impl WithSimd for Product<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, weight, y } = self;
        for tile in tiles(x.len()) {
            let (x, y) = (&x[tile.clone()], &mut y[tile.clone()]);
            match tile.len() {
                1 => product::<S, 1>(simd, x, weight, y),
                2 => product::<S, 2>(simd, x, weight, y),
                _ => product::<S, TILE>(simd, x, weight, y),
            }
        }
    }
}

#[inline(always)]
fn product<S: Simd, const L: usize>(simd: S, x: &[&[f32]], weight: &[f32], y: &mut [&mut [f32]]) {
    let x: &[&[f32]; L] = x.first_chunk().expect("a tile of rows");
    let y: &mut [&mut [f32]; L] = y.first_chunk_mut().expect("a result for every row");
    y.iter_mut().for_each(|y| y.fill(0.0));
    weigh_keys::<S, L>(simd, *x, weight, y.each_mut().map(|y| &mut **y));
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::noise::noise;

    const HEADS: usize = 3;

    /// Of one element, by a sum in f64.
    fn sum(pairs: impl Iterator<Item = (f32, f32)>) -> f64 {
        pairs.map(|(a, b)| f64::from(a) * f64::from(b)).sum()
    }

    #[test]
    fn products_equal_sums_in_f64_and_rows_do_not_depend_on_others() {
        for (rows, [outputs, inputs], part) in
            [(1, [9, 21], 2..7), (5, [40, 33], 0..33), (131, [48, 80], 16..48)]
        {
            let shape = [HEADS, outputs, inputs];
            let narrow: Vec<bf16> =
                noise(HEADS * outputs * inputs, 1).into_iter().map(bf16::from_f32).collect();
            let wide: Vec<f32> = narrow.iter().map(|w| w.to_f32()).collect();
            let [weights, narrow] = [Numbers::F32(&wide), Numbers::Bf16(&narrow)]
                .map(|numbers| HeadWeights { numbers, shape, part: part.clone() });
            let at = |head: usize, output: usize, input: usize| {
                wide[(head * outputs + part.start + output) * inputs + input]
            };

            let x = noise(rows * HEADS * part.len(), 2);
            let y = weights.product(&x);
            assert_eq!(y, narrow.product(&x));
            for (line, y) in y.chunks_exact(inputs).enumerate() {
                let (head, x) = (line % HEADS, &x[line * part.len()..][..part.len()]);
                for (input, got) in y.iter().enumerate() {
                    let want = sum((0..part.len()).map(|o| (x[o], at(head, o, input))));
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{got}, not {want}");
                }
            }
            let last = &x[x.len() - HEADS * part.len()..];
            assert_eq!(weights.product(last), y[y.len() - HEADS * inputs..]);

            let x = noise(rows * HEADS * inputs, 3);
            let y = weights.transposed_product(&x);
            assert_eq!(y, narrow.transposed_product(&x));
            for (line, y) in y.chunks_exact(part.len()).enumerate() {
                let (head, x) = (line % HEADS, &x[line * inputs..][..inputs]);
                for (output, got) in y.iter().enumerate() {
                    let want = sum((0..inputs).map(|i| (x[i], at(head, output, i))));
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{got}, not {want}");
                }
            }
            let last = &x[x.len() - HEADS * inputs..];
            let alone = weights.transposed_product(last);
            assert_eq!(alone, y[y.len() - HEADS * part.len()..]);
        }
    }
}
