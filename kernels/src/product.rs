//! Matrix products: large ones on all threads, small ones on the calling thread.
//!
//! With AVX-512 a large product is computed in tiles, see `tiled.rs`. Other processors take the `gemm`
//! crate, and so does [`small`], where packing the factors costs more than it saves.

#![allow(unsafe_code, reason = "gemm and the tiles take raw pointers")]

#[cfg(test)]
mod tests;

use super::matrix::{Matrix, Store, Term};
#[cfg(target_arch = "x86_64")]
use super::{simd::has_avx512, tile::Target, tiled};

/// Multiplications below which a second thread costs more than it saves.
const PARALLEL: usize = 1 << 21;

/// `dst = lhs rhs` or `dst += lhs rhs` on all threads.
///
/// # Shapes
/// With `[m, n, k]`: `lhs` is `[m, k]`, `rhs` `[k, n]` and `dst` `[m, n]` in contiguous rows, `dst_row`
/// elements apart.
///
/// # Panics
/// If a slice is too short for its matrix, or rows of `dst` overlap.
pub fn large(
    store: Store,
    dst: (&mut [f32], usize),
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    [m, n, k]: [usize; 3],
) {
    sum(store, dst, &[Term { lhs, rhs, k }], [m, n]);
}

/// As [`large`], of the sum of the products `terms`. Short terms after a long one cost no pass over `dst` on processors
/// with AVX-512.
///
/// # Shapes
/// With `[m, n]`: in each term `lhs` is `[m, k]` and `rhs` `[k, n]`; `dst` is `[m, n]`.
///
/// # Panics
/// As [`large`].
pub fn sum(
    store: Store,
    (dst, dst_row): (&mut [f32], usize),
    terms: &[Term<'_>],
    [m, n]: [usize; 2],
) {
    let k: usize = terms.iter().map(|term| term.k).sum();
    let parallel = m.saturating_mul(n).saturating_mul(k) >= PARALLEL;
    #[cfg(target_arch = "x86_64")]
    if m > 0 && n > 0 && terms.iter().all(|term| term.k > 0) && has_avx512() {
        for Term { lhs, rhs, k } in terms {
            check((dst, dst_row), *lhs, *rhs, [m, n, *k]);
        }
        let dst = Target { start: dst.as_mut_ptr(), row: dst_row };
        // SAFETY: the processor has AVX-512; `check` covers every element that is read or written,
        // the borrow of `dst` is exclusive, and its rows do not overlap.
        return unsafe { tiled::product(parallel, store, dst, terms, [m, n]) };
    }
    let mut store = store;
    for Term { lhs, rhs, k } in terms {
        general(parallel, store, (&mut *dst, dst_row), *lhs, *rhs, [m, n, *k]);
        store = Store::Add;
    }
}

/// As [`large`], on the calling thread and by the `gemm` crate.
pub fn small(
    store: Store,
    dst: (&mut [f32], usize),
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    sizes: [usize; 3],
) {
    general(false, store, dst, lhs, rhs, sizes);
}

fn general(
    parallel: bool,
    store: Store,
    (dst, dst_row): (&mut [f32], usize),
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    [m, n, k]: [usize; 3],
) {
    if m == 0 || n == 0 {
        return;
    }
    check((dst, dst_row), lhs, rhs, [m, n, k]);
    let parallelism = if parallel { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    // SAFETY: `check` keeps every element that is read or written within its slice, the borrow of
    // `dst` is exclusive, and its rows do not overlap.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            dst_row as isize,
            store == Store::Add,
            lhs.data.as_ptr(),
            lhs.column as isize,
            lhs.row as isize,
            rhs.data.as_ptr(),
            rhs.column as isize,
            rhs.row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn check((dst, dst_row): (&[f32], usize), lhs: Matrix<'_>, rhs: Matrix<'_>, [m, n, k]: [usize; 3]) {
    let covered = Matrix::rows(dst, dst_row).covers(m, n);
    assert!(dst_row >= n && covered, "the destination is too short");
    assert!(lhs.covers(m, k), "the left matrix is too short");
    assert!(rhs.covers(k, n), "the right matrix is too short");
}
