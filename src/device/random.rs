//! The random numbers that a device draws itself, as dropout does.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::Device;

static HELD: Mutex<()> = Mutex::new(());

/// Seeds the random numbers of `device`. All threads of a process share one generator; until the result
/// is dropped, other callers wait.
pub fn seeded(device: &Device, seed: u64) -> MutexGuard<'static, ()> {
    let held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    device.seed(seed);
    held
}
