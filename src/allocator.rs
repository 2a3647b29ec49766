//! How the binaries set up mimalloc, their global allocator.
//!
//! A training step frees and allocates the same few hundred megabytes again and again. By default
//! mimalloc hands freed memory back to the operating system after a while and gets it again zeroed,
//! page by page, which made a step half as slow again as with the system's allocator. With the
//! purge turned off a step is faster than with either, at the price of a resident size that does
//! not shrink.

#![allow(unsafe_code, reason = "mimalloc's options are reached through its C interface")]

use std::ffi::c_long;

use libmimalloc_sys::{mi_option_set, mi_option_t};

/// The place of `mi_option_purge_delay` in the `mi_option_e` of `mimalloc.h`, the same in versions
/// 2 and 3 of mimalloc; libmimalloc-sys has no name for it.
const PURGE_DELAY: mi_option_t = 15;

/// The delay that mimalloc takes to mean: keep freed memory.
const NEVER: c_long = -1;

/// Tells mimalloc to keep the memory it frees. Call it first thing in `main`, in a program whose
/// global allocator is mimalloc; elsewhere it has no effect.
///
/// ```
/// // #[global_allocator]
/// // static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
/// calumma::allocator::tune();
/// ```
pub fn tune() {
    // SAFETY: the call stores one machine word in a table of options that mimalloc owns, after it
    // has checked that the index lies within the table. A thread that frees memory at the same
    // moment reads the old delay or the new one, and either is valid.
    unsafe { mi_option_set(PURGE_DELAY, NEVER) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use libmimalloc_sys::{mi_option_get, mi_option_use_numa_nodes};

    #[test]
    fn tuning_sets_the_purge_delay() {
        // SAFETY: reads a number from the table of options.
        let delay = || unsafe { mi_option_get(PURGE_DELAY) };
        tune();
        assert_eq!(delay(), NEVER);
    }

    #[test]
    fn the_option_is_the_one_before_the_numa_nodes() {
        // The next option in mimalloc.h has a name here: if it moves, so does the purge delay.
        assert_eq!(PURGE_DELAY + 1, mi_option_use_numa_nodes);
    }
}
