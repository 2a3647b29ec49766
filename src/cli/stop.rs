//! Signals that stop a training run after its state is saved.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use calumma::train::StopFlag;
use calumma::{Error, Result};
#[cfg(unix)]
use signal_hook::consts::SIGUSR1;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The signals that request a stop; cluster schedulers send SIGUSR1 shortly before the time limit of a job.
#[cfg(unix)]
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGUSR1];
#[cfg(not(unix))]
const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];

/// A flag that the first signal sets to its number; a second signal ends the program at once.
///
/// # Errors
/// [`Error::Io`] if the handlers cannot be installed.
pub fn on_signal() -> Result<StopFlag> {
    let stop = StopFlag::default();
    let repeated = Arc::new(AtomicBool::new(false));
    for signal in SIGNALS {
        // Handlers run in order of registration: the first signal finds `repeated` unset, then sets it.
        flag::register_conditional_default(signal, repeated.clone())
            .and_then(|_| flag::register(signal, repeated.clone()))
            .and_then(|_| {
                flag::register_usize(signal, stop.clone(), signal.unsigned_abs() as usize)
            })
            .map_err(Error::io(Path::new("signal handler")))?;
    }
    Ok(stop)
}
