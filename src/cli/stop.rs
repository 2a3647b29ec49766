//! Signals that end a training run after its state was saved.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use calumma::train::StopFlag;
use calumma::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// A flag that the first interrupt or termination signal sets to its number; the second one ends
/// the program at once.
///
/// # Errors
/// [`Error::Io`] when the system refuses the handlers.
pub fn on_signal() -> Result<StopFlag> {
    let stop = StopFlag::default();
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
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
