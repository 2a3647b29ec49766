//! The threads of the CPU's kernels: rayon's global pool.

use std::num::NonZero;
use std::thread::available_parallelism;

use rayon::ThreadPoolBuilder;

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

/// The number of threads that rayon will start.
fn num_threads() -> usize {
    let wanted = std::env::var("RAYON_NUM_THREADS").ok().and_then(|number| number.parse().ok());
    wanted
        .filter(|&number| number > 0)
        .unwrap_or_else(|| available_parallelism().map_or(1, NonZero::get))
}
