//! Hints about memory that is read soon.

#![allow(unsafe_code, reason = "an instruction of the processor")]

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the cache line at `place`, which may be any address.
#[inline(always)]
pub fn line<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Asks for all of `values`.
#[inline(always)]
pub fn lines<T>(values: &[T]) {
    for at in (0..values.len()).step_by(LINE / size_of::<T>()) {
        line(&raw const values[at]);
    }
}
