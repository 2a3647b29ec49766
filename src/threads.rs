//! The threads of the CPU's kernels: rayon's global pool.

use std::cell::Cell;
use std::hint::spin_loop;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use rayon::{ThreadPoolBuilder, Yield};

/// Pauses between two looks for work, so that looking does not slow down the threads that have some.
const PAUSES: usize = 8;
/// Looks for work after the last call, some tenths of a millisecond: the next pass often follows at once.
const LINGER: usize = 1000;

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

/// The number of [`awake`] calls in progress.
static CALLS: AtomicUsize = AtomicUsize::new(0);
/// The number of [`look_for_work`] jobs that are waiting or running.
static JOBS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The number of [`awake`] calls in progress on this thread.
    static OWN_CALLS: Cell<usize> = const { Cell::new(0) };
}

/// Does `work` while the pool's other threads stay awake: they look for its parallel loops instead of sleeping in
/// between, since waking a thread takes longer than many loops of a decoding step. A thread that is busy with other
/// work is not waited for. Outside the pool it only does `work`.
pub(crate) fn awake<T>(work: impl FnOnce() -> T) -> T {
    if rayon::current_thread_index().is_none() {
        return work();
    }
    let _call = Call::begin();
    let others = rayon::current_num_threads() - 1;
    for _ in JOBS.load(Ordering::Relaxed)..others {
        JOBS.fetch_add(1, Ordering::Relaxed);
        rayon::spawn(look_for_work);
    }
    work()
}

/// Keeps a thread awake while [`awake`] calls are in progress or follow soon; not one that such a call needs itself.
fn look_for_work() {
    let mut looks = 0;
    while looks < LINGER && OWN_CALLS.get() == 0 {
        if rayon::yield_now() != Some(Yield::Executed) {
            (0..PAUSES).for_each(|_| spin_loop());
        }
        looks = if CALLS.load(Ordering::Acquire) > 0 { 0 } else { looks + 1 };
    }
    JOBS.fetch_sub(1, Ordering::Relaxed);
}

/// An [`awake`] call; over when it goes away, also by a panic.
struct Call;

impl Call {
    fn begin() -> Self {
        CALLS.fetch_add(1, Ordering::Release);
        OWN_CALLS.set(OWN_CALLS.get() + 1);
        Self
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        OWN_CALLS.set(OWN_CALLS.get() - 1);
        CALLS.fetch_sub(1, Ordering::Release);
    }
}

/// The number of threads that rayon will start.
fn num_threads() -> usize {
    let wanted = std::env::var("RAYON_NUM_THREADS").ok().and_then(|number| number.parse().ok());
    wanted
        .filter(|&number| number > 0)
        .unwrap_or_else(|| available_parallelism().map_or(1, NonZero::get))
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicBool;

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
    fn a_busy_thread_is_not_waited_for_and_jobs_for_it_do_not_pile_up() {
        let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let (is_busy, may_end) = (AtomicBool::new(false), AtomicBool::new(false));
        let wait = |flag: &AtomicBool| while !flag.load(Ordering::Acquire) {};
        let calls = || {
            wait(&is_busy);
            (0..1000).for_each(|_| awake(|| ()));
            let jobs = JOBS.load(Ordering::Relaxed);
            may_end.store(true, Ordering::Release);
            jobs
        };
        let occupy = || {
            is_busy.store(true, Ordering::Release);
            wait(&may_end);
        };
        let (jobs, ()) = pool.install(|| rayon::join(calls, occupy));
        assert!(jobs < 100, "{jobs}"); // tests of other pools run at the same time
    }

    #[test]
    fn a_panic_lets_the_other_threads_go() {
        let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let panics = || pool.install(|| awake(|| panic!("of the work")));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert_eq!(pool.install(sum), 499_500);
    }
}
