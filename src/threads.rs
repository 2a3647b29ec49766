//! The threads of the CPU's kernels: rayon's global pool.

use std::hint::spin_loop;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::available_parallelism;

use rayon::{ThreadPoolBuilder, Yield};

/// Pauses between two looks for work, so that looking does not slow down the threads that have some.
const PAUSES: usize = 8;

/// Makes the calling thread one of the pool's. Call it in `main`, before any kernel runs.
///
/// A thread outside the pool hands every parallel loop over to it and sleeps until it is done, which takes longer
/// than many loops of a decoding step. A pool of one thread stays as it is: work that other threads hand
/// over would wait for the caller.
///
/// ```
/// calumma::threads::join_pool();
/// ```
pub fn join_pool() {
    if num_threads() > 1 {
        // It fails if there is a pool already, which then stays.
        let _ = ThreadPoolBuilder::new().use_current_thread().build_global();
    }
}

/// Does `work` while the pool's other threads stay awake: they look for its parallel loops instead of sleeping in
/// between, since waking a thread takes longer than many loops of a decoding step. Outside the pool it only does
/// `work`.
pub(crate) fn awake<T>(work: impl FnOnce() -> T) -> T {
    let Some(caller) = rayon::current_thread_index() else { return work() };
    let ended = AtomicBool::new(false);
    rayon::in_place_scope(|scope| {
        scope.spawn_broadcast(|_, thread| {
            while thread.index() != caller && !ended.load(Ordering::Acquire) {
                if rayon::yield_now() != Some(Yield::Executed) {
                    (0..PAUSES).for_each(|_| spin_loop());
                }
            }
        });
        let _end = SetOnDrop(&ended);
        work()
    })
}

/// The number of threads that rayon will start.
fn num_threads() -> usize {
    let wanted = std::env::var("RAYON_NUM_THREADS").ok().and_then(|number| number.parse().ok());
    wanted
        .filter(|&number| number > 0)
        .unwrap_or_else(|| available_parallelism().map_or(1, NonZero::get))
}

/// Sets a flag when it goes away, also by a panic.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use rayon::prelude::*;

    use super::*;

    fn sum() -> usize {
        awake(|| awake(|| (0..1000_usize).into_par_iter().with_max_len(1).sum()))
    }

    #[test]
    fn loops_have_the_same_results_inside_and_outside_a_pool() {
        assert_eq!(sum(), 499_500);
        for threads in [1, 2, 3] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(sum), 499_500, "{threads} threads");
        }
    }

    #[test]
    fn a_panic_lets_the_other_threads_go() {
        let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let panics = || pool.install(|| awake(|| panic!("of the work")));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert_eq!(pool.install(sum), 499_500);
    }
}
