//! Configuration of mimalloc, the global allocator of the binaries.
//!
//! A training step frees and allocates the same few hundred megabytes again and again. By default
//! mimalloc returns freed memory to the operating system after a delay and gets it back zeroed page by
//! page, which made a step 50 % slower than with the system's allocator. Without this purge a step is
//! faster than with either, but the resident size never shrinks: a server returns what it has not used for a while.

#![allow(unsafe_code, reason = "mimalloc's options are reached through its C interface")]

use std::ffi::c_long;

use libmimalloc_sys::{mi_option_set, mi_option_t};

/// The index of `mi_option_purge_delay` in the enum `mi_option_e` of `mimalloc.h`, the same in versions
/// 2 and 3 of mimalloc; libmimalloc-sys does not name it.
const PURGE_DELAY: mi_option_t = 15;

/// The delay that makes mimalloc keep freed memory.
const NEVER: c_long = -1;

/// That of a server, in milliseconds: longer than what one pass frees and the next one allocates.
const LATER: c_long = 1000;

/// Makes mimalloc keep freed memory instead of returning it to the system. Call it first in `main`; it has
/// no effect unless mimalloc is the global allocator.
///
/// ```
/// // #[global_allocator]
/// // static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
/// calumma::allocator::tune();
/// ```
pub fn tune() {
    set_delay(NEVER);
}

/// Makes mimalloc return memory that has been free for a second.
pub fn give_back() {
    set_delay(LATER);
}

fn set_delay(delay: c_long) {
    // SAFETY: the call checks the index and then stores one machine word in mimalloc's table of options.
    // A thread that frees memory at the same time reads the old or the new delay; either is valid.
    unsafe { mi_option_set(PURGE_DELAY, delay) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use libmimalloc_sys::{mi_option_get, mi_option_use_numa_nodes};

    #[test]
    fn tuning_sets_the_purge_delay() {
        // SAFETY: reads a number from mimalloc's table of options.
        let delay = || unsafe { mi_option_get(PURGE_DELAY) };
        give_back();
        assert_eq!(delay(), LATER);
        tune();
        assert_eq!(delay(), NEVER);
    }

    #[test]
    fn the_index_is_the_one_before_numa_nodes() {
        // libmimalloc-sys names the next option of mimalloc.h; if that moves, so does the purge delay.
        assert_eq!(PURGE_DELAY + 1, mi_option_use_numa_nodes);
    }
}
