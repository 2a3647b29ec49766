//! Sixteen lanes of f32 in the registers of every kind of processor, for sums whose order is written by
//! hand.

#![allow(unsafe_code, reason = "vector instructions")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};

use super::matrix::Element;
use super::simd::LANES;

/// The most sums that [`Simd::totals`] takes at once.
pub const SUMS: usize = 16;

/// The instructions of one kind of processor; a value is the proof that this one has them.
///
/// All methods must be inlined into a body that [`Simd::run`] runs.
pub trait Simd: Copy + Send + Sync {
    /// Sixteen numbers.
    type Lanes: Copy;

    /// Runs `body` compiled for this kind of processor, as far as it is `#[inline(always)]`.
    fn run<T>(self, body: impl FnOnce() -> T) -> T;

    /// The same number in all lanes.
    fn splat(self, x: f32) -> Self::Lanes;

    /// The numbers in f32.
    fn load<E: Element>(self, from: &[E; LANES]) -> Self::Lanes;

    /// Writes the lanes to memory.
    fn store(self, to: &mut [f32; LANES], lanes: Self::Lanes);

    /// `a * b + sum`, rounded once where the processor can.
    fn fused(self, a: Self::Lanes, b: Self::Lanes, sum: Self::Lanes) -> Self::Lanes;

    /// [`fused`](Self::fused) of single numbers.
    fn fused_scalar(self, a: f32, b: f32, sum: f32) -> f32;

    /// The first `count` results of [`total`](super::math::total) with each of `sums`, bit for bit.
    fn totals(self, count: usize, sums: [Self::Lanes; SUMS]) -> [f32; SUMS];
}

/// The numbers in f32.
#[inline(always)]
pub fn wide<E: Element>(from: &[E; LANES]) -> [f32; LANES] {
    let mut wide = [0.0; LANES];
    for (wide, from) in wide.iter_mut().zip(from) {
        *wide = from.wide();
    }
    wide
}

#[cfg(target_arch = "x86_64")]
impl Simd for V4 {
    type Lanes = __m512;

    #[inline(always)]
    fn run<T>(self, body: impl FnOnce() -> T) -> T {
        self.vectorize(body)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: the processor has AVX-512.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load<E: Element>(self, from: &[E; LANES]) -> __m512 {
        let wide = wide(from);
        // SAFETY: the processor has AVX-512; the array has sixteen elements.
        unsafe { _mm512_loadu_ps(wide.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], lanes: __m512) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), lanes) }
    }

    #[inline(always)]
    fn fused(self, a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: the processor has AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, sum) }
    }

    #[inline(always)]
    fn fused_scalar(self, a: f32, b: f32, sum: f32) -> f32 {
        a.mul_add(b, sum)
    }

    /// Halves, quarters, pairs and neighbours of two registers are added at once, one register of the
    /// results for two: half of each comes from a blend, which is cheap, and half from a shuffle.
    #[inline(always)]
    fn totals(self, count: usize, mut sums: [__m512; SUMS]) -> [f32; SUMS] {
        // SAFETY: the processor has AVX-512.
        let sum = unsafe {
            if count > SUMS / 2 {
                for i in 0..8 {
                    sums[i] = add_halves(sums[i], sums[i + 8]);
                }
                for i in 0..4 {
                    sums[i] = add_quarters(sums[i], sums[i + 4]);
                }
                for i in 0..2 {
                    sums[i] = add_pairs(sums[i], sums[i + 2]);
                }
                add_neighbours(sums[0], sums[1])
            } else {
                for i in 0..4 {
                    sums[i] = add_halves(sums[i], sums[i + 4]);
                }
                for i in 0..2 {
                    sums[i] = add_quarters(sums[i], sums[i + 2]);
                }
                let pairs = add_pairs(sums[0], sums[1]);
                let every_other =
                    _mm512_set_epi32(15, 13, 11, 9, 7, 5, 3, 1, 14, 12, 10, 8, 6, 4, 2, 0);
                _mm512_permutexvar_ps(every_other, add_neighbours(pairs, pairs))
            }
        };
        let mut totals = [0.0; SUMS];
        self.store(&mut totals, sum);
        totals
    }
}

/// The sums of the halves of `a`, then those of `b`.
///
/// # Safety
/// The processor has AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn add_halves(a: __m512, b: __m512) -> __m512 {
    // SAFETY: by this function's contract.
    unsafe {
        let own = _mm512_mask_blend_ps(0xff00, a, b);
        _mm512_add_ps(own, _mm512_shuffle_f32x4::<0x4e>(a, b))
    }
}

/// In either half, the sums of the quarters of `a`, then those of `b`.
///
/// # Safety
/// The processor has AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn add_quarters(a: __m512, b: __m512) -> __m512 {
    // SAFETY: by this function's contract.
    unsafe {
        let own = _mm512_mask_blend_ps(0xf0f0, a, b);
        let other = _mm512_set_epi32(27, 26, 25, 24, 15, 14, 13, 12, 19, 18, 17, 16, 7, 6, 5, 4);
        _mm512_add_ps(own, _mm512_permutex2var_ps(a, other, b))
    }
}

/// In every quarter, the sums of the pairs of `a`, then those of `b`.
///
/// # Safety
/// The processor has AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn add_pairs(a: __m512, b: __m512) -> __m512 {
    // SAFETY: by this function's contract.
    unsafe {
        let own = _mm512_mask_blend_ps(0xcccc, a, b);
        _mm512_add_ps(own, _mm512_shuffle_ps::<0x4e>(a, b))
    }
}

/// In every pair, the sum of the neighbours of `a`, then that of `b`.
///
/// # Safety
/// The processor has AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn add_neighbours(a: __m512, b: __m512) -> __m512 {
    // SAFETY: by this function's contract.
    unsafe {
        let own = _mm512_mask_blend_ps(0xaaaa, a, b);
        let other = _mm512_set_epi32(30, 15, 28, 13, 26, 11, 24, 9, 22, 7, 20, 5, 18, 3, 16, 1);
        _mm512_add_ps(own, _mm512_permutex2var_ps(a, other, b))
    }
}

#[cfg(target_arch = "x86_64")]
impl Simd for V3 {
    type Lanes = [__m256; 2];

    #[inline(always)]
    fn run<T>(self, body: impl FnOnce() -> T) -> T {
        self.vectorize(body)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [__m256; 2] {
        // SAFETY: the processor has AVX2.
        [unsafe { _mm256_set1_ps(x) }; 2]
    }

    #[inline(always)]
    fn load<E: Element>(self, from: &[E; LANES]) -> [__m256; 2] {
        let wide = wide(from);
        // SAFETY: the processor has AVX2; both halves of the array have eight elements.
        unsafe { [_mm256_loadu_ps(wide.as_ptr()), _mm256_loadu_ps(wide[LANES / 2..].as_ptr())] }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], lanes: [__m256; 2]) {
        for (to, lanes) in to.chunks_exact_mut(LANES / 2).zip(lanes) {
            // SAFETY: the processor has AVX2; the part has eight elements.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), lanes) }
        }
    }

    #[inline(always)]
    fn fused(self, a: [__m256; 2], b: [__m256; 2], sum: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the processor has FMA.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], sum[0]), _mm256_fmadd_ps(a[1], b[1], sum[1])] }
    }

    #[inline(always)]
    fn fused_scalar(self, a: f32, b: f32, sum: f32) -> f32 {
        a.mul_add(b, sum)
    }

    #[inline(always)]
    fn totals(self, count: usize, sums: [[__m256; 2]; SUMS]) -> [f32; SUMS] {
        let mut totals = [0.0; SUMS];
        for (total, [low, high]) in totals.iter_mut().zip(sums).take(count) {
            // SAFETY: the processor has AVX2.
            *total = unsafe {
                let eight = _mm256_add_ps(low, high);
                let four =
                    _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<0x55>(two, two)))
            };
        }
        totals
    }
}

/// What the compiler makes of arrays for the processors that it compiles for; multiplies and adds in
/// two steps on those that may have no fused instruction.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

impl Simd for Portable {
    type Lanes = [f32; LANES];

    #[inline(always)]
    fn run<T>(self, body: impl FnOnce() -> T) -> T {
        body()
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; LANES] {
        [x; LANES]
    }

    #[inline(always)]
    fn load<E: Element>(self, from: &[E; LANES]) -> [f32; LANES] {
        wide(from)
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], lanes: [f32; LANES]) {
        *to = lanes;
    }

    #[inline(always)]
    fn fused(self, a: [f32; LANES], b: [f32; LANES], mut sum: [f32; LANES]) -> [f32; LANES] {
        for lane in 0..LANES {
            sum[lane] = self.fused_scalar(a[lane], b[lane], sum[lane]);
        }
        sum
    }

    #[inline(always)]
    fn fused_scalar(self, a: f32, b: f32, sum: f32) -> f32 {
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            a.mul_add(b, sum)
        } else {
            a * b + sum
        }
    }

    #[inline(always)]
    fn totals(self, count: usize, sums: [[f32; LANES]; SUMS]) -> [f32; SUMS] {
        let mut totals = [0.0; SUMS];
        for (to, sum) in totals.iter_mut().zip(sums).take(count) {
            *to = super::math::total(sum);
        }
        totals
    }
}
