//! Vector instructions of the processor, chosen at run time.

/// Lanes of the accumulators: one AVX-512 register, and a fixed order of summation everywhere.
pub const LANES: usize = 16;

/// Runs `body` compiled for AVX-512, for AVX2 with FMA or for the baseline, the widest that the
/// processor has.
///
/// Only what is inlined into `body` is compiled so: the closure itself and all that it calls must be
/// `#[inline(always)]`. Passing slices on to such a function, instead of working on captured ones,
/// tells the compiler that they do not overlap.
#[inline(always)]
pub fn vectorized<T>(body: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = pulp::x86::V4::try_new() {
            return simd.vectorize(body);
        }
        if let Some(simd) = pulp::x86::V3::try_new() {
            return simd.vectorize(body);
        }
    }
    body()
}

/// Whether the processor has AVX-512 as far as [`vectorized`] uses it.
#[cfg(target_arch = "x86_64")]
pub fn has_avx512() -> bool {
    pulp::x86::V4::is_available()
}
