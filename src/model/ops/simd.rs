//! The two places where the fused operations leave safe Rust: matrix products through the `gemm`
//! crate, and functions compiled once per instruction set.

#![allow(unsafe_code, reason = "gemm takes raw pointers; target features need a run-time check")]

/// Lanes of the accumulators: one AVX-512 register, and a fixed order of summation everywhere.
pub(crate) const LANES: usize = 16;

/// Declares functions whose body is compiled for AVX-512, for AVX2 and for the baseline; the call
/// takes the widest that the processor has. What the body calls must be `#[inline(always)]`.
macro_rules! wide {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[allow(unsafe_code, clippy::too_many_arguments, reason = "calls of checked target features")]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                if $crate::model::ops::simd::has_avx512() {
                    // SAFETY: the processor has the features the function was compiled for.
                    return unsafe { avx512($($arg),*) };
                }
                if $crate::model::ops::simd::has_avx2() {
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    )*};
}
pub(crate) use wide;

#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn has_avx512() -> bool {
    has_avx2()
        && std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512vl")
        && std::arch::is_x86_feature_detected!("avx512dq")
        && std::arch::is_x86_feature_detected!("avx512bw")
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// A matrix within a slice: element `(i, j)` is `data[i * row + j * column]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    /// The elements, the first of them at `(0, 0)`.
    pub data: &'a [f32],
    /// Distance of two rows.
    pub row: usize,
    /// Distance of two columns.
    pub column: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of consecutive elements, `row` apart.
    pub fn rows(data: &'a [f32], row: usize) -> Self {
        Self { data, row, column: 1 }
    }

    /// The transposed matrix.
    pub fn transposed(self) -> Self {
        Self { data: self.data, row: self.column, column: self.row }
    }
}

/// What a product does with the destination's former content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    /// It is overwritten.
    Fresh,
    /// The product is added to it.
    Sum,
}

/// `dst = lhs rhs` or `dst += lhs rhs` on one thread; `dst` has rows of consecutive elements,
/// `dst_row` apart, and `[m, n, k]` are its rows, its columns and the length of the sums.
///
/// # Panics
/// When a slice is too short for its matrix, or rows of `dst` overlap.
pub(crate) fn product(
    into: Into,
    dst: (&mut [f32], usize),
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    [m, n, k]: [usize; 3],
) {
    let (dst, dst_row) = dst;
    if m == 0 || n == 0 {
        return;
    }
    let end = |rows: usize, columns: usize, row: usize, column: usize| {
        if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row + (columns - 1) * column + 1 }
    };
    assert!(dst_row >= n && end(m, n, dst_row, 1) <= dst.len(), "the destination is too short");
    assert!(end(m, k, lhs.row, lhs.column) <= lhs.data.len(), "the left matrix is too short");
    assert!(end(k, n, rhs.row, rhs.column) <= rhs.data.len(), "the right matrix is too short");
    // SAFETY: the assertions above keep every element that is read or written within its slice,
    // the borrow of `dst` is exclusive, and its rows do not overlap.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            dst_row as isize,
            into == Into::Sum,
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
            gemm::Parallelism::None,
        );
    }
}
