//! Signals that end a training run after its state was saved.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use calumma::train::StopFlag;
use calumma::{Error, Result};
#[cfg(unix)]
use signal_hook::consts::SIGUSR1;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What asks for a stop; cluster schedulers send the last one before a job's time is up.
#[cfg(unix)]
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGUSR1];
#[cfg(not(unix))]
const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];

/// A flag that the first signal to stop sets to its number; the second one ends the program at once.
///
/// # Errors
/// [`Error::Io`] when the system refuses the handlers.
pub fn on_signal() -> Result<StopFlag> {
    let stop = StopFlag::default();
    let again = Arc::new(AtomicBool::new(false));
    for signal in SIGNALS {
        // Handlers run in this order: the first signal finds `again` unset and sets it.
        flag::register_conditional_default(signal, again.clone())
            .and_then(|_| flag::register(signal, again.clone()))
            .and_then(|_| {
                flag::register_usize(signal, stop.clone(), signal.unsigned_abs() as usize)
            })
            .map_err(Error::io(Path::new("signal handler")))?;
    }
    Ok(stop)
}
