//! Compares products with sums in f64.

#![allow(clippy::unwrap_used, reason = "tests")]

use rayon::prelude::*;

use super::{general, large, sum};
use crate::matrix::{Matrix, Store, Term};
use crate::noise::noise;

/// A matrix in `data`, by rows or, if `transposed`, by columns, with `gap` elements between its lines.
fn matrix(data: &[f32], [rows, columns]: [usize; 2], transposed: bool, gap: usize) -> Matrix<'_> {
    if transposed {
        Matrix::rows(data, rows + gap).transposed()
    } else {
        Matrix::rows(data, columns + gap)
    }
}

fn exact(lhs: Matrix<'_>, rhs: Matrix<'_>, [m, n, k]: [usize; 3]) -> Vec<f64> {
    let left = |i: usize, d: usize| f64::from(lhs.data[i * lhs.row + d * lhs.column]);
    let right = |d: usize, j: usize| f64::from(rhs.data[d * rhs.row + j * rhs.column]);
    let places = (0..m).flat_map(|i| (0..n).map(move |j| (i, j)));
    places.map(|(i, j)| (0..k).map(|d| left(i, d) * right(d, j)).sum()).collect()
}

/// Checks `product`, and that it does not write between the rows of its destination.
fn check(
    product: impl Fn(Store, (&mut [f32], usize), Matrix<'_>, Matrix<'_>, [usize; 3]),
    store: Store,
    (transposed, gap): ([bool; 2], usize),
    sizes @ [m, n, k]: [usize; 3],
) {
    let a = noise((m + gap) * (k + gap), 1);
    let b = noise((n + gap) * (k + gap), 2);
    let lhs = matrix(&a, [m, k], transposed[0], gap);
    let rhs = matrix(&b, [k, n], transposed[1], gap);
    let before = noise(m * (n + gap), 3);
    let mut dst = before.clone();
    product(store, (&mut dst, n + gap), lhs, rhs, sizes);
    let expected = exact(lhs, rhs, sizes);
    for (i, (got, was)) in dst.iter().zip(&before).enumerate() {
        let (row, column) = (i / (n + gap), i % (n + gap));
        if column >= n {
            assert_eq!(got, was, "written beyond a row of {sizes:?}");
            continue;
        }
        let start = if store == Store::Add { f64::from(*was) } else { 0.0 };
        let wanted = start + expected[row * n + column];
        assert!(
            (f64::from(*got) - wanted).abs() < 4e-6 * (k as f64).sqrt(),
            "{sizes:?} {transposed:?} {store:?} gap {gap} at {row} {column}: {got} for {wanted}"
        );
    }
}

const TRANSPOSED: [[bool; 2]; 4] = [[false, false], [false, true], [true, false], [true, true]];

#[test]
fn products_of_every_size_up_to_two_tiles_are_right() {
    for m in 1..=19 {
        for n in [1, 2, 7, 15, 16, 17, 31, 32, 33, 47, 48, 49, 65, 97] {
            for (number, k) in [1, 3, 8, 21].into_iter().enumerate() {
                let layout = (TRANSPOSED[(m + n + number) % 4], 0);
                check(large, Store::Overwrite, layout, [m, n, k]);
            }
        }
    }
}

#[test]
fn transposed_factors_gaps_and_sums_are_right() {
    let sizes = [[50, 70, 40], [70, 50, 40], [9, 100, 1100], [100, 9, 1100], [203, 151, 1025]];
    for transposed in TRANSPOSED {
        for (store, gap) in
            [(Store::Overwrite, 0), (Store::Overwrite, 3), (Store::Add, 0), (Store::Add, 3)]
        {
            for sizes in sizes {
                check(large, store, (transposed, gap), sizes);
            }
        }
    }
}

#[test]
fn products_without_avx512_are_right() {
    for transposed in TRANSPOSED {
        for parallel in [false, true] {
            let product =
                |store, dst: (&mut [f32], usize), lhs: Matrix<'_>, rhs: Matrix<'_>, sizes| {
                    general(parallel, store, dst, lhs, rhs, sizes);
                };
            check(product, Store::Add, (transposed, 1), [33, 65, 300]);
        }
    }
}

#[test]
fn sums_of_products_are_right() {
    let cases =
        [([50, 70], [40, 16]), ([70, 50], [600, 3]), ([33, 100], [1100, 64]), ([100, 33], [9, 65])];
    for (sizes @ [m, n], depths) in cases {
        for transposed in TRANSPOSED {
            for store in [Store::Overwrite, Store::Add] {
                let data = depths.map(|k| [noise(m * k, k as u64), noise(k * n, 2 + k as u64)]);
                let terms = [0, 1].map(|i| Term {
                    lhs: matrix(&data[i][0], [m, depths[i]], transposed[i], 0),
                    rhs: matrix(&data[i][1], [depths[i], n], transposed[1 - i], 0),
                    k: depths[i],
                });
                let before = noise(m * n, 3);
                let mut dst = before.clone();
                sum(store, (&mut dst, n), &terms, sizes);
                let [first, second] = terms.map(|Term { lhs, rhs, k }| exact(lhs, rhs, [m, n, k]));
                let wanted = first.iter().zip(second).map(|(first, second)| first + second);
                for ((got, was), wanted) in dst.iter().zip(&before).zip(wanted) {
                    let start = if store == Store::Add { f64::from(*was) } else { 0.0 };
                    let off = (f64::from(*got) - start - wanted).abs();
                    let most = 4e-6 * (depths[0] as f64 + depths[1] as f64).sqrt();
                    assert!(off < most, "{sizes:?} {depths:?} {transposed:?} {store:?}: {off}");
                }
            }
        }
    }
}

#[test]
fn factors_with_strides_in_both_axes_are_right() {
    let sizes @ [m, n, k] = [21, 50, 30];
    let (a, b) = (noise(m * k * 2, 1), noise(k * n * 3, 2));
    let lhs = Matrix { data: &a, row: 2 * k, column: 2 };
    let rhs = Matrix { data: &b, row: 3 * n, column: 3 };
    let mut dst = vec![f32::NAN; m * n];
    large(Store::Overwrite, (&mut dst, n), lhs, rhs, sizes);
    for (got, wanted) in dst.iter().zip(exact(lhs, rhs, sizes)) {
        assert!((f64::from(*got) - wanted).abs() < 1e-4);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for (sizes, transposed) in [([130, 515, 700], TRANSPOSED[1]), ([515, 130, 700], TRANSPOSED[2])]
    {
        let [m, n, k] = sizes;
        let (a, b) = (noise(m * k, 1), noise(k * n, 2));
        let (lhs, rhs) =
            (matrix(&a, [m, k], transposed[0], 0), matrix(&b, [k, n], transposed[1], 0));
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut dst = vec![0.0; m * n];
            pool.install(|| large(Store::Overwrite, (&mut dst, n), lhs, rhs, sizes));
            dst
        };
        let one = on(1);
        for threads in [2, 3, 7] {
            assert_eq!(one, on(threads), "{sizes:?} on {threads} threads");
        }
    }
}

/// A task that waits for the threads of another product may start a product itself.
#[test]
fn products_within_products_are_right() {
    (0..8).into_par_iter().for_each(|i| {
        check(large, Store::Overwrite, (TRANSPOSED[i % 4], 0), [130 + i, 140, 150]);
    });
}

#[test]
fn nothing_to_sum_is_zero() {
    for (store, wanted) in [(Store::Overwrite, 0.0), (Store::Add, 5.0)] {
        let mut dst = vec![5.0; 6];
        let none = Matrix::rows(&[], 0);
        large(store, (&mut dst, 3), none, none, [2, 3, 0]);
        assert_eq!(dst, [wanted; 6]);
    }
    large(Store::Overwrite, (&mut [], 0), Matrix::rows(&[], 1), Matrix::rows(&[], 0), [0, 0, 1]);
}

#[test]
#[should_panic(expected = "the left matrix is too short")]
fn short_factors_are_refused() {
    let (a, b, mut dst) = (vec![0.0; 5], vec![0.0; 6], vec![0.0; 4]);
    let (lhs, rhs) = (Matrix::rows(&a, 3), Matrix::rows(&b, 2));
    large(Store::Overwrite, (&mut dst, 2), lhs, rhs, [2, 2, 3]);
}
